"""What devices this machine has, what the configured models need, and what each device means for batching."""

import contextlib
import dataclasses
import os
import pathlib
import re
import subprocess
from typing import Any, Dict, List, Mapping, Optional

from ipu_supervisor import layout
from ipu_supervisor.config import EXIT_CONFIG, EXIT_DEVICES, Config, ConfigError, ModelConfig
from ipu_supervisor.core.batching import SINGLY, Cost, filling
from ipu_supervisor.core.crew import PoolSettings

#: Largest batch on a GPU when none is set (chosen: fits any common card with sequences of 512 tokens).
CUDA_BATCH = 32
#: Longest wait for a vendor's counting tool, seconds.
COUNT_LIMIT_S = 10.0


def check(config: Config, environ: Mapping[str, str]) -> Config:
    """Return the settings with the number of IPUs that there are, counted only if a model wants any.

    Raises `ConfigError` that names every model whose device is not there, or whose layout does not fit.
    """
    needs = ipu_needs(config)
    ipus = ipu_count(config, environ) if needs else 0
    wanting = [model for model in config.models if model.device == "cuda"] if not cuda_count() else []
    missing = ["{}: device cuda, but this machine has no GPU".format(model.name) for model in wanting]
    missing += _ipu_faults(config, needs, ipus)
    wrong = [
        fault for model in config.models if model.device == "ipu" for fault in _layout_faults(model, config, environ)
    ]
    if wrong or missing:
        raise ConfigError(wrong + missing, EXIT_CONFIG if wrong else EXIT_DEVICES)
    return dataclasses.replace(config, ipus=ipus)


def ipu_needs(config: Config) -> Dict[str, int]:
    """Return how many IPUs one replica of each model holds."""
    return {model.name: layout.need(model.ipu) for model in config.models if model.device == "ipu"}


def _ipu_faults(config: Config, needs: Mapping[str, int], count: Optional[int]) -> List[str]:
    """Return what is wrong with the number of IPUs."""
    if count is None:
        return ["gc-info counts no IPUs here; enable the Poplar SDK, or set SUPERVISOR_IPUS to how many there are"]
    replicas = {model.name: model.replicas for model in config.models}
    if sum(need * replicas[name] for name, need in needs.items()) <= count:
        return []
    text = "{} needs {} ({} replica(s) x {})"
    each = [text.format(name, need * replicas[name], replicas[name], need) for name, need in needs.items()]
    return ["this machine has {} IPUs, but {}".format(count, ", ".join(each))]


def _layout_faults(model: ModelConfig, config: Config, environ: Mapping[str, str]) -> List[str]:
    """Return what is wrong with a model's layout, where its checkpoint is at hand; a replica checks the others."""
    if config.checkpoints == "demo" and model.task:
        return ["{}: the demo's checkpoints have no layout for IPUs; set CHECKPOINTS=hub".format(model.name)]
    found = _configuration(model, environ) if model.task else None
    try:
        faults = layout.checkpoint_faults(model.ipu, model.shapes, found, model.task) if found is not None else []
    except (KeyError, TypeError, ValueError):
        faults = []  # It leaves something at a default that only Transformers knows.
    return ["{}: {}".format(model.name, fault) for fault in faults]


def _configuration(model: ModelConfig, environ: Mapping[str, str]) -> Optional[Dict[str, Any]]:
    """Return the `config.json` of a model's checkpoint: of the named folder, or of the copy in the hub's cache."""
    folder = pathlib.Path(model.checkpoint)
    return layout.configuration(folder if folder.is_dir() else cached(model.checkpoint, model.revision, environ))


def cached(checkpoint: str, revision: str, environ: Mapping[str, str]) -> pathlib.Path:
    """Return where the hub's cache has a checkpoint, if it has it.

    The cache's layout is documented by huggingface_hub, whose import costs a second and 20 MB of every supervisor.
    """
    home = environ.get("HF_HOME") or os.path.join(environ.get("XDG_CACHE_HOME") or "~/.cache", "huggingface")
    root = pathlib.Path(os.path.expanduser(environ.get("HF_HUB_CACHE") or os.path.join(home, "hub")))
    folder = root / "models--{}".format(checkpoint.replace("/", "--"))
    with contextlib.suppress(OSError, ValueError):  # a commit names its folder itself
        revision = (folder / "refs" / revision).read_text(encoding="ascii").strip()
    return folder / "snapshots" / revision


def cuda_count() -> int:
    """Return how many GPUs this process may use, without importing torch."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    there = [path for path in pathlib.Path("/dev").glob("nvidia*") if re.fullmatch(r"nvidia\d+", path.name)]
    if visible is None:
        return len(there)
    return min(len(there), len([part for part in visible.split(",") if part.strip() not in ("", "-1")]))


def ipu_count(config: Config, environ: Mapping[str, str]) -> Optional[int]:
    """Return how many IPUs may be used: as configured, or as the vendor's tool counts; None where it gives no number.

    The tool counts the partition that `IPUOF_*` in `environ` names, as replicas will see it.
    """
    if config.ipus is not None:
        return config.ipus
    try:
        done = subprocess.run(
            ["gc-info", "--ipu-count"], stdout=subprocess.PIPE, timeout=COUNT_LIMIT_S, check=True, env=dict(environ)
        )
        return int(done.stdout)
    except (OSError, ValueError, subprocess.SubprocessError):
        return None


def threads_per_replica(replicas: int) -> int:
    """Return how many threads each of the replicas computes with, so that no core has two of them."""
    return max(1, len(os.sched_getaffinity(0)) // max(1, replicas))


def cost(model: ModelConfig) -> Cost:
    """Return the cost model of a model's device; on a plain CPU a padded batch is slower than its members singly."""
    if model.device == "ipu":
        batch = layout.compiled_batch(model.ipu)
        return SINGLY if batch == 1 else filling(batch)
    cuda = model.device == "cuda" or (model.device == "auto" and bool(cuda_count()) and bool(model.task))
    largest = model.max_batch_size or (CUDA_BATCH if cuda else 1)
    return SINGLY if largest == 1 else filling(largest, model.max_batch_tokens)


def pool_settings(model: ModelConfig, config: Config, load_s: Optional[float]) -> PoolSettings:
    """Return what the pool of a model needs to know."""
    return PoolSettings(
        model=model.name,
        replicas=model.replicas,
        max_backlog=model.max_backlog,
        deterministic=model.deterministic,
        batch_limit_s=model.batch_limit_s,
        load_limit_s=model.load_limit_s,
        # Others compile nothing that takes the host's memory, and need not wait minutes for those that do.
        in_turn=model.device == "ipu",
        load_s=load_s,
        cost=cost(model),
    )
