"""Starts what a benchmark measures, and stops it whatever happens."""

import contextlib
import os
import pathlib
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from tests.integration.stack import Stack

#: Longest wait for a service to become ready, seconds.
READY_LIMIT_S = 120.0


@contextlib.contextmanager
def stack(models: list[dict[str, Any]], **env: str) -> Iterator[Stack]:
    """Run both halves in a folder of their own, ready."""
    with processes() as spawn, folder() as place:
        running = Stack(spawn, place, models, LOG_LEVEL="WARNING", **env).start()
        wait(running.ready)
        yield running


@contextlib.contextmanager
def processes() -> Iterator[Callable[..., "subprocess.Popen[bytes]"]]:
    """Give `spawn(args, env, cwd)`; what it started ends with the block."""
    started: list[subprocess.Popen[bytes]] = []

    def spawn(args: Sequence[str], env: Mapping[str, str], cwd: str) -> "subprocess.Popen[bytes]":
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        started.append(subprocess.Popen(args, env={**os.environ, **env}, cwd=cwd, start_new_session=True, **quiet))
        return started[-1]

    try:
        yield spawn
    finally:
        for process in reversed(started):
            process.send_signal(signal.SIGTERM)
        for process in started:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(20)
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)


@contextlib.contextmanager
def folder() -> Iterator[pathlib.Path]:
    """Give a folder with a path short enough for sockets, gone after the block."""
    place = pathlib.Path(tempfile.mkdtemp(prefix="b", dir="/tmp"))
    try:
        yield place
    finally:
        shutil.rmtree(place, ignore_errors=True)


def wait(ready: Callable[[], object]) -> None:
    """Wait until something is ready. Raises `TimeoutError`."""
    limit = time.monotonic() + READY_LIMIT_S
    while not ready():
        if time.monotonic() > limit:
            raise TimeoutError("not ready in time")
        time.sleep(0.1)
