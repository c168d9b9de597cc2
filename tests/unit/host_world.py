"""A host with systemd, faked: releases are folders, a running unit is the code that it was started from.

It can be cut off before and after everything that a deployment does to it, as by a loss of power.
"""

import contextlib
import json
import os
import pathlib
import sys

from deploy.host import activate, cli, releases, units
from deploy.host.layout import HostSettings, Layout
from deploy.scripts.wait_ready import NotReady

MAIN, NEXT = units.web(units.MAIN), units.web(units.NEXT)
POINT = releases.point


class CutOff(BaseException):
    """The deployment is gone at this step, and cleans up nothing."""


class Clock:
    """Stands in for the module `time`: it moves only where something waits; `meanwhile` is what happens then."""

    def __init__(self):
        self.now, self.meanwhile = 100.0, lambda: None

    def monotonic(self):
        return self.now

    def sleep(self, seconds):
        self.now += seconds
        self.meanwhile()


class World:
    """One host. Releases are named by a letter; `bad` holds those whose models never get ready."""

    def __init__(self, root, monkeypatch):
        self.layout = Layout(root / "opt")
        self.said: list = []
        for folder in (root, self.layout.root, self.layout.releases, self.layout.venvs):
            folder.mkdir()
        self.running, self.bad, self.asked = {}, set(), []
        #: Python environments that cannot check the settings, units that do not start, and those that do not come back.
        self.broken_venvs, self.broken_units, self.failed = set(), set(), set()
        #: Releases whose settings the supervisor refuses.
        self.refused: set = set()
        #: The lock that cannot be installed, what the supervisor's unit says, and what was waited for how long.
        self.broken_lock, self.unit, self.waits = "no lock", "the unit", []
        #: What is wrong with a model of the supervisor that runs; trying it again helps, unless it is incurable.
        self.lost, self.incurable, self.clock = "", False, Clock()
        self.environment = root / "env"
        #: The addresses on which somebody else listens.
        self.taken: set = set()
        self.properties: dict = {}
        self.commands: list = []
        self.printed, self.facts = "", {"address": "0.0.0.0:8100", "wait_s": 1.0, "demo": False}
        self.facts.update(model_files=[], web_only=[])
        self.steps, self.cut_at, self.listening, self.loaded = 0, None, root / "listen.d/listen.conf", ""
        for owner, name, fake in [
            *((units, name, getattr(self, name)) for name in ("systemctl", "_run", "workplace")),
            *((units, "up", self.systemctl), (units, "journal", lambda *_: "its words")),
            *(
                (units, "LISTEN", self.listening),
                (units, "check_free", self.check_free),
                (activate, "ENVIRONMENT", self.environment),
            ),
            *((activate, "wait", self.wait), (releases, "point", self.point)),
            *((cli, "say", self.said.append), (cli, "time", self.clock)),
        ]:
            monkeypatch.setattr(owner, name, fake)

    def release(self, letter, supervisor=None):
        """Return a release, made at the first time; its supervisor's code may be another's."""
        release = self.layout.releases / (letter * 40)
        if not release.exists():
            files = {"ipu_supervisor/code": supervisor or letter, "service/code": letter}
            files.update({f"requirements/{lock}.txt": "" for lock in ("service", "supervisor-cpu", "torch", "demo")})
            for name, text in files.items():
                (release / "app" / name).parent.mkdir(parents=True, exist_ok=True)
                (release / "app" / name).write_text(text, encoding="utf-8")
            for name in (releases.UNPROVEN, releases.STAMP):
                (release / name).touch()
        return release

    def deploy(self, letter, supervisor=None, venv=""):
        """Deploy a release, with an environment made by hand if one is named."""
        host = HostSettings(sys.executable, venv)
        activate.Activation(self.layout, host, self.said.append).deploy(self.release(letter, supervisor))

    def deploy_until_step(self, step, letter):
        """Deploy a release, cut off at a step; say whether it was cut off before it served."""
        self.steps, self.cut_at = 0, step
        with contextlib.suppress(CutOff):
            self.deploy(letter)
        self.cut_at = None
        return not any(text.startswith(f"serving {letter}") for text in self.said)

    def boot(self):
        """Start what a boot starts."""
        self.running.clear()
        self.systemctl("daemon-reload")
        self.systemctl("start", units.TARGET)

    def served(self):
        """Return what `current`, the supervisor and the web half are."""
        return self.current() + self.running[units.SUPERVISOR] + self.running[MAIN]

    def current(self):
        return os.readlink(str(self.layout.current))[-1]

    def step(self):
        """Be cut off here if it is time for that."""
        self.steps += 1
        if self.cut_at is not None and self.steps >= self.cut_at:
            raise CutOff

    def systemctl(self, verb, *arguments):
        self.step()
        self.asked.append((verb, *arguments))
        said = self._obey(verb, [argument for argument in arguments if not argument.startswith("-")], arguments)
        self.step()
        return said

    def _obey(self, verb, named, arguments):
        if verb == "show":
            return self._shown(arguments[0].partition("=")[2], named[0])
        if verb == "daemon-reload":
            self.loaded = self._listen_text()
        for unit in [unit for name in named for unit in self._members(name)]:
            if verb == "restart" or (verb == "start" and unit not in self.running):
                # What a target only wants may fail, and its start succeeds.
                with contextlib.suppress(*[units.UnitFailed] * (units.TARGET in named)):
                    self._start(unit)
            elif verb == "stop":
                self.running.pop(unit, None)
        return self.unit

    def _members(self, unit):
        return (units.SUPERVISOR, units.PORT, MAIN) if unit == units.TARGET else (unit,)

    def _start(self, unit):
        """Run what `current` is now, from the environment that is linked to it."""
        if unit in self.broken_units:
            raise units.UnitFailed(f"{unit} does not start")
        half = "ipu_supervisor" if unit == units.SUPERVISOR else "service"
        self.lost = self.lost if half == "service" or self.incurable else ""
        self.running[unit] = (self.layout.current / "app" / half / "code").read_text(encoding="utf-8")

    def _shown(self, name, unit):
        state = "active" if unit in self.running else "inactive"
        states = {"ActiveState": "failed" if unit in self.failed else state, "MainPID": "0", "StatusText": ""}
        states["NeedDaemonReload"] = "no" if self.loaded == self._listen_text() else "yes"
        return states[name]

    def _listen_text(self):
        return self.listening.read_text(encoding="utf-8") if self.listening.exists() else ""

    def point(self, link, target):
        self.step()
        POINT(link, target)
        self.step()

    def wait(self, server, limit_s, say, ended):
        """Be ready unless the supervisor's code is a bad one, or there is nothing to wait for."""
        self.waits.append((server.address, limit_s))
        if ended():
            raise NotReady(ended())
        if self.lost or self.running[units.SUPERVISOR] in self.bad:
            raise NotReady(self.lost or "the model broke")
        return 0.0

    def check_free(self, address):
        if address in self.taken:
            raise units.UnitFailed(f"{address} is taken")

    def workplace(self, folder):
        folder.mkdir()
        return folder

    def _run(self, user, folder, command, properties, terminal=False):
        """Check a release, or install: the latter does nothing."""
        self.properties = properties
        self.commands.append(command)
        if command[-1].endswith(self.broken_lock):
            raise units.UnitFailed(f"{self.broken_lock} cannot be had")
        if command[-2:] == ["reload", "qa"] and not self.incurable:
            self.lost = ""
        if command[-2:] == ["status", "--json"]:
            states = {"qa": "FAILED" if self.lost else "READY", "echo": "BUSY"}
            models = [{"model": name, "replicas": [{"state": state}]} for name, state in states.items()]
            return json.dumps({"models": [*models, {"model": "none", "replicas": []}]})
        if command[-1] == "check-config" and folder.parent.name[0] in self.refused:
            raise units.UnitFailed("the supervisor refuses the settings")
        if "deploy.systemd.preflight" in command:
            return self.printed + json.dumps(self.facts)
        if str(pathlib.Path(command[0]).parent.parent) in self.broken_venvs:
            raise units.UnitFailed(f"there is nothing at {command[0]}")
        return "the settings are right"
