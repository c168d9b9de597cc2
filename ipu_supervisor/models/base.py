"""What a model file is made of: one class `Pipeline(BasePipeline)`, its schemas, and the errors it may raise.

Imported by both halves (the web side reads the schemas), so nothing here or at the top of a model file may import
torch, transformers or numpy.
"""

import math
from typing import Any, ClassVar, Dict, List, Mapping, Optional, Type

from marshmallow import INCLUDE, Schema, ValidationError, fields, validate, validates_schema

#: A text with something to read in it. The class is spelled out because `\s` alone means another set of characters in
#: Python, in ECMAScript (which OpenAPI's patterns are) and in other tools; this is the union of their white space.
NOT_BLANK = r"[\s\S]*[^\s\x1c-\x1f\x85\ufeff]"


class InvalidInput(ValueError):
    """Raised by a model file for an input that cannot be served, with a sentence that says what to do."""


class OptionsSchema(Schema):
    """The base of a model file's `Options`: what `SERVER_MODELS` may set under `options`."""

    max_chars = fields.Integer(
        load_default=20_000,
        validate=validate.Range(min=1),
        metadata={"description": "Longest text taken, characters."},
    )


class AnyObject(Schema):
    """Any JSON object: what an older model file takes and gives."""

    class Meta:
        """Every field is welcome."""

        unknown = INCLUDE

    @validates_schema
    def _check_numbers(self, values: Mapping[str, Any], **_: Any) -> None:
        """Refuse what JSON has no number for, and would become null."""
        pending: List[Any] = [values]
        while pending:
            value = pending.pop()
            if isinstance(value, float) and not math.isfinite(value):
                raise ValidationError("Holds {}, which is no number in JSON.".format(value))
            pending += value.values() if isinstance(value, Mapping) else value if isinstance(value, list) else []


def encodable(text: str) -> None:
    """Refuse text that is not Unicode (a lone surrogate), because no answer about it could be written."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        raise ValidationError("Not valid Unicode: it holds a lone surrogate.") from None


def text_field(description: str, example: str) -> fields.String:
    """Return a required text field: more than white space, valid Unicode; the options give its longest length."""
    return fields.String(
        required=True,
        validate=[
            validate.Length(min=1),
            validate.Regexp(NOT_BLANK, error="Must hold more than white space."),
            encodable,
        ],
        metadata={"description": description, "example": example, "limited": True},
    )


class WholeNumber(fields.Integer):
    """An integer as JSON Schema means it: `2` and `2.0` are the same number; `"2"`, `2.5` and `true` are none."""

    def __init__(self, **kwargs: Any) -> None:
        """Refuse everything but whole numbers."""
        super().__init__(strict=True, **kwargs)

    def _deserialize(self, value: Any, attr: Any, data: Any, **kwargs: Any) -> Any:
        """Return the number. Raises `ValidationError`."""
        whole = int(value) if isinstance(value, float) and value.is_integer() else value
        return super()._deserialize(whole, attr, data, **kwargs)


class BasePipeline:
    """One model: what comes in, what goes out, and the way between. One subclass named `Pipeline` per file."""

    #: Path of the route; default `/<file name>`.
    route: ClassVar[str] = ""
    #: What the engine computes: `question-answering`, `summarization`, `sentence-embedding`; empty: needs no engine.
    task: ClassVar[str] = ""
    #: Hugging Face id of the default checkpoint, and its revision.
    checkpoint: ClassVar[str] = ""
    revision: ClassVar[str] = "main"
    #: Equal inputs have equal answers, so equal requests in flight may share one computation.
    deterministic: ClassVar[bool] = True
    #: One line for the documentation.
    summary: ClassVar[str] = ""
    #: A valid input: warm-up, documentation and load test use it.
    example: ClassVar[Mapping[str, Any]] = {}
    Input: ClassVar[Type[Schema]]
    Output: ClassVar[Type[Schema]]
    Options: ClassVar[Type[Schema]] = OptionsSchema

    def __init__(self, engine: Any, options: Mapping[str, Any]) -> None:
        """Store the engine (weights and tokenizer) and the validated options."""
        self.engine = engine
        self.options = options

    def __call__(self, batch: List[Dict[str, Any]]) -> List[Any]:
        """Answer each input of `batch`, in order.

        An `InvalidInput` or other exception as an element fails that item alone.
        """
        raise NotImplementedError

    def compile(self) -> None:
        """Prepare for serving; the default answers the example. Raises the exception that comes as its answer."""
        for answer in self([dict(self.example)]):
            if isinstance(answer, Exception):
                raise answer

    @classmethod
    def size(cls, inputs: Mapping[str, Any]) -> int:
        """Return a cheap estimate of the work in one input, tokens; the default is a quarter of its characters."""
        return 1 + sum(len(value) for value in inputs.values() if isinstance(value, str)) // 4

    @classmethod
    def shapes(cls, options: Mapping[str, Any]) -> Mapping[str, int]:
        """Return what a compiled engine is built for; the default, nothing, serves every device but an IPU.

        `length`: the longest row, tokens. A model that generates adds `num_beams`, `max_new_tokens` and, where it is
        set, `min_new_tokens`.
        """
        return {}

    @classmethod
    def input_schema(cls, options: Mapping[str, Any]) -> Type[Schema]:
        """Return `Input` with the longest length of the options put on each text field."""
        limit: Optional[int] = options.get("max_chars")
        if limit is None:
            return cls.Input
        limited = {
            name: _limited(field, limit) for name, field in cls.Input().fields.items() if field.metadata.get("limited")
        }
        return type(cls.Input.__name__, (cls.Input,), limited)


def _limited(field: Any, limit: int) -> fields.String:
    """Return a copy of a text field that takes at most `limit` characters."""
    return fields.String(
        required=field.required,
        validate=[*field.validators, validate.Length(max=limit)],
        metadata=dict(field.metadata),
    )
