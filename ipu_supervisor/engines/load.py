"""The one function that a replica calls to get its engine; nothing heavy is imported until a model needs one."""

from typing import Optional

from ipu_supervisor.engines.base import Engine
from ipu_supervisor.engines.checkpoints import resolve
from ipu_supervisor.engines.hub import CheckpointError


def load(
    task: str,
    checkpoint: str,
    revision: str = "main",
    mode: str = "hub",
    device: str = "auto",
    dtype: str = "auto",
    threads: int = 0,
) -> Optional[Engine]:
    """Return the engine for a model, or None for one that needs none (`task` empty). Raises `CheckpointError`.

    `mode`: hub, demo or auto. `threads`: CPU threads to compute with; 0 leaves torch's own choice.
    """
    if not task:
        return None
    if device not in ("auto", "cpu", "cuda"):
        raise CheckpointError("There is no engine for the device {!r}; use cpu, cuda or auto.".format(device))
    source = resolve(task, checkpoint, revision, mode)
    import torch

    from ipu_supervisor.engines import torch_engine

    if threads:
        torch.set_num_threads(threads)
    found = "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cuda" and found == "cpu":
        raise CheckpointError("There is no CUDA device here; set the model's device to cpu or auto.")
    return torch_engine.load(task, source, found if device == "auto" else device, dtype)
