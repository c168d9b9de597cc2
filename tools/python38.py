"""Runs the supervisor's suites on Python 3.8 for `make test`, in a virtual environment of their own (`.venv38`).

Where no Python 3.8 is found, that is said aloud and is not a failure.
"""

from __future__ import annotations

import hashlib
import os
import pathlib
import shutil
import subprocess
import sys
from collections.abc import Iterator

#: The virtual environment, the lock it holds, and the file in it that names the lock's content.
VENV = pathlib.Path(".venv38")
LOCK = pathlib.Path("requirements/supervisor-py38.txt")
STAMP = VENV / ".lock"
#: What runs: whatever of these folders needs neither the web half's packages nor torch.
SUITES = [folder for folder in ("tests/unit", "tests/contract", "tests/integration") if pathlib.Path(folder).is_dir()]
MARKS = "not service and not torch and not browser"
#: pytest's code for "no tests were found".
NO_TESTS = 5


def main() -> int:
    """Find the interpreter, install, run."""
    interpreter = next(filter(works, candidates()), None)
    if interpreter is None:
        print(
            "SKIPPED the supervisor's suites on Python 3.8: none runs on PATH, none is pyenv's (PYTHON38=… names one)"
        )
        return 0
    install(interpreter)
    print(f"the supervisor's suites on Python 3.8 ({interpreter})", flush=True)
    code = subprocess.run([VENV / "bin/python", "-m", "pytest", "-m", MARKS, *SUITES], check=False).returncode
    return 0 if code == NO_TESTS else code


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


def install(interpreter: str) -> None:
    """Make the environment, unless it already holds this very lock."""
    wanted = hashlib.sha256(LOCK.read_bytes()).hexdigest()
    if STAMP.is_file() and STAMP.read_text(encoding="utf-8") == wanted:
        return
    print(f"installing for Python 3.8 ({LOCK})", flush=True)
    subprocess.run([interpreter, "-m", "venv", "--clear", VENV], check=True)
    pip = [str(VENV / "bin/python"), "-m", "pip", "install", "-qq", "--disable-pip-version-check"]
    subprocess.run([*pip, "--no-deps", "--require-hashes", "-r", str(LOCK)], check=True)
    STAMP.write_text(wanted, encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
