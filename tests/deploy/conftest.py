"""The deployment's suites: real images, containers and daemons, so they run only where they are asked for.

`make test-deploy` sets DEPLOY_TESTS=1; without it these files are left out of a run, which says so. All are marked
`deploy`.
"""

import os
import pathlib
from collections.abc import Callable, Iterator

import pytest

from tests.deploy.engine import Engine, running
from tests.deploy.engine_programs import Unavailable

WANTED = os.environ.get("DEPLOY_TESTS") == "1"
#: Longest that a test may take, seconds. Its fixtures are no part of that: they wait for another run, download and
#: build, at the first time for minutes.
TEST_LIMIT_S = 900
#: What the tests measured, shown at the end of the run; and the files that were left out.
_figures: list[str] = []
_left_out: list[str] = []


def pytest_configure(config: pytest.Config) -> None:
    """Name the marker."""
    config.addinivalue_line("markers", "deploy: builds images and runs containers, as root on Debian")


def pytest_ignore_collect(collection_path: pathlib.Path) -> bool | None:
    """Leave these suites out unless they are asked for, with DEPLOY_TESTS=1 or by name."""
    if WANTED or not collection_path.name.startswith("test_"):
        return None
    _left_out.append(collection_path.name)
    return True


def pytest_itemcollected(item: pytest.Item) -> None:
    """Mark every test of this folder, and limit it."""
    item.add_marker("deploy")
    item.add_marker(pytest.mark.timeout(TEST_LIMIT_S, func_only=True))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say what was left out, or what was measured."""
    if _left_out:
        names = ", ".join(sorted(_left_out))
        terminalreporter.write_line(f"NOT RUN: tests/deploy ({names}): make test-deploy runs them, DEPLOY_TESTS=1 too")
    for figure in _figures:
        terminalreporter.write_line(f"measured: {figure}")


@pytest.fixture(scope="session")
def measured() -> Callable[[str], None]:
    """Return `measured(sentence)`, which shows a figure at the end of the run."""
    return _figures.append


@pytest.fixture(scope="session")
def engine() -> Iterator[Engine]:
    """A Docker engine of our own; on a machine that is not one for it, what needs it is skipped with the reason."""
    try:
        with running() as ours:
            yield ours
    except Unavailable as reason:
        pytest.skip(f"no Docker engine here: {reason}")
