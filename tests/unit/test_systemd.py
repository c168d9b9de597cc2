"""What the supervisor tells systemd, over real datagram sockets."""

import os
import socket
import sys

import pytest

from ipu_supervisor.protocol.messages import Identity, ModelStatus, ReplicaStatus
from ipu_supervisor.systemd import Notifier, sentence
from tests.integration.harness import ROOT


class Manager:
    """The listening end: a service manager that notes what it is told."""

    def __init__(self, address):
        self.address = address
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.setblocking(False)
        self.socket.bind(("\0" + address[1:]) if address.startswith("@") else address)

    def told(self):
        messages = []
        while True:
            try:
                messages.append(self.socket.recv(4096).decode())
            except BlockingIOError:
                return messages


@pytest.fixture
def manager(short_dir):
    manager = Manager(str(short_dir / "notify"))
    yield manager
    manager.socket.close()


def model(name, *states, ready=False, reason="no usable replica", last_error=""):
    replicas = [ReplicaStatus("{}-{}.1".format(name, number), *state) for number, state in enumerate(states, 1)]
    return ModelStatus(name, ready, reason, Identity(name), "", replicas, 0, 0, 1, last_error=last_error)


def test_ready_and_stopping_reach_the_manager(manager):
    notifier = Notifier.from_env({"NOTIFY_SOCKET": manager.address})
    notifier.ready()
    notifier.stopping()
    assert manager.told() == ["READY=1", "STOPPING=1"]


def test_an_abstract_address_is_reached():
    manager = Manager("@ipu-supervisor-test-{}".format(os.getpid()))
    Notifier.from_env({"NOTIFY_SOCKET": manager.address}).ready()
    assert manager.told() == ["READY=1"]
    manager.socket.close()


def test_without_an_address_nothing_is_sent_and_nothing_is_due():
    notifier = Notifier.from_env({"WATCHDOG_USEC": "3000000"})
    notifier.ready()
    notifier.alive(0.0)
    assert not notifier.due(0.0)


def test_a_manager_that_is_gone_stops_nothing(manager):
    notifier = Notifier.from_env({"NOTIFY_SOCKET": manager.address + "-gone", "WATCHDOG_USEC": "3000000"})
    notifier.ready()
    notifier.alive(0.0)


def test_a_status_is_sent_when_it_changes_and_on_one_line(manager):
    notifier = Notifier(manager.address)
    for text in ("echo LOADING 1 s", "echo LOADING 1 s", "echo FAILED:\nno"):
        notifier.status(text)
    assert manager.told() == ["STATUS=echo LOADING 1 s", "STATUS=echo FAILED: no"]


def test_a_status_is_due_once_a_second(manager):
    notifier = Notifier(manager.address)
    assert [notifier.due(now) for now in (10.0, 10.5, 10.99, 11.0, 11.2, 12.0)] == [
        True,
        False,
        False,
        True,
        False,
        True,
    ]


def test_the_watchdog_is_fed_three_times_within_its_limit(manager):
    notifier = Notifier.from_env({"NOTIFY_SOCKET": manager.address, "WATCHDOG_USEC": "3000000"})
    for tenth in range(30):
        notifier.alive(100 + tenth / 10)
    assert manager.told() == ["WATCHDOG=1"] * 3


@pytest.mark.parametrize("environ", [{}, {"WATCHDOG_USEC": "soon"}, {"WATCHDOG_USEC": "3000000", "WATCHDOG_PID": "1"}])
def test_a_watchdog_that_is_not_ours_is_not_fed(manager, environ):
    notifier = Notifier.from_env({"NOTIFY_SOCKET": manager.address, **environ})
    notifier.alive(0.0)
    assert manager.told() == []


def test_our_own_watchdog_is_fed(manager):
    environ = {"NOTIFY_SOCKET": manager.address, "WATCHDOG_USEC": "3000000", "WATCHDOG_PID": str(os.getpid())}
    Notifier.from_env(environ).alive(0.0)
    assert manager.told() == ["WATCHDOG=1"]


def test_the_sentence_says_what_compiles_and_for_how_long():
    models = [model("question_answering", ("COMPILING", 42.4)), model("embeddings", ("READY", 9.0), ready=True)]
    assert sentence(models) == "question_answering COMPILING 42 s; embeddings READY"


def test_the_sentence_says_why_a_model_failed():
    models = [model("echo", ("FAILED", 3.0), last_error="exited with code 41")]
    assert sentence(models) == "echo FAILED: exited with code 41"


def test_the_sentence_counts_replicas_where_some_are_missing():
    models = [model("echo", ("READY", 3.0), ("BUSY", 0.1), ("BACKOFF", 1.0), ready=True)]
    assert sentence(models) == "echo READY 2/3"


def test_the_sentence_says_that_nothing_is_configured_or_wanted():
    assert sentence([]) == "no model is configured"
    assert sentence([model("echo", reason="none wanted")]) == "echo none wanted"


def test_a_supervisor_tells_when_it_is_ready_what_it_does_that_it_turns_and_that_it_stops(
    manager, spawn, short_dir, wait_until
):
    told = []
    environ = {
        "SERVER_MODELS": '[{"model": "echo"}]',
        "SUPERVISOR_ENDPOINT": "ipc://{}/s.sock".format(short_dir),
        "NOTIFY_SOCKET": manager.address,
        "WATCHDOG_USEC": "3000000",
        "CHECKPOINTS": "demo",
    }
    child = spawn([sys.executable, "-m", "ipu_supervisor", "run"], env=environ, cwd=str(ROOT))

    def heard(message):
        told.extend(manager.told())
        return message in told

    wait_until(lambda: heard("STATUS=echo READY"), limit_s=60)
    assert told[0] == "READY=1"
    fed = told.count("WATCHDOG=1")
    wait_until(lambda: heard("") or told.count("WATCHDOG=1") > fed + 2, what="an idle loop feeds the watchdog")
    child.process.terminate()
    wait_until(lambda: heard("STOPPING=1"))
    assert child.wait() == 0
