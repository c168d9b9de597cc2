"""Both halves as their users start them: a real supervisor, a real Gunicorn, and requests over HTTP."""

import http.client
import json
import os
import pathlib
import socket
import sys
from typing import Any, Callable, Dict, List, NamedTuple, TypeVar

from tests.integration.harness import ROOT, Daemon


class Answer(NamedTuple):
    """What came back over HTTP."""

    status: int
    headers: Dict[str, str]
    body: Any


Self = TypeVar("Self", bound="Stack")


class Stack:
    """A supervisor and a Gunicorn in front of it.

    `web_python`: the interpreter of the latter; ours unless it is set.
    """

    def __init__(
        self, spawn: Callable[..., Any], folder: pathlib.Path, models: List[Dict[str, Any]], **env: str
    ) -> None:
        """Store how to start them."""
        self._spawn = spawn
        self.web_python = sys.executable
        self.port = free_port()
        settings = {"SERVER_PORT": str(self.port), "SERVER_BIND": "127.0.0.1", "SERVER_NUM_WORKERS": "2", **env}
        self.daemon = Daemon(spawn, folder, models, **settings)

    def start(self: Self) -> Self:
        """Start both halves."""
        self.daemon.start()
        args = [self.web_python, "-m", "gunicorn", "-c", "service/gunicorn_conf.py", "service.wsgi:app"]
        self.web = self._spawn(args, env=self.daemon.env, cwd=str(ROOT))
        return self

    def request(self, method: str, path: str, body: Any = None, limit_s: float = 60, **headers: str) -> Answer:
        """Send one request on a connection of its own; `body` goes as JSON."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=limit_s)
        sent = {name.replace("_", "-"): value for name, value in headers.items()}
        content = None if body is None else json.dumps(body)
        if content is not None:
            sent.setdefault("Content-Type", "application/json")
        try:
            connection.request(method, path, content, sent)
            answer = connection.getresponse()
            text = answer.read()
            decoded = json.loads(text) if "json" in answer.headers.get("Content-Type", "") else text.decode()
            return Answer(answer.status, {name.lower(): value for name, value in answer.getheaders()}, decoded)
        finally:
            connection.close()

    def ask(self, text: str, limit_s: float = 60, path: str = "/echo", **inputs: Any) -> Answer:
        """Ask the echo model."""
        return self.request("POST", path, {"text": text, **inputs}, limit_s)

    def ready(self) -> bool:
        """Say whether the service calls itself ready."""
        return self._works("/health/readiness")

    def is_up(self) -> bool:
        """Say whether the web half answers."""
        return self._works("/health/startup")

    def _works(self, path: str) -> bool:
        """Say whether a probe gets its 200."""
        try:
            return self.request("GET", path, limit_s=60).status == 200
        except OSError:
            return False

    def workers(self) -> List[int]:
        """Return the processes of the web workers."""
        return children(self.web.pid)


def children(pid: int) -> List[int]:
    """Return the child processes of a process."""
    text = pathlib.Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="ascii")
    return [int(child) for child in text.split()]


def free_port() -> int:
    """Return a TCP port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def maps(pid: int) -> str:
    """Return the files that a process has mapped into its memory."""
    return pathlib.Path(f"/proc/{pid}/maps").read_text(encoding="utf-8", errors="replace")


def private_mb(pid: int) -> float:
    """Return the memory that a process shares with nobody, MB."""
    lines = pathlib.Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="ascii").splitlines()
    kilobytes = [int(line.split()[1]) for line in lines if line.startswith(("Private_Clean:", "Private_Dirty:"))]
    return sum(kilobytes) / 1024


def hang_up(stack: Stack, body: Dict[str, Any]) -> socket.socket:
    """Send a request and return the open connection, so that the caller can hang up."""
    content = json.dumps(body).encode()
    connection = socket.create_connection(("127.0.0.1", stack.port))
    head = f"POST /echo HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: {len(content)}\r\n\r\n"
    connection.sendall(head.encode() + content)
    return connection


#: The environment of these tests must not reach the services under test.
for name in ("SERVER_MODELS", "SUPERVISOR_ENDPOINT", "GUNICORN_CMD_ARGS", "WEB_CONCURRENCY"):
    os.environ.pop(name, None)
