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
from typing import Any, NamedTuple

#: How often is looked, and how often is told although nothing changed but the time, seconds (chosen).
LOOK_EVERY_S, TELL_EVERY_S = 0.5, 10.0
#: Longest wait for one answer, seconds (chosen: the web half itself answers such questions within half a second).
ANSWER_LIMIT_S = 5.0
#: How long after its beginning a wait believes that a model failed, seconds (chosen). What the web half tells may be a
#: second old, and half a second long on its way: a model that was told to try again a moment ago is FAILED there still.
OLD_NEWS_S = 2.0
#: The limit and the port when neither the environment nor `.env` names them; as in docs/settings.md.
DEFAULTS = {"SERVER_WAIT_TIMEOUT": "1800", "SERVER_PORT": "8100"}
#: Exit code: the models are not ready. Neither docker nor a crash ends so: by it `wait_ready.sh` knows that this came
#: to its end and was not cut off.
NOT_READY = 3


class NotReady(RuntimeError):
    """The models will not be ready, or were not in time; the message says why."""


class Seen(NamedTuple):
    """What there is to see of a server at one moment."""

    ready: bool
    #: What each model does.
    doing: str
    #: The last errors of models that are not ready, with what can be done about them; empty where none is known.
    errors: str = ""
    #: Why the server never will be ready; empty while it may.
    failed: str = ""

    def why_not(self) -> str:
        """Say why the server is not ready, as far as that can be seen."""
        return self.failed or "; ".join(filter(None, (self.doing, self.errors)))


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
    waited_s: float = 0.0,
) -> float:
    """Return after how many seconds the server was ready. Raises `NotReady` within seconds when a model failed.

    `ended` says why there is nothing to wait for any more, if that is so; `waited_s` is what has gone of the limit.
    """
    began, teller = time.monotonic() - waited_s, _Teller(say)
    while True:
        looked_s = time.monotonic() - began
        seen = look(server, min(ANSWER_LIMIT_S, max(limit_s - looked_s, LOOK_EVERY_S)))
        elapsed_s = time.monotonic() - began
        if seen.ready:
            return elapsed_s
        failed = (seen.failed if looked_s >= OLD_NEWS_S else "") or ended()
        teller.tell(seen, elapsed_s, last=bool(failed) or elapsed_s >= limit_s)
        if failed:
            raise NotReady(failed)
        if elapsed_s >= limit_s:
            raise NotReady("not ready within {:g} s: {}".format(limit_s, seen.why_not()))
        time.sleep(min(LOOK_EVERY_S, max(0.0, limit_s - elapsed_s)))


class _Teller:
    """Tells what changes: what the models do, now and then also where it is only the time; errors when they are new."""

    def __init__(self, say: Callable[[str], None]) -> None:
        """Store who is told; nothing was told yet."""
        self._say = say
        self._states = self._errors = ""
        self._told_at = time.monotonic()

    def tell(self, seen: Seen, elapsed_s: float, last: bool) -> None:
        """Tell what is new; what the models do also the last time."""
        states = re.sub(r"\d+ s", "", seen.doing)
        if last or states != self._states or time.monotonic() >= self._told_at + TELL_EVERY_S:
            self._say("{:5.0f} s  {}".format(elapsed_s, seen.doing))
            self._states, self._told_at = states, time.monotonic()
        if seen.errors not in ("", self._errors):
            self._say("         {}".format(seen.errors))
            self._errors = seen.errors


def look(server: Server, limit_s: float = ANSWER_LIMIT_S) -> Seen:
    """Return what there is to see of a server now."""
    try:
        known, answer = server.get("/models", limit_s)
        status, readiness = server.get("/health/readiness", limit_s)
    except (OSError, http.client.HTTPException) as error:
        return Seen(False, "no answer from {} ({})".format(server.address, error or type(error).__name__))
    if status == http.client.OK:
        return Seen(True, "ready")
    if known != http.client.OK:
        return Seen(False, _message(answer) or "/models answers {}".format(known))
    models = answer.get("models", [])
    doing = "; ".join(map(describe, models)) or _message(readiness)
    if all(model["ready"] for model in models):
        doing = _message(readiness)
    errors, failed = ("; ".join(filter(None, map(about, models))) for about in (last_error, failure))
    return Seen(False, doing, errors, failed)


def describe(model: Mapping[str, Any]) -> str:
    """Return what one model of `/models` does: `question_answering: COMPILING 42 s (last time 95 s)`."""
    if model["ready"]:
        return "{}: ready".format(model["name"])
    replicas = ", ".join("{} {:.0f} s".format(replica["state"], replica["since_s"]) for replica in model["replicas"])
    before = " (last time {:.0f} s)".format(model["load_s"]) if replicas and model["load_s"] else ""
    return "{}: {}{}".format(model["name"], replicas or model["state"], before)


def last_error(model: Mapping[str, Any]) -> str:
    """Return why a model that may still become ready is not, and what can be done; empty where that is not known."""
    if model["ready"] or not model["last_error"] or failure(model):
        return ""
    return "{}, last error: {}".format(model["name"], _why(model))


def failure(model: Mapping[str, Any]) -> str:
    """Return why a model cannot become ready by itself; empty while it may."""
    states = [replica["state"] for replica in model["replicas"]]
    if model["ready"] or not states or any(state != "FAILED" for state in states):
        return ""
    return "{} FAILED: {}".format(model["name"], _why(model))


def _why(model: Mapping[str, Any]) -> str:
    """Return in one line what went wrong with a model last, and what an operator can do about it."""
    error = " ".join((model["last_error"] or model["state"]).split())
    return ". ".join(filter(None, (error.rstrip("."), model.get("advice"))))


def _message(answer: Any) -> str:
    """Return the message of an error answer."""
    error = answer.get("error", {}) if isinstance(answer, dict) else {}
    return str(error.get("message", "")) if isinstance(error, dict) else ""


def number(name: str, environ: Mapping[str, str], lines: Iterable[str]) -> str:
    """Return what is set in the environment, else in the lines of `.env`, else the default.

    In `.env` the last line that sets it counts, and one whose value has blanks, quotes or a `$` in it does not.
    """
    line = re.compile(r"\s*(?:export\s+)?" + name + r"\s*=\s*([\"']?)([^\"'$\s]*)\1(?:\s+#.*|\s*)$")
    found = [match[2] for match in map(line.match, lines) if match]
    return environ.get(name) or (found or [""])[-1] or DEFAULTS[name]


def seconds(text: str) -> float:
    """Return a limit. Raises `argparse.ArgumentTypeError`, with what is expected."""
    if not re.fullmatch(r"\d+(\.\d+)?", text) or float(text) <= 0:
        raise argparse.ArgumentTypeError("expected are seconds, a number above 0, not '{}'".format(text))
    return float(text)


def main() -> int:
    """Wait as the command line says; 0 when every model is ready."""
    path = pathlib.Path(".env")
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    port, limit = (number(name, os.environ, lines) for name in ("SERVER_PORT", "SERVER_WAIT_TIMEOUT"))
    parser = argparse.ArgumentParser(prog="wait_ready.sh", description="Wait until every model is ready.")
    parser.add_argument("address", nargs="?", default="http://127.0.0.1:" + port, help="http://HOST:PORT or unix:/PATH")
    parser.add_argument("--limit", type=seconds, default=limit, help="seconds (SERVER_WAIT_TIMEOUT: %(default)s)")
    parser.add_argument("--waited", type=float, default=0.0, help="seconds of the limit that have gone already")
    given = parser.parse_args()
    print("waiting for {}, at most {:g} s".format(given.address, max(0.0, given.limit - given.waited)), flush=True)
    server = Server(given.address)
    try:
        elapsed_s = wait(server, given.limit, lambda line: print(line, flush=True), waited_s=given.waited)
    except NotReady as reason:
        print("NOT READY: {}".format(reason), file=sys.stderr)
        return NOT_READY
    print("ready after {:.1f} s".format(elapsed_s))
    return 0


if __name__ == "__main__":
    sys.exit(main())
