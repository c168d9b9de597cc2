"""Sentence vectors: mean pooling over an encoder's tokens, then length 1, as sentence-transformers does for MiniLM."""

from typing import TYPE_CHECKING, Any, Sequence

from ipu_supervisor.models import forward

if TYPE_CHECKING:
    import numpy

#: Longest text that all-MiniLM-L6-v2 was made for, tokens (its `sentence_bert_config.json`); the rest is cut off.
MAX_TOKENS = 256
#: Smallest length that a vector is divided by (that of torch's `normalize`).
EPSILON = 1e-12


def vectors(engine: Any, texts: Sequence[str], max_tokens: int = MAX_TOKENS) -> "numpy.ndarray":
    """Return one vector of length 1 for each text, float32 (texts, width)."""
    import numpy

    means = {
        index: arrays["hidden"].mean(axis=0, dtype=numpy.float32)
        for index, arrays in forward.forward(engine, forward.tokenize(engine, texts, max_tokens))
    }
    stacked = numpy.stack([means[index] for index in range(len(texts))])
    lengths = numpy.linalg.norm(stacked, axis=1, keepdims=True)
    found: numpy.ndarray = stacked / numpy.maximum(lengths, EPSILON)
    return found
