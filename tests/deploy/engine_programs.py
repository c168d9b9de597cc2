"""The programs of a Docker engine, unpacked from Debian packages into a folder.

Debian 12 carries neither compose v2 nor an engine that knows `start_interval`, so they come from the next Debian:
single Go programs that need only its C library or this machine's. runc is this machine's own, because the next Debian's
needs a newer C library. Two tools are installed with apt-get where they lack, because they are many files: iptables
(containers reach their name server with it; no rule of the machine is touched) and mmdebstrap (see `base`).
"""

import contextlib
import os
import pathlib
import shutil
import subprocess
import tempfile

#: Packages of the next Debian, and of this machine's.
NEXT_DEBIAN = "trixie"
FROM_NEXT = ("docker.io", "docker-cli", "containerd", "docker-compose", "docker-buildx")
FROM_THIS = ("runc", "tini")
#: Where a package keeps its programs, and where Docker looks for its plugins, below the root.
BINARIES, PLUGINS = ("usr/bin", "usr/sbin"), "usr/libexec/docker/cli-plugins"
#: Debian's own keys.
KEYRING = pathlib.Path("/usr/share/keyrings/debian-archive-keyring.gpg")


#: Capabilities without which root cannot run containers (CAP_NET_ADMIN, CAP_SYS_ADMIN), as bits.
CAPABILITIES = 1 << 12 | 1 << 21
#: What a container is made of, tried with the kernel's own means; nothing of it is left. A machine that is itself a
#: container may have all capabilities and still be refused one of these.
KERNEL = """\
set -eu
mount -t tmpfs none /mnt && mkdir /mnt/lower /mnt/upper /mnt/work /mnt/merged
mount -t overlay none -o lowerdir=/mnt/lower,upperdir=/mnt/upper,workdir=/mnt/work /mnt/merged
groups=/sys/fs/cgroup
[ ! -d $groups/pids ] || groups=$groups/pids
rmdir "$(mktemp -d $groups/probe-XXXXXX)"
"""


class Unavailable(RuntimeError):
    """This machine is not one to run an engine on; the message says why."""


class EngineFailed(RuntimeError):
    """It is one, and yet something went wrong; the message says what."""


def check_machine() -> None:
    """Raise `Unavailable` where there is no root, no right to make containers, or another system than Debian."""
    if os.geteuid() != 0:
        raise Unavailable("not root")
    status = pathlib.Path("/proc/self/status").read_text(encoding="ascii")
    effective = int(next(line for line in status.splitlines() if line.startswith("CapEff:")).split()[1], 16)
    if effective & CAPABILITIES != CAPABILITIES:
        raise Unavailable("root without the capabilities to make containers")
    if shutil.which("apt-get") is None or not KEYRING.exists():
        raise Unavailable("not a Debian with apt-get")
    namespaces = ("--mount", "--net", "--pid", "--ipc", "--uts", "--fork", "--propagation", "private")
    tried = subprocess.run(["unshare", *namespaces, "sh", "-c", KERNEL], capture_output=True, text=True, check=False)
    if tried.returncode:
        raise Unavailable(f"the kernel refuses root what containers are made of: {tried.stderr.strip()}")


def obtain(folder: pathlib.Path) -> None:
    """Fill `folder` with bin/ and config/cli-plugins/, unless that was done before, and have iptables."""
    install_if_absent("iptables")
    if (folder / "bin/dockerd").exists():
        return
    check_machine()
    with tempfile.TemporaryDirectory(dir=folder) as name:
        scratch = pathlib.Path(name)
        download(FROM_NEXT, scratch / "debs", _next_debian(scratch))
        download(FROM_THIS, scratch / "debs")
        unpack(scratch / "debs", scratch / "root")
        _keep(scratch / "root", folder)


def apt(*arguments: str, options: tuple[str, ...] = (), cwd: pathlib.Path | None = None) -> str:
    """Run apt-get and return what it printed. Raises `EngineFailed` with its last words."""
    environ = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    done = subprocess.run(
        ["apt-get", "-qq", *options, *arguments], env=environ, cwd=cwd, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise EngineFailed(f"apt-get {' '.join(arguments)} failed: {done.stderr.strip()[-500:]}")
    return done.stdout


def install_if_absent(program: str) -> None:
    """Install a program on this machine from the package of its name."""
    if shutil.which(program) is None:
        check_machine()
        apt("update")
        apt("install", "-y", "--no-install-recommends", program)


def download(packages: tuple[str, ...], folder: pathlib.Path, options: tuple[str, ...] = ()) -> None:
    """Download packages without their dependencies."""
    folder.mkdir(parents=True, exist_ok=True)
    apt("update", options=options)
    apt("download", *packages, options=(*options, "-o", "APT::Sandbox::User=root"), cwd=folder)


def unpack(debs: pathlib.Path, root: pathlib.Path) -> None:
    """Unpack every package of a folder into one tree, running none of their scripts."""
    for deb in sorted(debs.glob("*.deb")):
        subprocess.run(["dpkg", "-x", deb, root], check=True)


def mirrors() -> dict[str, str]:
    """Return the addresses from which this machine takes Debian, by suite ("bookworm", "bookworm-security", …)."""
    apt("update")
    rows = apt("indextargets", "--format", "$(ORIGIN) $(COMPONENT) $(CODENAME) $(REPO_URI)", "Created-By: Packages")
    fields = [row.split() for row in rows.splitlines()]
    found = {row[2]: row[3] for row in fields if len(row) == 4 and row[:2] == ["Debian", "main"]}
    if not found:
        raise EngineFailed("apt-get takes no package from Debian here")
    return found


def _next_debian(scratch: pathlib.Path) -> tuple[str, ...]:
    """Return the options with which apt-get sees the next Debian only, and leaves this machine's lists alone."""
    address = next(uri for suite, uri in sorted(mirrors().items()) if "-" not in suite)
    for name in ("lists/partial", "cache/archives/partial"):
        (scratch / name).mkdir(parents=True)
    sources = scratch / "sources.list"
    sources.write_text(f"deb [signed-by={KEYRING}] {address} {NEXT_DEBIAN} main\n", encoding="utf-8")
    values = {
        "Dir::Etc::sourcelist": sources,
        "Dir::Etc::sourceparts": "-",
        "Dir::State::lists": scratch / "lists",
        "Dir::Cache": scratch / "cache",
    }
    return tuple(part for name, value in values.items() for part in ("-o", f"{name}={value}"))


def _keep(root: pathlib.Path, folder: pathlib.Path) -> None:
    """Move the programs and plugins to their places; dockerd comes last, because it tells that all are there."""
    plugins = folder / "config/cli-plugins"
    for place in (plugins, folder / "bin"):
        place.mkdir(parents=True, exist_ok=True)
    for plugin in (root / PLUGINS).iterdir():
        shutil.move(plugin, plugins / plugin.name)
    programs = [path for place in BINARIES for path in (root / place).iterdir() if path.is_file()]
    for program in sorted(programs, key=lambda path: path.name == "dockerd"):
        shutil.move(program, folder / "bin" / program.name)
    with contextlib.suppress(FileExistsError):
        (folder / "bin/docker-init").symlink_to("tini-static")
