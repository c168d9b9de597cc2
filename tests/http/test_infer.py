"""One generated route per model and its `/batch` sibling."""

import time

import msgspec
import pytest

from ipu_supervisor.config import OWN_PATHS
from ipu_supervisor.models.catalog import find
from ipu_supervisor.protocol import messages
from ipu_supervisor.protocol.errors import ClientGone, ErrorCode
from service.app import create_app
from tests.http.conftest import MODELS, settings_for
from tests.http.stub import StubClient, failed

pytestmark = pytest.mark.service

ROUTES = {find(name).load().route: dict(find(name).load().example) for name in MODELS} | {
    "/older_one": {"any": ["thing", 1]}
}


@pytest.mark.parametrize("route", ROUTES)
def test_every_model_answers_its_own_example(client, route):
    response = client.post(route, json=ROUTES[route])
    assert response.status_code == 200
    assert response.json


@pytest.mark.parametrize("route", ROUTES)
def test_every_model_answers_a_batch_in_order(client, route):
    response = client.post(route + "/batch", json={"inputs": [ROUTES[route]] * 2})
    assert response.status_code == 200
    assert len(response.json["results"]) == 2


def test_results_of_the_three_models_have_the_promised_shape(client):
    answers = {route: client.post(route, json=example).json for route, example in ROUTES.items()}
    assert answers["/qa"] == {"results": "My name is Rob and I live in Bristol.", "score": 0.5}
    assert list(answers["/summarization"]["results"][0]) == ["summary_text"]
    assert answers["/embeddings"] == {"results": [0.6, -0.8]}


def test_the_supervisor_gets_validated_items_sizes_and_who_asked(client, stub):
    headers = {"X-Request-ID": "mine-1", "traceparent": "00-" + "a" * 32 + "-" + "b" * 16 + "-01"}
    client.post("/qa", json=ROUTES["/qa"], headers=headers)
    (call,) = stub.calls
    assert msgspec.msgpack.decode(call.items[0]) == ROUTES["/qa"]
    assert call.sizes == [3 + len(ROUTES["/qa"]["question"]) // 4 + len(ROUTES["/qa"]["context"]) // 4]
    assert (call.request_id, call.traceparent) == ("mine-1", headers["traceparent"])


def test_a_broken_traceparent_is_not_passed_on(client, stub):
    client.post("/echo", json={"text": "a"}, headers={"traceparent": "x" * 1000})
    assert [call.traceparent for call in stub.calls] == [""]


def test_the_clients_own_socket_is_watched(client, stub):
    socket = object()
    client.post("/echo", json={"text": "a"}, environ_overrides={"gunicorn.socket": socket})
    assert stub.sockets == [socket]


def test_a_model_that_is_not_configured_is_neither_served_nor_documented(folder):
    settings = settings_for({"model": "echo"}, folder=folder)
    client = create_app(settings, StubClient(settings.config)).test_client()
    assert client.post("/qa", json=ROUTES["/qa"]).status_code == 404
    assert b'"/qa"' not in client.get("/openapi.json").data


@pytest.mark.parametrize(("given", "milliseconds"), [("5", 5000), ("0.25", 250), ("1e2", 100_000), (None, 20_000)])
def test_a_client_may_set_its_time_limit(client, stub, given, milliseconds):
    headers = {} if given is None else {"X-Request-Timeout": given}
    began = time.monotonic()
    client.post("/echo", json={"text": "a"}, headers=headers)
    ended = time.monotonic()
    assert began + milliseconds / 1000 <= stub.deadlines[0].at <= ended + milliseconds / 1000
    assert stub.calls[0].budget_ms <= milliseconds


@pytest.mark.parametrize("given", ["", "0", "-1", "nan", "inf", "abc", "1_0", "1e400", "86401", "1, 2", "\xb2"])
def test_a_bad_time_limit_is_named(client, stub, given):
    response = client.post("/echo", json={"text": "a"}, headers={"X-Request-Timeout": given})
    assert response.status_code == 422
    assert list(response.json["error"]["fields"]) == ["X-Request-Timeout"]
    assert stub.calls == []


def test_an_answer_tells_who_computed_it_and_where_the_time_went(client):
    began = time.monotonic()
    response = client.post("/qa", json=ROUTES["/qa"], headers={"X-Request-ID": "mine.2"})
    took_s = time.monotonic() - began
    headers = response.headers
    assert headers["X-Request-ID"] == "mine.2"
    assert (
        headers["X-Model"] == 'question_answering; checkpoint="distilbert-base-cased-distilled-squad"; revision="main"'
    )
    assert headers["Server-Timing"] == "queue;dur=2.000, batch;dur=0.500, inference;dur=30.000"
    assert (headers["x-queue-time"], headers["x-inference-time"]) == ("2", "30")
    assert 0 <= int(headers["x-total-time"]) <= took_s * 1000 + 1, "rounded"
    assert 0 <= float(headers["metrics-latency"]) <= took_s + 0.001


def test_while_a_model_loads_a_refusal_names_what_is_configured(client, stub):
    stub.changed["question_answering"] = {"identity": messages.Identity("question_answering")}
    refused = client.post("/qa", data="{", content_type="application/json")
    assert 'checkpoint="distilbert-base-cased-distilled-squad"' in refused.headers["X-Model"]


def test_a_demo_model_is_told_with_every_answer(client, stub):
    stub.demo = True
    for route, example in ROUTES.items():
        assert client.post(route, json=example).headers["X-Model"].endswith("; demo=true")
        for refused in (client.post(route, json={}), client.post(route, data="{", content_type="application/json")):
            assert refused.headers["X-Model"].endswith("; demo=true"), refused.data


def test_a_checkpoint_name_cannot_break_the_header(folder):
    settings = settings_for({"model": "embeddings", "checkpoint": 'a"\r\nX-Evil: 1é'}, folder=folder)
    client = create_app(settings, StubClient(settings.config)).test_client()
    response = client.post("/embeddings", json={"text": "a"})
    assert response.headers["X-Model"].startswith('embeddings; checkpoint="a%22%0D%0AX-Evil:%201%C3%A9"')


@pytest.mark.parametrize("given", ["a b", "", "x" * 129, "é", "<b>", "-leading"])
def test_an_insane_request_id_is_replaced(client, stub, given):
    response = client.post("/echo", json={"text": "a"}, headers={"X-Request-ID": given})
    assert response.headers["X-Request-ID"] != given
    assert response.headers["X-Request-ID"] == stub.calls[0].request_id


@pytest.mark.parametrize("number", [0, 4])
def test_a_batch_holds_from_one_to_max_client_batch_size_inputs(client, number):
    response = client.post("/echo/batch", json={"inputs": [{"text": "a"}] * number})
    assert response.status_code == 422
    assert list(response.json["error"]["fields"]) == ["inputs"]


def test_some_failed_inputs_leave_the_others_their_results(client, stub):
    codes = {"b": ErrorCode.INVALID_INPUT, "c": ErrorCode.MODEL_ERROR}
    stub.answer = lambda inputs: (
        failed(codes[inputs["text"]], "secret path") if inputs["text"] in codes else {"results": "A", "pid": 1}
    )
    response = client.post("/echo/batch", json={"inputs": [{"text": text} for text in "abc"]})
    assert response.status_code == 422
    assert response.json["results"] == [{"results": "A", "pid": 1}, None, None]
    assert [(error["index"], error["code"]) for error in response.json["errors"]] == [
        (1, "INVALID_INPUT"),
        (2, "MODEL_ERROR"),
    ]
    assert response.json["error"]["code"] == "INVALID_INPUT"
    assert "secret" in response.json["errors"][0]["message"]
    assert "secret" not in response.json["errors"][1]["message"]
    assert "X-Model" in response.headers


@pytest.mark.parametrize("bad", [{None: 1}, {(1, 2): 1}, {"a": msgspec.msgpack.Ext(5, b"x")}])
def test_a_result_that_json_cannot_hold_fails_alone_and_its_trace_is_logged(client, stub, caplog, bad):
    stub.answer = lambda inputs: bad if inputs["text"] == "b" else {"results": "A", "pid": 1}
    response = client.post("/echo", json={"text": "b"})
    assert (response.status_code, response.json["error"]["code"]) == (500, "MODEL_ERROR")
    response = client.post("/echo/batch", json={"inputs": [{"text": text} for text in "ab"]})
    assert (response.status_code, response.json["error"]["code"]) == (500, "MODEL_ERROR")
    assert response.json["results"] == [{"results": "A", "pid": 1}, None]
    assert [(error["index"], error["code"]) for error in response.json["errors"]] == [(1, "MODEL_ERROR")]
    logged = [record for record in caplog.records if record.exc_info]
    assert logged[-1].fields["request_id"] == response.json["error"]["request_id"]


def test_the_status_of_a_batch_is_that_of_the_first_failure_with_its_retry_after(client, stub):
    codes = {"b": failed(ErrorCode.OVERLOADED, "full", 2.2), "c": failed(ErrorCode.INVALID_INPUT)}
    stub.answer = lambda inputs: codes.get(inputs["text"], {"results": "A", "pid": 1})
    response = client.post("/echo/batch", json={"inputs": [{"text": text} for text in "abc"]})
    assert (response.status_code, response.headers["Retry-After"]) == (429, "3")
    assert response.json["errors"][0]["retry_after_s"] == 2.2


def test_a_client_that_hung_up_is_a_499_of_the_log(client, stub, caplog):
    stub.raising = ClientGone("gone")
    caplog.set_level("INFO", "service.access")
    assert client.post("/echo", json={"text": "a"}).status_code == 499
    assert caplog.records[-1].fields["status"] == 499


def test_a_reply_with_too_few_outcomes_is_a_protocol_fault(client, stub, monkeypatch):
    call = stub.call
    short = lambda *args, **kwargs: msgspec.structs.replace(call(*args, **kwargs), outcomes=[])  # noqa: E731
    monkeypatch.setattr(stub, "call", short)
    for route, body in (("/echo", {"text": "a"}), ("/echo/batch", {"inputs": [{"text": "a"}]})):
        response = client.post(route, json=body)
        assert (response.status_code, response.json["error"]["code"]) == (502, "PROTOCOL")


def test_the_paths_that_no_model_may_take_are_the_web_sides_own(app):
    served = {rule.rule.split("/")[1] for rule in app.url_map.iter_rules()}
    assert served == OWN_PATHS | {""} | {route[1:] for route in ROUTES}


def test_an_older_file_takes_any_object_and_nothing_else(client):
    assert client.post("/older_one", json={}).status_code == 200
    assert client.post("/older_one", json=[1]).status_code == 422
