"""A supervisor of this project, started for a check in a folder of its own and ended with it."""

import contextlib
import json
import os
import pathlib
import signal
import subprocess
import sys
import time
from typing import Any, Callable, Dict, List, Mapping, NamedTuple, Sequence, Tuple

import msgspec

from ipu_supervisor.core.crew import GRACE_S
from ipu_supervisor.protocol.client import SupervisorClient
from ipu_supervisor.protocol.deadline import Deadline
from ipu_supervisor.protocol.errors import RequestError
from ipu_supervisor.protocol.messages import ModelStatus, ReplicaStatus, Status

#: How often the state is looked at, seconds: what is measured by looking is as exact as that.
LOOK_EVERY_S = 0.05
#: Longest wait for a supervisor's answer, and for its end (it drains in 30 s, and stops replicas in 6), seconds.
ANSWER_LIMIT_S, STOP_LIMIT_S = 30.0, 45.0
#: How much of the log is shown when a supervisor ended by itself, characters.
LAST_WORDS = 400

Entry = Mapping[str, Any]


class Failed(Exception):
    """What was asked for did not happen; the message says what happened instead."""


class Place(NamedTuple):
    """Where all is kept: `folder` is removed at the end; `environ` is what the owner gave."""

    folder: pathlib.Path
    environ: Mapping[str, str]

    @property
    def executables(self) -> pathlib.Path:
        """Return the cache of compiled programs, which is this verification's own."""
        return self.folder / "executables"


class Answer(NamedTuple):
    """What the model made of the items of one call, and how long that took."""

    results: List[Dict[str, Any]]
    inference_ms: float
    took_s: float


class Served:
    """One supervisor and its replicas; use it in a `with`."""

    def __init__(self, place: Place, name: str, entry: Entry, **settings: str) -> None:
        """Store what it serves: one model."""
        self.model = str(entry["model"])
        endpoint = "ipc://{}/{}.sock".format(place.folder, name)
        self._log = place.folder / (name + ".log")
        self._env = {
            **place.environ,
            "SERVER_MODELS": json.dumps([entry]),
            "SUPERVISOR_ENDPOINT": endpoint,
            "SUPERVISOR_RUN_DIR": str(place.folder / name),
            "SUPERVISOR_CURVE_KEYS": "",
            "POPTORCH_CACHE_DIR": str(place.executables),
            "TMPDIR": str(place.folder / "tmp"),
            "CHECKPOINTS": "hub",
            "MODELS_PATH": "",
            "LOG_FORMAT": "text",
            **settings,
        }
        self._client = SupervisorClient(endpoint, status_age_s=0)
        #: When each replica was first seen in each state, seconds of the monotonic clock.
        self.seen: Dict[Tuple[str, str], float] = {}

    def __enter__(self) -> "Served":
        """Start the process."""
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "ipu_supervisor", "run"],
                env=self._env,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        self.started_at = time.monotonic()
        return self

    def __exit__(self, *why: Any) -> None:
        """Stop it; its replicas end with it, whatever happens."""
        self._process.terminate()
        try:
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(STOP_LIMIT_S)
        finally:
            self._process.kill()
            self._process.wait()

    # ---- looking -----------------------------------------------------------------------------------------------------

    def status(self) -> Status:
        """Return the state now. Raises `Failed` when the supervisor has ended."""
        until = time.monotonic() + ANSWER_LIMIT_S
        while self._process.poll() is None and time.monotonic() < until:
            try:
                return self._client.status(Deadline.after(1))
            except RequestError:
                time.sleep(LOOK_EVERY_S)
        words = self._log.read_text(encoding="utf-8", errors="replace").strip()[-LAST_WORDS:]
        end = "ended with code {}".format(self._process.returncode) if self._process.returncode else "does not answer"
        raise Failed("the supervisor {}: {}".format(end, words))

    def look(self) -> ModelStatus:
        """Return the model's state now, and note when each replica came to its own."""
        state = self.status().models[0]
        for replica in state.replicas:
            self.seen.setdefault((replica.replica, replica.state), time.monotonic())
        return state

    def wait(self, happened: Callable[[ModelStatus], object], limit_s: float, what: str) -> ModelStatus:
        """Return the first state in which something has happened. Raises `Failed` when the limit passes."""
        until = time.monotonic() + limit_s
        while True:
            state = self.look()
            if happened(state):
                return state
            if time.monotonic() > until:
                raise Failed("not within {:.0f} s: {}; {}".format(limit_s, what, told(state)))
            time.sleep(LOOK_EVERY_S)

    def ready(self, replicas: int, limit_s: float) -> List[ReplicaStatus]:
        """Wait until so many replicas compute, and return them. Raises `Failed`, at once where it is hopeless."""
        state = self.wait(
            lambda state: len(usable(state)) >= replicas or any(one.state == "FAILED" for one in state.replicas),
            limit_s,
            "{} replica(s) READY".format(replicas),
        )
        if len(usable(state)) < replicas:
            raise Failed(told(state))
        return usable(state)

    def ready_after(self, replica: str, first: str = "") -> float:
        """Return the seconds from the start, or from a state, to READY, as they were seen. Raises `Failed`."""
        if (replica, "READY") not in self.seen:
            raise Failed("{} was never seen READY".format(replica))
        end = self.seen[replica, "READY"]
        return end - (self.seen.get((replica, first), end) if first else self.started_at)

    # ---- asking ------------------------------------------------------------------------------------------------------

    def ask(self, items: Sequence[Mapping[str, str]], limit_s: float) -> Answer:
        """Send items in one call and return the answers. Raises `Failed`."""
        sizes = [1 + sum(len(text) for text in item.values()) // 4 for item in items]
        began = time.monotonic()
        try:
            reply = self._client.call(self.model, items, sizes, Deadline.after(limit_s))
        except RequestError as error:
            raise Failed("{}: {}".format(error.code.value, error)) from error
        failures = [outcome.failure for outcome in reply.outcomes if outcome.failure]
        if failures:
            raise Failed("{}: {}".format(failures[0].code.value, failures[0].message))
        results = [msgspec.msgpack.decode(outcome.result) for outcome in reply.outcomes]
        return Answer(results, reply.timing.inference_ms, time.monotonic() - began)

    def end(self, pid: int, number: signal.Signals) -> float:
        """Signal a replica's process; return the seconds until it was gone, or until `GRACE_S` had passed."""
        began = time.monotonic()
        os.kill(pid, number)
        while _alive(pid) and time.monotonic() < began + GRACE_S:
            time.sleep(0.01)
        return time.monotonic() - began

    def command(self, *arguments: str) -> "subprocess.CompletedProcess[str]":
        """Run one of the operator's commands."""
        return subprocess.run(
            [sys.executable, "-m", "ipu_supervisor", *arguments],
            env=self._env,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=60,
            check=False,
        )


def usable(state: ModelStatus) -> List[ReplicaStatus]:
    """Return the replicas that compute."""
    return [replica for replica in state.replicas if replica.state in ("READY", "BUSY")]


def told(state: ModelStatus) -> str:
    """Return what a model's state tells, in one line."""
    states = ", ".join(replica.state for replica in state.replicas)
    return " ".join(part for part in (states + ".", state.last_error, state.advice) if part)


def _alive(pid: int) -> bool:
    """Say whether a process is there."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True
