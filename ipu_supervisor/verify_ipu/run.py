"""What all checks share: where they work, which are wanted, and what was found.

A check is a function that returns what it saw. It raises `Failed` where that is not as documented, and `NotTried`
where it cannot be tried here.
"""

import subprocess
import sys
from typing import Any, Callable, FrozenSet, List, Sequence

from ipu_supervisor.verify_ipu.report import NOT_SEEN, NOT_TRIED, SEEN, Finding, Report
from ipu_supervisor.verify_ipu.serving import Entry, Failed, Place, Served


class NotTried(Exception):
    """A check that cannot be tried here; the message says why."""


class Run:
    """One run of the verification."""

    def __init__(self, place: Place, report: Report, wanted: FrozenSet[str], limit_s: float, requests: int) -> None:
        """Store what the checks share.

        `limit_s`: longest wait for a replica to be READY. `requests`: how many the mixed traffic has.
        """
        self.place, self.report, self.wanted = place, report, wanted
        self.limit_s, self.requests = limit_s, requests

    def check(self, name: str, model: str, look: Callable[..., str], *arguments: Any) -> None:
        """Do one check if it is wanted, and note what came of it."""
        if name not in self.wanted:
            return
        try:
            verdict, figures = SEEN, look(*arguments)
        except NotTried as why:
            verdict, figures = NOT_TRIED, str(why)
        except (Failed, OSError, subprocess.SubprocessError) as error:
            verdict, figures = NOT_SEEN, str(error) or type(error).__name__
        self._note(Finding(name, model, verdict, figures))

    def all_not_tried(self, names: Sequence[str], model: str, why: str) -> None:
        """Note that some checks cannot be tried."""
        for name in names:
            self.check(name, model, _raise, NotTried(why))

    def failed(self, name: str, model: str, why: str) -> None:
        """Note that something else was seen before a check could look, wanted or not: others hang on it."""
        self._note(Finding(name, model, NOT_SEEN, why))

    def serve(self, name: str, entry: Entry, **settings: str) -> Served:
        """Return a supervisor for a check, not yet started."""
        return Served(self.place, name, entry, **settings)

    def cached(self) -> List[str]:
        """Return the files in the cache of compiled programs."""
        return sorted(str(path) for path in self.place.executables.rglob("*") if path.is_file())

    def _note(self, finding: Finding) -> None:
        """Keep what was found, and tell it."""
        self.report.findings.append(finding)
        say("{} {}: {}: {}".format(*finding))


def say(what: str) -> None:
    """Tell how far the run is, apart from the report."""
    print(what, file=sys.stderr, flush=True)


def hold(figures: str, as_documented: bool) -> str:
    """Return what was seen. Raises `Failed` with it where that is not as documented."""
    if not as_documented:
        raise Failed(figures)
    return figures


def _raise(error: Exception) -> str:
    """Raise an error."""
    raise error
