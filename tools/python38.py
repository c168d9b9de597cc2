"""Runs the supervisor's suites on Python 3.8 for `make test`, in a virtual environment of their own (`.venv38`).

Where no Python 3.8 is found, that is said aloud and is not a failure. `tools/python38_ipu.py` does the same with
optimum-graphcore, and takes the interpreter and the way to install from here.
"""

from __future__ import annotations

import hashlib
import os
import pathlib
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence

#: The virtual environment, and what pip is given to fill it, one list for each call.
VENV = pathlib.Path(".venv38")
STEPS = [["--no-deps", "--require-hashes", "-r", "requirements/supervisor-py38.txt"]]
#: The file in a virtual environment that names what it was made from.
STAMP = ".lock"
#: What runs: whatever of these folders needs neither the web half's packages nor torch.
SUITES = [folder for folder in ("tests/unit", "tests/contract", "tests/integration") if pathlib.Path(folder).is_dir()]
MARKS = "not service and not torch and not browser"
#: pytest's code for "no tests were found".
NO_TESTS = 5


def main() -> int:
    """Find the interpreter, install, run."""
    interpreter = find()
    if interpreter is None:
        print(
            "SKIPPED the supervisor's suites on Python 3.8: none runs on PATH, none is pyenv's (PYTHON38=… names one)"
        )
        return 0
    install(interpreter, VENV, STEPS)
    print(f"the supervisor's suites on Python 3.8 ({interpreter})", flush=True)
    code = suites(VENV, ["-m", MARKS, *SUITES])
    return 0 if code == NO_TESTS else code


def find() -> str | None:
    """Return the best Python 3.8 of this machine, if there is one."""
    return next(filter(works, candidates()), None)


def candidates() -> Iterator[str]:
    """Yield what may be a Python 3.8, best first."""
    yield os.environ.get("PYTHON38", "")
    yield shutil.which("python3.8") or ""
    root = pathlib.Path(os.environ.get("PYENV_ROOT") or pathlib.Path.home() / ".pyenv")
    yield from map(str, sorted(root.glob("versions/3.8*/bin/python"), reverse=True))


def works(interpreter: str) -> bool:
    """Say whether this is a Python 3.8 that runs and can make virtual environments (pyenv's shims may not)."""
    probe = "import ensurepip, sys, venv; sys.exit(sys.version_info[:2] != (3, 8))"
    try:
        return (
            bool(interpreter)
            and not subprocess.run([interpreter, "-c", probe], capture_output=True, timeout=30, check=False).returncode
        )
    except (OSError, subprocess.TimeoutExpired):
        return False


def install(interpreter: str, venv: pathlib.Path, steps: Sequence[Sequence[str]]) -> None:
    """Make the environment, unless the same steps with the same locks made it already."""
    wanted = fingerprint(steps)
    stamp = venv / STAMP
    if stamp.is_file() and stamp.read_text(encoding="utf-8") == wanted:
        return
    subprocess.run([interpreter, "-m", "venv", "--clear", venv], check=True)
    for step in steps:
        print(f"installing for Python 3.8: {' '.join(step)}", flush=True)
        pip = [str(venv / "bin/python"), "-m", "pip", "install", "-qq", "--disable-pip-version-check"]
        subprocess.run([*pip, *step], check=True)
    stamp.write_text(wanted, encoding="utf-8")


def fingerprint(steps: Sequence[Sequence[str]]) -> str:
    """Return what changes when a step, or a file that it names, does."""
    digest = hashlib.sha256(repr([list(step) for step in steps]).encode())
    for path in (pathlib.Path(word) for step in steps for word in step if word.endswith(".txt")):
        digest.update(path.read_bytes())
    return digest.hexdigest()


def suites(venv: pathlib.Path, arguments: Sequence[str]) -> int:
    """Run pytest in an environment, and return its code."""
    return subprocess.run([venv / "bin/python", "-m", "pytest", *arguments], check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
