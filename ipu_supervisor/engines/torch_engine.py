"""Computes with PyTorch on a CPU or a CUDA GPU.

Imports torch and transformers; replica processes only.
"""

import inspect
from typing import TYPE_CHECKING, Any, Dict

import torch
from transformers import logging

from ipu_supervisor.engines import weights
from ipu_supervisor.engines.base import Engine
from ipu_supervisor.engines.checkpoints import Source

if TYPE_CHECKING:
    import numpy

#: `dtype: auto` by kind of device. CPU: float32, which is right on every chip. CUDA: float16 keeps more digits than
#: bfloat16 and is as fast; these models were made in float32 and stay within its range.
AUTO_DTYPE = {"cpu": "float32", "cuda": "float16"}


class TorchEngine(Engine):
    """One checkpoint on one device."""

    def __init__(self, task: str, source: Source, model: Any, tokenizer: Any, device: str, dtype: str) -> None:
        """Move the weights to the device."""
        self.task, self.tokenizer, self.device = task, tokenizer, device
        self.checkpoint, self.revision, self.demo = source.checkpoint, source.revision, source.demo
        self.dtype = AUTO_DTYPE[device] if dtype == "auto" else dtype
        self.model = model.to(device=device, dtype=getattr(torch, self.dtype)).eval()
        self._accepted = frozenset(inspect.signature(model.forward).parameters)
        self.prefix = weights.prepare(task, model, tokenizer)

    def forward(self, inputs: "Dict[str, numpy.ndarray]") -> "Dict[str, numpy.ndarray]":
        """Run the encoder once. Raises `FloatingPointError` for scores that are no numbers."""
        with torch.inference_mode():
            outputs = self.model(**self._tensors(inputs))
        if self.task == "question-answering":
            found = {"start_logits": outputs.start_logits, "end_logits": outputs.end_logits}
        else:
            found = {"hidden": outputs.last_hidden_state}
        if not all(bool(torch.isfinite(tensor).all()) for tensor in found.values()):
            raise FloatingPointError("the model's scores are not finite in {}; set another dtype".format(self.dtype))
        return {name: tensor.float().cpu().numpy() for name, tensor in found.items()}

    def generate(self, inputs: "Dict[str, numpy.ndarray]", **settings: Any) -> "numpy.ndarray":
        """Write sequences as Hugging Face's `generate` does."""
        with torch.inference_mode():
            ids = self.model.generate(**self._tensors(inputs), **settings)
        found: numpy.ndarray = ids.cpu().numpy()
        return found

    def _tensors(self, inputs: "Dict[str, numpy.ndarray]") -> Dict[str, torch.Tensor]:
        """Return the inputs that the model takes, on its device."""
        return {
            name: torch.from_numpy(array).to(self.device) for name, array in inputs.items() if name in self._accepted
        }


def load(task: str, source: Source, device: str, dtype: str) -> TorchEngine:
    """Load a checkpoint. Raises `CheckpointError`."""
    logging.disable_progress_bar()
    if source.demo:
        return _demo(task, source, device, dtype)
    return TorchEngine(task, source, weights.model(task, source), weights.tokenizer(source), device, dtype)


def _demo(task: str, source: Source, device: str, dtype: str) -> TorchEngine:
    """Load a built-in checkpoint; summaries are extracted with the sentence encoder."""
    from ipu_supervisor.engines import demo

    if task == "question-answering":
        return TorchEngine(
            task, source, demo.question_answering(source.folder), weights.tokenizer(source), device, dtype
        )
    model = weights.model("sentence-embedding", source)
    return TorchEngine("sentence-embedding", source, model, weights.tokenizer(source), device, dtype)
