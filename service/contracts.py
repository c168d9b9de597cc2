"""What the web side promises for each configured model, made from its model file: schemas, example, size, identity.

A file of an older shape is never imported here; it is served as any JSON object in, a JSON object out.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

from marshmallow import Schema, fields, validate

from ipu_supervisor.config import ModelConfig
from ipu_supervisor.models.base import BasePipeline
from ipu_supervisor.models.catalog import Shape
from ipu_supervisor.models.older import OlderPipeline
from ipu_supervisor.protocol.messages import Identity
from service.errors import ErrorSchema


@dataclasses.dataclass(frozen=True)
class Contract:
    """One model's routes, validation and documentation."""

    model: ModelConfig
    pipeline: type[BasePipeline]
    inputs: type[Schema]
    output: type[Schema]

    @property
    def example(self) -> dict[str, Any]:
        """Return a valid input."""
        return dict(self.pipeline.example)

    @property
    def identity(self) -> Identity:
        """Return what is configured, for answers that no replica gave."""
        return Identity(self.model.name, self.model.checkpoint, self.model.revision)

    def size(self, inputs: Mapping[str, Any]) -> int:
        """Return the model file's estimate of the work in one input."""
        return self.pipeline.size(inputs)

    def batch_inputs(self) -> type[Schema]:
        """Return the schema of a `/batch` request."""
        most = self.model.max_client_batch_size
        items = fields.List(
            fields.Nested(self.inputs),
            required=True,
            validate=validate.Length(1, most),
            metadata={"description": f"At most {most} inputs."},
        )
        return _named(self.model.name, "BatchInput", Schema, {"inputs": items})

    def batch_output(self) -> type[Schema]:
        """Return the schema of a `/batch` answer."""
        results = fields.List(
            fields.Nested(self.output), required=True, metadata={"description": "In the inputs' order."}
        )
        return _named(self.model.name, "BatchOutput", Schema, {"results": results})

    def batch_error(self) -> type[Schema]:
        """Return the schema of a `/batch` answer in which some inputs failed, or all of them."""
        declared = {
            "errors": fields.List(fields.Nested(ItemErrorSchema), metadata={"description": "One per failed input."}),
            "results": fields.List(
                fields.Nested(self.output, allow_none=True),
                metadata={"description": "The others' answers; null at failed ones."},
            ),
        }
        return _named(self.model.name, "BatchError", ErrorSchema, declared)


class ItemErrorSchema(Schema):
    """Why one input of a batch has no result."""

    index = fields.Integer(required=True, metadata={"description": "Which input, from 0."})
    code = fields.String(required=True)
    message = fields.String(required=True)
    retry_after_s = fields.Float(metadata={"description": "Come back after so many seconds."})


def contract(model: ModelConfig) -> Contract:
    """Return what is promised for a configured model."""
    pipeline = model.file.load() if model.file.shape is Shape.PIPELINE else OlderPipeline
    inputs = pipeline.input_schema(model.options)
    return Contract(
        model, pipeline, _named(model.name, "Input", inputs, {}), _named(model.name, "Output", pipeline.Output, {})
    )


def _named(model: str, suffix: str, base: type[Schema], declared: dict[str, Any]) -> type[Schema]:
    """Return a subclass whose name no other model's schema has: the documentation is keyed by names."""
    name = "".join(part.capitalize() for part in model.split("_")) + suffix
    return type(name, (base,), {"__doc__": base.__doc__, **declared})
