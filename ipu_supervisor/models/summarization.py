"""Summarization: a short text in place of a long one.

With a sequence model (BART) the summary is written anew. With an encoder, as in the demo, it is extracted: the most
central sentences of the text.
"""

from typing import Any, Dict, List, Mapping

from marshmallow import Schema, ValidationError, fields, validate, validates_schema

from ipu_supervisor.models import extract, forward, vectors
from ipu_supervisor.models.base import BasePipeline, OptionsSchema, text_field

#: A valid input.
EXAMPLE = (
    "The tower is 324 metres tall, about the same height as an 81-storey building. Its base is square, measuring 125 "
    "metres on each side. It was the first structure in the world to pass 300 metres. Visitors climb it for the view."
)
#: Options that say how a summary is written, named as Hugging Face's `generate` has them.
SEARCH = ("num_beams", "max_new_tokens", "min_new_tokens")


class SummarizationInput(Schema):
    """A text."""

    documents = text_field("Text to summarize.", EXAMPLE)


class Summary(Schema):
    """One summary."""

    summary_text = fields.String(required=True)


class SummarizationOutput(Schema):
    """The summary, in a list of one."""

    results = fields.List(fields.Nested(Summary), required=True)


class SummarizationOptions(OptionsSchema):
    """What `SERVER_MODELS` may set."""

    #: Longest text, characters. BART reads the first `max_input_tokens` only: 15 s of one core for 500 tokens in and
    #: 100 out, bart-large-cnn's size in float32 (measured, Xeon with AVX-512), however long the text. The extracting
    #: demo reads all of it: at most 8 s of one core, 2 s for English prose (measured). Half of the 30 s for a batch, or
    #: less, on two.
    max_chars = fields.Integer(
        load_default=50_000, validate=validate.Range(min=1), metadata={"description": "Longest text taken, characters."}
    )
    num_beams = fields.Integer(
        load_default=3, validate=validate.Range(1, 16), metadata={"description": "Beams of the search; 1: greedy."}
    )
    max_input_tokens = fields.Integer(
        load_default=500, validate=validate.Range(min=8), metadata={"description": "The text is cut at so many tokens."}
    )
    max_new_tokens = fields.Integer(
        load_default=100, validate=validate.Range(min=1), metadata={"description": "Longest summary, tokens."}
    )
    min_new_tokens = fields.Integer(
        load_default=None,
        allow_none=True,
        validate=validate.Range(min=0),
        metadata={"description": "Shortest summary, tokens; default: the checkpoint's own."},
    )
    max_sentences = fields.Integer(
        load_default=3,
        validate=validate.Range(min=1),
        metadata={"description": "Sentences in an extracted summary; a text with no more comes back whole."},
    )

    @validates_schema
    def _check_lengths(self, options: Mapping[str, Any], **_: Any) -> None:
        """Refuse a shortest summary that is longer than the longest."""
        if (options["min_new_tokens"] or 0) > options["max_new_tokens"]:
            raise ValidationError("Must be at most max_new_tokens.", "min_new_tokens")


class Pipeline(BasePipeline):
    """Writes or extracts the summaries of a batch."""

    route = "/summarization"
    task = "summarization"
    checkpoint = "facebook/bart-large-cnn"
    summary = "Summarize a text."
    example = {"documents": EXAMPLE}
    Input, Output, Options = SummarizationInput, SummarizationOutput, SummarizationOptions

    def __call__(self, batch: List[Dict[str, Any]]) -> List[Any]:
        """Summarize each text."""
        texts = [inputs["documents"] for inputs in batch]
        extractive = self.engine.task == "sentence-embedding"
        summaries = [self._extract(text) for text in texts] if extractive else self._write(texts)
        return [{"results": [{"summary_text": summary}]} for summary in summaries]

    @classmethod
    def size(cls, inputs: Mapping[str, Any]) -> int:
        """Estimate the tokens: a quarter of the characters, at most what BART reads."""
        return min(500, 2 + len(inputs["documents"]) // 4)

    @classmethod
    def shapes(cls, options: Mapping[str, Any]) -> Mapping[str, int]:
        """Return the longest text, and how a summary is written."""
        search = {name: options[name] for name in SEARCH if options[name] is not None}
        return {"length": options["max_input_tokens"], **search}

    def _write(self, texts: List[str]) -> List[str]:
        """Let the sequence model write the summaries."""
        rows = forward.tokenize(
            self.engine, [self.engine.prefix + text for text in texts], self.options["max_input_tokens"]
        )
        settings = {name: self.options[name] for name in SEARCH if self.options[name] is not None}
        written = dict(forward.generate(self.engine, rows, **settings))
        decode = self.engine.tokenizer.decode
        return [
            decode(written[number].tolist(), skip_special_tokens=True, clean_up_tokenization_spaces=False)
            for number in range(len(texts))
        ]

    def _extract(self, text: str) -> str:
        """Choose the most central sentences."""
        sentences = extract.split(text)
        count = self.options["max_sentences"]
        if len(sentences) <= count:
            return text.strip()
        words = sorted({sentence.text for sentence in sentences})
        embedded = dict(zip(words, vectors.vectors(self.engine, words)))
        return extract.join([sentences[number] for number in extract.central(sentences, embedded, count)])
