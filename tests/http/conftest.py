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


@pytest.fixture(scope="session")
def folder(tmp_path_factory):
    """A folder with one model file of the older shape."""
    path = tmp_path_factory.mktemp("models")
    (path / "older_one.py").write_text(OLDER, encoding="utf-8")
    return path


@pytest.fixture(scope="session")
def settings(folder):
    entries: list[dict[str, object]] = [{"model": name} for name in (*MODELS, "older_one")]
    entries[0]["max_client_batch_size"] = 3
    return settings_for(*entries, folder=folder, SERVER_MAX_REQUEST_BYTES="200000", SERVER_REQUEST_LIMIT_S="20")


@pytest.fixture(scope="session")
def one_stub(settings):
    return StubClient(settings.config)


@pytest.fixture(scope="session")
def app(settings, one_stub):
    """The app: making one takes as long as a hundred requests, so all tests share it, and each gets its stub as new."""
    return create_app(settings, one_stub)


@pytest.fixture
def stub(one_stub):
    one_stub.reset()
    return one_stub


@pytest.fixture
def client(app, stub):
    return app.test_client()
