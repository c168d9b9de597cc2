"""The edges of the daemon's life: told to stop in the middle of its start, or with an answer on its way; stopped."""

import os
import signal
import subprocess
import sys
import time

import pytest

from ipu_supervisor.protocol.deadline import Deadline
from ipu_supervisor.protocol.errors import ErrorCode, RequestError
from tests.integration.harness import ROOT, Daemon, echo, kill

#: How long a client may stand still and still find the answer that was sent to it, seconds.
PARTING_S = 0.5


@pytest.fixture
def daemon(spawn, short_dir):
    return Daemon(spawn, short_dir, echo()).start()


@pytest.mark.parametrize("name", ["operator.sock", "s.sock"])
@pytest.mark.parametrize("attempt", range(3))
def test_a_signal_in_the_middle_of_the_start_leaves_nothing_behind(spawn, short_dir, name, attempt):
    daemon = Daemon(spawn, short_dir, echo()).start()
    while not (short_dir / name).exists():
        assert daemon.child.process.poll() is None
    kill(daemon.child.pid, signal.SIGTERM)
    assert daemon.child.wait() == 0
    assert [path.name for path in short_dir.iterdir() if path.suffix == ".sock"] == []


def test_the_sockets_stay_a_moment_after_the_last_answer(spawn, short_dir, wait_until):
    def parting_s():
        daemon = Daemon(spawn, short_dir, echo()).start()
        wait_until(daemon.ready)
        daemon.ask("last")
        answered = time.monotonic()
        kill(daemon.child.pid, signal.SIGTERM)
        assert daemon.child.wait() == 0
        return time.monotonic() - answered

    # Counted from when we took the answer, which may be late; so the longest of three.
    assert max(parting_s() for _ in range(3)) >= PARTING_S - 0.1


def test_a_supervisor_that_stands_still_is_not_ready(daemon, wait_until):
    wait_until(daemon.ready)
    os.kill(daemon.child.pid, signal.SIGSTOP)
    try:
        with pytest.raises(RequestError) as caught:
            daemon.client.status(Deadline.after(0.5))
        assert (caught.value.code, caught.value.retry_after_s) == (ErrorCode.NOT_READY, 1.0)
    finally:
        os.kill(daemon.child.pid, signal.SIGCONT)
    wait_until(daemon.ready)


def test_a_second_sigterm_does_not_keep_a_replica_from_giving_its_devices_back():
    script = """
import os, signal
from ipu_supervisor import replica

signal.signal(signal.SIGTERM, replica._leave)
try:
    os.kill(os.getpid(), signal.SIGTERM)
finally:
    os.kill(os.getpid(), signal.SIGTERM)
    print("given back")
"""
    done = subprocess.run([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True, cwd=str(ROOT), check=False)
    assert (done.returncode, done.stdout) == (0, "given back\n")
