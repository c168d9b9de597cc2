"""Loads a checkpoint's weights and tokenizer for any engine.

Imports torch and transformers; replica processes only. Weights come from safetensors alone, and no code out of a
checkpoint runs.
"""

import os
from typing import Any

import tokenizers
import transformers
from safetensors import SafetensorError
from transformers import AutoModel, AutoModelForQuestionAnswering, AutoModelForSeq2SeqLM, AutoTokenizer

from ipu_supervisor.engines.checkpoints import Source
from ipu_supervisor.engines.hub import CheckpointError

#: What loads a checkpoint for a task.
MODEL_CLASSES = {
    "question-answering": AutoModelForQuestionAnswering,
    "summarization": AutoModelForSeq2SeqLM,
    "sentence-embedding": AutoModel,
}
#: Files of which a tokenizer needs one.
TOKENIZER_FILES = (
    "tokenizer.json",
    "vocab.txt",
    "vocab.json",
    "spiece.model",
    "sentencepiece.bpe.model",
    "tokenizer.model",
)
#: What tokenizers and Transformers say of a tokenizer that newer versions of theirs have saved.
NEWER = ("untagged enum", "does not exist or is not currently imported")
#: Weights that an encoder's file may lack, because pooling is done outside.
UNUSED = ("pooler.", "bert.pooler.")


def model(task: str, source: Source) -> Any:
    """Load the weights. Raises `CheckpointError` where the checkpoint was not made for the task."""
    if task not in MODEL_CLASSES:
        text = "No engine has the task {!r}; there are: {}."
        raise CheckpointError(text.format(task, ", ".join(sorted(MODEL_CLASSES))))
    try:
        loaded, info = MODEL_CLASSES[task].from_pretrained(
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
    return loaded


def tokenizer(source: Source) -> Any:
    """Load the fast tokenizer. Raises `CheckpointError`; without its files Transformers 5 would make an empty one."""
    if not any(os.path.isfile(os.path.join(source.folder, name)) for name in TOKENIZER_FILES):
        raise CheckpointError("{} has no tokenizer; put its tokenizer.json there.".format(source.checkpoint))
    try:
        loaded = AutoTokenizer.from_pretrained(
            source.folder, use_fast=True, trust_remote_code=False, local_files_only=True
        )
    except Exception as error:  # tokenizers raises no other kind
        raise CheckpointError(_unreadable(source.checkpoint, str(error).strip().split("\n")[0])) from error
    if not loaded.is_fast:
        raise CheckpointError(
            "{} has no fast tokenizer (tokenizer.json), which offsets need.".format(source.checkpoint)
        )
    return loaded


def _unreadable(checkpoint: str, told: str) -> str:
    """Return what to say of a tokenizer that the libraries refuse in these words."""
    if not any(mark in told for mark in NEWER):
        return "The tokenizer of {} cannot be loaded: {}".format(checkpoint, told)
    text = (
        "The tokenizer of {} was saved by newer libraries than tokenizers {} and Transformers {}, which are here ({}); "
        "save it again with these, or take the checkpoint's original files."
    )
    return text.format(checkpoint, tokenizers.__version__, transformers.__version__, told)


def prepare(task: str, loaded: Any, words: Any) -> str:
    """Fit a tokenizer to its weights, and apply the checkpoint's own settings for the task; return its prefix."""
    words.model_max_length = min(words.model_max_length, _positions(loaded.config))
    return _generation_defaults(loaded, task) if task == "summarization" else ""


def _generation_defaults(loaded: Any, task: str) -> str:
    """Apply a checkpoint's own settings for the task, as the old pipelines did; return its prefix for each text."""
    settings = dict((getattr(loaded.config, "task_specific_params", None) or {}).get(task) or {})
    prefix = settings.pop("prefix", getattr(loaded.config, "prefix", None))
    loaded.generation_config.update(**settings)
    return prefix or ""


def _positions(config: Any) -> int:
    """Return the longest row that the weights have positions for; RoBERTa's kin lose those up to the padding's id."""
    positions = getattr(config, "max_position_embeddings", None) or 512
    lost = config.pad_token_id + 1 if "roberta" in config.model_type or config.model_type == "mpnet" else 0
    return int(positions) - lost
