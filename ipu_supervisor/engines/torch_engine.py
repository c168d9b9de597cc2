"""Computes with PyTorch on a CPU or a CUDA GPU.

Imports torch and transformers; replica processes only. Weights come from safetensors alone, and no code out of a
checkpoint runs.
"""

import inspect
import os
from typing import TYPE_CHECKING, Any, Dict

import torch
from safetensors import SafetensorError
from transformers import AutoModel, AutoModelForQuestionAnswering, AutoModelForSeq2SeqLM, AutoTokenizer, logging

from ipu_supervisor.engines.base import Engine
from ipu_supervisor.engines.checkpoints import Source
from ipu_supervisor.engines.hub import CheckpointError

if TYPE_CHECKING:
    import numpy

#: What loads a checkpoint for a task.
MODEL_CLASSES = {
    "question-answering": AutoModelForQuestionAnswering,
    "summarization": AutoModelForSeq2SeqLM,
    "sentence-embedding": AutoModel,
}
#: `dtype: auto` by kind of device. CPU: float32, which is right on every chip. CUDA: float16 keeps more digits than
#: bfloat16 and is as fast; these models were made in float32 and stay within its range.
AUTO_DTYPE = {"cpu": "float32", "cuda": "float16"}
#: Files of which a tokenizer needs one.
TOKENIZER_FILES = (
    "tokenizer.json",
    "vocab.txt",
    "vocab.json",
    "spiece.model",
    "sentencepiece.bpe.model",
    "tokenizer.model",
)
#: Weights that an encoder's file may lack, because pooling is done outside.
UNUSED = ("pooler.", "bert.pooler.")


class TorchEngine(Engine):
    """One checkpoint on one device."""

    def __init__(self, task: str, source: Source, model: Any, tokenizer: Any, device: str, dtype: str) -> None:
        """Move the weights to the device."""
        self.task, self.tokenizer, self.device = task, tokenizer, device
        self.checkpoint, self.revision, self.demo = source.checkpoint, source.revision, source.demo
        self.dtype = AUTO_DTYPE[device] if dtype == "auto" else dtype
        self.model = model.to(device=device, dtype=getattr(torch, self.dtype)).eval()
        self._accepted = frozenset(inspect.signature(model.forward).parameters)
        self.prefix = _generation_defaults(model, task) if task == "summarization" else ""
        tokenizer.model_max_length = min(tokenizer.model_max_length, _positions(model.config))

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
    if task not in MODEL_CLASSES:
        raise CheckpointError(
            "The torch engine has no task {!r}; it has: {}.".format(task, ", ".join(sorted(MODEL_CLASSES)))
        )
    if source.demo:
        return _demo(task, source, device, dtype)
    return TorchEngine(task, source, _model(task, source), _tokenizer(source), device, dtype)


def _demo(task: str, source: Source, device: str, dtype: str) -> TorchEngine:
    """Load a built-in checkpoint; summaries are extracted with the sentence encoder."""
    from ipu_supervisor.engines import demo

    if task == "question-answering":
        return TorchEngine(task, source, demo.question_answering(source.folder), _tokenizer(source), device, dtype)
    return TorchEngine(
        "sentence-embedding", source, _model("sentence-embedding", source), _tokenizer(source), device, dtype
    )


def _model(task: str, source: Source) -> Any:
    """Load the weights. Raises `CheckpointError` where the checkpoint was not made for the task."""
    try:
        model, info = MODEL_CLASSES[task].from_pretrained(
            source.folder,
            use_safetensors=True,
            trust_remote_code=False,
            local_files_only=True,
            output_loading_info=True,
        )
    except (ValueError, OSError, KeyError, RuntimeError, SafetensorError) as error:
        text = "{} cannot be loaded for {}: {}"
        raise CheckpointError(text.format(source.checkpoint, task, str(error).strip().split("\n")[0])) from error
    missing = sorted(name for name in info["missing_keys"] if not name.startswith(UNUSED))
    if missing:
        text = "{} was not made for {}: it lacks the weights {}."
        raise CheckpointError(text.format(source.checkpoint, task, ", ".join(missing[:3])))
    return model


def _tokenizer(source: Source) -> Any:
    """Load the fast tokenizer. Raises `CheckpointError`; without its files Transformers 5 would make an empty one."""
    if not any(os.path.isfile(os.path.join(source.folder, name)) for name in TOKENIZER_FILES):
        raise CheckpointError("{} has no tokenizer; put its tokenizer.json there.".format(source.checkpoint))
    try:
        tokenizer = AutoTokenizer.from_pretrained(
            source.folder, use_fast=True, trust_remote_code=False, local_files_only=True
        )
    except (ValueError, OSError, KeyError, ImportError) as error:
        text = "The tokenizer of {} cannot be loaded: {}"
        raise CheckpointError(text.format(source.checkpoint, str(error).strip().split("\n")[0])) from error
    if not tokenizer.is_fast:
        raise CheckpointError(
            "{} has no fast tokenizer (tokenizer.json), which offsets need.".format(source.checkpoint)
        )
    return tokenizer


def _generation_defaults(model: Any, task: str) -> str:
    """Apply a checkpoint's own settings for the task, as the old pipelines did; return its prefix for each text."""
    settings = dict((getattr(model.config, "task_specific_params", None) or {}).get(task) or {})
    prefix = settings.pop("prefix", getattr(model.config, "prefix", None))
    model.generation_config.update(**settings)
    return prefix or ""


def _positions(config: Any) -> int:
    """Return the longest row that the weights have positions for; RoBERTa's kin lose those up to the padding's id."""
    positions = getattr(config, "max_position_embeddings", None) or 512
    lost = config.pad_token_id + 1 if "roberta" in config.model_type or config.model_type == "mpnet" else 0
    return int(positions) - lost
