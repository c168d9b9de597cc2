"""The checks by name, what came of each, and the report to paste. Runs nothing."""

from typing import Dict, List, NamedTuple, Sequence, Tuple

#: Every check and the sentence that it tries; docs/ipu.md holds the same sentences, and a test holds them equal.
CHECKS: Dict[str, str] = {
    "libraries": "PopTorch, its torch and optimum-graphcore 0.7.1 import together and see Mk2 or Bow IPUs, or a C600.",
    "count": "`gc-info --ipu-count` counts the IPUs of the partition; PopTorch finds as many.",
    "compile": "The first start compiles one program, or two for summarization; the cache holds one `.popef` file for "
    "each and nothing else.",
    "precision": "Answers in float16 are those of the CPU in float32.",
    "traffic": "Requests of mixed lengths add no file to the cache, and none is as slow as a compile.",
    "batches": "Full batches answer more requests per second than single requests.",
    "cache": "The second start compiles nothing, and its programs are ready in less than half the time.",
    "replicas": "Replicas compute at the same moment: together they answer clearly more than one does.",
    "full": "One replica more than there are IPUs for is refused.",
    "gc_monitor": "`gc-monitor` names the processes that hold IPUs.",
    "busy": "IPUs that another process holds are told as `BUSY`, and waited for.",
    "terminated": "A replica that is terminated ends in good order; its IPUs can be taken again at once.",
    "killed": "A replica that is killed leaves its IPUs free; they can be taken again at once.",
    "no_such_device": "More IPUs than there are are told as `NO_SUCH_DEVICE`.",
    "out_of_memory": "A model that does not fit is told as `OUT_OF_MEMORY`, and not tried again.",
}
SEEN, NOT_SEEN, NOT_TRIED = "seen", "NOT seen", "could not try"


class Finding(NamedTuple):
    """What came of one check: `verdict` is one of the three above, `figures` what was seen, or why it was not tried."""

    check: str
    model: str
    verdict: str
    figures: str


class Report:
    """All findings so far."""

    def __init__(self) -> None:
        """Begin with nothing; `facts` are about the machine, by name."""
        self.facts: List[Tuple[str, str]] = []
        self.findings: List[Finding] = []

    def as_documented(self) -> bool:
        """Say whether nothing was found to be otherwise; what could not be tried says nothing."""
        return all(finding.verdict != NOT_SEEN for finding in self.findings)

    def markdown(self) -> str:
        """Return the report."""
        counts = [(verdict, sum(one.verdict == verdict for one in self.findings)) for verdict in (SEEN, NOT_SEEN)]
        counts.append((NOT_TRIED, len(self.findings) - sum(count for _, count in counts)))
        lines = ["# Verified on IPUs: " + ", ".join("{} {}".format(count, verdict) for verdict, count in counts), ""]
        done = {finding.check for finding in self.findings}
        not_run = ", ".join(name for name in CHECKS if name not in done)
        lines += _table(("", ""), [*self.facts, *([("not run", not_run)] if not_run else [])])
        lines += ["", *_table(("check", "model", "result"), [_row(finding) for finding in self.findings])]
        return "\n".join(lines)


def _row(finding: Finding) -> Tuple[str, str, str]:
    """Return the cells of one finding."""
    result = "{}: {}".format(finding.verdict, finding.figures)
    return "{}: {}".format(finding.check, CHECKS[finding.check]), finding.model, result


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> List[str]:
    """Return the lines of a table; what a cell may not hold is replaced."""
    cells = [[cell.replace("|", "/").replace("\n", " ") for cell in row] for row in rows]
    return ["| {} |".format(" | ".join(row)) for row in (head, ["---"] * len(head), *cells)]
