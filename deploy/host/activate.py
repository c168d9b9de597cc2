"""Makes a release the one that serves, and goes back when it does not get ready. One deployment at a time."""

from __future__ import annotations

import hashlib
import json
import pathlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Callable

from deploy.host import releases, units, venvs
from deploy.host.layout import ENVIRONMENT, TEXT, HostSettings, Layout
from deploy.scripts.wait_ready import NotReady, Server, wait

#: Longest wait for an instance of the web half that replaces another: what it needs is ready already, seconds (chosen).
WEB_LIMIT_S = 60.0
#: What is known to go wrong on the way to a server that is ready.
FAILURES = (NotReady, units.UnitFailed, OSError)
#: Why a deployment ends that could have gone on.
STOPPED = "`model-server stop` ends it"
Say = Callable[[str], None]


@dataclass(frozen=True)
class Facts:
    """What a release's own settings say, found before anything is touched."""

    address: str
    wait_s: float
    demo: bool
    #: The hashes of the model files, also of those outside the release.
    model_files: Sequence[str]
    #: The names that the supervisor does not read.
    web_only: Sequence[str]

    @classmethod
    def read(cls, said: str) -> Facts:
        """Return the facts in the last line of what a release said; its model files may print before that."""
        try:
            return cls(**json.loads(said.splitlines()[-1]))
        except (IndexError, TypeError, ValueError):
            raise units.UnitFailed("the release says nothing that this host understands: {}".format(said)) from None


@dataclass(frozen=True)
class Prepared:
    """A release that was tried, and the environments it was tried with, which are not linked to it yet."""

    release: pathlib.Path
    facts: Facts
    venvs: Mapping[str, pathlib.Path]


class Activation:
    """Everything that turns a release folder into a running server."""

    def __init__(self, layout: Layout, host: HostSettings, say: Say) -> None:
        """Store where releases are, what the host has, and who is told."""
        self._layout, self._host, self._say = layout, host, say

    def deploy(self, release: pathlib.Path) -> None:
        """Serve a release. Raises what went wrong, after going back to the release that served before."""
        before = releases.last_served(self._layout)
        prepared = self.prepare(release)
        if before:
            releases.point(self._layout.pending, before)
        try:
            self._activate(prepared)
        except Exception as reason:
            self._say("FAILED: {}".format(reason))
            self._back(before if before != release else None)
            raise
        (release / releases.UNPROVEN).unlink(missing_ok=True)
        if before not in (None, release):
            releases.point(self._layout.previous, before)
        self._layout.pending.unlink(missing_ok=True)
        self._prune()

    def prepare(self, release: pathlib.Path) -> Prepared:
        """Install what a release needs and try its settings; nothing that serves is touched. Raises `UnitFailed`."""
        web = self._provide(release, "web", ["service.txt"])
        venvs.compile_ahead(release, web, ["service", "ipu_supervisor"])
        facts = Facts.read(units.run_as("web", release, web, ["-m", "deploy.systemd.preflight"]))
        units.check_address(facts.address)
        units.check_free(facts.address)
        locks = ["supervisor-cpu.txt", "torch.txt", *(["demo.txt"] if facts.demo else [])]
        by_hand = self._host.supervisor_venv
        supervisor = pathlib.Path(by_hand) if by_hand else self._provide(release, "supervisor", locks)
        venvs.compile_ahead(release, supervisor, ["ipu_supervisor"])
        prepared = Prepared(release, facts, {"web": web, "supervisor": supervisor})
        self._say(self._ask(prepared, "check-config"))
        return prepared

    def _provide(self, release: pathlib.Path, half: str, locks: Sequence[str]) -> pathlib.Path:
        """Return an environment for a half of a release."""
        return venvs.provide(self._layout, release, half, locks, self._host.python, self._say)

    def _activate(self, prepared: Prepared) -> None:
        """Switch, start what must be started, wait until every model is ready."""
        if self._layout.stopping.exists():
            raise NotReady(STOPPED)
        release, facts, wanted = prepared.release, prepared.facts, self._fingerprint(prepared)
        keeps = self._keeps(wanted)
        if not keeps:
            # From the switch on, a reboot or a crash may start another supervisor than the one that is noted.
            self._layout.started.unlink(missing_ok=True)
        self._switch(prepared)
        units.listen(facts.address)
        units.systemctl("enable", "--quiet", units.TARGET)
        if keeps:
            self._say("the supervisor and its models stay as they are")
            self._try_again(prepared)
        else:
            self._supervise(wanted)
        self._replace_web(facts)
        units.systemctl("start", units.TARGET)
        self._say("serving {} on {}".format(release.name, facts.address))

    def _keeps(self, wanted: str) -> bool:
        """Say whether the supervisor that runs has nothing new to run on."""
        started = self._layout.started
        same = started.exists() and started.read_text(encoding="ascii") == wanted
        return same and units.state(units.SUPERVISOR) == "active"

    def _try_again(self, prepared: Prepared) -> None:
        """Have the supervisor load again what failed for good; a model that serves is not touched.

        Raises `UnitFailed` where it refuses, or does not answer.
        """
        status = json.loads(self._ask(prepared, "status", "--json"))
        for model in status["models"]:
            if model["replicas"] and all(replica["state"] == "FAILED" for replica in model["replicas"]):
                self._say("{} has failed, and is tried again".format(model["model"]))
                self._ask(prepared, "reload", model["model"])

    def _ask(self, prepared: Prepared, *arguments: str) -> str:
        """Run one of the supervisor's own commands, and return what it printed. Raises `UnitFailed`."""
        command = ["-m", "ipu_supervisor", *arguments]
        return units.run_as("supervisor", prepared.release, prepared.venvs["supervisor"], command)

    def _switch(self, prepared: Prepared) -> None:
        """Have the units start from a release, each half in its environment."""
        for half, venv in prepared.venvs.items():
            releases.point(prepared.release / (releases.VENV + half), venv)
        releases.point(self._layout.current, prepared.release)

    def _supervise(self, wanted: str) -> None:
        """Restart the supervisor, and note what it runs on."""
        self._say("starting the supervisor; models load")
        units.up("restart", units.SUPERVISOR)
        self._layout.started.write_text(wanted, encoding="ascii")

    def _replace_web(self, facts: Facts) -> None:
        """Put the new web half in the place of the old one; somebody accepts connections all the time."""
        main, stand_in = units.web(units.MAIN), units.web(units.NEXT)
        try:
            if units.state(main) == "active":
                units.up("restart", stand_in)
                self._wait(units.NEXT, facts.wait_s)
                units.up("restart", main)
                self._wait(units.MAIN, WEB_LIMIT_S)
            else:
                units.up("start", units.PORT)
                units.up("restart", main)
                self._wait(units.MAIN, facts.wait_s)
        finally:
            # Also one that a deployment which was cut off has left.
            units.systemctl("stop", stand_in, stand_in.replace(".service", ".socket"))

    def _wait(self, instance: str, limit_s: float) -> None:
        """Wait until an instance of the web half says that every model is ready. Raises `NotReady`."""
        server = Server(units.private_address(instance))
        elapsed_s = wait(server, limit_s, self._say, lambda: self._ended(instance))
        self._say("ready after {:.1f} s: {}".format(elapsed_s, units.web(instance)))

    def _ended(self, instance: str) -> str:
        """Say why there is nothing to wait for any more: a unit will not come back, or somebody wants no server."""
        if self._layout.stopping.exists():
            return STOPPED
        failed = [unit for unit in (units.SUPERVISOR, units.web(instance)) if units.state(unit) == "failed"]
        return "\n".join("{} failed\n{}".format(unit, units.journal(unit, units.LAST_LINES)) for unit in failed)

    def _back(self, before: pathlib.Path | None) -> None:
        """Serve the release that served before; what goes wrong with that is told, not raised."""
        if self._layout.stopping.exists():
            self._say("no other release is served in its place")
            return
        if before is None:
            self._say("nothing is rolled back: no other release served before this deployment")
            return
        self._say("ROLLING BACK to {}".format(before.name))
        try:
            self._activate(self.prepare(before))
        except Exception as reason:  # noqa: BLE001  # whatever it is, the caller learns of it and of what came first
            self._say("THE ROLLBACK FAILED TOO: {}".format(reason))

    def _fingerprint(self, prepared: Prepared) -> str:
        """Return a hash of everything that the supervisor runs on: code, environment, settings, unit."""
        app, facts = prepared.release / releases.APP, prepared.facts
        files = [app / ".env", ENVIRONMENT]
        lines = [line for file in files if file.exists() for line in file.read_text(*TEXT).splitlines()]
        settings = [line for line in lines if line.strip() and not line.startswith("#")]
        parts = [
            releases.content(app / "ipu_supervisor"),
            str(prepared.venvs["supervisor"].resolve()),
            units.systemctl("cat", units.SUPERVISOR),
            *facts.model_files,
            *(line for line in settings if line.partition("=")[0].strip() not in facts.web_only),
        ]
        return hashlib.sha256("\0".join(parts).encode(*TEXT)).hexdigest()

    def _prune(self) -> None:
        """Remove releases that are old; those that something still runs from stay."""
        running = [units.release_of(unit) for unit in (units.SUPERVISOR, units.web(units.MAIN))]
        links = [releases.pointed(self._layout.current), releases.pointed(self._layout.previous)]
        for name in releases.prune(self._layout, [*running, *links]):
            self._say("removed the old release {}".format(name))
