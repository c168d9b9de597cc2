"""A budget (milliseconds, relative, on the wire) becomes a deadline (monotonic seconds) at each hop.

Clocks of two hosts are never compared: only budgets travel.
"""

import time
from typing import Callable

#: The largest budget that is taken from the wire: one day, in milliseconds.
MAX_BUDGET_MS = 24 * 3600 * 1000


class Deadline:
    """A moment on this process's monotonic clock after which nobody waits any more."""

    __slots__ = ("at", "_clock")

    def __init__(self, at: float, clock: Callable[[], float] = time.monotonic) -> None:
        """Store the moment (monotonic seconds) and the clock it belongs to."""
        self.at = at
        self._clock = clock

    @classmethod
    def after(cls, seconds: float, clock: Callable[[], float] = time.monotonic) -> "Deadline":
        """Return the deadline `seconds` from now."""
        return cls(clock() + seconds, clock)

    def left_s(self) -> float:
        """Return the seconds left, negative when it has passed."""
        return self.at - self._clock()

    def remaining_s(self) -> float:
        """Return the seconds left, never negative."""
        return max(0.0, self.left_s())

    def budget_ms(self) -> int:
        """Return the milliseconds left as they go on the wire."""
        return min(MAX_BUDGET_MS, int(self.remaining_s() * 1000))
