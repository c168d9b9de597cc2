"""What a release tells the deployment that tries it: every wrong setting, or the facts."""

import pytest

from deploy.host.activate import Facts
from deploy.systemd import preflight
from ipu_supervisor.config import EXIT_CONFIG, EXIT_MODEL_FILE
from service.settings import WebEnvironmentSchema

pytestmark = pytest.mark.service


@pytest.fixture
def tried(monkeypatch, capfd):
    """Try a release with some settings; return the exit code, stdout and stderr."""

    def run(**settings):
        for name, value in {"SERVER_MODELS": '[{"model": "echo"}]', **settings}.items():
            monkeypatch.setenv(name, value)
        return (preflight.main(), *capfd.readouterr())

    return run


def test_every_wrong_setting_is_named_at_once_also_those_of_the_deployment(tried):
    code, _, said = tried(SERVER_WAIT_TIMEOUT="30m", SERVER_BIND="localhost", SERVER_PORT="http", LOG_LEVEL="loud")
    assert code == EXIT_CONFIG
    for name in ("SERVER_WAIT_TIMEOUT", "SERVER_BIND", "SERVER_PORT", "LOG_LEVEL"):
        assert f"\n{name}: " in said


@pytest.mark.parametrize("limit", ["30m", "nan", "inf", "0", "-1", "86401"])
def test_a_limit_that_is_none_is_named(tried, limit):
    code, _, said = tried(SERVER_WAIT_TIMEOUT=limit)
    assert (code, said.startswith("the settings are wrong:\nSERVER_WAIT_TIMEOUT: ")) == (EXIT_CONFIG, True)


def test_the_exit_code_of_a_bad_model_file_is_kept(tried):
    assert tried(SERVER_MODELS='[{"model": "nope"}]')[0] == EXIT_MODEL_FILE


def test_the_facts_are_read_behind_whatever_was_printed_before(tried):
    print("a model file prints", end="")
    code, said, _ = tried(SERVER_WAIT_TIMEOUT="90", SERVER_BIND="::1", SERVER_PORT="", CHECKPOINTS="demo")
    facts = Facts.read(said.strip())
    assert (code, facts.address, facts.wait_s, facts.demo) == (0, "[::1]:8100", 90.0, True)
    assert {*WebEnvironmentSchema().fields, "SERVER_WAIT_TIMEOUT"} <= set(facts.web_only)
    assert len(facts.model_files) == 1


def test_a_limit_that_is_not_set_is_half_an_hour(tried):
    assert Facts.read(tried(SERVER_WAIT_TIMEOUT="")[1].strip()).wait_s == 1800.0
