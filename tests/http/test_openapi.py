"""The document is valid, complete and says exactly what is enforced; the pages load nothing from elsewhere."""

import re

import openapi_spec_validator
import pytest

pytestmark = pytest.mark.service

#: Every status that an inference route may answer.
INFERENCE = ["200", "400", "404", "413", "415", "422", "429", "500", "502", "503", "504"]


@pytest.fixture
def document(client):
    return client.get("/openapi.json").json


def test_the_document_is_valid(document):
    openapi_spec_validator.validate(document)


def test_every_route_lists_its_codes(document):
    listed = {
        path: sorted(operations[method]["responses"])
        for path, operations in document["paths"].items()
        for method in ("get", "post")
        if method in operations
    }
    models = ["/echo", "/qa", "/summarization", "/embeddings", "/older_one"]
    assert listed == {
        **{route + suffix: INFERENCE for route in models for suffix in ("", "/batch")},
        "/": ["200", "503"],
        "/health/startup": ["200"],
        "/health/liveness": ["200"],
        "/health/readiness": ["200", "503"],
        "/models": ["200", "503"],
        "/models/{name}": ["200", "404", "503"],
        "/metrics": ["200"],
    }


def test_routes_come_in_the_configured_order_and_fields_as_declared(document):
    assert list(document["paths"])[:4] == ["/echo", "/echo/batch", "/qa", "/qa/batch"]
    assert list(document["components"]["schemas"]["QuestionAnsweringInput"]["properties"]) == ["context", "question"]


def test_a_schema_says_what_is_enforced(document):
    schema = document["components"]["schemas"]["QuestionAnsweringInput"]
    assert schema["additionalProperties"] is False
    assert schema["required"] == ["context", "question"]
    context = schema["properties"]["context"]
    assert (context["minLength"], context["maxLength"]) == (1, 20_000)
    assert re.search(context["pattern"], " \n\ufeff\x85\x1c ") is None
    batch = document["components"]["schemas"]["EchoBatchInput"]["properties"]["inputs"]
    assert (batch["minItems"], batch["maxItems"]) == (1, 3)
    assert document["components"]["schemas"]["OlderOneInput"]["additionalProperties"] is True


def test_every_inference_route_has_its_example_limits_and_headers(document):
    operation = document["paths"]["/qa"]["post"]
    assert operation["requestBody"]["content"]["application/json"]["example"]["question"] == "Where does Rob live?"
    assert [parameter["name"] for parameter in operation["parameters"]] == ["X-Request-Timeout", "X-Request-ID"]
    assert "200,000 bytes" in operation["description"]
    assert "Retry-After" in operation["responses"]["429"]["headers"]
    assert "`NOT_READY`" in operation["responses"]["503"]["description"]
    assert "X-Model" in operation["responses"]["200"]["headers"]


@pytest.mark.parametrize("path", ["/docs", "/playground"])
def test_a_page_loads_nothing_from_elsewhere_and_runs_no_inline_code(client, path):
    response = client.get(path)
    assert "script-src 'self'" in response.headers["Content-Security-Policy"]
    assert "unsafe" not in response.headers["Content-Security-Policy"]
    for asset in re.findall(r'(?:src|href)="([^"]+)"', response.text):
        assert asset.startswith("/")
        with client.get(asset) as loaded:
            assert loaded.status_code == 200
    assert re.search(r"<script(?![^>]* src=)|<style|\son\w+=|style=", response.text) is None


def test_static_files_cannot_be_left(client):
    for path in ("/static/../app.py", "/static/%2e%2e/app.py", "/static/swagger-ui/", "/static/nope.js"):
        assert client.get(path).status_code == 404
