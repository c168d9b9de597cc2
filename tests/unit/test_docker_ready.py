"""The service image's health check, on a server that plays the web half."""

import http.server
import json
import pathlib
import subprocess
import sys
import threading
from typing import Any

import pytest

SCRIPT = pathlib.Path(__file__).resolve().parents[2] / "deploy/docker/ready.py"
REFUSAL = {"error": {"code": "NOT_READY", "message": "echo: no usable replica"}}


class WebHalf(http.server.BaseHTTPRequestHandler):
    """Answers the question for readiness, and nothing else, with what its server holds."""

    def do_GET(self):
        server: Any = self.server
        status, body = server.answer if self.path == "/health/readiness" else (404, {})
        self.send_response(status)
        self.end_headers()
        self.wfile.write(json.dumps(body).encode())

    def log_message(self, *arguments):
        pass


@pytest.fixture
def check():
    """Return `check(answer, **environ)`: the exit code, and what is said."""
    server: Any = http.server.ThreadingHTTPServer(("127.0.0.1", 0), WebHalf)
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()

    def run(answer, **environ):
        server.answer = answer
        done = subprocess.run(
            [sys.executable, str(SCRIPT)],
            env={"SERVER_PORT": str(server.server_address[1]), **environ},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        return done.returncode, done.stdout.strip()

    yield run
    server.shutdown()
    server.server_close()


def test_it_is_healthy_when_every_model_can_be_asked(check):
    assert check((200, {"status": "ready"})) == (0, "ready")


def test_it_is_not_while_a_model_cannot_and_says_why(check):
    code, said = check((503, REFUSAL))
    assert (code, json.loads(said)) == (1, REFUSAL)


def test_a_web_half_that_does_not_answer_is_told(check):
    code, said = check((200, {}), SERVER_PORT="9")
    assert (code, said.startswith("no answer from port 9: ConnectionRefusedError")) == (1, True)


@pytest.mark.parametrize("name", ["http_proxy", "HTTP_PROXY"])
def test_no_proxy_that_docker_is_configured_with_comes_between(check, name):
    assert check((200, {"status": "ready"}), **{name: "http://127.0.0.1:9"}) == (0, "ready")
