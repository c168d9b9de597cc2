"""Makes a CUDA build of torch importable on a machine without CUDA, by linking empty libraries in place of NVIDIA's.

For torch 2.0.1, which poptorch 3.3 needs: the package index has no CPU build of it, and the CUDA build refuses to load
without 1.6 GB of libraries that no test calls. Each stub has the name, the versions and the functions that torch's
own libraries ask for, so the loader is content; whoever calls one gets an error code. For tests, never for an image.

`tools/python38_ipu.py` runs it. Needs gcc and its readelf and nm.
"""

from __future__ import annotations

import pathlib
import re
import subprocess
import tempfile
from collections.abc import Iterable
from typing import NamedTuple

#: NVIDIA's libraries that torch is linked with. The driver's own is loaded only once CUDA is used.
NVIDIA = re.compile(r"lib(?!cuda\.so)(cu|nv|nccl)")
#: The library whose functions bear no version, and their names.
NCCL, NCCL_FUNCTION = "libnccl", re.compile(r"nccl[A-Z]")
#: What a stubbed function returns: no CUDA library calls this success (chosen).
FAILURE = 100


class Wants(NamedTuple):
    """What torch's libraries want of others: libraries by name, and functions with the version asked for, or none."""

    libraries: set[str]
    functions: set[tuple[str, str]]


def build(site: pathlib.Path) -> list[str]:
    """Put a stub beside torch's libraries in `site` for each of NVIDIA's that is missing there; return the names."""
    folder = site / "torch" / "lib"
    present = sorted([*folder.glob("*.so*"), *(site / "torch").glob("_C*.so")])
    wanted = wants(present)
    missing = sorted(wanted.libraries - {path.name for path in present})
    for name in missing:
        versions = (name, "") if name.startswith(NCCL) else (name,)
        _link(folder / name, {function for function, version in wanted.functions if version in versions})
    return missing


def wants(libraries: Iterable[pathlib.Path]) -> Wants:
    """Return which of NVIDIA's libraries and functions these libraries are linked with."""
    found = Wants(set(), set())
    for path in libraries:
        needed = re.findall(r"\(NEEDED\).*\[(.+)\]", _output("readelf", "--dynamic", str(path)))
        found.libraries.update(filter(NVIDIA.match, needed))
        for line in _output("nm", "--dynamic", "--undefined-only", str(path)).splitlines():
            function, _, version = line.split()[-1].partition("@")
            if NVIDIA.match(version) or (not version and NCCL_FUNCTION.match(function)):
                found.functions.add((function, version.lstrip("@")))
    return found


def _link(path: pathlib.Path, functions: set[str]) -> None:
    """Link one stub: every function fails, and the version of all of them is the library's own name."""
    with tempfile.TemporaryDirectory() as scratch:
        source, versions = pathlib.Path(scratch, "stub.c"), pathlib.Path(scratch, "stub.map")
        source.write_text("".join(f"int {name}(void) {{ return {FAILURE}; }}\n" for name in sorted(functions)))
        versions.write_text(f"{path.name} {{ global: *; }};\n")
        flags = [
            "-shared",
            "-fPIC",
            "-w",
            "-fno-builtin",
            f"-Wl,-soname,{path.name}",
            f"-Wl,--version-script,{versions}",
        ]
        _output("gcc", *flags, "-o", str(path), str(source))


def _output(*command: str) -> str:
    """Run a program and return what it printed."""
    return subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout
