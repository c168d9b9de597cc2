"""`model-server`: what an administrator, or a workflow over ssh, does on the host. Runs as root.

deploy COMMIT SHA256 < ARCHIVE   unpack a release and serve it; back to the one before when it does not get ready
apply                            serve the current release with changed settings
rollback                         serve the release before
start, stop                      also for the next boots; stop ends a deployment that waits, and finishes the requests
                                 that are there
status, logs                     what every model does; what both halves wrote
ctl ...                          the operator's commands: status, top, drain, reload, scale
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import os
import pathlib
import signal
import subprocess
import sys
import syslog
import time
from collections.abc import Callable, Sequence
from typing import IO

from deploy.host import releases, units
from deploy.host.activate import FAILURES, Activation
from deploy.host.layout import HostSettings, Layout
from deploy.scripts.wait_ready import NotReady, Server, look

#: Exit codes: what was asked for failed; another deployment runs (sysexits.h: try again later).
EXIT_FAILED, EXIT_BUSY = 1, 75
#: How long `stop` waits for a deployment to end, and how often it looks, seconds (chosen: one that waits for its models
#: ends within seconds, one that restarts the supervisor within 45 s; one that installs may take longer).
STOP_LIMIT_S, LOOK_EVERY_S = 120.0, 0.5
LOG_LINES = 200


def say(text: str) -> None:
    """Tell the caller and the journal (`journalctl -t model-server`); a caller who has gone stops nothing."""
    syslog.syslog(text)
    try:
        print(text, flush=True)
    except OSError:
        sys.stdout = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115  # for the rest of this process


def deploy(layout: Layout, given: argparse.Namespace) -> None:
    """Take a release from stdin and serve it."""
    release = releases.place(layout, given.commit, given.archive, units.unpack)
    old = units.outdated(release)
    if old:
        say("NOTE: an administrator should run `deploy/remote.sh setup`: not as in this release: " + ", ".join(old))
    _activation(layout).deploy(release)


def apply(layout: Layout, given: argparse.Namespace) -> None:
    """Serve the current release with the settings as they are now."""
    _activation(layout).deploy(_release(layout.current))


def rollback(layout: Layout, given: argparse.Namespace) -> None:
    """Serve the release that served before this one; a second rollback comes back to it."""
    last = releases.last_served(layout)
    cut_off = last != releases.pointed(layout.current)
    release = last if cut_off else releases.pointed(layout.previous)
    if release is None:
        raise releases.Refused("no other release has served on this host")
    _activation(layout).deploy(release)


def start(layout: Layout, given: argparse.Namespace) -> None:
    """Start both halves, now and at every boot; see `status` for the models. Raises `UnitFailed`."""
    _release(layout.current)
    units.systemctl("enable", "--quiet", units.TARGET)
    for unit in (units.SUPERVISOR, units.PORT, units.web(units.MAIN)):
        units.up("start", unit)
    units.systemctl("start", units.TARGET)


def stop(layout: Layout, given: argparse.Namespace) -> None:
    """Stop both halves, now and for the next boots."""
    units.systemctl("disable", "--quiet", units.TARGET)
    units.systemctl("stop", *units.ALL)
    say("stopped")


def status(layout: Layout, given: argparse.Namespace) -> None:
    """Say which release serves and how both halves stand. Raises `NotReady` when a model does not."""
    release = releases.pointed(layout.current)
    say("release {}".format(release.name if release else "none"))
    for unit in (units.SUPERVISOR, units.web(units.MAIN)):
        text = units.systemctl("show", "--property=StatusText", "--value", unit).strip()
        say("{} {}{}".format(unit, units.state(unit), ": " + text if text else ""))
    seen = look(Server(units.private_address(units.MAIN)))
    if not seen.ready:
        raise NotReady(seen.why_not())
    say(seen.doing)


def logs(layout: Layout, given: argparse.Namespace) -> None:
    """Print the last lines that both halves and their deployments wrote."""
    matches = ["_SYSTEMD_UNIT=" + units.SUPERVISOR, "+", "_SYSTEMD_UNIT=" + units.web(units.MAIN)]
    matches += ["+", "_SYSTEMD_UNIT=" + units.web(units.NEXT), "+", "SYSLOG_IDENTIFIER=model-server"]
    subprocess.run(["journalctl", "--no-pager", "--lines={}".format(LOG_LINES), *matches], check=False)


def ctl(layout: Layout, given: argparse.Namespace) -> None:
    """Run one of the supervisor's own commands as its user."""
    command = ["-m", "ipu_supervisor", *given.arguments]
    release = _release(layout.current)
    units.run_as("supervisor", release, release / (releases.VENV + "supervisor"), command, terminal=True)


#: Each command, and whether it changes what is served.
COMMANDS: dict[str, tuple[Callable[[Layout, argparse.Namespace], None], bool]] = {
    "deploy": (deploy, True),
    "apply": (apply, True),
    "rollback": (rollback, True),
    "start": (start, True),
    "stop": (stop, True),
    "status": (status, False),
    "logs": (logs, False),
    "ctl": (ctl, False),
}


def main(arguments: Sequence[str] | None = None, layout: Layout | None = None) -> int:
    """Run one command; return its exit code."""
    given, layout = _parser().parse_args(arguments), layout or Layout()
    os.umask(0o022)
    if COMMANDS[given.command][1]:
        # Neither a caller whose connection breaks nor one who presses Ctrl-C leaves a deployment half done.
        for number in (signal.SIGHUP, signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_IGN)
    try:
        lock = _lock(layout)
    except PermissionError as error:
        say("{} FAILED: it needs root: {}".format(given.command, error))
        return EXIT_FAILED
    with lock:
        return _run(given, layout, lock)


def _lock(layout: Layout) -> IO[str]:
    """Return the lock, which nobody holds by that, in folders that are there. Raises `PermissionError`."""
    for folder in (layout.root, layout.releases, layout.venvs):
        folder.mkdir(exist_ok=True)
    return layout.lock.open("w", encoding="ascii")


def _run(given: argparse.Namespace, layout: Layout, lock: IO[str]) -> int:
    """Run one command, alone if it changes what is served; return its exit code."""
    act, changes = COMMANDS[given.command]
    with contextlib.ExitStack() as stack:
        try:
            if act is deploy:
                # Before the lock: what is sent may never come to its end, and keeps nobody waiting.
                sent = releases.received(layout, given.commit, given.checksum, sys.stdin.buffer)
                given.archive = stack.enter_context(sent)
            if changes:
                _hold(lock, layout, STOP_LIMIT_S if given.command == "stop" else 0.0)
            act(layout, given)
        except BlockingIOError:
            say("another deployment is going on")
            return EXIT_BUSY
        except (*FAILURES, releases.Refused) as error:
            say("{} FAILED: {}".format(given.command, error))
            return EXIT_FAILED
    return 0


def _hold(lock: IO[str], layout: Layout, limit_s: float) -> None:
    """Be the only one who changes what is served; ask a deployment to end within a limit. Raises `BlockingIOError`."""
    limit, told = time.monotonic() + limit_s, False
    try:
        while True:
            try:
                return fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if time.monotonic() >= limit:
                    raise
            if not told:
                say("a deployment is going on, and is asked to end")
            # Again each time: whoever has begun meanwhile has taken the file away.
            layout.stopping.touch()
            told = True
            time.sleep(LOOK_EVERY_S)
    finally:
        layout.stopping.unlink(missing_ok=True)


def _activation(layout: Layout) -> Activation:
    """Return what deploys on this host."""
    return Activation(layout, HostSettings.read(), say)


def _release(link: pathlib.Path) -> pathlib.Path:
    """Return the release that a link points to. Raises `Refused` when there is none."""
    release = releases.pointed(link)
    if release is None:
        raise releases.Refused("there is no {} release on this host".format(link.name))
    return release


def _parser() -> argparse.ArgumentParser:
    """Return the parser; each command's help is its function's first line."""
    parser = argparse.ArgumentParser(prog="model-server", description="The model server on this host.")
    commands = parser.add_subparsers(dest="command", required=True)
    made = {}
    for name, (act, _) in COMMANDS.items():
        text = (act.__doc__ or "").splitlines()[0]
        made[name] = commands.add_parser(name, help=text, description=text)
    made["deploy"].add_argument("commit")
    made["deploy"].add_argument("checksum")
    made["ctl"].add_argument("arguments", nargs=argparse.REMAINDER)
    return parser
