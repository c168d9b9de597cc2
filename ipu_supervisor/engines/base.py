"""What an engine is: the callable between arrays and arrays, for one task on one device.

Torch-free, so that a model file may name these types. The engines themselves live beside this file and are
imported in replica processes only.
"""

from typing import TYPE_CHECKING, Any, Dict, NamedTuple, Optional, Tuple

if TYPE_CHECKING:
    import numpy


class Limits(NamedTuple):
    """What an engine can take; `None` means that any value is fine (dynamic shapes)."""

    batch: Optional[int] = None
    length: Optional[int] = None


class Engine:
    """Holds the tokenizer and the weights of one checkpoint, and computes.

    Attributes: `task` (`question-answering`, `summarization`, `sentence-embedding`), `tokenizer` (a fast Hugging Face
    tokenizer), `limits`, `prefix` (what a sequence model's checkpoint wants before each text), `identity` fields
    `checkpoint`, `revision`, `demo`, `device`, `dtype`. The task may differ from the one that was asked for: the demo
    summarizes with a `sentence-embedding` engine.
    """

    task: str
    tokenizer: Any
    limits: Limits = Limits()
    prefix: str = ""
    checkpoint: str = ""
    revision: str = ""
    demo: bool = False
    device: str = "cpu"
    dtype: str = "float32"

    def forward(self, inputs: "Dict[str, numpy.ndarray]") -> "Dict[str, numpy.ndarray]":
        """Run an encoder once.

        `inputs`: what the tokenizer gave (`input_ids`, `attention_mask`, perhaps `token_type_ids`), int64 (batch,
        length). Returns float32 arrays: `start_logits` and `end_logits` (batch, length) for question answering,
        `hidden` (batch, length, width) for sentence embeddings.
        """
        raise NotImplementedError

    def generate(self, inputs: "Dict[str, numpy.ndarray]", **settings: Any) -> "numpy.ndarray":
        """Write sequences: int64 ids (batch, length), right-padded.

        `settings`: beams and lengths, named as for Hugging Face's `generate`.
        """
        raise NotImplementedError

    def programs(self) -> Tuple[int, int]:
        """Return how many compiled programs the model needs, and how many lie in their cache, which others share."""
        return 0, 0

    def built(self) -> int:
        """Return how many of the programs that the model needs this process has, compiled or from the cache."""
        return 0

    def close(self) -> None:
        """Give the devices back; called once, when the process ends in good order."""
