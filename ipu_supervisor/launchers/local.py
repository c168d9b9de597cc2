"""Starts replica processes on this machine, reaps them, and keeps their last words. Decides nothing.

Each replica is a session and process group of its own, so that all it started ends with it. Runs in the loop's thread.
"""

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections import deque
from typing import IO, Any, Deque, Dict, List, Mapping, NamedTuple, cast

#: How many of the last lines of a replica's stderr are kept (chosen: a traceback fits).
LAST_LINES = 30
#: Of how many places the last words are kept (chosen: more than a machine has replicas); places come and go for ever.
MOST_PLACES = 256
#: Largest piece read at once from a replica's stderr, bytes (what a pipe holds).
CHUNK_BYTES = 65536


class Exit(NamedTuple):
    """The end of a replica process: its name, and how it ended in words."""

    replica: str
    how: str


class _Child:
    """One process, and what it wrote to stderr lately."""

    def __init__(self, process: "subprocess.Popen[bytes]") -> None:
        """Store the process."""
        self.process = process
        self.stdin = cast(IO[bytes], process.stdin)
        self.stderr = cast(IO[bytes], process.stderr)
        self.partial = b""
        #: The process, or what it started, may still write to stderr.
        self.talks = True
        self.lines: Deque[str] = deque(maxlen=LAST_LINES)


class LocalLauncher:
    """The replica processes of this supervisor."""

    def __init__(self) -> None:
        """Begin with no process."""
        self._children: Dict[str, _Child] = {}
        self._last_words: Dict[str, List[str]] = {}

    def spawn(self, replica: str, spec: Mapping[str, Any], environ: Mapping[str, str]) -> int:
        """Start a replica process, return its pid; `spec` goes to its stdin, on no command line. Raises `OSError`."""
        process = subprocess.Popen(
            [sys.executable, "-m", "ipu_supervisor.replica"],
            stdin=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
            env=dict(environ),
        )
        child = self._children[replica] = _Child(process)
        os.set_blocking(child.stderr.fileno(), False)
        try:
            child.stdin.write(json.dumps(dict(spec), default=str).encode())
            child.stdin.close()
        except BrokenPipeError:
            child.lines.append("died before it read its instructions")
        return process.pid

    def stderr_fds(self) -> List[int]:
        """Return the descriptors that `forward` reads; one that was closed would be readable for ever."""
        return [child.stderr.fileno() for child in self._children.values() if child.talks]

    def forward(self) -> None:
        """Pass on what the replicas wrote to stderr, and keep the last lines: of each at most a piece.

        One that never stops writing would else keep us from everything else.
        """
        for child in self._children.values():
            self._forward(child)

    def reap(self) -> List[Exit]:
        """Return the processes that ended since the last call."""
        ended = [name for name, child in self._children.items() if child.process.poll() is not None]
        return [self._bury(name) for name in ended]

    def signal(self, replica: str, number: int) -> None:
        """Send a signal to a replica's whole process group; nothing happens when it is gone."""
        child = self._children.get(replica)
        if child is None:
            return
        try:
            os.killpg(child.process.pid, number)
        except ProcessLookupError:
            return

    def last_words(self, place: str) -> List[str]:
        """Return the last stderr lines of the replica at a place: those of its last death, or of now."""
        for name, child in self._children.items():
            if name.rpartition(".")[0] == place and place not in self._last_words:
                return list(child.lines)
        return self._last_words.get(place, [])

    def __len__(self) -> int:
        """Return how many processes there are."""
        return len(self._children)

    def kill_all(self) -> None:
        """Kill every process group and wait for the processes: the last thing a supervisor does."""
        for name in list(self._children):
            self.signal(name, signal.SIGKILL)
        for child in self._children.values():
            child.process.wait()
        self.reap()

    def _bury(self, name: str) -> Exit:
        """Read a dead process's last words and forget it; whatever it started dies too."""
        self.signal(name, signal.SIGKILL)
        child = self._children.pop(name)
        # A pipe's worth, and what was written meanwhile: something that left the process group may go on writing.
        for _ in range(2):
            self._forward(child)
        child.stderr.close()
        place = name.rpartition(".")[0]
        self._last_words.pop(place, None)  # so that the place is the latest again
        self._last_words[place] = list(child.lines)
        if len(self._last_words) > MOST_PLACES:
            del self._last_words[next(iter(self._last_words))]
        return Exit(name, describe(child.process.returncode))

    def _forward(self, child: _Child) -> None:
        """Read a piece of what is there and pass it on to our own stderr, as far as that takes it; keep whole lines."""
        try:
            chunk = os.read(child.stderr.fileno(), CHUNK_BYTES)
        except BlockingIOError:
            return
        if not chunk:
            child.talks = False
            return
        with contextlib.suppress(OSError):
            sys.stderr.buffer.write(chunk)
            sys.stderr.flush()
        *whole, child.partial = (child.partial + chunk).split(b"\n")
        child.partial = child.partial[-CHUNK_BYTES:]
        child.lines.extend(line.decode("utf-8", "replace")[:500] for line in whole)


def describe(returncode: int) -> str:
    """Return in words how a process ended."""
    if returncode >= 0:
        return "exited with code {}".format(returncode)
    try:
        return "killed by {}".format(signal.Signals(-returncode).name)
    except ValueError:
        return "killed by signal {}".format(-returncode)
