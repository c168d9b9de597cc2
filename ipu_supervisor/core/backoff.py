"""When to start a replica again, and when to give up."""

#: Wait before the second restart in a row, seconds; it doubles from there (chosen: a crash loop costs little CPU).
FIRST_DELAY_S = 0.5
#: Longest wait between two restarts, seconds.
MAX_DELAY_S = 30.0
#: Starts in a row that failed, or lives in a row that ended with innocent work aboard and without any progress, after
#: which a replica is given up (chosen).
GIVE_UP_AFTER = 5


class Backoff:
    """Counts the deaths of one replica since it last made progress (answered a batch)."""

    def __init__(self) -> None:
        """Begin with a clean record."""
        self._deaths = 0
        self._failed_starts = self._failures = 0
        self._started = False
        self._given_up = False

    def started(self) -> None:
        """Forget the starts that failed: the replica is READY."""
        self._failed_starts = 0
        self._started = True

    def progressed(self) -> None:
        """Forget what went wrong before: the replica answered a batch."""
        self._deaths = self._failed_starts = self._failures = 0

    def died(self, counts: bool) -> float:
        """Note a death and return the seconds to wait before the restart.

        `counts`: it counts towards giving up. The death of an idle replica and one caused by a lone suspect do not.
        """
        self._deaths += 1
        if self._started:
            self._failures += counts
        else:
            self._failed_starts += counts
        self._started = False
        if self._deaths == 1:
            return 0.0
        return float(min(MAX_DELAY_S, FIRST_DELAY_S * 2 ** min(self._deaths - 2, 16)))

    def forgive(self) -> None:
        """Take one failure back: an input was found guilty of it."""
        self._failures = max(0, self._failures - 1)

    def give_up(self) -> None:
        """Note that trying again cannot help."""
        self._given_up = True

    def hopeless(self) -> bool:
        """Say whether the replica failed too often in a row, or for good."""
        return self._given_up or max(self._failed_starts, self._failures) >= GIVE_UP_AFTER
