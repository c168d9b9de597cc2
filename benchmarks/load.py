"""A closed loop of HTTP clients in processes of their own, each on one kept connection."""

import http.client
import json
import multiprocessing
import statistics
import threading
import time
from typing import NamedTuple

#: Processes that the clients are spread over (one interpreter cannot load a server that has two cores).
PROCESSES = 2


class Result(NamedTuple):
    """What a load met: requests per second, and the latency's median and 95th percentile (milliseconds)."""

    rate: float
    p50_ms: float
    p95_ms: float
    failed: int


def measure(port: int, path: str, clients: int, seconds: float) -> Result:
    """Load `POST path` with distinct bodies for some seconds."""
    shares = [clients // PROCESSES + (number < clients % PROCESSES) for number in range(PROCESSES)]
    with multiprocessing.get_context("spawn").Pool(PROCESSES) as pool:
        parts = pool.starmap(_share, [(port, path, share, seconds) for share in shares if share])
    took = sorted(sample for samples, _ in parts for sample in samples)
    failed = sum(failed for _, failed in parts)
    return Result(len(took) / seconds, statistics.median(took) * 1e3, took[int(len(took) * 0.95)] * 1e3, failed)


def _share(port: int, path: str, clients: int, seconds: float) -> tuple[list[float], int]:
    """Run one process's clients; return their latencies (seconds) and how many answers were not 200."""
    took: list[float] = []
    failed: list[int] = []
    until = time.monotonic() + seconds
    threads = [threading.Thread(target=_client, args=(port, path, until, took, failed)) for _ in range(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return took, len(failed)


def _client(port: int, path: str, until: float, took: list[float], failed: list[int]) -> None:
    """Send one request after the other."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    number = 0
    while time.monotonic() < until:
        number += 1
        body = json.dumps({"text": f"{id(connection)} {number}"})
        began = time.monotonic()
        connection.request("POST", path, body, {"Content-Type": "application/json"})
        answer = connection.getresponse()
        answer.read()
        took.append(time.monotonic() - began)
        if answer.status != http.client.OK:
            failed.append(answer.status)
    connection.close()
