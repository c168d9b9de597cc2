"""Waits until every model is ready, and tells what each does meanwhile: `wait_ready.sh`, and deployments, run this.

Asks only over HTTP, as any client could: readiness decides, `/models` explains. Standard library, any Python from 3.8.
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import pathlib
import re
import socket
import sys
import time
import urllib.parse
from collections.abc import Callable, Iterable, Mapping
from typing import Any

#: How often is looked, and how often is told although nothing changed but the time, seconds (chosen).
LOOK_EVERY_S, TELL_EVERY_S = 0.5, 10.0
#: Longest wait for one answer, seconds (chosen: the web half itself answers such questions within half a second).
ANSWER_LIMIT_S = 5.0
#: The limit and the port when neither the environment nor `.env` names them; as in docs/settings.md.
DEFAULTS = {"SERVER_WAIT_TIMEOUT": "1800", "SERVER_PORT": "8100"}


class NotReady(RuntimeError):
    """The models will not be ready, or were not in time; the message says why."""


class Server:
    """The web half at `http://HOST:PORT` or `unix:/PATH`."""

    def __init__(self, address: str) -> None:
        """Store where it is."""
        self.address = address

    def get(self, path: str, limit_s: float = ANSWER_LIMIT_S) -> tuple[int, Any]:
        """Return the status and the decoded body of an answer. Raises `OSError` and `http.client.HTTPException`."""
        connection = self._connection(limit_s)
        try:
            connection.request("GET", path, headers={"Accept": "application/json", "Host": "localhost"})
            answer = connection.getresponse()
            body = answer.read()
        finally:
            connection.close()
        try:
            return answer.status, json.loads(body)
        except ValueError:
            return answer.status, {}

    def _connection(self, limit_s: float) -> http.client.HTTPConnection:
        """Return a connection that is made when it is used."""
        parts = urllib.parse.urlsplit(self.address)
        if parts.scheme == "unix":
            return _UnixConnection(parts.path, limit_s)
        return http.client.HTTPConnection(parts.hostname or "127.0.0.1", parts.port or 80, timeout=limit_s)


class _UnixConnection(http.client.HTTPConnection):
    """HTTP over a Unix socket."""

    def __init__(self, path: str, limit_s: float) -> None:
        """Store the path."""
        super().__init__("localhost", timeout=limit_s)
        self._path = path

    def connect(self) -> None:
        """Connect to the path."""
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


def wait(
    server: Server,
    limit_s: float,
    say: Callable[[str], None] = print,
    ended: Callable[[], str] = lambda: "",
) -> float:
    """Return after how many seconds the server was ready. Raises `NotReady` at once when a model failed.

    `ended` says why there is nothing to wait for any more, if that is so.
    """
    began = time.monotonic()
    told, told_at = "", began
    while True:
        left_s = limit_s - (time.monotonic() - began)
        ready, doing, failed = look(server, min(ANSWER_LIMIT_S, max(left_s, LOOK_EVERY_S)))
        elapsed_s = time.monotonic() - began
        if ready:
            return elapsed_s
        failed = failed or ended()
        states = re.sub(r"\d+ s", "", doing)
        if failed or elapsed_s >= limit_s or states != told or time.monotonic() >= told_at + TELL_EVERY_S:
            say("{:5.0f} s  {}".format(elapsed_s, doing))
            told, told_at = states, time.monotonic()
        if failed:
            raise NotReady(failed)
        if elapsed_s >= limit_s:
            raise NotReady("not ready within {:g} s: {}".format(limit_s, doing))
        time.sleep(min(LOOK_EVERY_S, max(0.0, limit_s - elapsed_s)))


def look(server: Server, limit_s: float = ANSWER_LIMIT_S) -> tuple[bool, str, str]:
    """Return whether the server is ready, what its models do, and why it never will be (else empty)."""
    try:
        known, answer = server.get("/models", limit_s)
        status, readiness = server.get("/health/readiness", limit_s)
    except (OSError, http.client.HTTPException) as error:
        return False, "no answer from {} ({})".format(server.address, error or type(error).__name__), ""
    if status == http.client.OK:
        return True, "ready", ""
    if known != http.client.OK:
        return False, _message(answer) or "/models answers {}".format(known), ""
    models = answer.get("models", [])
    doing = "; ".join(map(describe, models)) or _message(readiness)
    if all(model["ready"] for model in models):
        doing = _message(readiness)
    return False, doing, "; ".join(filter(None, map(failure, models)))


def describe(model: Mapping[str, Any]) -> str:
    """Return what one model of `/models` does: `question_answering: COMPILING 42 s (last time 95 s)`."""
    if model["ready"]:
        return "{}: ready".format(model["name"])
    replicas = ", ".join("{} {:.0f} s".format(replica["state"], replica["since_s"]) for replica in model["replicas"])
    before = " (last time {:.0f} s)".format(model["load_s"]) if replicas and model["load_s"] else ""
    return "{}: {}{}".format(model["name"], replicas or model["state"], before)


def failure(model: Mapping[str, Any]) -> str:
    """Return why a model cannot become ready by itself; empty while it may."""
    states = [replica["state"] for replica in model["replicas"]]
    if model["ready"] or not states or any(state != "FAILED" for state in states):
        return ""
    why = ". ".join(text for text in (model["last_error"] or model["state"], model.get("advice")) if text)
    return "{} FAILED: {}".format(model["name"], why)


def _message(answer: Any) -> str:
    """Return the message of an error answer."""
    error = answer.get("error", {}) if isinstance(answer, dict) else {}
    return str(error.get("message", "")) if isinstance(error, dict) else ""


def number(name: str, environ: Mapping[str, str], lines: Iterable[str]) -> str:
    """Return a plain number that is set in the environment or in the lines of `.env`, or its default."""
    found = [
        match[1] for line in lines for match in [re.match(name + r"=[\"']?(\d+(?:\.\d+)?)[\"']?\s*$", line)] if match
    ]
    return environ.get(name) or (found or [DEFAULTS[name]])[-1]


def main() -> int:
    """Wait as the command line says; 0 when every model is ready."""
    path = pathlib.Path(".env")
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    port, limit = (number(name, os.environ, lines) for name in ("SERVER_PORT", "SERVER_WAIT_TIMEOUT"))
    parser = argparse.ArgumentParser(prog="wait_ready.sh", description="Wait until every model is ready.")
    parser.add_argument("address", nargs="?", default="http://127.0.0.1:" + port, help="http://HOST:PORT or unix:/PATH")
    parser.add_argument("--limit", type=float, default=float(limit), help="seconds (SERVER_WAIT_TIMEOUT: %(default)s)")
    given = parser.parse_args()
    print("waiting for {}, at most {:g} s".format(given.address, given.limit), flush=True)
    try:
        elapsed_s = wait(Server(given.address), given.limit, lambda line: print(line, flush=True))
    except NotReady as reason:
        print("NOT READY: {}".format(reason), file=sys.stderr)
        return 1
    print("ready after {:.1f} s".format(elapsed_s))
    return 0


if __name__ == "__main__":
    sys.exit(main())
