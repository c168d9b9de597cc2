"""`make run`: both halves start together, and end together however it is stopped."""

import json
import os
import pathlib
import shutil
import signal
import socket
import sys
import urllib.request

import pytest

from tools.run import DEFAULTS, environment

ROOT = pathlib.Path(__file__).parents[2]
SLEEPER = [sys.executable, "-c", "import time; print('sleeper', flush=True); time.sleep(600)"]
STUBBORN = [
    sys.executable,
    "-c",
    "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('sleeper', flush=True); time.sleep(600)",
]
RUNNER = "import json, os, sys; from tools.run import Halves; halves = Halves(json.loads(sys.argv[1]), os.environ)\n"
WAIT = "sys.exit(halves.run(dict))"
STRIKE = """
def look(): sys.setprofile(lambda frame, event, arg: event == "call" and os.kill(os.getpid(), 15))
code = halves.run(look)
sys.setprofile(None)
sys.exit(code)"""

pytestmark = [pytest.mark.service, pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")]


def carrying(mark):
    """Return the ids of all living processes that have `mark` in their environment."""
    found = []
    for folder in pathlib.Path("/proc").glob("[0-9]*"):
        try:
            if mark.encode() in (folder / "environ").read_bytes():
                found.append(int(folder.name))
        except OSError:
            continue
    return found


@pytest.fixture
def run_halves(spawn, wait_until, short_dir):
    """Start the runner on stand-ins, and wait until `ready` of them have said so."""

    def start(ready=2, **commands):
        child = spawn(
            [sys.executable, "-c", RUNNER + WAIT, json.dumps(commands)], {"MARK": str(short_dir)}, cwd=str(ROOT)
        )
        wait_until(lambda: child.log_text().count("sleeper") >= ready)
        return child

    yield start
    wait_until(lambda: not carrying(str(short_dir)), what="no process is left")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_stops_both_halves(run_halves, number):
    child = run_halves(one=SLEEPER, two=SLEEPER)
    os.kill(child.pid, number)
    assert child.wait() == 0


@pytest.mark.parametrize("names", [("good", "bad"), ("bad", "good")])
@pytest.mark.parametrize(("ending", "code"), [("sys.exit(78)", 78), ("os.kill(os.getpid(), 9)", 137), ("pass", 0)])
def test_when_one_half_ends_the_other_is_stopped_and_its_code_is_the_exit_code(run_halves, names, ending, code):
    commands = {"good": SLEEPER, "bad": [sys.executable, "-c", "import os, sys; " + ending]}
    child = run_halves(ready=0, **{name: commands[name] for name in names})
    assert child.wait() == code
    assert "bad ended with exit code" in child.log_text()


def test_a_second_interrupt_kills_what_does_not_stop(run_halves, wait_until):
    child = run_halves(one=STUBBORN, two=SLEEPER)
    os.kill(child.pid, signal.SIGINT)
    wait_until(lambda: "stopping both halves" in child.log_text())
    assert child.process.poll() is None
    os.kill(child.pid, signal.SIGINT)
    assert child.wait() == 0


def test_a_second_sigterm_does_not_kill_because_make_passes_it_on(run_halves, wait_until):
    slow = "import signal, sys, time\ndef stop(*_): time.sleep(1); print('orderly', flush=True); sys.exit()\n"
    slow += "signal.signal(signal.SIGTERM, stop); print('sleeper', flush=True); time.sleep(600)"
    child = run_halves(one=[sys.executable, "-c", slow], two=SLEEPER)
    os.kill(child.pid, signal.SIGTERM)
    os.kill(child.pid, signal.SIGTERM)
    assert child.wait() == 0
    assert "orderly" in child.log_text()


def test_signals_in_the_middle_of_whatever_the_runner_does_stop_it(spawn, wait_until, short_dir):
    """Strike at every Python call from the first look on, the handler's own and those that hold locks among them."""
    environ = {"MARK": str(short_dir)}
    child = spawn([sys.executable, "-c", RUNNER + STRIKE, json.dumps({"one": SLEEPER})], environ, cwd=str(ROOT))
    assert child.wait() == 0
    wait_until(lambda: not carrying(str(short_dir)), what="no process is left")


def test_halves_end_when_the_runner_is_killed(run_halves):
    child = run_halves(one=SLEEPER, two=SLEEPER)
    child.process.kill()
    assert child.wait() == -signal.SIGKILL


def test_settings_of_the_user_win_over_the_defaults_of_make_run(monkeypatch, tmp_path, capsys):
    monkeypatch.chdir(tmp_path)
    for name in DEFAULTS:
        monkeypatch.delenv(name, raising=False)
    assert (environment()["CHECKPOINTS"], environment()["LOG_FORMAT"]) == ("auto", "text")
    assert "CHECKPOINTS is not set: auto" in capsys.readouterr().out
    (tmp_path / ".env").write_text("CHECKPOINTS=demo\nLOG_FORMAT=\n")
    assert (environment()["CHECKPOINTS"], environment()["LOG_FORMAT"]) == ("demo", "text")
    monkeypatch.setenv("CHECKPOINTS", "hub")
    assert environment()["CHECKPOINTS"] == "hub"


# ---- the real thing --------------------------------------------------------------------------------------------------


@pytest.fixture
def make_run(spawn, wait_until, short_dir):
    """Start `make run` with the echo model in a process group of its own, as a terminal does; nothing may be left."""
    if not shutil.which("make"):
        pytest.skip("no make here")

    def start(options=None, **env):
        with socket.socket() as listener:
            listener.bind(("127.0.0.1", 0))
            port = listener.getsockname()[1]
        models = json.dumps([{"model": "echo", "options": options or {}}])
        endpoint = "ipc://{}/s.sock".format(short_dir)
        settings = {"SERVER_MODELS": models, "SUPERVISOR_ENDPOINT": endpoint, "SERVER_PORT": str(port)}
        # -o: this test's own interpreter has everything installed already.
        command = ["make", "-o", ".venv/.stamps/run", "run", "PYTHON=" + sys.executable]
        child = spawn(command, {**settings, **env}, cwd=str(ROOT))
        child.url = "http://127.0.0.1:{}".format(port)
        return child

    yield start
    wait_until(lambda: not carrying(str(short_dir)), 60, what="no process is left")
    assert [path.name for path in short_dir.rglob("*.sock")] == []


def test_make_run_names_the_documentation_and_answers(make_run, wait_until):
    child = make_run()
    wait_until(lambda: "documentation: {}/docs".format(child.url) in child.log_text(), 30)
    wait_until(lambda: "ready: every model answers" in child.log_text(), 30)
    request = urllib.request.Request(child.url + "/echo", b'{"text": "hm"}', {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=60) as answer:
        assert json.load(answer)["results"] == "hm"
    assert "replica_ready" in child.log_text()
    os.killpg(child.pid, signal.SIGINT)
    assert child.wait(60) != 0
    assert "supervisor_stopped" in child.log_text()


@pytest.mark.parametrize("to_group", [True, False])
def test_sigterm_to_make_stops_both_halves(make_run, wait_until, to_group):
    child = make_run()
    wait_until(lambda: "ready: every model answers" in child.log_text(), 30)
    (os.killpg if to_group else os.kill)(child.pid, signal.SIGTERM)
    child.wait(60)
    assert "supervisor_stopped" in child.log_text()


@pytest.mark.parametrize("moment", ["starting both halves", "replica_spawned"])
def test_interrupt_while_a_model_loads_stops_both_halves(make_run, wait_until, moment):
    child = make_run({"load_delay_s": 300})
    wait_until(lambda: moment in child.log_text(), 30)
    os.killpg(child.pid, signal.SIGINT)
    child.wait(60)
    assert "ready: every model answers" not in child.log_text()


def test_a_taken_port_ends_make_run_with_an_error(make_run, wait_until, short_dir):
    child = make_run()
    wait_until(lambda: "documentation:" in child.log_text(), 30)
    endpoint = "ipc://{}/second/s.sock".format(short_dir)
    second = make_run(SERVER_PORT=child.url.rpartition(":")[2], SUPERVISOR_ENDPOINT=endpoint)
    assert second.wait(60) == 2
    assert "cannot listen on 0.0.0.0 port" in second.log_text()
    assert "starting both halves" not in second.log_text()
    child.terminate(60)


def test_a_second_make_run_does_not_call_the_first_one_ready(make_run, wait_until):
    child = make_run()
    wait_until(lambda: "ready: every model answers" in child.log_text(), 30)
    second = make_run()
    assert second.wait(60) == 2
    assert "another supervisor holds" in second.log_text()
    assert "ready: every model answers" not in second.log_text()
    child.terminate(60)


def test_bad_settings_are_all_named_once_and_nothing_starts(make_run):
    child = make_run(SERVER_PORT="seventy", LOG_LEVEL="LOUD")
    assert child.wait(30) == 2
    log = child.log_text()
    assert (log.count("SERVER_PORT:"), log.count("LOG_LEVEL:")) == (1, 1)
    assert "Error 78" in log
    assert "starting both halves" not in log
