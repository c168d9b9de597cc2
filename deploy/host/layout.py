"""Where everything of a deployment lies on a host, and what this host's administrator chose."""

from __future__ import annotations

import pathlib
from collections.abc import Mapping
from dataclasses import dataclass

#: Set by the administrator; see `HostSettings`.
HOST_SETTINGS = pathlib.Path("/etc/model-server/host.conf")
#: The settings of both halves: systemd reads it, nothing else does.
ENVIRONMENT = pathlib.Path("/etc/model-server/env")
#: How an administrator's files are read, and written again: a comment may hold bytes of another encoding.
TEXT = ("utf-8", "surrogateescape")
#: Where install.sh puts the units, and this program.
UNITS, LIBRARY = pathlib.Path("/etc/systemd/system"), pathlib.Path("/usr/local/lib/model-server")
COMMAND = pathlib.Path("/usr/local/sbin/model-server")
#: The drop-in that lets replicas open the host's accelerators; there is none without such.
DEVICE = UNITS / "model-server-supervisor.service.d/device.conf"
#: The drop-in that gives the port's socket its address.
LISTEN = UNITS / "model-server-http.socket.d/listen.conf"


@dataclass(frozen=True)
class Layout:
    """The folder of releases: `releases/COMMIT`, `venvs/NAME-HASH`, `current`, `previous` and `pending`.

    A release holds `app/`, the commit's files, which belong to the user who unpacked them, and beside it what root
    wrote: links to its environments, the hash of its content, and a mark until a deployment of it has succeeded.
    """

    root: pathlib.Path = pathlib.Path("/opt/model-server")

    @property
    def releases(self) -> pathlib.Path:
        """Return the folder with one folder per release."""
        return self.root / "releases"

    @property
    def venvs(self) -> pathlib.Path:
        """Return the folder with one virtual environment per lock."""
        return self.root / "venvs"

    @property
    def current(self) -> pathlib.Path:
        """Return the link that both units start from."""
        return self.root / "current"

    @property
    def previous(self) -> pathlib.Path:
        """Return the link that `rollback` goes back to."""
        return self.root / "previous"

    @property
    def pending(self) -> pathlib.Path:
        """Return the link to what served before a deployment; it is left behind only where that has not succeeded."""
        return self.root / "pending"

    @property
    def started(self) -> pathlib.Path:
        """Return the file that says what the supervisor was started with; none where that is not known."""
        return self.root / "supervisor.started"

    @property
    def stopping(self) -> pathlib.Path:
        """Return the file that is there while `stop` waits for a deployment to end."""
        return self.root / "stopping"

    @property
    def lock(self) -> pathlib.Path:
        """Return the file that only one deployment holds at a time."""
        return self.root / "lock"


@dataclass(frozen=True)
class HostSettings:
    """What the administrator chose: `NAME=value` lines of `HOST_SETTINGS`.

    `PYTHON`: the Python 3.11 that environments are made with. `SUPERVISOR_VENV`: an environment prepared by hand (the
    vendor's SDK comes from no package index), used instead of one that a deployment makes.
    """

    python: str = "python3.11"
    supervisor_venv: str = ""

    @classmethod
    def read(cls, path: pathlib.Path = HOST_SETTINGS) -> HostSettings:
        """Return what stands in the file, or the defaults where there is none."""
        values: dict[str, str] = {}
        if path.exists():
            for line in path.read_text(*TEXT).splitlines():
                name, equals, value = line.partition("=")
                if equals and not name.startswith("#"):
                    values[name.strip()] = value.strip()
        return cls.of(values)

    @classmethod
    def of(cls, values: Mapping[str, str]) -> HostSettings:
        """Return the settings in `values`."""
        return cls(values.get("PYTHON") or cls.python, values.get("SUPERVISOR_VENV", ""))
