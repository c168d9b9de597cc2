"""A replica's IPUs come back when its process has ended, not when it was told to end; reloads share what is spare."""

import json
import types
from typing import Any

import pytest

from ipu_supervisor import config, devices, operate
from ipu_supervisor.core import actions
from ipu_supervisor.core.pool import Pool
from ipu_supervisor.loop import Supervisor
from ipu_supervisor.protocol import messages
from ipu_supervisor.protocol.messages import Hello, Identity, Loaded, ProbeAnswer, Ready, Unable


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
def serving(tmp_path):
    """Return a function that returns a supervisor with models on so many IPUs, before it began."""
    made: Any = []

    def serving(ipus, *entries):
        models = json.dumps([{"device": "ipu", **entry} for entry in entries])
        environ = {"SERVER_MODELS": models, "SUPERVISOR_IPUS": str(ipus), "SUPERVISOR_RUN_DIR": str(tmp_path)}
        settings = devices.check(config.from_env(environ), {})
        made.append(Supervisor(settings, {}))
        made[-1].sockets.replicas_endpoint = "ipc://nowhere"
        made[-1].sockets.replicas = types.SimpleNamespace(send_multipart=lambda frames, flags: None)
        for model in settings.models:
            made[-1].pools[model.name] = Pool(devices.pool_settings(model, settings, None), 0.0)
        return made[-1]

    yield serving
    for supervisor in made:
        supervisor.sockets.close()


@pytest.fixture
def supervisor(serving):
    """Return a supervisor with one model on two of two IPUs."""
    return serving(2, {"model": "question_answering", "ipu": {"ipus": 2}})


def begin(supervisor, launcher):
    supervisor.launcher = launcher
    supervisor.make_room()
    for pool in supervisor.pools.values():
        supervisor.perform(pool.tick(0.0), 0.0)


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


# ---- rolling changes -------------------------------------------------------------------------------------------------

ENCODERS = [{"model": "question_answering", "replicas": 2}, {"model": "embeddings"}]
ALL = [*ENCODERS, {"model": "summarization"}]


def names(supervisor):
    """Return the replicas that have a process."""
    return [replica.name for pool in supervisor.pools.values() for replica in pool.crew.all() if replica.life]


def say(supervisor, replica, now, *said):
    for message in said:
        supervisor.perform(supervisor.pools[replica.rpartition("-")[0]].said(replica, message, now), now)


def steps(supervisor, launcher, now):
    """Let what was started load, one after the other, and what was told to end end; yield after each."""
    while launcher.started or launcher.signalled:
        if launcher.started:
            say(supervisor, launcher.started.pop(0), now, Hello(1), Loaded(Identity("m")), Ready(0.1))
        else:
            launcher.ended.append(launcher.signalled.pop(0))
            supervisor._reap(now)
        yield


def rolled(supervisor, launcher):
    """Reload every model and let time pass; return the fewest usable replicas that each had meanwhile."""
    fewest = dict.fromkeys(supervisor.pools, 64)
    assert operate.reload(supervisor, "", 1.0).ok
    for now in range(1, 100):
        for _ in steps(supervisor, launcher, float(now)):
            for name, pool in supervisor.pools.items():
                fewest[name] = min(fewest[name], pool.crew.usable())
        for pool in supervisor.pools.values():
            supervisor.perform(pool.tick(float(now)), float(now))
        for replica in names(supervisor):
            say(supervisor, replica, float(now), ProbeAnswer(0))
    return fewest


@pytest.mark.parametrize(
    ("ipus", "entries", "fewest"),
    [
        (3, ENCODERS, {"question_answering": 1, "embeddings": 0}),
        (4, ENCODERS, {"question_answering": 2, "embeddings": 1}),
        (6, ALL, {"question_answering": 2, "embeddings": 1, "summarization": 0}),
        (7, ALL, {"question_answering": 2, "embeddings": 1, "summarization": 1}),
    ],
)
def test_models_that_are_reloaded_at_once_take_turns_with_spare_ipus_and_keep_serving(serving, ipus, entries, fewest):
    supervisor, launcher = serving(ipus, *entries), Launcher()
    begin(supervisor, launcher)
    for _ in steps(supervisor, launcher, 0.5):
        pass
    assert rolled(supervisor, launcher) == fewest
    for pool in supervisor.pools.values():
        generations = [replica.generation for replica in pool.crew.all()]
        assert (generations, pool.crew.usable()) == ([1] * pool.crew.wanted, pool.crew.wanted)


def test_a_reload_after_a_scale_that_used_up_what_was_spare_goes_through(serving):
    supervisor, launcher = serving(4, *ENCODERS), Launcher()
    begin(supervisor, launcher)
    for _ in steps(supervisor, launcher, 0.5):
        pass
    scaled = messages.OperatorCommand("scale", "embeddings", 2)
    assert operate.scale(supervisor, scaled, 0.6).ok
    for _ in steps(supervisor, launcher, 0.7):
        pass
    assert supervisor.leases.held == 4
    assert rolled(supervisor, launcher) == {"question_answering": 1, "embeddings": 1}
    generations = [replica.generation for pool in supervisor.pools.values() for replica in pool.crew.all()]
    assert generations == [1] * 4


def test_a_new_replica_that_fails_leaves_the_spare_ipu_to_other_models(serving):
    supervisor, launcher = serving(4, *ENCODERS), Launcher()
    begin(supervisor, launcher)
    for _ in steps(supervisor, launcher, 0.5):
        pass
    assert operate.reload(supervisor, "", 1.0).ok
    [first] = launcher.started
    launcher.started.clear()
    say(supervisor, first, 1.0, Hello(1), Unable("no such checkpoint", final=True))
    launcher.ended.append(first)
    supervisor._reap(1.0)
    supervisor.perform(supervisor.pools["embeddings"].tick(2.0), 2.0)
    for _ in steps(supervisor, launcher, 2.0):
        pass
    assert [replica.generation for replica in supervisor.pools["embeddings"].crew.all()] == [1]
    assert supervisor.pools["question_answering"].crew.usable() == 2, "the old ones serve on"
