"""The clock that every limit of a test is counted on: it hardly moves while nothing can happen."""

import signal
import sys

from tests.integration.harness import ROOT, kill

#: Waits, with a limit of 2 s, for some seconds of the real clock; says what came first, and how long the process ran.
COUNT = """
import sys
import time
from tests.conftest import holds_within, running_s

running_s()
began = time.monotonic()
print("begun", flush=True)
over = holds_within(lambda: time.monotonic() - began > float(sys.argv[1]), 2)
print("over" if over else "given up", round(running_s(), 1))
"""


def counted(spawn, wait_until, real_s, stopped_s):
    """Start the count, stop the process for some time, and return what it said in the end."""
    child = spawn([sys.executable, "-c", COUNT, str(real_s)], cwd=str(ROOT))
    wait_until(lambda: child.log_text() == "begun\n")
    if stopped_s:
        kill(child.pid, signal.SIGSTOP)
        assert not child.ends_within(stopped_s)
        kill(child.pid, signal.SIGCONT)
    assert child.wait() == 0
    said, ran_s = child.log_text().splitlines()[1].rsplit(" ", 1)
    return said, float(ran_s)


def test_a_limit_does_not_pass_while_the_process_is_stopped(spawn, wait_until):
    said, ran_s = counted(spawn, wait_until, real_s=3, stopped_s=2.5)
    assert (said, ran_s < 1.5) == ("over", True)


def test_a_limit_passes_while_it_runs(spawn, wait_until):
    said, ran_s = counted(spawn, wait_until, real_s=600, stopped_s=0)
    assert (said, 2 <= ran_s < 3) == ("given up", True)
