"""What a deployment asks of systemd, and running one command as a unit's user would."""

from __future__ import annotations

import errno
import ipaddress
import os
import pathlib
import re
import shutil
import socket
import subprocess
from collections.abc import Mapping, Sequence

from deploy.host.layout import COMMAND, DEVICE, ENVIRONMENT, LIBRARY, LISTEN, UNITS
from deploy.host.releases import APP

TARGET, SUPERVISOR = "model-server.target", "model-server-supervisor.service"
PORT = "model-server-http.socket"
#: The instance of the web half that serves, and the one that stands in while it is replaced.
MAIN, NEXT = "main", "next"
#: Everything, so that a stop waits for all of it.
ALL = (TARGET, SUPERVISOR, PORT, "model-server-web@*.service", "model-server-web@*.socket")
#: Where the supervisor listens, and where its own sockets are; the units say the same.
RUN_DIR = "/run/model-server"
ENDPOINT = "ipc://{}/supervisor.sock".format(RUN_DIR)
#: The user of each half, and that of deployments.
USERS = {"supervisor": "model-server", "web": "model-server-web", "build": "model-server-build"}
#: Lines of the journal that explain what went wrong; a traceback of Gunicorn's own may stand behind the reason.
LAST_LINES = 60
#: What a port's address looks like: nothing in it could become another line of a unit.
ADDRESS = re.compile(r"[0-9A-Fa-f.:\[\]]+:[0-9]{1,5}\Z")


class UnitFailed(RuntimeError):
    """A unit did not start, or a command in one failed; the message holds its last words."""


def web(instance: str) -> str:
    """Return the unit of an instance of the web half."""
    return "model-server-web@{}.service".format(instance)


def private_address(instance: str) -> str:
    """Return where exactly this instance answers."""
    return "unix:/run/model-server-web/{}.sock".format(instance)


def systemctl(*arguments: str) -> str:
    """Run systemctl and return what it printed. Raises `UnitFailed`."""
    done = subprocess.run(["systemctl", *arguments], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False)
    text = done.stdout.decode("utf-8", "replace")
    if done.returncode:
        raise UnitFailed("systemctl {}: {}".format(" ".join(arguments), text.strip()))
    return text


def state(unit: str) -> str:
    """Return the state of a unit: `active`, `inactive`, `failed`, `activating` or another."""
    return systemctl("show", "--property=ActiveState", "--value", unit).strip()


def up(verb: str, unit: str) -> None:
    """Start or restart a unit, whatever its past. Raises `UnitFailed` with the journal's last lines."""
    subprocess.run(["systemctl", "reset-failed", unit], stderr=subprocess.DEVNULL, check=False)
    try:
        systemctl(verb, unit)
    except UnitFailed as error:
        raise UnitFailed("{}\n{}".format(error, journal(unit, LAST_LINES))) from None


def journal(unit: str, lines: int) -> str:
    """Return the last lines that a unit wrote."""
    command = ["journalctl", "--no-pager", "--quiet", "--output=cat", "--lines={}".format(lines), "--unit=" + unit]
    return subprocess.run(command, stdout=subprocess.PIPE, check=False).stdout.decode("utf-8", "replace").strip()


def release_of(unit: str) -> pathlib.Path | None:
    """Return the release that a unit's main process was started from."""
    pid = systemctl("show", "--property=MainPID", "--value", unit).strip()
    try:
        return pathlib.Path(os.readlink("/proc/{}/cwd".format(pid))).parent if pid != "0" else None
    except OSError:
        return None


def check_address(address: str) -> None:
    """Raise `UnitFailed` unless systemd can listen there: it looks up no names."""
    host, _, port = address.rpartition(":")
    bare = host.strip("[]")
    try:
        known = host == ("[{}]" if ipaddress.ip_address(bare).version == 6 else "{}").format(bare)
    except ValueError:
        known = False
    if not (known and ADDRESS.match(address) and 1 <= int(port) <= 65_535):
        raise UnitFailed("{!r} is no address of a port: SERVER_BIND must be an IP address".format(address))


def check_free(address: str) -> None:
    """Raise `UnitFailed` when somebody else listens there: ours is closed before systemd would find that out."""
    host, _, port = address.rpartition(":")
    ours = systemctl("show", "--property=Listen", "--value", PORT) if state(PORT) == "active" else ""
    if ":{} ".format(port) in ours:
        return
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host.strip("[]"), int(port)))
        except OSError as error:
            # Any other is systemd's to judge: the address may come later than its socket.
            if error.errno == errno.EADDRINUSE:
                raise UnitFailed(
                    "{} is taken by another program; see SERVER_BIND, SERVER_PORT".format(address)
                ) from None


def listen(address: str) -> None:
    """Give the port its address; only where that changes is it closed for a moment. Raises `UnitFailed`."""
    lines = ["# Written by deployments, from SERVER_BIND and SERVER_PORT.", "[Socket]", "ListenStream="]
    wanted = "\n".join([*lines, "ListenStream={}".format(address), ""])
    loaded = systemctl("show", "--property=NeedDaemonReload", "--value", PORT).strip() == "no"
    if loaded and LISTEN.exists() and LISTEN.read_text(encoding="ascii") == wanted:
        return
    # First the stop: a deployment that is cut off in between leaves something that the next one sees.
    if state(PORT) == "active":
        systemctl("stop", web(MAIN), PORT)
    LISTEN.parent.mkdir(exist_ok=True)
    LISTEN.write_text(wanted, encoding="ascii")
    systemctl("daemon-reload")


def outdated(release: pathlib.Path) -> list[str]:
    """Return what install.sh would put here otherwise than it is: deployments change no unit and no command of root."""
    app = release / APP
    places = {path: UNITS / path.name for path in (app / "deploy/systemd").glob("model-server*")}
    for path in [*(app / "deploy/host").glob("*.py"), app / "deploy/scripts/wait_ready.py"]:
        places[path] = LIBRARY / path.relative_to(app)
    places[app / "deploy/systemd/uninstall.sh"] = LIBRARY / "uninstall.sh"
    places[app / "deploy/systemd/command.py"] = COMMAND
    changed = [place for path, place in places.items() if not place.exists() or place.read_bytes() != path.read_bytes()]
    devices = [path.read_bytes() for path in (app / "deploy/systemd").glob("device-*.conf")]
    if DEVICE.exists() and DEVICE.read_bytes() not in devices:
        changed.append(DEVICE)
    return sorted(str(place) for place in changed)


def workplace(folder: pathlib.Path) -> pathlib.Path:
    """Make an empty folder for the user of deployments, and return it."""
    folder.mkdir(mode=0o755)
    shutil.chown(folder, USERS["build"], USERS["build"])
    return folder


def unpack(archive: pathlib.Path, folder: pathlib.Path) -> None:
    """Unpack an archive into a new folder, as the user of deployments. Raises `UnitFailed`."""
    build(workplace(folder), ["tar", "--extract", "--gzip", "--file", str(archive)])


def build(folder: pathlib.Path, command: Sequence[str]) -> None:
    """Run a command in a folder, where alone it may write, as the user of deployments. Raises `UnitFailed`."""
    cache = {"CacheDirectory": "model-server-build", "ReadWritePaths": str(folder), "UMask": "0022"}
    _run(USERS["build"], folder, command, {"Group": USERS["build"], **cache})


def run_as(half: str, release: pathlib.Path, venv: pathlib.Path, command: Sequence[str], terminal: bool = False) -> str:
    """Run an environment's Python on a release, with the user and the settings of a half; return what it printed.

    With `terminal` it has ours instead. Raises `UnitFailed` when it fails.
    """
    properties = {
        "Group": "model-server",
        "EnvironmentFile": "-{}".format(ENVIRONMENT),
        "Environment": "SUPERVISOR_ENDPOINT={} SUPERVISOR_RUN_DIR={} PYTHONDONTWRITEBYTECODE=1".format(
            ENDPOINT, RUN_DIR
        ),
    }
    if half == "web":
        properties["UnsetEnvironment"] = "HF_TOKEN"
    return _run(USERS[half], release / APP, [str(venv / "bin/python"), *command], properties, terminal)


def _run(
    user: str, folder: pathlib.Path, command: Sequence[str], properties: Mapping[str, str], terminal: bool = False
) -> str:
    """Run a command in a transient unit of its own, which sees no home and writes where it is told."""
    closed = {"ProtectSystem": "strict", "ProtectHome": "yes", "PrivateTmp": "yes", "NoNewPrivileges": "yes"}
    everything = {"User": user, "WorkingDirectory": str(folder), **closed, **properties}
    run = ["systemd-run", "--quiet", "--wait", "--collect", "--service-type=exec"]
    run += ["--pty" if terminal and os.isatty(0) else "--pipe"]
    run += ["--property={}={}".format(name, value) for name, value in everything.items()]
    done = subprocess.run(
        [*run, "--", *command],
        stdin=None if terminal else subprocess.DEVNULL,
        stdout=None if terminal else subprocess.PIPE,
        stderr=None if terminal else subprocess.PIPE,
        check=False,
    )
    said, complained = ((text or b"").decode("utf-8", "replace").strip() for text in (done.stdout, done.stderr))
    if done.returncode:
        text = "`{}` ended with {}".format(" ".join(command), done.returncode)
        raise UnitFailed("\n".join(filter(None, [text, said, complained])))
    return said
