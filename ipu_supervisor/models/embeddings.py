"""Embeddings: a text as a vector of length 1; texts that mean the same have vectors with a large dot product."""

from typing import Any, Dict, List, Mapping

from marshmallow import Schema, fields, validate

from ipu_supervisor.models import vectors
from ipu_supervisor.models.base import BasePipeline, OptionsSchema, text_field


class EmbeddingsInput(Schema):
    """A text."""

    text = text_field("Text to embed.", "The quick brown fox jumps over the lazy dog.")


class EmbeddingsOutput(Schema):
    """Its vector."""

    results = fields.List(
        fields.Float(),
        required=True,
        metadata={"description": "The vector; its length (the root of its squares' sum) is 1."},
    )


class EmbeddingsOptions(OptionsSchema):
    """What `SERVER_MODELS` may set."""

    #: Longest text, characters. Only the first `max_tokens` are computed (30 ms on two cores), so this bounds the
    #: tokenizer alone: 100,000 characters of any script take at most 0.25 s together (measured).
    max_chars = fields.Integer(
        load_default=100_000,
        validate=validate.Range(min=1),
        metadata={"description": "Longest text taken, characters."},
    )
    max_tokens = fields.Integer(
        load_default=vectors.MAX_TOKENS,
        validate=validate.Range(min=8),
        metadata={"description": "The text is cut at so many tokens."},
    )


class Pipeline(BasePipeline):
    """Embeds the texts of a batch."""

    route = "/embeddings"
    task = "sentence-embedding"
    checkpoint = "sentence-transformers/all-MiniLM-L6-v2"
    summary = "Turn a text into a vector."
    example = {"text": "The quick brown fox jumps over the lazy dog."}
    Input, Output, Options = EmbeddingsInput, EmbeddingsOutput, EmbeddingsOptions

    def __call__(self, batch: List[Dict[str, Any]]) -> List[Any]:
        """Return each text's vector."""
        found = vectors.vectors(self.engine, [inputs["text"] for inputs in batch], self.options["max_tokens"])
        return [{"results": vector.tolist()} for vector in found]

    @classmethod
    def size(cls, inputs: Mapping[str, Any]) -> int:
        """Estimate the tokens: a quarter of the characters, at most what is computed."""
        return min(vectors.MAX_TOKENS, 2 + len(inputs["text"]) // 4)

    @classmethod
    def shapes(cls, options: Mapping[str, Any]) -> Mapping[str, int]:
        """Return the length of a text."""
        return {"length": options["max_tokens"]}
