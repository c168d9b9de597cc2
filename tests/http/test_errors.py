"""One error shape, complete tables, and 4xx for whatever a client may send."""

import re

import pytest

from ipu_supervisor.protocol.errors import ErrorCode, RequestError
from service import errors
from service.errors import STATUS, HttpCode
from tests.http.stub import failed
from tests.http.test_infer import ROUTES

pytestmark = pytest.mark.service

#: What DESIGN promises for each code of the wire.
PROMISED = {
    "INVALID_INPUT": 422,
    "UNKNOWN_MODEL": 404,
    "OVERLOADED": 429,
    "NOT_READY": 503,
    "DRAINING": 503,
    "DEADLINE_EXCEEDED": 504,
    "REPLICA_DIED": 503,
    "POISON": 500,
    "MODEL_ERROR": 500,
    "PROTOCOL": 502,
}


def shape_of(response):
    """Return the error of an answer after checking its shape."""
    assert response.mimetype == "application/json"
    error = response.json["error"]
    assert set(error) <= {"code", "message", "request_id", "fields"}
    assert error["request_id"] == response.headers["X-Request-ID"]
    assert error["message"]
    return error


def test_every_code_of_both_lists_has_a_status_and_a_sentence():
    assert set(STATUS) == {*ErrorCode, *HttpCode}
    assert {code.value: STATUS[code][0] for code in ErrorCode} == PROMISED


@pytest.mark.parametrize("code", ErrorCode)
@pytest.mark.parametrize("route", [*ROUTES, *(route + "/batch" for route in ROUTES)])
def test_every_code_of_the_wire_through_every_route(client, stub, code, route):
    body = ROUTES[route] if route in ROUTES else {"inputs": [ROUTES[route.removesuffix("/batch")]]}
    for whole in (True, False):
        stub.raising = RequestError(code, "as the supervisor said", 1.5) if whole else None
        stub.answer = lambda inputs: failed(code, "as the supervisor said", 1.5)
        response = client.post(route, json=body)
        assert response.status_code == PROMISED[code.value]
        assert shape_of(response)["code"] == code.value
        assert response.headers.get("Retry-After") == ("2" if response.status_code in (429, 503) else None)
        documented = client.get("/openapi.json").json["paths"][route]["post"]["responses"]
        assert str(response.status_code) in documented


@pytest.mark.parametrize("code", [ErrorCode.MODEL_ERROR, ErrorCode.PROTOCOL])
def test_internals_stay_in_the_log(client, stub, caplog, code):
    caplog.set_level("INFO", "service.access")
    stub.raising = RequestError(code, "KeyError in /srv/model.py")
    response = client.post("/echo", json={"text": "a"}, headers={"X-Request-ID": "find-me"})
    assert b"/srv" not in response.data
    fields = caplog.records[-1].fields
    assert (fields["request_id"], fields["detail"]) == ("find-me", "KeyError in /srv/model.py")


def test_retry_after_is_a_whole_number_of_seconds_and_at_least_one(client, stub):
    for given, told in [(None, "1"), (0.0, "1"), (0.2, "1"), (3.0, "3"), (3.01, "4"), (float("inf"), "86400")]:
        stub.raising = RequestError(ErrorCode.OVERLOADED, "full", given)
        assert client.post("/echo", json={"text": "a"}).headers["Retry-After"] == told


@pytest.mark.parametrize("fault", [RuntimeError("a secret"), RecursionError(), MemoryError(), KeyError("a secret")])
def test_a_bug_is_a_500_that_tells_an_id_and_no_internals(client, stub, caplog, fault):
    stub.raising = fault
    response = client.post("/echo", json={"text": "a"})
    assert response.status_code == 500
    assert shape_of(response)["code"] == "INTERNAL"
    assert b"secret" not in response.data
    assert any(
        record.exc_info and record.fields["request_id"] == response.json["error"]["request_id"]
        for record in caplog.records
    )


def test_an_unknown_route_is_a_404(client):
    response = client.get("/nope")
    assert (response.status_code, shape_of(response)["code"]) == (404, "NOT_FOUND")


@pytest.mark.parametrize("route", [*ROUTES, "/echo/batch"])
@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE", "PATCH", "TRACE", "FOO"])
def test_a_wrong_method_is_a_405_with_allow(client, route, method):
    response = client.open(route, method=method)
    assert (response.status_code, shape_of(response)["code"]) == (405, "METHOD_NOT_ALLOWED")
    assert "POST" in response.headers["Allow"]


@pytest.mark.parametrize(
    "content_type", [None, "", "text/plain", "application/x-www-form-urlencoded", "application/vnd.api+json"]
)
def test_a_missing_or_wrong_content_type_is_a_415(client, content_type):
    response = client.post("/echo", data=b'{"text": "a"}', content_type=content_type)
    assert (response.status_code, shape_of(response)["code"]) == (415, "UNSUPPORTED_MEDIA_TYPE")


def test_a_charset_is_no_other_content_type(client):
    response = client.post("/echo", data=b'{"text": "a"}', content_type="application/json; charset=utf-8")
    assert response.status_code == 200


def test_a_compressed_body_is_a_415(client):
    response = client.post(
        "/echo", data=b"\x1f\x8b", content_type="application/json", headers={"Content-Encoding": "gzip"}
    )
    assert response.status_code == 415


#: Bodies that are no JSON object, and what they are answered.
BODIES = {
    "empty": (b"", 400),
    "cut short": (b'{"text": "a"', 400),
    "trailing": (b'{"text": "a"} x', 400),
    "byte order mark": (b'\xef\xbb\xbf{"text": "a"}', 400),
    "not UTF-8": (b'{"text": "\xff"}', 400),
    "UTF-16": ('{"text": "a"}'.encode("utf-16"), 400),
    "encoded surrogate": (b'{"text": "\xed\xa0\x80"}', 400),
    "lone surrogate": (b'{"text": "\\ud800"}', 400),
    "NaN": (b'{"text": "a", "delay_ms": NaN}', 400),
    "Infinity": (b'{"text": "a", "delay_ms": Infinity}', 400),
    "number out of range": (b'{"text": "a", "delay_ms": 1e999}', 400),
    "integer of 5000 digits": (b'{"text": "a", "delay_ms": ' + b"9" * 5000 + b"}", 400),
    "integer of 40 digits": (b'{"text": "a", "delay_ms": ' + b"9" * 40 + b"}", 422),
    "endless nesting": (b"[" * 100_000, 422),
    "deep nesting": (b'{"text": ' + b"[" * 50_000 + b"]" * 50_000 + b"}", 422),
    "list": (b"[]", 422),
    "text": (b'"text"', 422),
    "number": (b"1", 422),
    "null": (b"null", 422),
    "true": (b"true", 422),
    "NUL in a text": (b'{"text": "a\\u0000b"}', 200),
    "a key twice": (b'{"text": "a", "text": "b"}', 200),
    "astral": ('{"text": "\U0001f600"}'.encode(), 200),
}


@pytest.mark.parametrize("name", BODIES)
@pytest.mark.parametrize("route", ["/echo", "/older_one", "/echo/batch"])
def test_whatever_the_body_the_answer_is_no_5xx(client, name, route):
    body, status = BODIES[name]
    response = client.post(route, data=body, content_type="application/json")
    if route == "/echo":
        assert response.status_code == status
    assert response.status_code in (200, 400, 422)
    if response.status_code != 200:
        shape_of(response)


def test_an_object_too_deep_for_the_wire_is_invalid_input(client):
    for depth in (400, 600, 900, 990):
        body = b'{"a":' * depth + b"1" + b"}" * depth
        response = client.post("/older_one", data=body, content_type="application/json")
        assert response.status_code in (200, 422)


def test_an_integer_too_large_for_the_wire_is_invalid_input(client):
    response = client.post("/older_one", data=b'{"a": 99999999999999999999999}', content_type="application/json")
    assert (response.status_code, shape_of(response)["code"]) == (422, "INVALID_INPUT")


@pytest.mark.parametrize(
    ("route", "body", "field"),
    [
        ("/qa", {"context": "a"}, "question"),
        ("/qa", {"context": "a", "question": ""}, "question"),
        ("/qa", {"context": " \n", "question": "a"}, "context"),
        ("/qa", {"context": "a" * 20_001, "question": "a"}, "context"),
        ("/qa", {"context": "a", "question": 1}, "question"),
        ("/qa", {"context": "a", "question": None}, "question"),
        ("/qa", {"context": "a", "question": "a", "extra": 1}, "extra"),
        ("/echo", {"text": "a", "delay_ms": "1"}, "delay_ms"),
        ("/echo", {"text": "a", "delay_ms": True}, "delay_ms"),
        ("/echo/batch", {"inputs": [{"text": "a"}, {"text": 1}]}, "inputs.1.text"),
        ("/echo/batch", {"inputs": {}}, "inputs"),
        ("/echo/batch", {"inputs": [1]}, "inputs.0"),
        ("/echo", [], "body"),
    ],
)
def test_the_field_at_fault_is_named(client, route, body, field):
    response = client.post(route, json=body)
    error = shape_of(response)
    assert (response.status_code, error["code"]) == (422, "INVALID_FIELDS")
    assert list(error["fields"]) == [field]
    assert error["message"].startswith(field + ": ")


def test_many_faults_make_no_large_answer(client):
    response = client.post("/echo", json={"k" * 5000 + str(number): 1 for number in range(30)})
    assert len(response.json["error"]["fields"]) <= errors.MAX_FAULTS
    assert len(response.data) < 10_000


@pytest.mark.parametrize("route", ["/echo", "/echo/batch"])
def test_a_body_over_the_limit_is_a_413(client, route):
    response = client.post(route, data=b'"' + b"a" * 200_000 + b'"', content_type="application/json")
    assert (response.status_code, shape_of(response)["code"]) == (413, "BODY_TOO_LARGE")
    assert "at most" in shape_of(response)["message"]


def test_every_error_code_is_documented_in_one_shape(client):
    for path, operations in client.get("/openapi.json").json["paths"].items():
        for operation in (operations[method] for method in ("get", "post") if method in operations):
            assert "default" not in operation["responses"]
            for status, response in operation["responses"].items():
                assert re.fullmatch(r"\d{3}", status), path
                assert response.get("content"), (path, status)
