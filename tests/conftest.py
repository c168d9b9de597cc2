"""What every suite shares: waiting for something, a short folder, and child processes that leave nothing behind.

Also runs on Python 3.8, where files that import the web half or torch are left out and named.
"""

import ast
import contextlib
import importlib.util
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from typing import Callable, Dict, Iterator, List, Mapping, Optional, Sequence, Set

import pytest

#: What is there on Python 3.11 only: the web half, this project's tools, and what only they need.
NOT_ON_38 = frozenset({"service", "tools", "flask", "werkzeug", "gunicorn", "schemathesis", "selenium", "yaml"})
#: What is there on Python 3.8 in an environment for IPUs only.
PERHAPS_ON_38 = frozenset({"torch", "transformers", "numpy"})
#: How often a condition is looked at, seconds (chosen: short against every limit, long against the cost of looking).
LOOK_EVERY_S = 0.02
#: Most that one turn of the running clock counts, seconds (chosen: far above a turn on a busy machine, far below what
#: a pause of the machine costs).
TURN_S = 0.1
#: How long a child may take to end after SIGTERM before it is killed, seconds (chosen).
STOP_LIMIT_S = 15.0

_children = pytest.StashKey[List["Child"]]()
_left_out: Dict[str, str] = {}


def pytest_configure(config: pytest.Config) -> None:
    """Start children as a terminal does, also where the suite runs in the background of a shell that ignores SIGINT."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_ignore_collect(collection_path: pathlib.Path) -> Optional[bool]:
    """Leave a file out on Python 3.8 when it imports at its top what is not there."""
    if sys.version_info >= (3, 9) or collection_path.suffix != ".py" or not collection_path.name.startswith("test_"):
        return None
    imported = _imported(collection_path)
    absent = sorted(imported & NOT_ON_38)
    absent += sorted(name for name in imported & PERHAPS_ON_38 if importlib.util.find_spec(name) is None)
    if absent:
        _left_out[str(collection_path)] = ", ".join(absent)
    return True if absent else None


def pytest_terminal_summary(terminalreporter: "pytest.TerminalReporter") -> None:
    """Name the files that were left out."""
    for path, absent in sorted(_left_out.items()):
        terminalreporter.write_line("NOT ON PYTHON 3.8: {} (imports {})".format(os.path.relpath(path), absent))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Iterator[None]:
    """Put the logs of a failed test's children into its report."""
    report = yield
    if report.failed:  # type: ignore[attr-defined]
        module = item.getparent(pytest.Module)
        shared = module.stash.get(_children, []) if module else []
        for child in [*shared, *item.stash.get(_children, [])]:
            title = "log of process {} ({})".format(child.pid, " ".join(child.args))
            report.sections.append((title, child.log_text()))  # type: ignore[attr-defined]
    return report


def _imported(path: pathlib.Path) -> Set[str]:
    """Return the top-level packages that a file imports at its top level."""
    nodes = ast.parse(path.read_bytes()).body
    modules = [alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names]
    modules += [node.module for node in nodes if isinstance(node, ast.ImportFrom) and node.module]
    return {module.split(".")[0] for module in modules}


class RunningClock:
    """Seconds in which this process ran: a pause of the machine or of the process hardly counts.

    So no limit passes while nothing could happen, and nobody looks only once at what had no time to change. A thread
    of its own counts, for a look may take long, and that counts.
    """

    def __init__(self) -> None:
        """Begin at zero; the thread starts when the clock is first read."""
        self._ran_s = 0.0
        self._starting = threading.Lock()
        self._thread = threading.Thread(target=self._count, name="running clock", daemon=True)

    def __call__(self) -> float:
        """Return the moment."""
        with self._starting:
            if not self._thread.is_alive():
                self._thread.start()
        return self._ran_s

    def _count(self) -> None:
        """Add up turns, each at most `TURN_S`."""
        pause, before = threading.Event(), time.monotonic()
        while True:
            pause.wait(LOOK_EVERY_S)
            moment = time.monotonic()
            self._ran_s += min(moment - before, TURN_S)
            before = moment


#: What limits of tests, and bounds of what something may take, are measured with.
running_s = RunningClock()


class Child:
    """A process in a session of its own, whose stdout and stderr go to one file."""

    def __init__(self, args: Sequence[str], env: Mapping[str, str], cwd: Optional[str], log: pathlib.Path) -> None:
        """Start the process."""
        self.args = [str(arg) for arg in args]
        self._log = log
        with log.open("wb") as output:
            self.process = subprocess.Popen(
                self.args,
                env=dict(env),
                cwd=cwd,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self.pid = self.process.pid

    def log_text(self) -> str:
        """Return what the process and its children have written so far."""
        return self._log.read_text(encoding="utf-8", errors="replace")

    def wait(self, limit_s: float = STOP_LIMIT_S) -> int:
        """Wait for the process to end, and return its exit code; fail the test when the limit passes."""
        if not self.ends_within(limit_s):
            pytest.fail("not within {:g} s: process {} ends".format(limit_s, self.pid))
        return self.process.wait()

    def ends_within(self, limit_s: float) -> bool:
        """Wait for the process to end, and say whether it did."""
        return holds_within(lambda: self.process.poll() is not None, limit_s)

    def terminate(self, limit_s: float = STOP_LIMIT_S) -> int:
        """Send SIGTERM, wait, kill what is left of its group, and return the exit code."""
        if self.process.poll() is None:
            self.process.terminate()
        try:
            self.ends_within(limit_s)
        finally:
            self.kill()
        return self.process.returncode

    def kill(self) -> None:
        """Kill the process and everything in its group."""
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, signal.SIGKILL)
        self.wait()


@pytest.fixture(name="wait_until")
def wait_until_fixture() -> Callable[..., None]:
    """Return `wait_until(predicate, limit_s=10.0, what="")`, which fails the test when the limit passes."""
    return wait_until


def wait_until(predicate: Callable[[], object], limit_s: float = 10.0, what: str = "") -> None:
    """Look at `predicate` until it is true; fail the test when `limit_s` has passed on the running clock."""
    if not holds_within(predicate, limit_s):
        pytest.fail("not within {:g} s: {}".format(limit_s, what or getattr(predicate, "__name__", predicate)))


def holds_within(predicate: Callable[[], object], limit_s: float) -> bool:
    """Look at `predicate` until it is true or `limit_s` has passed on the running clock; say whether it became true."""
    limit, pause = running_s() + limit_s, threading.Event()
    while not predicate():
        if running_s() > limit:
            return False
        pause.wait(LOOK_EVERY_S)
    return True


@pytest.fixture
def short_dir() -> Iterator[pathlib.Path]:
    """Return a new folder with a path short enough for Unix sockets (at most 107 bytes), gone after the test."""
    yield from _short_dir()


@pytest.fixture(scope="module")
def short_dir_for_module() -> Iterator[pathlib.Path]:
    """Return a `short_dir` that is gone after the module."""
    yield from _short_dir()


def _short_dir() -> Iterator[pathlib.Path]:
    """Make a folder, and remove it afterwards."""
    root = tempfile.gettempdir()
    folder = pathlib.Path(tempfile.mkdtemp(prefix="t", dir=root if len(root) < 40 else "/tmp"))
    yield folder
    shutil.rmtree(str(folder), ignore_errors=True)


@pytest.fixture
def spawn(request: pytest.FixtureRequest, tmp_path: pathlib.Path) -> Iterator[Callable[..., Child]]:
    """Return `spawn(args, env=None, cwd=None)`: starts a `Child` that ends with the test; `env` is added to ours."""
    yield from _spawning(request.node, tmp_path)


@pytest.fixture(scope="module")
def spawn_for_module(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Callable[..., Child]]:
    """Return a `spawn` whose children end with the module."""
    yield from _spawning(request.node, tmp_path_factory.mktemp("children"))


def _spawning(node: pytest.Item, folder: pathlib.Path) -> Iterator[Callable[..., Child]]:
    """Yield a function that starts children, and end them afterwards."""
    children: List[Child] = []
    node.stash[_children] = children

    def start(args: Sequence[str], env: Optional[Mapping[str, str]] = None, cwd: Optional[str] = None) -> Child:
        log = folder / "child-{}.log".format(len(children))
        children.append(Child(args, {**os.environ, **(env or {})}, cwd, log))
        return children[-1]

    yield start
    for child in reversed(children):
        child.terminate()
