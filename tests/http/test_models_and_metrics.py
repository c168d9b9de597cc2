"""What the status becomes: `/models` for people and programs, `/metrics` for Prometheus."""

import pytest
from prometheus_client.mmap_dict import MmapedDict
from prometheus_client.parser import text_string_to_metric_families

from ipu_supervisor.protocol.errors import ClientGone, ErrorCode, RequestError

pytestmark = pytest.mark.service


def samples(client):
    """Return every sample of /metrics: (name, labels) -> value. Each family must be there once."""
    families = list(text_string_to_metric_families(client.get("/metrics").text))
    assert len({family.name for family in families}) == len(families)
    return {
        (sample.name, *sorted(sample.labels.items())): sample.value for family in families for sample in family.samples
    }


def test_every_configured_model_is_listed_as_it_stands(client, stub):
    stub.demo = True
    models = {model["name"]: model for model in client.get("/models").json["models"]}
    assert list(models) == ["echo", "question_answering", "summarization", "embeddings", "older_one"]
    qa = models["question_answering"]
    assert (qa["route"], qa["checkpoint"], qa["demo"]) == ("/qa", "distilbert-base-cased-distilled-squad", True)
    assert qa["queue"] == {"backlog": 3, "in_flight": 1, "max_backlog": 256, "expected_wait_s": 2.4}
    assert qa["replicas"][0]["state"] == "READY"
    assert models["echo"]["limits"] == {
        "max_client_batch_size": 3,
        "max_request_bytes": 200_000,
        "request_limit_s": 20.0,
    }
    assert client.get("/models/question_answering").json == qa


def test_a_failed_model_says_why(client, stub):
    stub.changed["echo"] = {"ready": False, "reason": "failed", "last_error": "no such checkpoint"}
    echo = client.get("/models/echo").json
    assert (echo["ready"], echo["state"], echo["last_error"]) == (False, "failed", "no such checkpoint")


@pytest.mark.parametrize("name", ["nope", "qa", "..", "%00", "a" * 500])
def test_an_unknown_model_is_a_404(client, name):
    assert client.get(f"/models/{name}").status_code == 404


def test_a_model_that_the_supervisor_does_not_serve_is_listed_and_said_to_be_so(client, stub, monkeypatch):
    monkeypatch.delitem(stub.models, "echo")
    assert client.get("/models/echo").json["state"] == "the supervisor does not serve it"


def test_without_a_supervisor_models_is_a_503_and_metrics_still_answers(client, stub):
    stub.status_raising = RequestError(ErrorCode.NOT_READY, "The supervisor cannot be reached.", 1.0)
    assert client.get("/models").status_code == 503
    assert ("model_server_build_info", ("version", "")) in samples(client)


def test_answers_are_counted_by_model_and_code(client, stub):
    before = samples(client)

    def grown(name, **labels):
        key = (f"model_server_{name}", *sorted({"model": "echo", **labels}.items()))
        return samples(client).get(key, 0.0) - before.get(key, 0.0)

    client.post("/echo", json={"text": "a"})
    client.post("/echo", json={})
    stub.raising = RequestError(ErrorCode.OVERLOADED, "full", 1.0)
    client.post("/echo", json={"text": "a"})
    stub.raising = ClientGone("gone")
    client.post("/echo", json={"text": "a"})
    assert [grown("requests_total", code=code) for code in ("200", "422", "429", "499")] == [1, 1, 1, 1]
    assert grown("requests_shed_total", reason="overloaded") == 1
    assert grown("requests_cancelled_total") == 1
    assert grown("request_duration_seconds_count") == 4
    assert grown("inference_duration_seconds_count") == 1
    assert grown("inference_duration_seconds_bucket", le="0.05") == 1
    assert grown("inference_duration_seconds_bucket", le="0.025") == 0
    assert grown("requests_in_progress") == 0


def test_a_file_that_another_worker_is_just_making_is_read_again(app, client, tmp_path, monkeypatch):
    monkeypatch.setenv("PROMETHEUS_MULTIPROC_DIR", str(tmp_path))
    half_made = tmp_path / "counter_7.db"
    half_made.touch()
    reads = []
    read = MmapedDict.read_all_values_from_file

    def complete_it_after_a_read(path):
        reads.append(path)
        if len(reads) == 2:
            MmapedDict(path).close()
        return read(path)

    monkeypatch.setattr(MmapedDict, "read_all_values_from_file", staticmethod(complete_it_after_a_read))
    assert client.get("/metrics").status_code == 200
    assert len(reads) == 2


def test_the_supervisors_figures_are_exposed(client):
    found = samples(client)
    echo = ("model", "echo")
    assert found["model_server_queue_depth", echo] == 3
    assert found["model_server_model_ready", echo] == 1
    assert found["model_server_model_load_seconds", echo] == 1.5
    assert found["model_server_replica_restarts_total", echo] == 1
    assert found["model_server_supervisor_computed_total", echo] == 7
    assert found["model_server_supervisor_refused_total", echo, ("reason", "overloaded")] == 2
    assert found["model_server_supervisor_quarantined", echo] == 1
    assert found["model_server_build_info", ("version", "0.0-stub")] == 1
