"""A "VM" to deploy to: systemd, sshd and Python 3.11 on Debian, in a container of the tests' own engine.

It has a network that reaches nowhere but this machine, and a folder of wheels in the place of a package index.
"""

import contextlib
import hashlib
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile

from tests.conftest import holds_within
from tests.deploy.base import image
from tests.deploy.engine import CommandFailed, Engine

PACKAGES = tuple(
    "systemd systemd-sysv dbus python3 python3-venv ca-certificates openssh-server iproute2 sudo procps".split()
)
#: Makes the container's own control groups writable, then becomes systemd.
ENTRY = """\
for group in /sys/fs/cgroup/*; do mount -o remount,bind,rw "$group" 2>/dev/null; done
export container=docker
exec /sbin/init
"""
#: What systemd needs to be PID 1 of a container: its own control groups, mounts of its own, three tmpfs.
RUN_OPTIONS = (
    *("--pull", "never", "--cap-add", "ALL", "--cgroupns", "private"),
    *("--security-opt", "seccomp=unconfined", "--security-opt", "systempaths=unconfined"),
    *("--tmpfs", "/run:exec", "--tmpfs", "/run/lock", "--tmpfs", "/tmp:exec", "--stop-signal", "SIGRTMIN+3"),
)
#: A user as a cloud's image has one: may do everything with sudo.
USER = "debian"
PREPARE = f"""\
useradd --create-home --shell /bin/bash {USER}
echo '{USER} ALL=(ALL) NOPASSWD: ALL' >/etc/sudoers.d/cloud
install -d -m 700 -o {USER} -g {USER} /home/{USER}/.ssh
rm -f /etc/ssh/ssh_host_*
printf '[global]\\nno-index = true\\nfind-links = /wheels\\n' >/etc/pip.conf
"""
#: Longest wait for the machine to boot, seconds.
BOOT_LIMIT_S = 60.0
ROOT = pathlib.Path(__file__).resolve().parents[2]
#: Everything that a deployment with demo checkpoints installs; torch has no hash.
LOCKS = ("service.txt", "supervisor-cpu.txt", "demo.txt", "torch.txt")


class Vm:
    """One machine; `folder` holds its keys."""

    def __init__(self, engine: Engine, folder: pathlib.Path, name: str = "vm") -> None:
        """Store where it will run."""
        self._engine, self.folder, self.name, self.address = engine, folder, f"{name}-{os.getpid()}", ""

    def boot(self) -> None:
        """Make the machine and wait until it has booted. Alone in its network, it keeps its address."""
        made = image(self._engine, "vm", PACKAGES)
        wheels = wheelhouse(self._engine.folder)
        self._engine.docker("network", "create", self.name)
        place = ("--network", self.name, "--volume", f"{wheels}:/wheels:ro")
        options = ("--detach", "--name", self.name, "--hostname", "vm", *RUN_OPTIONS, *place)
        self._engine.docker("run", *options, made, "/bin/sh", "-c", ENTRY)
        address = f'{{{{(index .NetworkSettings.Networks "{self.name}").IPAddress}}}}'
        self.address = self._engine.docker("inspect", "--format", address, self.name).strip()
        self._wait_until_up()
        self._make_keys()

    def reboot(self) -> None:
        """Shut the machine down and start it again."""
        self._engine.docker("restart", "--time", "120", self.name)
        self._wait_until_up()

    def remove(self) -> None:
        """Take the machine away, and its network."""
        self._engine.docker("rm", "--force", self.name)
        with contextlib.suppress(CommandFailed):
            self._engine.docker("network", "rm", self.name)

    def root(self, command: str, check: bool = True) -> str:
        """Run a shell command as root on the machine and return what it printed."""
        try:
            return self._engine.docker("exec", self.name, "bash", "-c", command)
        except CommandFailed as error:
            if check:
                raise
            return str(error)

    def files(self) -> set[str]:
        """Return the paths of everything in the folders where software and settings are put."""
        return set(
            self.root("find /etc /opt /usr /var/cache /var/lib /run/model-server* 2>/dev/null || true").splitlines()
        )

    def write(self, path: str, text: str) -> None:
        """Write a file on the machine, as an administrator would."""
        with tempfile.NamedTemporaryFile("w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            self.root(f"mkdir -p {pathlib.PurePosixPath(path).parent}")
            self._engine.docker("cp", file.name, f"{self.name}:{path}")

    def copy(self, source: pathlib.Path, path: str) -> None:
        """Copy a file or a folder to the machine."""
        self._engine.docker("cp", str(source), f"{self.name}:{path}")

    def pid(self, unit: str) -> int:
        """Return the main process of a unit; 0 when it has none."""
        return int(self.root(f"systemctl show --property=MainPID --value {unit}"))

    def state(self, unit: str) -> str:
        """Return whether a unit is active."""
        return self.root(f"systemctl show --property=ActiveState --value {unit}").strip()

    def secrets(self) -> dict[str, str]:
        """Return the secrets of a GitHub environment for this machine."""
        key, host_key = (self.folder / name for name in ("key", "host_key.pub"))
        pinned = " ".join([self.address, *host_key.read_text(encoding="ascii").split()[:2]])
        secrets = {"SSH_KEY": key.read_text(encoding="ascii"), "SSH_KNOWN_HOSTS": pinned}
        return {**secrets, "USER": USER, "HOST_IP": self.address}

    def _wait_until_up(self) -> None:
        """Wait until systemd calls the machine running. Raises `CommandFailed` with what did not start."""
        if not holds_within(self._runs, BOOT_LIMIT_S):
            raise CommandFailed(self.root("systemctl --failed; journalctl -n 50 --no-pager", check=False))

    def _runs(self) -> bool:
        """Say whether systemd calls the machine running."""
        return self.root("systemctl is-system-running", check=False).strip() == "running"

    def _make_keys(self) -> None:
        """Give the machine its host key, and its user a key to come in with."""
        for name in ("key", "host_key"):
            subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", self.folder / name], check=True)
        self.root(PREPARE)
        places = {"key.pub": f"/home/{USER}/.ssh/authorized_keys", "host_key": "/etc/ssh/ssh_host_ed25519_key"}
        for name, place in places.items():
            restricted = "restrict " if name == "key.pub" else ""
            self.write(place, restricted + (self.folder / name).read_text(encoding="ascii"))
        self.root(f"chown {USER}: /home/{USER}/.ssh/authorized_keys; chmod 600 {' '.join(places.values())}")
        self.root("systemctl enable --quiet --now ssh; systemctl restart ssh")


def wheelhouse(cache: pathlib.Path) -> pathlib.Path:
    """Return a folder with the wheels of all locks, filled once for these locks."""
    digest = hashlib.sha256(b"".join((ROOT / "requirements" / lock).read_bytes() for lock in LOCKS)).hexdigest()[:12]
    folder = cache / f"wheels-{digest}"
    if folder.exists():
        return folder
    for old in cache.glob("wheels-*"):
        shutil.rmtree(old)
    partial = pathlib.Path(tempfile.mkdtemp(prefix="partial-", dir=cache))
    for lock in LOCKS:
        _download(lock, partial)
    partial.chmod(0o755)
    partial.rename(folder)
    return folder


def _download(lock: str, folder: pathlib.Path) -> None:
    """Download what one lock names, without what that brings."""
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(folder)]
    subprocess.run([*pip, "--requirement", f"requirements/{lock}"], cwd=ROOT, stderr=subprocess.DEVNULL, check=True)


def clone(folder: pathlib.Path, source: pathlib.Path = ROOT) -> pathlib.Path:
    """Return a repository of its own with the files of this work tree, committed."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=source,
        capture_output=True,
        check=True,
    )
    for name in filter(None, listed.stdout.decode().split("\0")):
        if (source / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(source / name, folder / name, follow_symlinks=False)
    git(folder, "init", "--quiet", "--initial-branch=main")
    commit(folder, "as it is")
    return folder


def commit(folder: pathlib.Path, message: str) -> str:
    """Commit everything in a clone and return the commit."""
    git(folder, "add", "--all")
    git(folder, "-c", "user.name=test", "-c", "user.email=test@localhost", "commit", "--quiet", "-m", message)
    return git(folder, "rev-parse", "HEAD").strip()


def git(folder: pathlib.Path, *arguments: str) -> str:
    """Run git in a folder."""
    return subprocess.run(["git", *arguments], cwd=folder, capture_output=True, text=True, check=True).stdout
