"""The deployment's suites: real images, containers and daemons, so they run only where they are asked for.

`make test-deploy` sets DEPLOY_TESTS=1; without it these files are left out of a run, which says so.
"""

import os
import pathlib
from collections.abc import Iterator

import pytest

from tests.deploy.engine import Engine, running
from tests.deploy.engine_programs import Unavailable

WANTED = os.environ.get("DEPLOY_TESTS") == "1"


def pytest_ignore_collect(collection_path: pathlib.Path) -> bool | None:
    """Leave these suites out unless they are asked for."""
    return None if WANTED or not collection_path.name.startswith("test_") else True


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say what was left out."""
    if not WANTED:
        terminalreporter.write_line("NOT RUN: tests/deploy (make test-deploy runs it; it sets DEPLOY_TESTS=1)")


@pytest.fixture(scope="session")
def engine() -> Iterator[Engine]:
    """A Docker engine of our own; where the machine cannot have one, what needs it is skipped with the reason."""
    try:
        with running() as ours:
            yield ours
    except Unavailable as reason:
        pytest.skip(f"no Docker engine here: {reason}")
