"""The command line where something is wrong on the disk or in the settings. Runs on Python 3.8 too."""

import json
import shutil
import socket
import stat

import pytest

from ipu_supervisor.protocol.client import SupervisorClient
from tests.integration.harness import Daemon, echo

#: What the web side is given of the keys.
CLIENTS = ("supervisor.key", "service.key_secret")


@pytest.fixture
def keys(spawn, short_dir):
    """Return a folder of keys, as the command makes them."""
    made = Daemon(spawn, short_dir, echo()).command("keys", str(short_dir / "keys"))
    assert made.returncode == 0
    return short_dir / "keys"


def over_tcp(spawn, folder, keys, **env):
    """Return a supervisor on a free port with these keys."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        endpoint = "tcp://127.0.0.1:{}".format(probe.getsockname()[1])
    env = {
        "SUPERVISOR_RUN_DIR": str(folder),
        "SUPERVISOR_CURVE_KEYS": str(keys),
        "SUPERVISOR_ENDPOINT": endpoint,
        **env,
    }
    return Daemon(spawn, folder, echo(), **env)


def test_keys_are_never_overwritten(spawn, short_dir, keys):
    secrets = {path.name: path.read_bytes() for path in keys.glob("*.key_secret")}
    assert sorted(secrets) == ["service.key_secret", "supervisor.key_secret"]
    assert all(stat.S_IMODE((keys / name).stat().st_mode) == 0o600 for name in secrets)
    again = Daemon(spawn, short_dir, echo()).command("keys", str(keys))
    assert again.returncode == 1
    assert b"holds service.key_secret and supervisor.key_secret; name another folder" in again.stderr
    assert {path.name: path.read_bytes() for path in keys.glob("*.key_secret")} == secrets


def test_two_of_the_files_are_enough_for_who_asks(spawn, short_dir, keys, wait_until):
    (short_dir / "web").mkdir()
    for name in CLIENTS:
        shutil.copy(str(keys / name), str(short_dir / "web" / name))
    daemon = over_tcp(spawn, short_dir, keys)
    daemon.client = SupervisorClient(daemon.env["SUPERVISOR_ENDPOINT"], short_dir / "web", status_age_s=0)
    daemon.start()
    wait_until(daemon.ready)
    daemon.env["SUPERVISOR_CURVE_KEYS"] = str(short_dir / "web")
    assert daemon.command("status").returncode == 0


def test_the_status_can_be_read_by_programs(spawn, short_dir, wait_until):
    daemon = Daemon(spawn, short_dir, echo(2)).start()
    wait_until(lambda: daemon.ready(2))
    (model,) = json.loads(daemon.command("status", "--json").stdout)["models"]
    assert (model["model"], model["ready"], model["identity"]["model"]) == ("echo", True, "echo")
    assert [replica["pid"] for replica in model["replicas"]] == daemon.pids()


def test_an_operator_can_act_while_a_model_file_and_the_settings_are_broken(spawn, short_dir, wait_until):
    path = short_dir / "mine.py"
    path.write_text("class Pipeline:\n    def __call__(self, inputs):\n        return inputs\n", encoding="utf-8")
    daemon = Daemon(spawn, short_dir, [{"model": "mine"}], MODELS_PATH=str(short_dir)).start()
    wait_until(daemon.ready)
    path.write_text("class Pipeline(:\n", encoding="utf-8")
    daemon.env["LOG_LEVEL"] = "LOUD"
    assert b"mine" in daemon.command("status").stdout
    assert daemon.command("scale", "mine", "2").returncode == 0
    assert daemon.command("drain").returncode == 0
    assert daemon.model().reason == "draining"
    refused = daemon.command("run")
    assert (refused.returncode, b"mine.py" in refused.stderr, b"LOG_LEVEL" in refused.stderr) == (78, True, True)
