"""The right to occupy a web thread with inference: fewer permits than threads, so that health always finds a thread.

Taken without waiting: whoever finds none is told to come back, at once, and not left in a socket's backlog.
"""

import threading

from service.settings import SPARE_THREADS


class Permits:
    """A fixed number of permits of one worker process."""

    def __init__(self, total: int) -> None:
        """Prepare `total` permits."""
        self.total = total
        self._free = threading.BoundedSemaphore(total)

    def take(self) -> bool:
        """Take a permit if one is free; never wait."""
        return self._free.acquire(blocking=False)

    def give_back(self) -> None:
        """Give a taken permit back."""
        self._free.release()


def permits_of(threads: int) -> int:
    """Return how many of a worker's threads may wait for inference: all but the spare ones, or half of a few."""
    return threads - SPARE_THREADS if threads > SPARE_THREADS else max(1, threads // 2)
