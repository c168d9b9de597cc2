"""Startup, liveness and readiness, also when there is nothing to be ready, or too much to do."""

import threading

import pytest

from ipu_supervisor.protocol.errors import ErrorCode, RequestError
from service.app import create_app
from service.permits import Permits, permits_of
from tests.conftest import running_s
from tests.http.conftest import settings_for
from tests.http.stub import StubClient

pytestmark = pytest.mark.service

READINESS = ["/", "/health/readiness", "/readyz", "/healthz", "/ping"]
LIVENESS = ["/health/startup", "/health/liveness", "/livez"]


@pytest.mark.parametrize("path", [*READINESS[1:], *LIVENESS])
@pytest.mark.parametrize("slash", ["", "/"])
def test_every_health_route_answers_with_and_without_a_trailing_slash(client, path, slash):
    assert client.get(path + slash).status_code == 200


def test_the_root_says_the_message_that_clients_know(client):
    assert client.get("/").json == {"message": "Health Check Passed!"}


def test_a_browser_gets_the_playground_at_the_root(client):
    response = client.get("/", headers={"Accept": "text/html,application/xhtml+xml,*/*;q=0.8"})
    assert response.mimetype == "text/html"
    assert b"playground.js" in response.data
    assert client.get("/", headers={"Accept": "*/*"}).mimetype == "application/json"


def unready(client, path):
    response = client.get(path)
    assert response.status_code == 503
    assert response.headers["Retry-After"] == "1"
    assert response.json["error"]["code"] == "NOT_READY"
    return {name: model["reason"] for name, model in response.json["models"].items() if not model["ready"]}


@pytest.mark.parametrize("path", READINESS)
def test_one_model_that_is_not_ready_is_named_with_its_reason(client, stub, path):
    stub.changed["embeddings"] = {"ready": False, "reason": "compiling"}
    assert unready(client, path) == {"embeddings": "compiling"}


def test_a_model_that_the_supervisor_does_not_serve_is_not_ready(client, stub, monkeypatch):
    monkeypatch.delitem(stub.models, "echo")
    assert unready(client, "/readyz") == {"echo": "the supervisor does not serve it"}


def test_different_versions_of_a_model_file_are_not_ready(client, stub):
    stub.changed["echo"] = {"file_hash": "0" * 64}
    assert "different versions" in unready(client, "/readyz")["echo"]


@pytest.mark.parametrize("path", READINESS)
def test_readiness_is_of_now_whatever_was_so_a_second_ago(client, stub, path):
    ready, loading = stub.status(None), {"ready": False, "reason": "loading"}
    stub.changed["echo"] = loading
    stub.earlier = stub.status(None)
    stub.changed.clear()
    assert client.get(path).status_code == 200
    stub.earlier, stub.changed["echo"] = ready, loading
    assert unready(client, path) == {"echo": "loading"}


def test_a_draining_supervisor_is_not_ready(client, stub):
    stub.draining = True
    assert set(unready(client, "/readyz").values()) == {"the supervisor is draining"}


def test_no_configured_model_is_not_ready(folder):
    settings = settings_for(folder=folder)
    client = create_app(settings, StubClient(settings.config)).test_client()
    assert unready(client, "/") == {}
    assert client.get("/health/liveness").status_code == 200


@pytest.mark.parametrize("path", LIVENESS)
def test_a_supervisor_that_is_gone_does_not_make_web_workers_look_dead(client, stub, path):
    stub.status_raising = RequestError(ErrorCode.NOT_READY, "The supervisor cannot be reached.", 1.0)
    assert client.get(path).status_code == 200
    assert set(unready(client, "/readyz").values()) == {"The supervisor cannot be reached."}


def test_without_a_free_permit_429_at_once_while_health_answers(app, stub, client):
    face = app.extensions["face"]
    before, face.permits = face.permits, Permits(1)
    stub.gate.clear()
    holder = threading.Thread(target=lambda: app.test_client().post("/echo", json={"text": "held"}))
    holder.start()
    try:
        assert stub.waiting.acquire(timeout=60)
        started = running_s()
        refused = client.post("/echo", json={"text": "one more"})
        assert (refused.status_code, refused.json["error"]["code"]) == (429, "OVERLOADED")
        assert refused.headers["Retry-After"] == "3", "the supervisor's expected wait of 2.4 s, rounded up"
        for path in (*READINESS, *LIVENESS, "/models", "/metrics", "/docs"):
            assert client.get(path).status_code == 200
        assert running_s() - started < 5
    finally:
        stub.gate.set()
        holder.join(60)
    assert client.post("/echo", json={"text": "again"}).status_code == 200
    face.permits = before


def test_a_permit_is_given_back_whatever_happens(app, stub, client):
    face = app.extensions["face"]
    before, face.permits = face.permits, Permits(1)
    for fault in (RequestError(ErrorCode.POISON, "x"), RuntimeError("x"), None):
        stub.raising = fault
        client.post("/echo", json={"text": "a"})
        client.post("/echo", data=b"{", content_type="application/json")
        assert client.post("/echo", data=b"x" * 300_000, content_type="application/json").status_code == 413
    assert face.permits.take()
    face.permits = before


@pytest.mark.parametrize(("threads", "permits"), [(72, 64), (12, 4), (9, 1), (8, 4), (2, 1), (1, 1)])
def test_permits_leave_threads_for_health(threads, permits):
    assert permits_of(threads) == permits
