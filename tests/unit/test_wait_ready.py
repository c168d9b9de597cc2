"""Waiting for a server: what is told, when it ends, and how. A server plays a history; the clock moves with waits."""

import http.client
import http.server
import json
import pathlib
import shutil
import socketserver
import subprocess
import sys
import threading
from typing import Any, List

import pytest

from deploy.scripts import wait_ready
from deploy.scripts.wait_ready import NotReady, Server, number, wait

ROOT = pathlib.Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "deploy/scripts/wait_ready.sh"
READY = (200, {"status": "ready"})
#: The setting of the limit.
NAME = "SERVER_WAIT_TIMEOUT"


def model(name, *replicas, ready=False, last_error="", load_s=0.0):
    states = [{"replica": name + "-1.1", "state": state, "since_s": since_s} for state, since_s in replicas]
    about = {"name": name, "ready": ready, "state": "ready" if ready else "no usable replica"}
    return {**about, "replicas": states, "last_error": last_error, "load_s": load_s}


def not_ready(message="not yet"):
    return 503, {"error": {"code": "NOT_READY", "message": message}}


class Clock:
    """Stands in for the module `time`: it moves only where something waits."""

    def __init__(self):
        self.now = 100.0

    def monotonic(self):
        return self.now

    def sleep(self, seconds):
        self.now += seconds


class Played:
    """A server that plays a history: each question for readiness moves it on; the last moment stays."""

    address = "http://played"

    def __init__(self, *moments):
        self.moments = list(moments)

    def get(self, path, limit_s=5.0):
        """Return a status and a body, or raise what there is instead of an answer."""
        models, readiness = self.moments[0]
        if path == "/health/readiness":
            self.moments[1:] and self.moments.pop(0)
            return readiness
        if isinstance(models, Exception):
            raise models
        return models if isinstance(models, tuple) else (200, {"models": models})


class Play(http.server.BaseHTTPRequestHandler):
    """Answers over HTTP what the server plays."""

    def do_GET(self):
        server: Any = self.server
        status, body = server.played.get(self.path)
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
        made.played = Played(*moments)
        servers.append(made)
        threading.Thread(target=made.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        return "unix:" + path if path else "http://127.0.0.1:{}".format(made.server_address[1])

    yield start
    for made in servers:
        made.shutdown()
        made.server_close()


@pytest.fixture
def clock(monkeypatch):
    """The clock of the waiting side."""
    clock = Clock()
    monkeypatch.setattr(wait_ready, "time", clock)
    return clock


@pytest.fixture
def waited(clock):
    """Return `waited(*moments)`: how long a history was waited for, or why no longer, and what was told."""

    def run(*moments, limit_s=20.0, **options):
        said: List[str] = []
        try:
            return wait(Played(*moments), limit_s, said.append, **options), said  # type: ignore[arg-type]
        except NotReady as reason:
            return str(reason), said

    return run


def test_a_server_that_is_ready_is_not_waited_for(waited):
    assert waited(([], READY)) == (0.0, [])


def test_every_change_is_told_with_the_time_it_took_last_time(waited):
    elapsed_s, said = waited(
        ([model("qa", ("LOADING", 0.2))], not_ready()),
        ([model("qa", ("COMPILING", 42.4), load_s=95.0), model("echo", ready=True)], not_ready()),
        ([model("qa", ("COMPILING", 42.9), load_s=95.0), model("echo", ready=True)], not_ready()),
        ([], READY),
    )
    assert said == ["    0 s  qa: LOADING 0 s", "    0 s  qa: COMPILING 42 s (last time 95 s); echo: ready"]
    assert elapsed_s == 1.5


def test_what_does_not_change_is_told_every_ten_seconds_and_at_the_end(clock, waited):
    clock.now = 0.0
    reason, said = waited(([model("qa", ("LOADING", 3.0))], not_ready()), limit_s=25.25)
    assert clock.now == 25.25
    assert [float(line.split()[0]) for line in said] == [0, 10, 20, 25]
    assert reason == "not ready within 25.25 s: qa: LOADING 3 s"


def test_a_model_that_failed_ends_the_wait_within_seconds_with_its_reason_and_advice(clock, waited):
    began, failed = clock.now, model("qa", ("FAILED", 1.0), last_error="exited with code 41")
    reason, said = waited(([{**failed, "advice": "look at it"}, model("echo", ready=True)], not_ready()))
    assert reason == "qa FAILED: exited with code 41. look at it"
    assert said == ["    0 s  qa: FAILED 1 s; echo: ready", "    2 s  qa: FAILED 1 s; echo: ready"]
    assert clock.now - began == 2


def test_a_failure_from_before_the_wait_does_not_end_it(waited):
    """What the web half tells may be older than the reload of an operator who then waits."""
    old = ([model("qa", ("FAILED", 60.0), last_error="exited with code 41")], not_ready())
    assert waited(old, old, old, old, ([model("qa", ("LOADING", 1.0))], not_ready()), ([], READY))[0] == 2.5


def test_a_failure_counts_from_when_was_asked_however_long_the_answer_takes(clock, waited, monkeypatch):
    answer = Played.get

    def slow(self, path, limit_s=5.0):
        clock.now += 3.0
        return answer(self, path, limit_s)

    monkeypatch.setattr(Played, "get", slow)
    old = ([model("qa", ("FAILED", 60.0), last_error="exited with code 41")], not_ready())
    assert waited(old, ([], READY))[0] == 12.5


def test_a_failure_that_outlasts_a_short_limit_is_its_reason(waited):
    failed = model("qa", ("FAILED", 1.0), last_error="exited with code 41")
    reason, _ = waited(([failed], not_ready()), limit_s=1)
    assert reason == "not ready within 1 s: qa FAILED: exited with code 41"


def test_a_wait_that_goes_on_counts_what_has_gone_of_its_limit(clock, waited):
    began = clock.now
    reason, said = waited(([model("qa", ("LOADING", 3.0))], not_ready()), limit_s=20, waited_s=18.0)
    assert (reason, clock.now - began) == ("not ready within 20 s: qa: LOADING 3 s", 2)
    assert said == ["   18 s  qa: LOADING 3 s", "   20 s  qa: LOADING 3 s"]


def test_why_a_model_is_not_ready_is_told_when_it_is_new_and_in_the_reason(waited):
    """With a hub that nobody reaches, a model comes back and fails again until the limit."""

    def tried(state, error):
        broken = model("qa", (state, 1.0), last_error=error)
        return [{**broken, "advice": "set CHECKPOINTS=demo"}, model("echo", ready=True)], not_ready()

    first, second = "the hub cannot\nbe reached.", "the hub is slow"
    reason, said = waited(
        ([model("qa", ("LOADING", 1.0))], not_ready()),
        *(tried(state, first) for state in ("BACKOFF", "BACKOFF", "LOADING")),
        tried("BACKOFF", second),
        limit_s=11.0,
    )
    assert said == [
        *("    0 s  qa: LOADING 1 s", "    0 s  qa: BACKOFF 1 s; echo: ready"),
        "         qa, last error: the hub cannot be reached. set CHECKPOINTS=demo",
        *("    2 s  qa: LOADING 1 s; echo: ready", "    2 s  qa: BACKOFF 1 s; echo: ready"),
        "         qa, last error: the hub is slow. set CHECKPOINTS=demo",
        "   11 s  qa: BACKOFF 1 s; echo: ready",
    ]
    assert reason == (
        "not ready within 11 s: qa: BACKOFF 1 s; echo: ready; qa, last error: the hub is slow. set CHECKPOINTS=demo"
    )


def test_a_replica_that_may_still_come_is_waited_for(waited):
    some = model("qa", ("FAILED", 1.0), ("BACKOFF", 1.0), last_error="exited with code 41")
    assert waited(([some], not_ready()), ([], READY))[0] == 0.5


def test_the_limit_is_in_real_seconds_whatever_an_answer_takes(clock, waited, monkeypatch):
    """Every answer takes as long as it may."""
    limits = []

    def slow(self, path, limit_s=5.0):
        clock.now += limit_s
        limits.append(limit_s)
        raise TimeoutError("timed out")

    began = clock.now
    monkeypatch.setattr(Played, "get", slow)
    reason, _ = waited(limit_s=12)
    assert reason == "not ready within 12 s: no answer from http://played (timed out)"
    assert (clock.now - began, limits) == (12, [5.0, 5.0, 1.0])


@pytest.mark.parametrize("error", [http.client.BadStatusLine("what"), ConnectionResetError("what")])
def test_whatever_is_no_answer_is_waited_for(waited, error):
    elapsed_s, said = waited((error, READY), (error, READY), limit_s=1)
    assert elapsed_s == "not ready within 1 s: no answer from http://played (what)"
    assert said


def test_ready_models_behind_a_readiness_that_is_not_are_told_with_its_message(waited):
    reason, _ = waited(([model("qa", ready=True)], not_ready("different versions")))
    assert reason.endswith("different versions")


def test_a_supervisor_that_does_not_answer_is_told(waited):
    reason, _ = waited((not_ready("cannot be reached"), not_ready("cannot be reached")))
    assert reason.endswith("cannot be reached")


def test_a_caller_who_knows_better_ends_the_wait(waited):
    reason, _ = waited(([model("qa", ("LOADING", 3.0))], not_ready()), ended=lambda: "the unit failed")
    assert reason == "the unit failed"


def test_a_server_is_asked_over_tcp_and_over_a_unix_socket(play, short_dir):
    for address in (play(([model("qa", ready=True)], READY)), play(([], READY), path=str(short_dir / "web.sock"))):
        assert Server(address).get("/health/readiness", 60.0) == READY


def test_nobody_listens_there():
    with pytest.raises(ConnectionRefusedError):
        Server("http://127.0.0.1:9").get("/models")


@pytest.mark.parametrize(
    ("environ", "lines", "expected"),
    [
        ({}, [], "1800"),
        ({}, [NAME + "=60", "OTHER=1"], "60"),
        ({}, [NAME + "='61'"], "61"),
        ({}, [NAME + '="62.5" '], "62.5"),
        ({}, [NAME + "=60", NAME + "=63"], "63"),
        *(
            ({}, [line], "64")
            for line in (NAME + "=64 # five", "export " + NAME + "=64", NAME + " = 64", " " + NAME + "=64")
        ),
        ({}, [NAME + "=60", NAME + "=  # not set"], "1800"),
        ({}, [NAME + "=61", NAME + "=${OTHER}", "NOT_" + NAME + "=1"], "61"),
        ({}, ["# " + NAME + "=60", NAME + "="], "1800"),
        ({NAME: "5"}, [NAME + "=60"], "5"),
    ],
)
def test_the_environment_wins_over_the_file_and_the_file_over_the_default(environ, lines, expected, tmp_path):
    """In Python, and in the shell, where it asks inside a container; also in every form that python-dotenv takes."""
    assert number(NAME, environ, lines) == expected
    if lines:
        (tmp_path / ".env").write_text("\n".join([*lines, ""]), encoding="utf-8")
    shutil.copytree(str(SCRIPT.parent), str(tmp_path / "deploy/scripts"))
    done = run(tmp_path / "deploy/scripts/setting.sh", NAME, "seconds", "1800", **environ)
    assert (done.returncode, done.stdout) == (0, expected + "\n")


def run(script, *arguments, cwd=ROOT, **env):
    return subprocess.run(
        [str(script), *arguments],
        cwd=str(cwd),
        env={"PATH": "{}:/usr/bin:/bin".format(pathlib.Path(sys.executable).parent), **env},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )


@pytest.mark.parametrize("limit", ["30m", "0", "-1", "nan", ""])
def test_a_limit_that_is_none_is_told_with_what_is_expected(limit):
    done = run(SCRIPT, "http://127.0.0.1:9", "--limit=" + limit)
    assert done.returncode == 2
    assert "--limit: expected are seconds, a number above 0, not '{}'\n".format(limit) in done.stdout
    assert "expected are seconds" in run(SCRIPT, "http://127.0.0.1:9", SERVER_WAIT_TIMEOUT="30m").stdout


@pytest.mark.parametrize("script", [SCRIPT, ROOT / ".github/scripts/check_wait_server.sh"])
def test_the_script_and_its_earlier_name_take_the_limit_from_the_environment(script, play):
    done = run(script, play(([model("qa", ("LOADING", 3.0))], not_ready())), SERVER_WAIT_TIMEOUT="0.5")
    assert done.returncode == 1
    assert "NOT READY: not ready within 0.5 s: " in done.stdout


def test_the_script_ends_well_when_every_model_is_ready(play):
    done = run(SCRIPT, play(([], READY)))
    assert (done.returncode, "ready after" in done.stdout) == (0, True)


def test_without_an_address_the_port_of_the_settings_is_asked(play, tmp_path):
    address = play(([], READY))
    (tmp_path / ".env").write_text("SERVER_PORT={}\n".format(address.rpartition(":")[2]), encoding="utf-8")
    done = run(sys.executable, str(SCRIPT.with_suffix(".py")), cwd=tmp_path)
    assert (done.returncode, address in done.stdout) == (0, True)
    assert number("SERVER_PORT", {}, []) == "8100"
