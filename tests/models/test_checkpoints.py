"""Which files are loaded: named, cached, a folder or the demo; and clear words where there are none."""

import http.server
import json
import logging
import socket
import threading

import pytest

from ipu_supervisor.engines import checkpoints
from ipu_supervisor.engines.hub import CheckpointError, Hub, HubUnreachable
from tests.conftest import running_s


class FakeHub:
    """Knows one answer: a commit, an error, or nothing at all (None)."""

    def __init__(self, answer=None, folder=None):
        self.answer, self.folder, self.fetched = answer, folder, []

    def commit(self, checkpoint, revision):
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer

    def fetch(self, checkpoint, commit):
        self.fetched.append((checkpoint, commit))
        return self.folder

    def cached(self, checkpoint, revision):
        return self.folder


@pytest.fixture
def folder(tmp_path):
    path = tmp_path / "abc123"
    path.mkdir()
    (path / "config.json").write_text("{}")
    (path / "model.safetensors").write_bytes(b"")
    return path


def resolve(hub, mode="hub", checkpoint="owner/name"):
    return checkpoints.resolve("question-answering", checkpoint, "main", mode, hub)


def test_the_named_checkpoint_is_fetched_at_the_commit_its_revision_is(folder):
    hub = FakeHub("deadbeef", str(folder))
    assert resolve(hub) == checkpoints.Source(str(folder), "owner/name", "deadbeef")
    assert hub.fetched == [("owner/name", "deadbeef")]


def test_a_folder_needs_no_hub(folder):
    source = resolve(FakeHub(AssertionError()), checkpoint=str(folder))
    assert source == checkpoints.Source(str(folder), str(folder), "local")


@pytest.mark.parametrize("mode", ["hub", "auto"])
def test_without_the_hub_its_cache_serves(folder, mode):
    assert resolve(FakeHub(None, str(folder)), mode) == checkpoints.Source(str(folder), "owner/name", "abc123")


@pytest.mark.parametrize("lost", ["config.json", "model.safetensors"])
def test_half_a_copy_in_the_cache_is_none(folder, lost):
    (folder / lost).unlink()
    with pytest.raises(HubUnreachable, match="not in its cache"):
        resolve(FakeHub(None, str(folder)))


def test_without_hub_and_cache_the_named_checkpoint_fails_but_may_be_tried_again():
    with pytest.raises(HubUnreachable, match="cannot be reached") as caught:
        resolve(FakeHub())
    assert caught.value.final is False


def test_without_hub_and_cache_auto_takes_the_demo_and_says_so_loudly(caplog):
    with caplog.at_level(logging.WARNING):
        source = resolve(FakeHub(), "auto")
    assert (source.demo, source.checkpoint) == (True, "demo:all-MiniLM-L6-v2+adapter")
    assert "demo_in_place_of checkpoint=owner/name got=demo:" in caplog.text


@pytest.mark.parametrize("mode", ["hub", "auto"])
def test_a_checkpoint_that_does_not_exist_fails_in_every_mode(mode):
    with pytest.raises(CheckpointError, match="no such") as caught:
        resolve(FakeHub(CheckpointError("no such checkpoint")), mode)
    assert caught.value.final is True


def test_the_demo_asks_no_hub():
    source = resolve(FakeHub(AssertionError()), "demo")
    assert source.demo
    assert source.revision == "0.1.0"


def test_a_task_without_a_demo_says_so():
    with pytest.raises(CheckpointError, match="no demo checkpoint for the task 'translation'"):
        checkpoints.resolve("translation", "x/y", "main", "demo")


@pytest.mark.parametrize("name", ["./nowhere", "/nowhere/at/all", "~/nowhere"])
def test_a_folder_that_is_not_there_is_not_asked_of_the_hub(name):
    with pytest.raises(CheckpointError, match="no folder"):
        resolve(FakeHub(AssertionError()), checkpoint=name)


@pytest.mark.parametrize(
    ("lost", "fault"), [("config.json", "no config.json"), ("model.safetensors", "no safetensors")]
)
def test_a_folder_that_cannot_be_loaded_says_why(folder, lost, fault):
    (folder / lost).unlink()
    (folder / "pytorch_model.bin").write_bytes(b"")
    with pytest.raises(CheckpointError, match=fault):
        resolve(FakeHub(), checkpoint=str(folder))


# The real client against a server of our own.


@pytest.fixture
def serve():
    servers = []

    def serve(status, body):
        class Answer(http.server.BaseHTTPRequestHandler):
            def do_GET(self):
                self.send_response(status)
                self.end_headers()
                self.wfile.write(json.dumps(body).encode())

            def log_message(self, *args):
                pass

        servers.append(http.server.HTTPServer(("127.0.0.1", 0), Answer))
        threading.Thread(target=servers[-1].serve_forever, daemon=True).start()
        return "http://127.0.0.1:{}".format(servers[-1].server_port)

    yield serve
    for server in servers:
        server.shutdown()
        server.server_close()


def info(*files):
    return {
        "id": "owner/name",
        "modelId": "owner/name",
        "sha": "f00d",
        "siblings": [{"rfilename": file} for file in files],
    }


def test_the_hub_tells_the_commit(serve):
    assert Hub(serve(200, info("config.json", "model.safetensors"))).commit("owner/name", "main") == "f00d"


def test_a_checkpoint_without_safetensors_is_refused_before_it_is_fetched(serve):
    with pytest.raises(CheckpointError, match="no safetensors"):
        Hub(serve(200, info("config.json", "pytorch_model.bin"))).commit("owner/name", "main")


@pytest.mark.parametrize(("status", "fault"), [(401, "HF_TOKEN"), (403, "HF_TOKEN"), (404, "at revision main")])
def test_the_hub_says_that_there_is_none(serve, status, fault):
    with pytest.raises(CheckpointError, match=fault):
        Hub(serve(status, {"error": "no"})).commit("owner/name", "main")


@pytest.mark.parametrize("status", [429, 500, 503])
def test_a_hub_out_of_order_counts_as_unreachable(serve, status):
    assert Hub(serve(status, {"error": "no"})).commit("owner/name", "main") is None


def test_a_name_that_is_none_is_refused():
    with pytest.raises(CheckpointError, match="no Hugging Face id"):
        Hub("http://127.0.0.1:1").commit("a b//c", "main")


def test_a_hub_that_refuses_connections_is_unreachable():
    assert Hub("http://127.0.0.1:1").commit("owner/name", "main") is None


def test_a_hub_that_never_answers_is_given_up_in_time():
    with socket.create_server(("127.0.0.1", 0)) as silent:
        began = running_s()
        assert Hub("http://127.0.0.1:{}".format(silent.getsockname()[1]), 0.2).commit("owner/name", "main") is None
        assert running_s() - began < 5
