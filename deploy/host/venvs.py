"""Virtual environments, one per lock: an unchanged lock installs nothing. Both halves have their own.

The user of deployments makes them; nothing of a release runs as root.
"""

from __future__ import annotations

import hashlib
import os
import pathlib
import shutil
from collections.abc import Sequence
from typing import Callable

from deploy.host import releases, units
from deploy.host.layout import HOST_SETTINGS, Layout

#: In an environment's folder: the environment, and a mark that everything is installed in it.
ENVIRONMENT, STAMP = "env", "complete"
#: Locks without hashes, installed with what they bring: the package index chooses the build of torch.
UNHASHED = frozenset({"torch.txt"})
Say = Callable[[str], None]


def provide(
    layout: Layout, release: pathlib.Path, half: str, locks: Sequence[str], python: str, say: Say
) -> pathlib.Path:
    """Return an environment with a release's locks installed, in their order.

    Raises `OSError` when there is no such Python, `UnitFailed` when a package cannot be had.
    """
    files = [release / releases.APP / "requirements" / lock for lock in locks]
    found = shutil.which(python)
    if found is None:
        raise FileNotFoundError("there is no {} here: install it, or name another in {}".format(python, HOST_SETTINGS))
    digest = hashlib.sha256(os.path.realpath(found).encode())
    for file in files:
        digest.update(file.read_bytes())
    folder = layout.venvs / "{}-{}".format(half, digest.hexdigest()[:16])
    if not (folder / STAMP).exists():
        say("installing {} into {}".format(", ".join(locks), folder))
        _make(folder, files, found)
    return folder / ENVIRONMENT


def _make(folder: pathlib.Path, files: Sequence[pathlib.Path], python: str) -> None:
    """Make an environment and install the locks from the host's package index."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    venv = units.workplace(folder / ENVIRONMENT)
    units.build(venv, [python, "-m", "venv", str(venv)])
    for file in files:
        exact = [] if file.name in UNHASHED else ["--no-deps", "--require-hashes"]
        pip = [str(venv / "bin/python"), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        units.build(venv, [*pip, *exact, "--requirement", str(file)])
    (folder / STAMP).touch()


def compile_ahead(release: pathlib.Path, venv: pathlib.Path, packages: Sequence[str]) -> None:
    """Write the byte code that the units, which may not write there, would compile at every start."""
    units.build(release / releases.APP, [str(venv / "bin/python"), "-m", "compileall", "-q", *packages])
