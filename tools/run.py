"""Runs both halves for `make run`: their logs to this terminal, both stopped together.

SIGINT, SIGTERM and SIGHUP stop both halves; a second Ctrl-C kills them. When one half ends by itself the other is
stopped, and the exit code is that half's. The halves live in sessions of their own, so a Ctrl-C reaches only this
process, and they are told to stop when this process dies.
"""

from __future__ import annotations

import ctypes
import http.client
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence

from ipu_supervisor import config
from ipu_supervisor.protocol.client import SupervisorClient
from ipu_supervisor.protocol.deadline import Deadline
from ipu_supervisor.protocol.errors import RequestError

#: How long the halves may take to finish what they have begun, seconds (chosen: above the default budget of a request).
STOP_LIMIT_S = 40.0
#: How often the halves are looked at, and how long each may take to say how it is, seconds (chosen).
LOOK_EVERY_S, ANSWER_LIMIT_S = 0.2, 1.0
#: Settings that are not set anywhere get these values here: a person watches, and the machine may have no network.
DEFAULTS = {"CHECKPOINTS": "auto", "LOG_FORMAT": "text"}
#: What `prctl` calls "send me this signal when my parent dies" (linux/prctl.h).
PR_SET_PDEATHSIG = 1


class Halves:
    """Some processes that live and end together."""

    def __init__(self, commands: Mapping[str, Sequence[str]], environ: Mapping[str, str]) -> None:
        """Store what to run, by name."""
        self._commands = commands
        self._environ = dict(environ)
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        # A plain flag: a lock (and so an Event) would be waited for in the handler by the one who holds it.
        self._told_to_stop = False
        self._interrupts = 0

    def run(self, look: Callable[[], None]) -> int:
        """Run until told to stop or until one ends; `look` is called now and then. Return the exit code."""
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, self._on_signal)
        try:
            self._start()
            while not self._told_to_stop and not self._ended():
                look()
                time.sleep(LOOK_EVERY_S)
            return self._exit_code()
        finally:
            self._end()

    def pid(self, name: str) -> int:
        """Return the process of a half that was started."""
        return self._processes[name].pid

    def _on_signal(self, number: int, frame: object) -> None:
        """Note the signal; kill at a second Ctrl-C (a second SIGTERM may be the same one, passed on by make)."""
        self._interrupts += number == signal.SIGINT
        self._told_to_stop = True
        if self._interrupts > 1:
            self._signal_groups(signal.SIGKILL)

    def _start(self) -> None:
        """Start one process after the other, unless told to stop meanwhile."""
        for name, command in self._commands.items():
            if not self._told_to_stop:
                self._processes[name] = subprocess.Popen(
                    command,
                    env=self._environ,
                    stdin=subprocess.DEVNULL,
                    start_new_session=True,
                    # Safe: no other thread runs yet.
                    preexec_fn=_end_with_parent if sys.platform == "linux" else None,  # noqa: PLW1509
                )

    def _ended(self) -> list[str]:
        """Name the processes that have ended."""
        return [name for name, process in self._processes.items() if process.poll() is not None]

    def _exit_code(self) -> int:
        """Return 0 when told to stop, else the code of the first half that ended (as a shell tells it)."""
        if self._told_to_stop:
            say("stopping both halves (Ctrl-C again kills them)")
            return 0
        name = self._ended()[0]
        code = self._processes[name].returncode
        say(f"{name} ended with exit code {code}; stopping the other")
        return 128 - code if code < 0 else code

    def _end(self) -> None:
        """Terminate what still runs, wait, and leave nothing behind."""
        for process in self._processes.values():
            if process.poll() is None:
                process.terminate()
        limit = time.monotonic() + STOP_LIMIT_S
        for name, process in self._processes.items():
            try:
                process.wait(max(0.0, limit - time.monotonic()))
            except subprocess.TimeoutExpired:
                say(f"{name} did not stop within {STOP_LIMIT_S:.0f} s; killed")
        self._signal_groups(signal.SIGKILL)
        for process in self._processes.values():
            process.wait()

    def _signal_groups(self, number: signal.Signals) -> None:
        """Send a signal to each half and its own children, as far as they are there."""
        for process in self._processes.values():
            try:
                os.killpg(process.pid, number)
            except (ProcessLookupError, PermissionError):
                continue


class Announcer:
    """Tells once where the documentation is, and once that every model answers."""

    def __init__(self, host: str, port: int, supervisor: SupervisorClient, pid: Callable[[], int]) -> None:
        """Store where the two halves are found, and how to tell our supervisor from another that listens there."""
        self._host, self._port, self._supervisor, self._pid = host, port, supervisor, pid
        url = f"http://{host}:{port}"
        self._pending = [
            (self._documented, f"documentation: {url}/docs (a model answers once it is ready)"),
            (self._ready, f"ready: every model answers at {url}"),
        ]

    def __call__(self) -> None:
        """Look at what has not come true yet, one after the other."""
        if self._pending and self._pending[0][0]():
            say(self._pending.pop(0)[1])

    def _documented(self) -> bool:
        """Say whether the web half is up."""
        connection = http.client.HTTPConnection(self._host, self._port, timeout=ANSWER_LIMIT_S)
        try:
            connection.request("GET", "/health/startup")
            return connection.getresponse().status == http.client.OK
        except (OSError, http.client.HTTPException):
            return False
        finally:
            connection.close()

    def _ready(self) -> bool:
        """Say whether every model is ready: asked of the supervisor, because the web half would log each time."""
        try:
            status = self._supervisor.status(Deadline.after(ANSWER_LIMIT_S))
        except RequestError:
            return False
        return status.pid == self._pid() and bool(status.models) and all(model.ready for model in status.models)


def say(sentence: str) -> None:
    """Print one line of this program's own."""
    print(f"[run] {sentence}", flush=True)


def environment() -> dict[str, str]:
    """Return the settings for both halves: the process's environment, then `.env`, then `DEFAULTS`."""
    environ = config.environment()
    missing = {name: value for name, value in DEFAULTS.items() if not environ.get(name)}
    for name, value in missing.items():
        say(f"{name} is not set: {value} (the default of `make run`)")
    return {**environ, **missing}


def cannot_listen(bind: str, port: int) -> str:
    """Say why the web half could not listen there; empty when it could."""
    try:
        family, kind, _, _, address = socket.getaddrinfo(bind, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
    except OSError as error:
        return f"SERVER_BIND, SERVER_PORT: cannot listen on {bind} port {port}: {error.strerror}"
    return ""


def main() -> int:
    """Check the settings once for both halves, then run them."""
    from service.settings import Settings

    try:
        environ = environment()
        settings = Settings.from_env(environ)
    except config.ConfigError as error:
        say("these settings stop the start:")
        print(error, file=sys.stderr)
        return error.exit_code
    fault = "" if environ.get("GUNICORN_CMD_ARGS") else cannot_listen(settings.bind, settings.port)
    if fault:
        say(f"these settings stop the start:\n{fault}")
        return config.EXIT_CONFIG
    commands = {
        "the supervisor": [sys.executable, "-m", "ipu_supervisor", "run"],
        "the web half": [sys.executable, "-m", "gunicorn", "-c", "service/gunicorn_conf.py", "service.wsgi:app"],
    }
    host = "127.0.0.1" if settings.bind in ("0.0.0.0", "::", "") else settings.bind
    say("starting both halves; Ctrl-C stops them")
    supervisor = SupervisorClient(settings.config.endpoint, settings.config.curve_keys)
    halves = Halves(commands, environ)
    return halves.run(Announcer(host, settings.port, supervisor, lambda: halves.pid("the supervisor")))


def _end_with_parent() -> None:
    """Ask the kernel to terminate this process when its parent dies, however that happens (runs in the child)."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


if __name__ == "__main__":
    sys.exit(main())
