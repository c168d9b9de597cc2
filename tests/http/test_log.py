"""One line per request, for machines and for people."""

import json
import logging
import sys

import pytest

from service.log import JsonFormatter, TextFormatter

pytestmark = pytest.mark.service


def record(fields=None, message="access", exc_info=None):
    made = logging.LogRecord("gunicorn.error", logging.INFO, "", 0, message, (), exc_info)
    if fields is not None:
        made.fields = fields
    return made


def test_every_request_makes_one_line_that_says_what_became_of_it(client, caplog):
    caplog.set_level("INFO", "service.access")
    client.post("/qa", json={}, headers={"X-Request-ID": "q-1"})
    client.get("/nope")
    lines = [json.loads(JsonFormatter().format(made)) for made in caplog.records]
    assert [(line["event"], line["path"], line["status"]) for line in lines] == [
        ("access", "/qa", 422),
        ("access", "/nope", 404),
    ]
    assert (lines[0]["request_id"], lines[0]["model"], lines[0]["code"]) == (
        "q-1",
        "question_answering",
        "INVALID_FIELDS",
    )
    assert lines[0]["ms"] >= 0


def test_a_line_is_one_line_whatever_a_client_sends():
    fields = {"event": "access", "path": '/a\nlevel=ERROR "x"', "model": "m"}
    for formatter in (JsonFormatter(), TextFormatter()):
        assert "\n" not in formatter.format(record(fields))
    assert 'path="/a\\nlevel=ERROR \\"x\\""' in TextFormatter().format(record(fields))


def test_gunicorns_own_lines_keep_their_text():
    assert json.loads(JsonFormatter().format(record(message="Booting worker")))["message"] == "Booting worker"


def test_a_trace_is_kept():
    try:
        raise KeyError("x")
    except KeyError:
        failed = record({"event": "unforeseen"}, exc_info=sys.exc_info())
    assert "KeyError" in json.loads(JsonFormatter().format(failed))["traceback"]
    assert TextFormatter().format(failed).splitlines()[-1] == "KeyError: 'x'"
