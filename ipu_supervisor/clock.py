"""The supervisor's clock: it stands still while the supervisor does."""

import time

from ipu_supervisor import log


class StallFreeClock:
    """Monotonic seconds, less the time in which this process itself did not run (stopped, or its host suspended).

    So a supervisor that wakes after a stall does not take its own absence for the replicas' silence.
    """

    #: A turn that took longer than it meant to by this much was a stall, seconds.
    STALL_S = 2.0

    def __init__(self) -> None:
        """Begin without a stall."""
        self._lost_s = 0.0
        self._began = time.monotonic()

    def __call__(self) -> float:
        """Return the moment."""
        return time.monotonic() - self._lost_s

    def slept(self, meant_s: float) -> None:
        """Note the end of a sleep that was meant to last at most `meant_s`."""
        moment = time.monotonic()
        excess = moment - self._began - meant_s
        if excess > self.STALL_S:
            self._lost_s += excess
            log.event("supervisor_stalled", 30, stalled_s=round(excess, 3))
        self._began = moment
