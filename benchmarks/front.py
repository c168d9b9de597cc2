"""The front: a model that costs nothing, against a bare WSGI application under the same Gunicorn.

The gap is what validation, headers, the wire and the supervisor cost together.
"""

import sys

from benchmarks.load import measure
from benchmarks.running import processes, stack, wait
from tests.integration.harness import ROOT
from tests.integration.stack import Stack, free_port

#: How long each load lasts, seconds.
SECONDS = 5.0


def main() -> None:
    """Measure both at 1, 16 and 64 clients, in turn."""
    print(" clients   bare/s   ours/s  ratio  bare p50   our p50   our p95  not 200")
    with stack([{"model": "echo", "max_batch_size": 32}]) as ours, processes() as spawn:
        bare = _bare(spawn, ours)
        for clients in (1, 16, 64):
            base = measure(bare, "/", clients, SECONDS)
            full = measure(ours.port, "/echo", clients, SECONDS)
            print(
                f"{clients:8} {base.rate:8.0f} {full.rate:8.0f} {full.rate / base.rate:6.2f} {base.p50_ms:6.2f} ms "
                f"{full.p50_ms:5.2f} ms {full.p95_ms:5.2f} ms {full.failed:8}"
            )


def _bare(spawn, ours: Stack) -> int:  # type: ignore[no-untyped-def]
    """Start the baseline with the same number of workers and threads; return its port."""
    port = free_port()
    options = ["-b", f"127.0.0.1:{port}", "-k", "gthread", "-w", "2", "--threads", "72", "--keep-alive", "65"]
    spawn([sys.executable, "-m", "gunicorn", *options, "benchmarks.bare:app"], env={}, cwd=str(ROOT))
    ours.port, own = port, ours.port
    try:
        wait(lambda: _answers(ours))
    finally:
        ours.port = own
    return port


def _answers(service: Stack) -> bool:
    """Say whether anything listens."""
    try:
        return service.request("POST", "/", {}, limit_s=5).status == 200
    except OSError:
        return False
