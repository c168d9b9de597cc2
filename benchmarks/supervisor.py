"""The supervisor alone: empty requests per second of its own CPU time, 64 in flight.

Wall time says little here, since client, supervisor and replica share the cores; CPU time is what one core could do.
"""

import os
import pathlib
import sys
import time

import msgspec
import zmq

from benchmarks.running import folder, processes, wait
from ipu_supervisor.protocol import messages
from tests.integration.harness import ROOT, Daemon

#: Requests per measurement, and how many are in flight.
REQUESTS, IN_FLIGHT = 20_000, 64


def main() -> None:
    """Measure with batches of one and of at most 32."""
    for largest in (1, 32):
        with processes() as spawn, folder() as place:
            daemon = Daemon(spawn, place, [{"model": "echo", "max_batch_size": largest}], LOG_LEVEL="WARNING")
            daemon.child = spawn([sys.executable, "-m", "ipu_supervisor", "run"], env=daemon.env, cwd=str(ROOT))
            wait(daemon.ready)
            before, began = _cpu_s(daemon.child.pid), time.monotonic()
            _run(daemon.endpoint)
            cpu_s, wall_s = _cpu_s(daemon.child.pid) - before, time.monotonic() - began
        print(f"batches of {largest:2}: {REQUESTS / cpu_s:7.0f} per core-second, {REQUESTS / wall_s:7.0f} per second")


def _run(endpoint: str) -> None:
    """Send all requests, never more than `IN_FLIGHT` at once."""
    with zmq.Context() as context, context.socket(zmq.DEALER) as socket:
        socket.linger = 0
        socket.connect(endpoint)
        sent = 0
        for received in range(REQUESTS):
            while sent < REQUESTS and sent - received < IN_FLIGHT:
                item = msgspec.Raw(messages.encode({"text": str(sent)}))
                call = messages.Call(os.urandom(messages.CALL_ID_BYTES), "echo", [item], [1], 30_000)
                socket.send_multipart([b"", messages.encode(call)])
                sent += 1
            socket.recv_multipart()


def _cpu_s(pid: int) -> float:
    """Return the CPU seconds that a process has used."""
    fields = pathlib.Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / float(os.sysconf("SC_CLK_TCK"))
