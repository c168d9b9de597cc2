"""The one function that a replica calls to get its engine; nothing heavy is imported until a model needs one."""

from typing import Any, Mapping, Optional

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
    layout: Optional[Mapping[str, Any]] = None,
) -> Optional[Engine]:
    """Return the engine for a model, or None for one that needs none (`task` empty).

    `mode`: hub, demo or auto. `threads`: CPU threads to compute with; 0 leaves torch's own choice. `layout`: for IPUs,
    `ipu` and `shapes` of the model's `ModelConfig`. Raises `CheckpointError`, and `DeviceFault` where there is no IPU.
    """
    if not task:
        return None
    if device not in ("auto", "cpu", "cuda", "ipu"):
        raise CheckpointError("There is no engine for the device {!r}; use cpu, cuda, ipu or auto.".format(device))
    if device == "ipu":
        return _on_ipu(task, checkpoint, revision, mode, dtype, threads, layout or {})
    source = resolve(task, checkpoint, revision, mode)
    import torch

    from ipu_supervisor.engines import torch_engine

    if threads:
        torch.set_num_threads(threads)
    found = "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cuda" and found == "cpu":
        raise CheckpointError("There is no CUDA device here; set the model's device to cpu or auto.")
    return torch_engine.load(task, source, found if device == "auto" else device, dtype)


def _on_ipu(
    task: str, checkpoint: str, revision: str, mode: str, dtype: str, threads: int, layout: Mapping[str, Any]
) -> Engine:
    """Return the engine on IPUs; the demo's checkpoints have no layout, so a hub out of reach is an error."""
    if mode == "demo":
        raise CheckpointError("The demo's checkpoints have no layout for IPUs; set CHECKPOINTS=hub.")
    source = resolve(task, checkpoint, revision, "hub")
    try:
        from ipu_supervisor.engines import ipu
    except ImportError as error:
        text = "Device ipu needs poptorch and optimum-graphcore ({}); use the supervisor-ipu image, or see docs/ipu.md."
        raise CheckpointError(text.format(error)) from error
    import torch

    if threads:
        torch.set_num_threads(threads)
    return ipu.load(task, source, ipu.Spec(layout["ipu"], layout["shapes"], dtype))
