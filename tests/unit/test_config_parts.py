"""Settings in part: where the supervisor is, its keys, and what is known of settings that are wrong elsewhere."""

import json

import pytest

from ipu_supervisor import cli, config, endpoints
from ipu_supervisor.config import ConfigError

#: Too few for the model below.
IPUS = {"SUPERVISOR_IPUS": "1"}
QA = {"model": "question_answering", "device": "ipu", "replicas": 2}
LACKING = "this machine has 1 IPUs, but question_answering needs 2"


@pytest.fixture
def check(monkeypatch, capsys, tmp_path):
    """Return a function that runs check-config, and returns its exit code and what it says."""
    monkeypatch.chdir(tmp_path)

    def check(*entries, **env):
        for name, value in {"SERVER_MODELS": json.dumps(entries), **env}.items():
            monkeypatch.setenv(name, value)
        return cli.main(["check-config"]), capsys.readouterr().err

    return check


@pytest.fixture
def keys(tmp_path):
    (tmp_path / "keys" / "clients").mkdir(parents=True)
    for name in ("supervisor.key", "supervisor.key_secret", "service.key_secret"):
        (tmp_path / "keys" / name).write_text("x", encoding="utf-8")
    return tmp_path / "keys"


def over_tcp(keys, endpoint="tcp://192.0.2.7:5555"):
    return {"SERVER_MODELS": "[]", "SUPERVISOR_ENDPOINT": endpoint, "SUPERVISOR_CURVE_KEYS": str(keys)}


def test_missing_devices_are_named_with_what_is_wrong_elsewhere(check):
    code, told = check(QA, {"model": "echo", "replicas": 0}, {"model": "nobody"}, CHECKPOINTS="mine", **IPUS)
    assert code == config.EXIT_CONFIG
    for part in (LACKING, "[1].replicas", "no model 'nobody'", "CHECKPOINTS"):
        assert part in told
    code, told = check(QA, {"model": "nobody"}, **IPUS, CHECKPOINTS="")
    assert (code, LACKING in told) == (config.EXIT_MODEL_FILE, True)


@pytest.mark.parametrize(
    ("entry", "env"),
    [({**QA, "replicas": 0}, {"SUPERVISOR_IPUS": "0"}), (QA, {"SUPERVISOR_IPUS": "two", "PATH": "/nowhere"})],
)
def test_devices_are_not_said_to_lack_for_what_is_wrong_itself(check, entry, env):
    code, told = check(entry, **env)
    assert code == config.EXIT_CONFIG
    assert len(told.splitlines()) == 1, told


def test_the_supervisor_needs_its_own_keys_and_who_asks_it_needs_others(keys):
    assert config.from_env(over_tcp(keys)).curve_keys == keys
    (keys / "supervisor.key_secret").unlink()
    assert config.from_env(over_tcp(keys)).curve_keys == keys
    with pytest.raises(ConfigError, match=r"cannot read supervisor\.key_secret in .* keys FOLDER"):
        config.from_env(over_tcp(keys), endpoints.SUPERVISOR_KEYS)
    (keys / "service.key_secret").unlink()
    with pytest.raises(ConfigError, match=r"cannot read service\.key_secret in"):
        config.from_env(over_tcp(keys))
    with pytest.raises(ConfigError, match="cannot read"):
        cli._needed("status", over_tcp(keys))
    # These go to a socket on the supervisor's own machine, or are about to make keys.
    for command in ("drain", "reload", "scale"):
        assert cli._needed(command, over_tcp(keys)).curve_keys == keys
    assert cli._needed("keys", {"SUPERVISOR_ENDPOINT": "tcp://192.0.2.7:5555"})


def test_a_folder_of_keys_that_is_not_there_is_refused_and_on_ipc_not_looked_for(check):
    code, told = check(**over_tcp("/nope", "tcp://127.0.0.1:5555"))
    assert (code, "cannot read supervisor.key_secret and clients in /nope" in told) == (config.EXIT_CONFIG, True)
    assert check(**over_tcp("/nope", "ipc://s.sock")) == (0, "")


@pytest.mark.parametrize("port", ["", ":", ":0", ":65536", ":99999", ":*", ":x", ":٣", ":55 "])
def test_a_port_that_is_none_is_refused(port):
    with pytest.raises(ConfigError, match="a port from 1 to 65535"):
        config.whereabouts({"SUPERVISOR_ENDPOINT": "tcp://127.0.0.1" + port})
    assert config.whereabouts({"SUPERVISOR_ENDPOINT": "tcp://[::1]:65535"}).endpoint == "tcp://[::1]:65535"


def test_models_nested_without_end_are_refused():
    with pytest.raises(ConfigError, match="SERVER_MODELS: not JSON"):
        config.from_env({"SERVER_MODELS": "[" * 100_000})


def test_where_the_supervisor_is_can_be_told_from_settings_that_are_wrong_elsewhere():
    environ = {"SERVER_MODELS": "{", "LOG_LEVEL": "LOUD", "SUPERVISOR_ENDPOINT": "ipc:///a/b.sock"}
    assert str(config.whereabouts(environ).run_dir) == "/a"
