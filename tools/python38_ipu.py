"""Runs the supervisor's suites and those of tests/ipu on what the IPU image holds (`make test-ipu38`).

That is Python 3.8, the real optimum-graphcore and torch 2.0.1, in an environment of their own (`.venv38-ipu`).
Not part of `make test`: the only build of torch 2.0.1 that a package index has is made for CUDA and weighs 620 MB. What
is missing, a suite without a test too, is said aloud and fails: who asks for these suites by name wants them run.
"""

from __future__ import annotations

import pathlib
import shutil
import subprocess
import sys
import time

from tools import cuda_stubs, python38

#: The virtual environment, and what pip is given to fill it, one list for each call. The first lock holds what builds
#: the one package without a wheel; torch's own needs are in the second, but for the libraries that are stubbed.
VENV = pathlib.Path(".venv38-ipu")
LOCKED = ["--no-deps", "--require-hashes", "--no-build-isolation", "-r"]
STEPS = [
    [*LOCKED, "requirements/ipu-build.txt"],
    [*LOCKED, "requirements/supervisor-ipu.txt", "-r", "requirements/supervisor-py38.txt"],
    ["--no-deps", "torch==2.0.1"],
]
#: The suites that need optimum-graphcore, run after the supervisor's own.
SUITES = "tests/ipu"
#: What the stubs are made with.
TOOLS = ("gcc", "readelf", "nm")


def main() -> int:
    """Install, make torch importable, run both sets of suites, and say how long each step took."""
    interpreter = python38.find()
    if interpreter is None:
        print("NOT RUN on Python 3.8: none runs on PATH, none is pyenv's (PYTHON38=… names one)", file=sys.stderr)
        return 1
    started = time.monotonic()
    python38.install(interpreter, VENV, STEPS)
    if not (imports_torch() or stub()):
        return 1
    _say(f"{VENV} is ready ({_size()})", started)
    return int(any([_run(["-m", python38.MARKS, *python38.SUITES]), _run([SUITES])]))


def imports_torch() -> bool:
    """Say whether torch can be imported as it is: it can where the package index holds a CPU build."""
    return not subprocess.run([VENV / "bin/python", "-c", "import torch"], capture_output=True, check=False).returncode


def stub() -> bool:
    """Link what torch's CUDA build lacks here, and say whether it can be imported then."""
    lacking = [tool for tool in TOOLS if not shutil.which(tool)]
    if lacking:
        print(
            f"NOT RUN on Python 3.8: this build of torch needs stubs, and {', '.join(lacking)} is not here (on "
            "Debian and Ubuntu: apt-get install gcc libc6-dev)",
            file=sys.stderr,
        )
        return False
    names = cuda_stubs.build(next(VENV.glob("lib/python3.8/site-packages")))
    print(f"this torch is built for CUDA, which no test uses: {len(names)} libraries stubbed: {' '.join(names)}")
    return not subprocess.run([VENV / "bin/python", "-c", "import torch"], check=False).returncode


def _run(arguments: list[str]) -> int:
    """Run one set of suites."""
    print(f"on Python 3.8 with optimum-graphcore and torch 2.0.1: {' '.join(arguments)}", flush=True)
    started = time.monotonic()
    code = python38.suites(VENV, arguments)
    _say(f"{arguments[-1]} ended with {code}", started)
    return code


def _say(what: str, started: float) -> None:
    """Print a line with the time that passed."""
    print(f"{what}: {time.monotonic() - started:.0f} s", flush=True)


def _size() -> str:
    """Return how much room the environment takes."""
    return subprocess.run(["du", "-sh", VENV], stdout=subprocess.PIPE, text=True, check=True).stdout.split()[0]


if __name__ == "__main__":
    sys.exit(main())
