"""Waiting for a server: what is told, when it ends, and how. Over real HTTP, against a server that plays a history."""

import http.server
import json
import pathlib
import socketserver
import subprocess
import sys
import threading
import time
from typing import Any, List

import pytest

from deploy.scripts.wait_ready import NotReady, Server, number, wait
from tests.conftest import running_s

ROOT = pathlib.Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "deploy/scripts/wait_ready.sh"
READY = (200, {"status": "ready"})


def model(name, *replicas, ready=False, last_error="", load_s=0.0):
    states = [{"replica": name + "-1.1", "state": state, "since_s": since_s} for state, since_s in replicas]
    about = {"name": name, "ready": ready, "state": "ready" if ready else "no usable replica"}
    return {**about, "replicas": states, "last_error": last_error, "load_s": load_s}


def not_ready(message="not yet"):
    return 503, {"error": {"code": "NOT_READY", "message": message}}


class Play(http.server.BaseHTTPRequestHandler):
    """Answers each look of the waiting side with the next moment of the history; the last one stays."""

    def do_GET(self):
        server: Any = self.server
        moments = server.moments
        models, readiness = moments[0]
        status, body = readiness if self.path == "/health/readiness" else (200, {"models": models})
        if isinstance(models, tuple) and self.path == "/models":
            status, body = models
        if self.path == "/health/readiness" and len(moments) > 1:
            moments.pop(0)
        text = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def log_message(self, *arguments):
        pass

    def address_string(self):
        return ""


class UnixServer(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
    daemon_threads = True


@pytest.fixture
def play():
    """Return `play(moments)`: serves a history and returns its address; a path serves on a Unix socket."""
    servers = []

    def start(*moments, path=None):
        made: Any = UnixServer(path, Play) if path else http.server.ThreadingHTTPServer(("127.0.0.1", 0), Play)
        made.moments = list(moments)
        servers.append(made)
        threading.Thread(target=made.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        return "unix:" + path if path else "http://127.0.0.1:{}".format(made.server_address[1])

    yield start
    for made in servers:
        made.shutdown()
        made.server_close()


def waited(address, limit_s=20.0, **options):
    said: List[str] = []
    try:
        return wait(Server(address), limit_s, said.append, **options), said
    except NotReady as reason:
        return str(reason), said


def test_a_server_that_is_ready_is_not_waited_for(play):
    elapsed_s, said = waited(play(([], READY)))
    assert elapsed_s < 5
    assert said == []


def test_every_change_is_told_with_the_time_it_took_last_time(play):
    address = play(
        ([model("qa", ("LOADING", 0.2))], not_ready()),
        ([model("qa", ("COMPILING", 42.4), load_s=95.0), model("echo", ready=True)], not_ready()),
        ([model("qa", ("COMPILING", 42.9), load_s=95.0), model("echo", ready=True)], not_ready()),
        ([], READY),
    )
    _, said = waited(address)
    assert [line[9:] for line in said] == ["qa: LOADING 0 s", "qa: COMPILING 42 s (last time 95 s); echo: ready"]


def test_a_model_that_failed_ends_the_wait_at_once_with_its_reason(play):
    failed = model("qa", ("FAILED", 1.0), last_error="exited with code 41")
    reason, said = waited(play(([failed, model("echo", ready=True)], not_ready())))
    assert reason == "qa FAILED: exited with code 41"
    assert len(said) == 1


def test_a_replica_that_may_still_come_is_waited_for(play):
    some = model("qa", ("FAILED", 1.0), ("BACKOFF", 1.0), last_error="exited with code 41")
    elapsed_s, _ = waited(play(([some], not_ready()), ([], READY)))
    assert elapsed_s < 5


def test_the_limit_is_in_real_seconds_and_the_last_state_is_told(play):
    began, began_running = time.monotonic(), running_s()
    reason, _ = waited(play(([model("qa", ("LOADING", 3.0))], not_ready())), limit_s=1.2)
    assert time.monotonic() - began >= 1.2
    assert running_s() - began_running < 5
    assert reason == "not ready within 1.2 s: qa: LOADING 3 s"


def test_ready_models_behind_a_readiness_that_is_not_are_told_with_its_message(play):
    reason, _ = waited(play(([model("qa", ready=True)], not_ready("different versions"))), limit_s=0.3)
    assert reason.endswith("different versions")


def test_a_supervisor_that_does_not_answer_is_told(play):
    reason, _ = waited(play((not_ready("cannot be reached"), not_ready("cannot be reached"))), limit_s=0.3)
    assert reason.endswith("cannot be reached")


def test_a_port_nobody_listens_on_is_waited_for():
    reason, said = waited("http://127.0.0.1:9", limit_s=0.3)
    assert "no answer from http://127.0.0.1:9" in reason
    assert said


def test_a_caller_who_knows_better_ends_the_wait(play):
    reason, _ = waited(play(([model("qa", ("LOADING", 3.0))], not_ready())), ended=lambda: "the unit failed")
    assert reason == "the unit failed"


def test_a_unix_socket_is_asked_too(play, short_dir):
    elapsed_s, _ = waited(play(([], READY), path=str(short_dir / "web.sock")))
    assert elapsed_s < 5


@pytest.mark.parametrize(
    ("environ", "lines", "expected"),
    [
        ({}, [], "1800"),
        ({}, ["SERVER_WAIT_TIMEOUT=60", "OTHER=1"], "60"),
        ({}, ["SERVER_WAIT_TIMEOUT='61'"], "61"),
        ({}, ["# SERVER_WAIT_TIMEOUT=60", "SERVER_WAIT_TIMEOUT="], "1800"),
        ({"SERVER_WAIT_TIMEOUT": "5"}, ["SERVER_WAIT_TIMEOUT=60"], "5"),
    ],
)
def test_the_environment_wins_over_the_file_and_the_file_over_the_default(environ, lines, expected):
    assert number("SERVER_WAIT_TIMEOUT", environ, lines) == expected


def run(script, *arguments, **env):
    return subprocess.run(
        [str(script), *arguments],
        env={"PATH": "{}:/usr/bin:/bin".format(pathlib.Path(sys.executable).parent), **env},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
        timeout=30,
    )


@pytest.mark.parametrize("script", [SCRIPT, ROOT / ".github/scripts/check_wait_server.sh"])
def test_the_script_and_its_earlier_name_take_the_limit_from_the_environment(script, play):
    done = run(script, play(([model("qa", ("LOADING", 3.0))], not_ready())), SERVER_WAIT_TIMEOUT="0.5")
    assert done.returncode == 1
    assert "NOT READY: not ready within 0.5 s: qa: LOADING 3 s" in done.stdout


def test_the_script_ends_well_when_every_model_is_ready(play):
    done = run(SCRIPT, play(([], READY)))
    assert (done.returncode, "ready after" in done.stdout) == (0, True)
