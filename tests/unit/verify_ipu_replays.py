"""A supervisor, a machine and a run of `verify_ipu`, replayed: they tell and take what a test says."""

import itertools
import json
import subprocess
from types import SimpleNamespace
from typing import Any, List, Mapping

from ipu_supervisor import config
from ipu_supervisor.protocol.messages import Identity, ModelStatus, ReplicaStatus
from ipu_supervisor.verify_ipu.models import ModelChecks
from ipu_supervisor.verify_ipu.report import Report
from ipu_supervisor.verify_ipu.run import Run
from ipu_supervisor.verify_ipu.serving import Answer, Failed, Place

#: What the first start took to compile, seconds.
COMPILE_S = 100.0
#: Four of each kind: three lengths, and one, three, four and five rows.
REQUESTS = 48
#: What the libraries say of themselves where all is well.
LIBRARIES = {"PopTorch": "3.3.0", "torch": "2.0.1", "optimum-graphcore": "0.7.1", "hardware": 2, "largest": 4}


class Replayed:
    """A supervisor that comes from each of its states to the next when something is waited for.

    Its calls take what `took_ms` says for the number of the call and its rows, milliseconds.
    """

    started_at = 0.0

    def __init__(self, *states, took_ms=lambda call, rows: 10.0, load_s=0.0, result=(), printed=""):
        self.states, self.took_ms, self.load_s = list(states) or [state()], took_ms, load_s
        self.result, self.calls, self.printed = dict(result), itertools.count(), printed

    def __enter__(self):
        return self

    def __exit__(self, *why):
        pass

    def ask(self, items, limit_s):
        took_ms = self.took_ms(next(self.calls), len(items))
        return Answer([self.result] * len(items), took_ms, took_ms / 1000)

    def look(self):
        return self.states[0]

    def wait(self, happened, limit_s, what):
        self.states = self.states[1:] or self.states
        assert happened(self.states[0]), what
        return self.states[0]

    def ready(self, replicas, limit_s):
        if not self.states[0].ready:
            raise Failed(self.states[0].last_error)
        return self.states[0].replicas

    def ready_after(self, replica, first=""):
        return self.load_s[replica] if isinstance(self.load_s, dict) else self.load_s

    def end(self, pid, number):
        return 0.1

    def command(self, *arguments):
        return subprocess.CompletedProcess(arguments, int("error" in self.printed), self.printed)


class ReplayedRun(Run):
    """A run with what is to be served, in order."""

    serves: List[Replayed] = []
    #: The entry that was served last.
    entry: Mapping[str, Any] = {}

    def serve(self, name, entry, **settings):
        self.entry = entry
        return self.serves.pop(0)


def state(*replicas, restarts=0, error="", dtype="float16"):
    """Return one state of a model; its replicas are READY unless said otherwise."""
    replicas = replicas or (replica(),)
    ready = any(one.state == "READY" for one in replicas)
    identity = Identity("question_answering", dtype=dtype)
    counters = {"restarts": float(restarts)}
    return ModelStatus(
        "question_answering", ready, "", identity, "", list(replicas), 0, 0, 1, last_error=error, counters=counters
    )


def replica(name="question_answering.0.1", state="READY", **fields):
    """Return a replica."""
    return ReplicaStatus(replica=name, state=state, since_s=0.0, **fields)


def host_of(counted=4, largest=4, fault="", printed="", **libraries):
    """Return a machine that has and prints this."""
    found = {} if fault else {**LIBRARIES, "largest": largest, **libraries}
    host = SimpleNamespace(counted=counted, usable=counted, named=[], largest=largest, fault=fault, libraries=found)
    host.monitor, host.probe, host.facts = lambda: printed, lambda environ: None, lambda: []
    return host


def run_of(folder, wanted):
    """Return a run of some checks in a folder, with an empty cache."""
    (folder / "executables").mkdir()
    return ReplayedRun(Place(folder, {}), Report(), frozenset(wanted), limit_s=1.0, requests=REQUESTS)


def settings_of(name="question_answering", batch_size=4, **others):
    """Return an entry of SERVER_MODELS, and what the project makes of it."""
    entry = {"model": name, "device": "ipu", "ipu": {"batch_size": batch_size}, **others}
    [model] = config.from_env({"SERVER_MODELS": json.dumps([entry])}).models
    return entry, model


def model_of(run, **entry):
    """Return the checks of a model, question answering with four rows in a batch unless told, once it has compiled."""
    checks = ModelChecks(run, *settings_of(**entry))
    checks._compile_s = COMPILE_S
    return checks


def judged(run, name, look, *arguments):
    """Return the verdict and the figures of one check."""
    run.check(name, "", look, *arguments)
    [found] = run.report.findings
    return found.verdict, found.figures
