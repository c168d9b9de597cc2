"""A Docker engine of the tests' own: its daemon, its data and its sockets lie in one cache folder.

`python -m tests.deploy.engine start` starts it (the first time it fetches its programs), `env` prints what a shell
needs to reach it, `stop` ends it and takes away its mounts and control groups; images and build caches stay for the
next time (6 GB) until `remove` takes the whole folder away. It touches no firewall rule and makes no bridge of its own:
containers reach each other and publish ports, and a build reaches the network with `--network host`.
"""

import argparse
import contextlib
import dataclasses
import fcntl
import json
import os
import pathlib
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping

from tests.conftest import holds_within
from tests.deploy.engine_programs import EngineFailed, Unavailable, check_machine, obtain

#: Longest wait for the daemon to answer or to end, and for another test run to let go of it, seconds (chosen).
ANSWER_LIMIT_S, STOP_LIMIT_S, BUSY_LIMIT_S = 60.0, 60.0, 1800.0
#: Where the daemon, and the part of it that holds the containers, write their process numbers.
DAEMON, CONTAINERD = "dockerd.pid", "exec/containerd/containerd.pid"
#: Most that the build cache keeps between two runs.
KEPT_BUILD_CACHE = "4GB"
#: Name of the control group in which all containers run, so that nothing else is taken away afterwards.
CONTROL_GROUP = "ipu-model-server-tests"


def cache_folder() -> pathlib.Path:
    """Return where everything lies: `DEPLOY_TESTS_CACHE`, or a folder of the user's cache."""
    chosen = os.environ.get("DEPLOY_TESTS_CACHE")
    cache = pathlib.Path(os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache")
    return pathlib.Path(chosen) if chosen else cache / "ipu-model-server-deploy-tests"


@dataclasses.dataclass
class Engine:
    """The engine of one folder."""

    folder: pathlib.Path
    #: The daemon, where this process started it.
    daemon: "subprocess.Popen[bytes] | None" = None

    @property
    def environ(self) -> dict[str, str]:
        """Return what the docker command needs in its environment."""
        return {
            "DOCKER_HOST": f"unix://{self.folder}/docker.sock",
            "DOCKER_CONFIG": str(self.folder / "config"),
            "PATH": f"{self.folder}/bin:{os.environ['PATH']}",
        }

    def docker(self, *arguments: str, environ: Mapping[str, str] | None = None, **options: object) -> str:
        """Run a docker command, return what it printed; a failure shows what it said. Raises `CommandFailed`."""
        values = {**os.environ, **self.environ, **(environ or {})}
        command = [str(self.folder / "bin/docker"), *arguments]
        run = subprocess.run(command, env=values, capture_output=True, text=True, check=False, **options)  # type: ignore[call-overload]
        if run.returncode:
            raise CommandFailed(f"docker {shlex.join(arguments)}: {run.returncode}\n{run.stdout}\n{run.stderr}")
        return str(run.stdout)

    def runs(self) -> bool:
        """Say whether the daemon answers."""
        with contextlib.suppress(CommandFailed, FileNotFoundError):
            return bool(self.docker("version", "--format", "{{.Server.Version}}"))
        return False

    def start(self) -> None:
        """Start the daemon unless it runs. Raises `Unavailable`, `EngineFailed`."""
        check_machine()
        self.folder.mkdir(parents=True, exist_ok=True)
        obtain(self.folder)
        if self.runs():
            return
        self.forget_the_dead()
        with (self.folder / "dockerd.log").open("wb") as log:
            self.daemon = subprocess.Popen(
                self._command(),
                env={**os.environ, **self.environ},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        daemon = self.daemon
        holds_within(lambda: self.runs() or daemon.poll() is not None, ANSWER_LIMIT_S)
        if not self.runs():
            daemon.kill()
            daemon.wait()
            raise EngineFailed("the daemon does not start:\n" + self.log()[-2000:])

    def stop(self) -> None:
        """End the daemon and what it leaves behind: mounts of networks, empty control groups."""
        pid = self._living(DAEMON)
        if pid:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGTERM)
            holds_within(lambda: self._ended(pid), STOP_LIMIT_S)
        for mount in _mounts_below(self.folder):
            subprocess.run(["umount", mount], check=False)
        for group in pathlib.Path("/sys/fs/cgroup").glob(f"**/{CONTROL_GROUP}"):
            _remove_empty(group)

    def remove(self) -> None:
        """Remove the folder of a stopped engine. Raises `EngineFailed` while something of it is still mounted."""
        mounted = _mounts_below(self.folder)
        if mounted:
            raise EngineFailed(f"still mounted: {' '.join(mounted)}")
        shutil.rmtree(self.folder, ignore_errors=True)

    def log(self) -> str:
        """Return what the daemon logged."""
        return (self.folder / "dockerd.log").read_text(encoding="utf-8", errors="replace")

    def _living(self, file: str) -> int:
        """Return the process that a file of the engine names, or 0 when it is not one of the engine's any more."""
        with contextlib.suppress(OSError, ValueError):
            pid = int((self.folder / file).read_text())
            if pathlib.Path(f"/proc/{pid}/exe").resolve().parent == (self.folder / "bin").resolve():
                return pid
        return 0

    def forget_the_dead(self) -> None:
        """Remove what names a process that is gone: another one may have its number now, and would be taken for it."""
        for file in (DAEMON, CONTAINERD):
            if not self._living(file):
                (self.folder / file).unlink(missing_ok=True)

    def _ended(self, pid: int) -> bool:
        """Say whether the daemon is gone; one of our own is only gone when it was asked for its end."""
        if self.daemon is not None:
            self.daemon.poll()
        return not pathlib.Path(f"/proc/{pid}").exists()

    def _command(self) -> list[str]:
        """Return the daemon's command line, after writing its settings."""
        settings = {
            "data-root": str(self.folder / "data"),
            "exec-root": str(self.folder / "exec"),
            "pidfile": str(self.folder / DAEMON),
            "hosts": [f"unix://{self.folder}/docker.sock"],
            "cgroup-parent": f"/{CONTROL_GROUP}",
            "bridge": "none",
            "builder": {"gc": {"enabled": True, "defaultKeepStorage": KEPT_BUILD_CACHE}},
            **dict.fromkeys(("iptables", "ip6tables", "ip-forward", "ip-masq"), False),
        }
        path = self.folder / "daemon.json"
        path.write_text(json.dumps(settings, indent=1), encoding="utf-8")
        return [str(self.folder / "bin/dockerd"), "--config-file", str(path)]


class CommandFailed(RuntimeError):
    """A docker command failed; the message holds what it printed."""


@contextlib.contextmanager
def running(folder: pathlib.Path | None = None) -> Iterator[Engine]:
    """Have the engine for a while; one that ran before stays. Raises `Unavailable`, `EngineFailed`.

    One test run at a time: others wait.
    """
    check_machine()
    engine = Engine(folder or cache_folder())
    engine.folder.mkdir(parents=True, exist_ok=True)
    with (engine.folder / "lock").open("w") as lock:
        if not holds_within(lambda: _locks(lock.fileno()), BUSY_LIMIT_S):
            raise EngineFailed(f"another test run has held {engine.folder} for {BUSY_LIMIT_S:.0f} s")
        ran = engine.runs()
        engine.start()
        try:
            yield engine
        finally:
            if not ran:
                engine.stop()


def main() -> int:
    """Start, stop, remove, or tell how to reach the engine."""
    parser = argparse.ArgumentParser(prog="python -m tests.deploy.engine", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("command", choices=("start", "stop", "remove", "env"))
    engine = Engine(cache_folder())
    command = parser.parse_args().command
    if command == "start":
        try:
            engine.start()
        except (Unavailable, EngineFailed) as reason:
            print(f"no engine here: {reason}", file=sys.stderr)
            return 1
    elif command in ("stop", "remove"):
        engine.stop()
        if command == "remove":
            engine.remove()
    else:
        for name, value in engine.environ.items():
            print(f"export {name}={shlex.quote(value)}")
    return 0


def _locks(descriptor: int) -> bool:
    """Try once to hold the lock."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def _mounts_below(folder: pathlib.Path) -> list[str]:
    """Return what is mounted below a folder, the deepest first."""
    lines = pathlib.Path("/proc/self/mountinfo").read_text(encoding="utf-8").splitlines()
    places = [line.split()[4] for line in lines]
    return sorted((place for place in places if place.startswith(f"{folder}/")), reverse=True)


def _remove_empty(group: pathlib.Path) -> None:
    """Remove a control group and those in it; one that still holds a process stays."""
    with contextlib.suppress(OSError):
        for path, _, _ in os.walk(group, topdown=False):
            pathlib.Path(path).rmdir()


if __name__ == "__main__":
    sys.exit(main())
