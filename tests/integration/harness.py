"""Real supervisors with real replicas, and load on them. Runs on Python 3.8 too."""

import collections
import json
import os
import pathlib
import signal
import subprocess
import sys
import threading
from typing import Any, Callable, Dict, List, Optional

from ipu_supervisor.protocol.client import SupervisorClient
from ipu_supervisor.protocol.deadline import Deadline
from ipu_supervisor.protocol.errors import RequestError
from ipu_supervisor.protocol.messages import ModelStatus, Reply, Status
from tests.conftest import running_s
from tests.conftest import wait_until as wait

ROOT = pathlib.Path(__file__).resolve().parents[2]
#: Limit of whatever the test does not time, seconds: it outlasts a pause of the machine, which passes real time.
PATIENCE_S = 60.0


class Daemon:
    """One supervisor in a folder of its own, started as its users start it."""

    def __init__(
        self, spawn: Callable[..., Any], folder: pathlib.Path, models: List[Dict[str, Any]], **env: str
    ) -> None:
        """Store how to start it."""
        self._spawn = spawn
        self.folder = folder
        self.journal = folder / "journal"
        self.endpoint = "ipc://{}/s.sock".format(folder)
        self.env = {
            "SERVER_MODELS": json.dumps(models).replace("JOURNAL", str(self.journal)),
            "SUPERVISOR_ENDPOINT": self.endpoint,
            "LOG_FORMAT": "text",
            **env,
        }
        self.client = SupervisorClient(self.endpoint, status_age_s=0)

    def start(self, cwd: pathlib.Path = ROOT) -> "Daemon":
        """Start the process in a folder, whose `.env` it reads."""
        self.child = self._spawn([sys.executable, "-m", "ipu_supervisor", "run"], env=self.env, cwd=str(cwd))
        return self

    def command(self, *arguments: str) -> "subprocess.CompletedProcess[bytes]":
        """Run one command of the command line to its end."""
        args = [sys.executable, "-m", "ipu_supervisor", *arguments]
        env = {**os.environ, **self.env}
        return subprocess.run(args, env=env, cwd=str(ROOT), capture_output=True, timeout=PATIENCE_S, check=False)

    def status(self) -> Status:
        """Return the state now."""
        return self.client.status(Deadline.after(PATIENCE_S))

    def model(self) -> ModelStatus:
        """Return the state of the first model now."""
        return self.status().models[0]

    def states(self) -> List[str]:
        """Return the states of the first model's replicas."""
        return [replica.state for replica in self.model().replicas]

    def pids(self) -> List[int]:
        """Return the processes of the first model's replicas."""
        return [replica.pid for replica in self.model().replicas if replica.pid]

    def ready(self, replicas: int = 1) -> bool:
        """Say whether so many replicas compute."""
        try:
            return sum(state in ("READY", "BUSY") for state in self.states()) >= replicas
        except RequestError:
            return False

    def ask(
        self, text: str, limit_s: float = PATIENCE_S, client: Optional[SupervisorClient] = None, **inputs: Any
    ) -> Reply:
        """Send one input to the echo model."""
        return (client or self.client).call("echo", [{"text": text, **inputs}], [1], Deadline.after(limit_s))

    def executions(self) -> "collections.Counter[str]":
        """Return how often each text was executed."""
        lines = self.journal.read_text(encoding="utf-8").splitlines() if self.journal.exists() else []
        return collections.Counter(line.partition(" ")[2] for line in lines)


def echo(replicas: int = 1, options: Optional[Dict[str, Any]] = None, **settings: Any) -> List[Dict[str, Any]]:
    """Return a `SERVER_MODELS` with an echo model that counts its executions."""
    options = {"faults": True, "journal": "JOURNAL", **(options or {})}
    return [{"model": "echo", "replicas": replicas, "options": options, **settings}]


def alive(pid: int) -> bool:
    """Say whether a process runs (a zombie does not)."""
    try:
        return (
            pathlib.Path("/proc/{}/stat".format(pid)).read_text(encoding="utf-8").rpartition(")")[2].split()[0] != "Z"
        )
    except (FileNotFoundError, ProcessLookupError):
        return False


def kill(pid: int, number: int = signal.SIGKILL) -> None:
    """Send a signal to a process that may be gone."""
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return


def end(pid: int, wait_until: Callable[..., None]) -> None:
    """Kill a process and wait until it is gone."""
    kill(pid)
    wait_until(lambda: not alive(pid))


class Load:
    """Clients that each send one distinct request after the other until told to stop."""

    def __init__(self, clients: int, ask: Callable[[str], str]) -> None:
        """Store `ask(text)`: returns what was answered; it raises what went wrong."""
        self.asked: List[str] = []
        self.answers: Dict[str, List[str]] = {}
        self.errors: Dict[str, str] = {}
        self.slowest_s = 0.0
        self._ask = ask
        self._stop = threading.Event()
        self._lock = threading.Lock()
        self._threads = [threading.Thread(target=self._run, args=(number,)) for number in range(clients)]

    def __enter__(self) -> "Load":
        """Start the clients."""
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *why: Any) -> None:
        """Let every client finish its request."""
        self._stop.set()
        wait(lambda: not any(thread.is_alive() for thread in self._threads), PATIENCE_S, "every client has its answer")

    def answered(self) -> int:
        """Return how many requests were answered so far."""
        return len(self.answers)

    def go_on(self, wait_until: Callable[..., None]) -> None:
        """Wait until ten more requests are answered."""
        enough = self.answered() + 10
        wait_until(lambda: self.answered() > enough, what="requests are answered again")

    def wrong(self) -> Dict[str, List[str]]:
        """Return the requests that got another's answer, or two."""
        return {text: answers for text, answers in self.answers.items() if answers != [text]}

    def _run(self, number: int) -> None:
        """Send requests until told to stop."""
        count = 0
        while not self._stop.is_set():
            count += 1
            text = "client {} request {}".format(number, count)
            began = running_s()
            try:
                answer, error = self._ask(text), ""
            except Exception as raised:  # noqa: BLE001  # counted, and shown by the test
                answer, error = "", "{}: {}".format(type(raised).__name__, raised)
            with self._lock:
                self.slowest_s = max(self.slowest_s, running_s() - began)
                self.asked.append(text)
                if error:
                    self.errors[text] = error
                else:
                    self.answers.setdefault(text, []).append(answer)
