"""Virtual environments, one per lock: an unchanged lock installs nothing. Both halves have their own."""

from __future__ import annotations

import hashlib
import os
import pathlib
import shutil
import subprocess
from collections.abc import Callable, Sequence

from deploy.host.layout import HOST_SETTINGS, Layout

#: Written into an environment when everything is installed.
STAMP = ".complete"
#: Locks without hashes, installed with what they bring: the package index chooses the build of torch.
UNHASHED = frozenset({"torch.txt"})
Say = Callable[[str], None]


def provide(layout: Layout, release: pathlib.Path, half: str, locks: Sequence[str], python: str, say: Say) -> None:
    """Link `.venv-HALF` in a release to an environment with its locks installed, in their order.

    Raises `OSError` and `CalledProcessError` when there is no such Python, or a package cannot be had.
    """
    files = [release / "requirements" / lock for lock in locks]
    found = shutil.which(python)
    if found is None:
        raise FileNotFoundError("there is no {} here: install it, or name another in {}".format(python, HOST_SETTINGS))
    digest = hashlib.sha256(os.path.realpath(found).encode())
    for file in files:
        digest.update(file.read_bytes())
    venv = layout.venvs / "{}-{}".format(half, digest.hexdigest()[:16])
    if not (venv / STAMP).exists():
        say("installing {} into {}".format(", ".join(locks), venv))
        shutil.rmtree(venv, ignore_errors=True)
        subprocess.run([python, "-m", "venv", str(venv)], check=True)
        for file in files:
            _install(venv, file)
        (venv / STAMP).touch()
    link(release, half, venv)


def link(release: pathlib.Path, half: str, venv: pathlib.Path) -> None:
    """Link `.venv-HALF` in a release to an environment."""
    place = release / ".venv-{}".format(half)
    place.unlink(missing_ok=True)
    place.symlink_to(venv)


def _install(venv: pathlib.Path, file: pathlib.Path) -> None:
    """Install one lock from the host's package index."""
    exact = [] if file.name in UNHASHED else ["--no-deps", "--require-hashes"]
    pip = [str(venv / "bin/python"), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*pip, *exact, "--requirement", str(file)], check=True)


def compile_ahead(release: pathlib.Path, half: str, packages: Sequence[str]) -> None:
    """Write the byte code that the units, which may not write there, would compile at every start."""
    python = str(release / ".venv-{}".format(half) / "bin/python")
    subprocess.run([python, "-m", "compileall", "-q", *packages], cwd=str(release), check=True)
