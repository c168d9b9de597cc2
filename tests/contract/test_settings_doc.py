"""docs/settings.md and .env say what the code says."""

import json
import pathlib

import dotenv
import pytest

from ipu_supervisor import schemas
from service.settings import Settings, WebEnvironmentSchema
from tools import settings_doc

ROOT = pathlib.Path(__file__).parents[2]
#: The names that a deployment finds in `.env`.
NAMES = {
    *("COMPOSE_PROJECT_NAME", "SERVER_PORT", "SERVER_NUM_WORKERS", "SERVER_MODELS", "SERVER_WAIT_TIMEOUT"),
    *("POPTORCH_LOG_LEVEL", "SERVER_THREADS", "SERVER_REQUEST_LIMIT_S", "SERVER_MAX_REQUEST_BYTES"),
    *("SUPERVISOR_ENDPOINT", "CHECKPOINTS", "MODELS_PATH", "LOG_LEVEL", "LOG_FORMAT"),
}
FIELDS = {**schemas.EnvironmentSchema().fields, **WebEnvironmentSchema().fields}
DOTENV = {name: value or "" for name, value in dotenv.dotenv_values(ROOT / ".env").items()}


def test_document_is_what_the_code_says():
    assert (ROOT / settings_doc.PATH).read_text(encoding="utf-8") == settings_doc.document(), "run `make docs`"


@pytest.mark.parametrize("name", sorted(FIELDS))
def test_every_setting_is_in_the_document_with_a_meaning(name):
    assert FIELDS[name].metadata.get("description", "").endswith(".")
    assert f"| `{name}` |" in settings_doc.document()


def test_dotenv_holds_exactly_the_names_of_a_deployment():
    assert set(DOTENV) == NAMES
    assert set(settings_doc.ELSEWHERE) == NAMES - set(FIELDS)


def test_dotenv_holds_the_defaults_of_the_code():
    assert Settings.from_env(DOTENV) == Settings.from_env({})


@pytest.mark.parametrize("name", sorted(settings_doc.ELSEWHERE))
def test_dotenv_holds_the_documented_default_of_what_only_the_deployment_reads(name):
    assert settings_doc.ELSEWHERE[name][0] == f"`{DOTENV[name]}`"


def test_models_of_dotenv_are_quoted_json():
    line = next(line for line in (ROOT / ".env").read_text().splitlines() if line.startswith("SERVER_MODELS="))
    assert line.startswith("SERVER_MODELS='")
    assert line.endswith("'")
    models = [entry["model"] for entry in json.loads(DOTENV["SERVER_MODELS"])]
    assert models == ["question_answering", "summarization", "embeddings"]


def test_every_line_of_dotenv_has_a_comment_above():
    lines = (ROOT / ".env").read_text(encoding="utf-8").splitlines()
    assert all(lines[number - 1].startswith("# ") for number, line in enumerate(lines) if line and line[0] != "#")
