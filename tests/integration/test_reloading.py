"""What `reload` and SIGHUP make of a model file that was edited: all of it serves, or nothing changes.

Runs on Python 3.8 too.
"""

import hashlib
import signal

import msgspec
import pytest

from ipu_supervisor.protocol.deadline import Deadline
from ipu_supervisor.protocol.errors import ErrorCode
from tests.integration.harness import PATIENCE_S, Daemon, alive, end, kill

#: A file of the newer shape; what stands for `{}` follows the class's other attributes.
NEWER = """
from marshmallow import fields
from ipu_supervisor.models.base import AnyObject, BasePipeline, OptionsSchema

class Options(OptionsSchema):
    scale = fields.Integer(load_default={scale})
    {option}

class Pipeline(BasePipeline):
    Input = Output = AnyObject
    {rest}

    def __call__(self, batch):
        return [dict(self.options) for _ in batch]
"""
OLDER = "class Pipeline:\n    def __call__(self, inputs):\n        return {{'version': {}}}\n"


@pytest.fixture
def write(short_dir):
    """Return `write(name, text)`, which writes a model file and returns its hash."""

    def write(name, text):
        (short_dir / (name + ".py")).write_text(text, encoding="utf-8")
        return hashlib.sha256(text.encode()).hexdigest()

    return write


@pytest.fixture
def start(spawn, short_dir, wait_until):
    """Return `start(*models)`, which starts a supervisor of models in our folder and waits until all are ready."""

    def start(*models):
        daemon = Daemon(spawn, short_dir, [{"model": model} for model in models], MODELS_PATH=str(short_dir)).start()
        wait_until(daemon.ready)
        wait_until(lambda: all(model.ready for model in daemon.status().models))
        return daemon

    return start


def newer(scale=1, option="", rest="Options = Options"):
    """Return a file of the newer shape."""
    return NEWER.format(scale=scale, option=option, rest=rest)


def reload(daemon):
    """Tell the supervisor to reload, and read no model file for that."""
    daemon.env["SERVER_MODELS"] = "[]"
    return daemon.command("reload")


def ask(daemon, model="changing"):
    """Return what a model answers."""
    (outcome,) = daemon.client.call(model, [{}], [1], Deadline.after(PATIENCE_S)).outcomes
    return msgspec.msgpack.decode(outcome.result)


def pids(daemon):
    """Return every replica's process."""
    return [replica.pid for model in daemon.status().models for replica in model.replicas]


def test_options_that_the_file_now_has_reach_the_new_replicas(start, write, wait_until):
    write("changing", newer())
    daemon = start("changing")
    assert ask(daemon) == {"max_chars": 20_000, "scale": 1}
    written = write("changing", newer(2, "digits = fields.Integer(load_default=4)"))
    assert reload(daemon).returncode == 0
    wait_until(lambda: ask(daemon) == {"max_chars": 20_000, "scale": 2, "digits": 4})
    assert daemon.model().file_hash == written


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("def (\n", "not Python"),
        (newer() + "1 / 0\n", "ZeroDivisionError"),
        (newer(rest="deterministic = False"), "takes a restart of the supervisor"),
        ("x = " + "-" * 20_000 + "1\n", "not Python"),
        (newer(rest="shapes = classmethod(lambda cls, options: {'length': options['lenght']})"), "KeyError: 'lenght'"),
        (newer(rest="Options = Options()"), "wrong type: Options"),
        (newer(rest="shapes = classmethod(lambda cls, options: exit(3))"), "SystemExit: 3"),
    ],
)
def test_a_file_that_cannot_serve_is_refused_and_nothing_changes(start, write, text, fault):
    before = write("changing", newer())
    daemon = start("changing")
    running = pids(daemon)
    write("changing", text)
    refused = reload(daemon)
    assert (refused.returncode, fault in refused.stdout.decode()) == (1, True), refused
    assert (pids(daemon), daemon.model().file_hash, ask(daemon)["scale"]) == (running, before, 1)


def test_an_older_file_that_fails_in_a_replica_leaves_the_one_before_serving(start, write, wait_until):
    before = write("changing", OLDER.format(1))
    daemon = start("changing")
    (first,) = pids(daemon)
    write("changing", "import no_such_module\n" + OLDER.format(2))
    assert reload(daemon).returncode == 0
    wait_until(lambda: "FAILED" in daemon.states())
    assert "no_such_module" in daemon.model().last_error
    for _ in range(2):
        model = daemon.model()
        assert (model.ready, model.file_hash, ask(daemon)) == (True, before, {"version": 1})
        end(first, wait_until)
        wait_until(lambda: first not in daemon.pids() and daemon.ready())
    written = write("changing", OLDER.format(3))
    assert reload(daemon).returncode == 0
    wait_until(lambda: ask(daemon) == {"version": 3})
    assert daemon.model().file_hash == written


def test_an_input_that_killed_the_old_version_is_tried_by_the_new(start, write, wait_until):
    write("changing", "import os\n" + OLDER.format("os._exit(1) if inputs else 1"))
    daemon = start("changing")

    def failure():
        (outcome,) = daemon.client.call("changing", [{"bad": 1}], [1], Deadline.after(PATIENCE_S)).outcomes
        return outcome.failure and outcome.failure.code

    assert failure() is ErrorCode.POISON
    write("changing", OLDER.format(2))
    assert reload(daemon).returncode == 0
    wait_until(lambda: ask(daemon) == {"version": 2})
    assert failure() is None


def test_hangup_replaces_nothing_while_any_file_is_refused_and_the_log_names_each(start, write, wait_until):
    for name in ("changing", "other", "third"):
        write(name, OLDER.format(1))
    daemon = start("changing", "other", "third")
    running = pids(daemon)
    write("changing", OLDER.format(2))
    for name in ("other", "third"):
        write(name, "def (\n")
    kill(daemon.child.pid, signal.SIGHUP)
    wait_until(lambda: "reload_refused" in daemon.child.log_text())
    line = next(line for line in daemon.child.log_text().splitlines() if "reload_refused" in line)
    assert ("other.py: not Python" in line, "third.py: not Python" in line) == (True, True)
    assert (pids(daemon), ask(daemon)) == (running, {"version": 1})
    for name in ("other", "third"):
        write(name, OLDER.format(2))
    kill(daemon.child.pid, signal.SIGHUP)
    for name in ("changing", "other", "third"):
        wait_until(lambda name=name: ask(daemon, name) == {"version": 2})
    wait_until(lambda: not any(alive(pid) for pid in running))
