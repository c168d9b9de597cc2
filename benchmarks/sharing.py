"""Sharing: memory that a further web worker costs, next to what a replica holds."""

from benchmarks.running import stack
from tests.integration.stack import private_mb


def main() -> None:
    """Compare one web worker with four, in front of one embeddings replica."""
    for workers in (1, 4):
        with stack([{"model": "embeddings"}], SERVER_NUM_WORKERS=str(workers), CHECKPOINTS="demo") as running:
            running.request("POST", "/embeddings", {"text": "warm"})
            web = [private_mb(pid) for pid in running.workers()]
            replicas = [private_mb(replica.pid) for replica in running.daemon.model().replicas]
        print(
            f"{workers} web worker(s): {sum(web) / len(web):4.0f} MB of its own each; "
            f"{len(replicas)} replica: {replicas[0]:4.0f} MB"
        )
