"""The app with a stub in place of the supervisor."""

import json
import pathlib

import pytest

from service.app import create_app
from service.settings import Settings
from tests.http.stub import StubClient

MODELS = ("echo", "question_answering", "summarization", "embeddings")
#: A model file of the older shape, whose top must never be executed by the web side.
OLDER = """
raise SystemExit("the web side imported an older model file")
class Pipeline:
    def __call__(self, inputs):
        return inputs
"""


def settings_for(*entries, folder: pathlib.Path, **environ) -> Settings:
    """Return the settings for some entries of SERVER_MODELS."""
    values = {"SERVER_MODELS": json.dumps(list(entries)), "MODELS_PATH": str(folder), **environ}
    return Settings.from_env(values)


@pytest.fixture
def folder(tmp_path):
    """A folder with one model file of the older shape."""
    (tmp_path / "older_one.py").write_text(OLDER, encoding="utf-8")
    return tmp_path


@pytest.fixture
def settings(folder):
    entries = [{"model": name} for name in (*MODELS, "older_one")]
    entries[0]["max_client_batch_size"] = 3
    return settings_for(*entries, folder=folder, SERVER_MAX_REQUEST_BYTES="200000", SERVER_REQUEST_LIMIT_S="20")


@pytest.fixture
def stub(settings):
    return StubClient(settings.config)


@pytest.fixture
def app(settings, stub):
    return create_app(settings, stub)


@pytest.fixture
def client(app):
    return app.test_client()
