"""What devices this machine has, what the configured models need, and what each device means for batching."""

import os
import pathlib
import re
import subprocess
from typing import List

from ipu_supervisor.config import EXIT_DEVICES, Config, ConfigError, ModelConfig
from ipu_supervisor.core.batching import SINGLY, Cost, filling

#: Largest batch on a GPU when none is set (chosen: fits any common card with sequences of 512 tokens).
CUDA_BATCH = 32
#: Longest wait for a vendor's counting tool, seconds.
COUNT_LIMIT_S = 10.0


def check(config: Config) -> None:
    """Raise `ConfigError` that names every model whose device is not there."""
    faults: List[str] = []
    wants_cuda = [model for model in config.models if model.device == "cuda"]
    if wants_cuda and not cuda_count():
        faults += ["{}: device cuda, but this machine has no GPU".format(model.name) for model in wants_cuda]
    wants_ipu = [model for model in config.models if model.device == "ipu"]
    needed = {model.name: model.replicas * int(model.ipu.get("ipus", 1)) for model in wants_ipu}
    if needed and sum(needed.values()) > ipu_count():
        needs = ", ".join("{} needs {}".format(name, count) for name, count in needed.items())
        faults.append("this machine has {} IPUs, but {}".format(ipu_count(), needs))
    if faults:
        raise ConfigError(faults, EXIT_DEVICES)


def cuda_count() -> int:
    """Return how many GPUs this process may use, without importing torch."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    there = [path for path in pathlib.Path("/dev").glob("nvidia*") if re.fullmatch(r"nvidia\d+", path.name)]
    if visible is None:
        return len(there)
    return min(len(there), len([part for part in visible.split(",") if part.strip() not in ("", "-1")]))


def ipu_count() -> int:
    """Return how many IPUs the vendor's tool counts; 0 where it is not installed."""
    try:
        done = subprocess.run(["gc-info", "--ipu-count"], stdout=subprocess.PIPE, timeout=COUNT_LIMIT_S, check=True)
        return int(done.stdout)
    except (OSError, ValueError, subprocess.SubprocessError):
        return 0


def threads_per_replica(replicas: int) -> int:
    """Return how many threads each of the replicas computes with, so that no core has two of them."""
    return max(1, len(os.sched_getaffinity(0)) // max(1, replicas))


def cost(model: ModelConfig) -> Cost:
    """Return the cost model of a model's device; on a plain CPU a padded batch is slower than its members singly."""
    cuda = model.device == "cuda" or (model.device == "auto" and bool(cuda_count()) and bool(model.task))
    largest = model.max_batch_size or (CUDA_BATCH if cuda else 1)
    return SINGLY if largest == 1 else filling(largest, model.max_batch_tokens)
