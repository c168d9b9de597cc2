"""Makes a release the one that serves, and goes back when it does not get ready. One deployment at a time."""

from __future__ import annotations

import hashlib
import json
import pathlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Callable

from deploy.host import releases, units, venvs
from deploy.host.layout import ENVIRONMENT, HostSettings, Layout
from deploy.scripts.wait_ready import NotReady, Server, wait

#: Longest wait for an instance of the web half that replaces another: what it needs is ready already, seconds (chosen).
WEB_LIMIT_S = 60.0
#: Lines of the journal that explain a model that did not get ready.
EXPLAINING_LINES = 20
#: What can go wrong on the way to a server that is ready.
FAILURES = (NotReady, units.UnitFailed, OSError)
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


class Activation:
    """Everything that turns a release folder into a running server."""

    def __init__(self, layout: Layout, host: HostSettings, say: Say) -> None:
        """Store where releases are, what the host has, and who is told."""
        self._layout, self._host, self._say = layout, host, say

    def deploy(self, release: pathlib.Path) -> None:
        """Serve a release. Raises one of `FAILURES`, after going back to the release that served before."""
        before = releases.pointed(self._layout.current)
        facts = self.prepare(release)
        try:
            self._activate(release, facts)
        except FAILURES as reason:
            self._say("FAILED: {}".format(reason))
            self._back(before if before != release else None)
            raise
        if before not in (None, release):
            releases.point(self._layout.previous, before)
        self._prune()

    def prepare(self, release: pathlib.Path) -> Facts:
        """Install what a release needs and try its settings; nothing that serves is touched. Raises `UnitFailed`."""
        venvs.provide(self._layout, release, "web", ["service.txt"], self._host.python, self._say)
        venvs.compile_ahead(release, "web", ["service", "ipu_supervisor"])
        found = json.loads(units.run_as("web", release, ["-m", "deploy.systemd.preflight"]))
        facts = Facts(**found)
        if self._host.supervisor_venv:
            venvs.link(release, "supervisor", pathlib.Path(self._host.supervisor_venv))
        else:
            locks = ["supervisor-cpu.txt", "torch.txt", *(["demo.txt"] if facts.demo else [])]
            venvs.provide(self._layout, release, "supervisor", locks, self._host.python, self._say)
        venvs.compile_ahead(release, "supervisor", ["ipu_supervisor"])
        self._say(units.run_as("supervisor", release, ["-m", "ipu_supervisor", "check-config"]))
        return facts

    def _activate(self, release: pathlib.Path, facts: Facts) -> None:
        """Switch, start what must be started, wait until every model is ready."""
        releases.point(self._layout.current, release)
        units.listen(facts.address)
        units.systemctl("enable", "--quiet", units.TARGET)
        self._supervise(release, facts)
        self._replace_web(facts)
        units.systemctl("start", units.TARGET)
        self._say("serving {} on {}".format(release.name, facts.address))

    def _supervise(self, release: pathlib.Path, facts: Facts) -> None:
        """Restart the supervisor if anything that it runs on has changed; else leave it and its models alone."""
        wanted = self._fingerprint(release, facts)
        started = self._layout.started
        same = started.exists() and started.read_text(encoding="ascii") == wanted
        if same and units.state(units.SUPERVISOR) == "active":
            self._say("the supervisor and its models stay as they are")
            return
        self._say("starting the supervisor; models load")
        units.up("restart", units.SUPERVISOR)
        started.write_text(wanted, encoding="ascii")

    def _replace_web(self, facts: Facts) -> None:
        """Put the new web half in the place of the old one; somebody accepts connections all the time."""
        main, stand_in = units.web(units.MAIN), units.web(units.NEXT)
        if units.state(main) != "active":
            units.up("start", units.PORT)
            units.up("start", main)
            self._wait(units.MAIN, facts.wait_s)
            return
        units.up("restart", stand_in)
        try:
            self._wait(units.NEXT, facts.wait_s)
            units.up("restart", main)
            self._wait(units.MAIN, WEB_LIMIT_S)
        finally:
            units.systemctl("stop", stand_in, stand_in.replace(".service", ".socket"))

    def _wait(self, instance: str, limit_s: float) -> None:
        """Wait until an instance of the web half says that every model is ready. Raises `NotReady`."""
        server = Server(units.private_address(instance))
        elapsed_s = wait(server, limit_s, self._say, lambda: self._ended(instance))
        self._say("ready after {:.1f} s: {}".format(elapsed_s, units.web(instance)))

    def _ended(self, instance: str) -> str:
        """Say which unit will not come back, if one will not."""
        failed = [unit for unit in (units.SUPERVISOR, units.web(instance)) if units.state(unit) == "failed"]
        return "\n".join("{} failed\n{}".format(unit, units.journal(unit, EXPLAINING_LINES)) for unit in failed)

    def _back(self, before: pathlib.Path | None) -> None:
        """Serve the release that served before; what goes wrong with that is told, not raised."""
        if before is None:
            self._say("there is no other release to go back to")
            return
        self._say("ROLLING BACK to {}".format(before.name))
        try:
            self._activate(before, self.prepare(before))
        except FAILURES as reason:
            self._say("THE ROLLBACK FAILED TOO: {}".format(reason))

    def _fingerprint(self, release: pathlib.Path, facts: Facts) -> str:
        """Return a hash of everything that the supervisor runs on: code, environment, settings, unit."""
        files = [release / releases.APP / ".env", ENVIRONMENT]
        lines = [line for file in files if file.exists() for line in file.read_text(encoding="utf-8").splitlines()]
        settings = [line for line in lines if line.strip() and not line.startswith("#")]
        parts = [
            releases.content(release / releases.APP / "ipu_supervisor"),
            str((release / "venv-supervisor").resolve()),
            units.systemctl("cat", units.SUPERVISOR),
            *facts.model_files,
            *(line for line in settings if line.partition("=")[0].strip() not in facts.web_only),
        ]
        return hashlib.sha256("\0".join(parts).encode()).hexdigest()

    def _prune(self) -> None:
        """Remove releases that are old; those that something still runs from stay."""
        running = [units.release_of(unit) for unit in (units.SUPERVISOR, units.web(units.MAIN))]
        links = [releases.pointed(self._layout.current), releases.pointed(self._layout.previous)]
        for name in releases.prune(self._layout, [*running, *links]):
            self._say("removed the old release {}".format(name))
