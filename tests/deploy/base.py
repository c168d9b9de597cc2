"""Base images out of Debian packages, for machines that reach no registry of images.

`base_image(engine)` stands in for `python:3.11-slim-bookworm`: the same system and Python's minor version, but Debian's
own build of it under /usr. `image(engine, name, packages)` makes one of any packages. Made once, then kept by the
engine.
"""

import hashlib
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile

from tests.deploy.engine import CommandFailed, Engine, running
from tests.deploy.engine_programs import EngineFailed, install_if_absent, mirrors

#: The release that all images are made of.
RELEASE = "bookworm"
#: Names of our images begin so.
PREFIX = "ipu-model-server-tests/"
PYTHON = ("python3", "python3-venv", "python3-pip", "ca-certificates", "netbase", "tzdata")
#: What makes Debian's Python look like that of the official image: `python` first in PATH, and pip may install.
LIKE_OFFICIAL = (
    'rm -f "$1"/usr/lib/python3*/EXTERNALLY-MANAGED',
    'ln -s /usr/bin/python3 "$1"/usr/local/bin/python',
    'ln -s /usr/bin/python3 "$1"/usr/local/bin/python3',
)
#: Left out of every image.
EXCLUDED = ("/usr/share/doc/*", "/usr/share/man/*", "/usr/share/locale/*")
#: Memory that makes a system faster to build, and how much of it must be free for that, bytes (the image takes 0.5 GB).
MEMORY, MEMORY_BYTES = pathlib.Path("/dev/shm"), 2 * 1024**3


def base_image(engine: Engine) -> str:
    """Return the name of the image with Python, made if it is not there."""
    return image(engine, "base", PYTHON, LIKE_OFFICIAL)


def image(engine: Engine, name: str, packages: tuple[str, ...], hooks: tuple[str, ...] = ()) -> str:
    """Return the name of a minimal Debian with `packages`; `hooks` are shell lines in which $1 is its root.

    The machine's own authorities are trusted in it, as far as it holds ca-certificates.
    """
    recipe = hashlib.sha256(repr((RELEASE, packages, hooks, EXCLUDED)).encode()).hexdigest()[:12]
    tag = f"{PREFIX}{name}:{recipe}"
    try:
        engine.docker("image", "inspect", tag)
    except CommandFailed:
        _make(engine, tag, packages, hooks)
    return tag


def _make(engine: Engine, tag: str, packages: tuple[str, ...], hooks: tuple[str, ...]) -> None:
    """Build the system and import it."""
    install_if_absent("mmdebstrap")
    roomy = MEMORY.is_dir() and shutil.disk_usage(MEMORY).free > MEMORY_BYTES
    with tempfile.TemporaryDirectory(dir=MEMORY if roomy else engine.folder) as scratch:
        tar = pathlib.Path(scratch) / "system.tar"
        made = subprocess.run(
            _mmdebstrap(tar, packages, hooks),
            env={**os.environ, "TMPDIR": scratch},
            capture_output=True,
            text=True,
            check=False,
        )
        if made.returncode:
            raise EngineFailed(f"mmdebstrap failed: {made.stderr.strip()[-1000:]}")
        path = "/usr/local/bin:/usr/local/sbin:/usr/bin:/usr/sbin:/bin:/sbin"
        changes = [f"ENV PATH={path} LANG=C.UTF-8", 'CMD ["python3"]']
        engine.docker("import", *(part for change in changes for part in ("-c", change)), str(tar), tag)


def _mmdebstrap(tar: pathlib.Path, packages: tuple[str, ...], hooks: tuple[str, ...]) -> list[str]:
    """Return the command that builds a minimal system as a tar file."""
    authorities = "/etc/ssl/certs/ca-certificates.crt"
    trust = f'[ ! -d "$1"/etc/ssl/certs ] || cp {authorities} "$1"{authorities}'
    sources = [f"deb {uri} {suite} main" for suite, uri in mirrors().items() if suite.startswith(RELEASE)]
    return [
        *("mmdebstrap", "--mode=root", "--variant=minbase", f"--include={','.join(packages)}"),
        *(f"--dpkgopt=path-exclude={pattern}" for pattern in EXCLUDED),
        "--dpkgopt=force-unsafe-io",
        '--aptopt=APT::Install-Recommends "0"',
        *(f"--customize-hook={hook}" for hook in (*hooks, trust)),
        *(RELEASE, str(tar), *sources),
    ]


if __name__ == "__main__":
    with running() as ours:
        sys.stdout.write(base_image(ours) + "\n")
