"""A supervisor that lacks room on a disk, or is allowed few open files, serves on. Runs on Python 3.8 too."""

import os
import select
import signal
import subprocess
import sys
from functools import partial
from types import SimpleNamespace
from typing import List

import pytest

from ipu_supervisor.launchers import local
from ipu_supervisor.protocol.client import SupervisorClient
from ipu_supervisor.protocol.deadline import Deadline
from tests.integration.harness import PATIENCE_S, ROOT, Daemon, echo, end

RUN = [sys.executable, "-m", "ipu_supervisor", "run"]


def start(daemon, spawn, line):
    """Start a supervisor from a shell's line, in which `"$@"` is its command."""
    daemon.child = spawn(["sh", "-c", line, "sh", *RUN], env=daemon.env, cwd=str(ROOT))
    return daemon


def test_a_run_folder_without_room_costs_no_supervisor(spawn, short_dir, wait_until):
    (short_dir / "load_s.new").symlink_to("/dev/full")
    daemon = Daemon(spawn, short_dir, echo()).start()
    wait_until(daemon.ready)
    assert daemon.ask("on").outcomes[0].failure is None
    assert "load_not_kept" in daemon.child.log_text()


def test_a_log_without_room_costs_no_supervisor(spawn, short_dir, wait_until):
    (short_dir / "noisy.py").write_text(
        "import sys\nclass Pipeline:\n    def compile(self):\n        sys.stderr.write('noise\\n' * 50000)\n"
        "    def __call__(self, inputs):\n        sys.stderr.write('noise\\n' * 50000)\n        return inputs\n",
        encoding="utf-8",
    )
    daemon = start(
        Daemon(spawn, short_dir, [{"model": "noisy"}], MODELS_PATH=str(short_dir)), spawn, 'exec "$@" 2>/dev/full'
    )
    wait_until(daemon.ready)
    for _ in range(2):
        assert daemon.client.call("noisy", [{}], [1], Deadline.after(PATIENCE_S)).outcomes[0].failure is None


def test_few_files_allowed_at_the_start_are_no_bound_on_clients(spawn, short_dir, wait_until):
    daemon = start(Daemon(spawn, short_dir, echo()), spawn, 'ulimit -Sn 64; exec "$@"')
    wait_until(daemon.ready)
    clients = [SupervisorClient(daemon.endpoint) for _ in range(80)]
    for number, client in enumerate(clients):
        assert daemon.ask(str(number), client=client).outcomes[0].failure is None
    end(daemon.pids()[0], wait_until)
    wait_until(daemon.ready)
    assert daemon.ask("again", client=clients[0]).outcomes[0].failure is None


@pytest.fixture
def launcher():
    launcher = local.LocalLauncher()
    yield launcher
    launcher.kill_all()


def test_a_replica_that_never_stops_writing_is_read_a_piece_at_a_time(launcher, wait_until, monkeypatch):
    monkeypatch.setattr(subprocess, "Popen", partial(_popen, subprocess.Popen))
    launcher.spawn("m-1.1", {}, os.environ)
    (descriptor,) = launcher.stderr_fds()
    heard: List[bytes] = []
    monkeypatch.setattr(sys, "stderr", SimpleNamespace(buffer=SimpleNamespace(write=heard.append), flush=str))
    for turn in range(1, 20):
        assert select.select([descriptor], [], [], PATIENCE_S)[0], "it writes without end"
        launcher.forward()
        assert len(heard) == turn
    launcher.signal("m-1.1", signal.SIGKILL)
    wait_until(launcher.reap, PATIENCE_S)
    assert set(launcher.last_words("m-1")) == {"noise"}


def _popen(popen, args, **options):
    """Start something that writes without end in the place of a replica."""
    return popen(["sh", "-c", "exec yes noise >&2"], **options)


def test_the_last_words_of_places_that_come_and_go_are_forgotten_oldest_first(launcher, wait_until, monkeypatch):
    monkeypatch.setattr(local, "MOST_PLACES", 2)
    for replica in ("m-1.1", "m-2.1", "m-1.2", "m-3.1"):
        launcher.spawn(replica, {}, os.environ)
        wait_until(launcher.reap, PATIENCE_S)
    assert [bool(launcher.last_words(place)) for place in ("m-1", "m-2", "m-3")] == [True, False, True]
