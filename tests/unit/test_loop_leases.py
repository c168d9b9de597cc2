"""The loop gives a replica's IPUs back when its process has ended, not when it was told to end."""

import json

import pytest

from ipu_supervisor import config, devices
from ipu_supervisor.core import actions
from ipu_supervisor.core.pool import Pool
from ipu_supervisor.loop import Supervisor


class Launcher:
    """Starts nothing, or cannot."""

    def __init__(self, fault=None):
        self.fault, self.started, self.signalled, self.ended = fault, [], [], []

    def spawn(self, replica, spec, environ):
        if self.fault:
            raise self.fault
        self.started.append(replica)
        return 1

    def signal(self, replica, number):
        self.signalled.append(replica)

    def reap(self):
        return [(self.ended.pop(), "exited with code 0")]

    def stderr_fds(self):
        return []


@pytest.fixture
def supervisor(tmp_path):
    """Return a supervisor with one model on two of two IPUs, before it began."""
    entry = {"model": "question_answering", "device": "ipu", "ipu": {"ipus": 2}}
    environ = {"SERVER_MODELS": json.dumps([entry]), "SUPERVISOR_IPUS": "2", "SUPERVISOR_RUN_DIR": str(tmp_path)}
    settings = devices.check(config.from_env(environ), {})
    made = Supervisor(settings, {})
    made.sockets.replicas_endpoint = "ipc://nowhere"
    [model] = settings.models
    made.pools[model.name] = Pool(devices.pool_settings(model, settings, None), 0.0)
    yield made
    made.sockets.close()


def begin(supervisor, launcher):
    supervisor.launcher = launcher
    supervisor.perform(supervisor.pools["question_answering"].tick(0.0), 0.0)


def test_ipus_are_held_until_the_process_has_ended(supervisor):
    launcher = Launcher()
    begin(supervisor, launcher)
    [replica] = launcher.started
    supervisor.perform([actions.Terminate(replica), actions.Kill(replica)], 1.0)
    assert launcher.signalled == [replica, replica]
    assert supervisor.leases.held == 2
    launcher.ended.append(replica)
    supervisor._reap(2.0)
    assert len(launcher.started) == 2, "its successor has them"


def test_a_process_that_could_not_be_started_holds_no_ipus(supervisor):
    begin(supervisor, Launcher(OSError("no more processes")))
    assert supervisor.leases.held == 0
