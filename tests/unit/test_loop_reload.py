"""What a reload checks before it replaces anything, and what is told while the new generation is on its way."""

import json
import types
from typing import Any

import pytest

from ipu_supervisor import config, devices, operate, status
from ipu_supervisor.core.pool import Pool
from ipu_supervisor.loop import Supervisor
from ipu_supervisor.protocol.messages import Hello, Identity, Loaded, OperatorCommand, ProbeAnswer, Ready

FILE = """
from ipu_supervisor.models.base import AnyObject, BasePipeline

class Pipeline(BasePipeline):
    task = "question-answering"
    checkpoint = {!r}
    Input = Output = AnyObject

    @classmethod
    def shapes(cls, options):
        return {{"length": 128}}
"""


class Launcher:
    """Starts nothing, and remembers what it was to start."""

    def __init__(self):
        self.specs, self.ended = {}, []

    def spawn(self, replica, spec, environ):
        self.specs[replica] = spec
        return 1

    def signal(self, replica, number):
        pass

    def reap(self):
        return [(self.ended.pop(), "exited with code 0")]

    def stderr_fds(self):
        return []

    def last_words(self, place):
        return []


@pytest.fixture
def write(tmp_path):
    """Return `write(kind)`, which has the model file name a checkpoint of that kind, and returns it."""

    def write(kind):
        folder = tmp_path / kind
        folder.mkdir()
        (folder / "config.json").write_text(json.dumps({"model_type": kind, "n_layers": 6}), encoding="utf-8")
        (tmp_path / "mine.py").write_text(FILE.format(str(folder)), encoding="utf-8")
        return str(folder)

    return write


@pytest.fixture
def supervisor(tmp_path, write):
    """Return a supervisor whose one replica is READY with the first checkpoint."""
    first = write("distilbert")
    entry = {"model": "mine", "device": "ipu", "ipu": {"ipus": 2}}
    places = {"MODELS_PATH": str(tmp_path), "SUPERVISOR_RUN_DIR": str(tmp_path)}
    environ = {"SERVER_MODELS": json.dumps([entry]), "SUPERVISOR_IPUS": "6", **places}
    settings = devices.check(config.from_env(environ), {})
    made: Any = Supervisor(settings, {})
    made.sockets.replicas_endpoint = "ipc://nowhere"
    made.sockets.replicas = types.SimpleNamespace(send_multipart=lambda frames, flags: None)
    made.front = types.SimpleNamespace(dropped=0, garbage=0)
    made.launcher = Launcher()
    made.pools["mine"] = Pool(devices.pool_settings(settings.models[0], settings, None), 0.0)
    made.make_room()
    made.perform(made.pools["mine"].tick(0.0), 0.0)
    say(made, "mine-1.1", Hello(1), Loaded(Identity("mine", first)), Ready(0.1))
    yield made
    made.sockets.close()


def say(supervisor, replica, *said):
    for message in said:
        supervisor.perform(supervisor.pools["mine"].said(replica, message, 1.0), 1.0)


def told(supervisor):
    (model,) = status.snapshot(supervisor, 1.0).models
    return model.ready, model.identity.checkpoint, model.file_hash


def test_a_checkpoint_that_has_no_layout_is_refused_and_nothing_changes(supervisor, write):
    before, entries = told(supervisor), supervisor.config
    write("roberta_of_mine")
    refused = operate.reload(supervisor, "mine", 1.0)
    assert (refused.ok, "lays out no 'roberta_of_mine'" in refused.message) == (False, True)
    assert (told(supervisor), supervisor.config, list(supervisor.launcher.specs)) == (before, entries, ["mine-1.1"])


def test_what_is_told_is_what_serves_until_one_of_the_new_is_ready(supervisor, write):
    before = told(supervisor)
    operate.scale(supervisor, OperatorCommand("scale", "mine", 2), 1.0)
    say(supervisor, "mine-2.1", Hello(2), Loaded(Identity("mine", before[1])), Ready(0.1))
    second = write("roberta")
    assert operate.reload(supervisor, "mine", 1.0).ok
    assert supervisor.launcher.specs["mine-3.1"]["checkpoint"] == second
    say(supervisor, "mine-3.1", Hello(3), Loaded(Identity("mine", second)))
    assert told(supervisor) == before
    say(supervisor, "mine-3.1", Ready(0.1))
    assert supervisor.pools["mine"].crew.usable() == 2, "one of them is old"
    assert told(supervisor) == (True, second, supervisor.config.models[0].file.sha256)


def test_each_replica_tells_how_long_it_has_been_where_it_is(supervisor):
    assert operate.reload(supervisor, "", 1.0).ok
    say(supervisor, "mine-2.1", Hello(2), Loaded(Identity("mine")))
    supervisor.perform(supervisor.pools["mine"].said("mine-1.1", ProbeAnswer(0), 20.0), 20.0)
    (model,) = status.snapshot(supervisor, 21.0).models
    assert [(each.state, each.since_s) for each in model.replicas] == [("READY", 20.0), ("COMPILING", 20.0)]


def test_versions_that_no_replica_runs_are_forgotten(supervisor):
    for number in range(2, 6):
        assert operate.reload(supervisor, "", 1.0).ok
        say(supervisor, "mine-{}.1".format(number), Hello(number), Loaded(Identity("mine")), Ready(0.1))
        supervisor.launcher.ended.append("mine-{}.1".format(number - 1))
        supervisor._reap(1.0)
    assert sorted(supervisor.versions["mine"]._entries) == [3, 4]
