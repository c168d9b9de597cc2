"""Writes the locks in requirements/ (`python -m tools.locks`), and says what is wrong with one.

Resolving ignores every setting of the machine's pip and uv but its certificates and proxies, so that the same locks
come out everywhere and nothing of the machine gets into them.
"""

from __future__ import annotations

import os
import pathlib
import re
import subprocess
import sys
from collections.abc import Iterator
from typing import NamedTuple

#: Where the locks are.
FOLDER = pathlib.Path("requirements")
#: optimum-graphcore asks for torch, which comes by a step of its own or with the image: its locks are resolved without.
WITHOUT_TORCH = "--override=requirements/ipu-without-torch.in"
#: Each lock that is resolved, and what it is made from. `dev.txt` comes first: it holds everything for Python 3.11,
#: and the others take their versions from it. optimum-graphcore's locks stand apart: it needs far older versions.
SOURCES: dict[str, list[str]] = {
    "dev.txt": ["pyproject.toml", "--all-extras", "--python-version=3.11"],
    "service.txt": ["pyproject.toml", "--extra=service", "--python-version=3.11", "--constraint=requirements/dev.txt"],
    "supervisor-cpu.txt": [
        "pyproject.toml",
        "--extra=cpu",
        "--python-version=3.11",
        "--constraint=requirements/dev.txt",
    ],
    "supervisor-py38.txt": ["requirements/supervisor-py38.in", "--python-version=3.8"],
    "lint.txt": ["requirements/lint.in", "--python-version=3.11"],
    "demo.txt": ["requirements/demo.in", "--no-deps", "--python-version=3.11"],
    "supervisor-ipu.txt": [
        "requirements/supervisor-ipu.in",
        "--python-version=3.8",
        "--constraint=requirements/supervisor-py38.txt",
        WITHOUT_TORCH,
    ],
    "ipu-standin.txt": ["requirements/ipu-standin.in", "--python-version=3.11", WITHOUT_TORCH],
    "ipu-build.txt": [
        "requirements/ipu-build.in",
        "--python-version=3.8",
        "--constraint=requirements/supervisor-ipu.txt",
    ],
}
#: The lock whose lines carry no hash.
UNHASHED = frozenset({"torch.txt"})
#: What only torch may bring, with the build that the package index holds.
TORCH_ONLY = re.compile(r"(torch|triton|nvidia-.*|cuda-.*)\Z")
#: One line of a lock: an exact version without a local part, perhaps a marker, and hashes.
LINE = re.compile(
    r"(?P<name>[a-z0-9][a-z0-9-]*)==(?P<version>[0-9][0-9a-z.!]*)"
    r"(?P<marker> ; [a-z_]+ [<>=!]+ '[^']*'(?: (?:and|or) [a-z_]+ [<>=!]+ '[^']*')*)?"
    r"(?P<hashes>(?: +--hash=sha256:[0-9a-f]{64})*)\Z"
)
#: What has no business anywhere in a lock, comments included: addresses, absolute and home paths.
FOREIGN = re.compile(r"://|\bfile:|(?:^|[\s=@'\"])(?:/|~/|\.\.?/|[A-Za-z]:\\)")


class Pin(NamedTuple):
    """One package of a lock."""

    name: str
    version: str


def pins(text: str) -> list[Pin]:
    """Return the packages of a lock that has no faults."""
    matches = [LINE.match(line) for line in _requirements(text)]
    return [Pin(match["name"], match["version"]) for match in matches if match]


def faults(text: str, hashed: bool = True) -> list[str]:
    """Return a sentence for everything in a lock that could resolve differently elsewhere, or that names a machine."""
    found = [f"names a place: {line.strip()}" for line in text.splitlines() if FOREIGN.search(line)]
    for line in _requirements(text):
        match = LINE.match(line)
        if not match:
            found.append(f"not an exact version: {line}")
        elif hashed and not match["hashes"]:
            found.append(f"without a hash: {line}")
        elif hashed and TORCH_ONLY.match(match["name"]):
            found.append(f"belongs to torch, which is installed by its own step: {line}")
    return found


def write(name: str, upgrade: bool) -> None:
    """Resolve one lock anew; versions that still fit are kept unless `upgrade`."""
    command = [
        *(sys.executable, "-m", "uv", "pip", "compile", "--quiet", "--no-config", "--system-certs"),
        *("--generate-hashes", "--python-platform=x86_64-manylinux_2_28", "--custom-compile-command=make lock"),
        *("--no-emit-index-url", "--no-emit-find-links", "--output-file", str(FOLDER / name)),
        *(["--upgrade"] if upgrade else []),
        *SOURCES[name],
    ]
    subprocess.run(command, check=True, env=_environment())


def main() -> int:
    """Write all locks, and refuse to end well when one has a fault."""
    for name in SOURCES:
        print(f"resolving {FOLDER / name}", flush=True)
        write(name, upgrade="--upgrade" in sys.argv)
    bad = [
        f"{path}: {fault}"
        for path in sorted(FOLDER.glob("*.txt"))
        for fault in faults(path.read_text(encoding="utf-8"), path.name not in UNHASHED)
    ]
    for line in bad:
        print(line, file=sys.stderr)
    return 1 if bad else 0


def _environment() -> dict[str, str]:
    """Return the environment without anything that tells pip or uv where to look."""
    return {name: value for name, value in os.environ.items() if not name.startswith(("PIP_", "UV_"))}


def _requirements(text: str) -> Iterator[str]:
    """Yield the requirements of a lock, each with its hashes on one line."""
    for line in text.replace("\\\n", " ").splitlines():
        bare = re.sub(r"(^|\s)#.*", "", line).strip()
        if bare:
            yield re.sub(r"\s+", " ", bare)


if __name__ == "__main__":
    sys.exit(main())
