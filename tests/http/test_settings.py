"""The web side's settings: defaults, the names that Gunicorn's users know, and every fault at once."""

import json

import pytest

from ipu_supervisor.config import EXIT_CONFIG, EXIT_MODEL_FILE, ConfigError
from service.settings import Settings

pytestmark = pytest.mark.service

ONE = {"SERVER_MODELS": json.dumps([{"model": "echo"}])}


def test_the_defaults():
    settings = Settings.from_env(ONE)
    assert (settings.address(), settings.workers, settings.threads) == ("0.0.0.0:8100", 2, 64)
    assert (settings.request_limit_s, settings.max_request_bytes) == (30.0, 1_048_576)
    assert Settings.from_env({**ONE, "SERVER_PORT": ""}).port == 8100


def test_every_bad_value_of_both_halves_is_named_at_once():
    bad = {"SERVER_PORT": "x", "SERVER_THREADS": "0", "SERVER_REQUEST_LIMIT_S": "-1", "LOG_LEVEL": "LOUD"}
    with pytest.raises(ConfigError) as caught:
        Settings.from_env({**bad, "SERVER_MODELS": '[{"model": "echo", "replicas": 0}]'})
    assert caught.value.exit_code == EXIT_CONFIG
    for name in (*bad, "SERVER_MODELS[0].replicas"):
        assert any(fault.startswith(name) for fault in caught.value.faults), name


def test_the_exit_code_of_a_bad_model_file_is_kept():
    with pytest.raises(ConfigError) as caught:
        Settings.from_env({"SERVER_MODELS": '[{"model": "nope"}]'})
    assert caught.value.exit_code == EXIT_MODEL_FILE


def test_web_concurrency_wins_over_the_number_of_workers():
    assert Settings.from_env({**ONE, "SERVER_NUM_WORKERS": "3"}).workers == 3
    assert Settings.from_env({**ONE, "SERVER_NUM_WORKERS": "3", "WEB_CONCURRENCY": "5"}).workers == 5


def test_an_ipv6_address_is_bracketed():
    assert Settings.from_env({**ONE, "SERVER_BIND": "::1", "SERVER_PORT": "81"}).address() == "[::1]:81"


@pytest.mark.parametrize("bind", ["999.1.1.1", "1.2.3", "::x", "127.0.0.1:80"])
def test_an_address_that_is_none_is_refused(bind):
    with pytest.raises(ConfigError, match="SERVER_BIND: Not an IP address"):
        Settings.from_env({**ONE, "SERVER_BIND": bind})
