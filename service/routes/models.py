"""What each configured model is and how it stands, from the supervisor's status."""

from typing import Any

import msgspec
from flask import Response
from marshmallow import Schema, fields

from ipu_supervisor.protocol.errors import ErrorCode
from ipu_supervisor.protocol.messages import Identity, ModelStatus
from service.contracts import Contract
from service.errors import Code, HttpCode, HttpError
from service.face import Face
from service.openapi import ApiBlueprint, Route

#: What the supervisor's status lacks when it does not serve a configured model.
ABSENT = "the supervisor does not serve it"


class ReplicaSchema(Schema):
    """One model process."""

    replica = fields.String(required=True)
    state = fields.String(required=True)
    since_s = fields.Float(required=True, metadata={"description": "Seconds in this state."})
    pid = fields.Integer(required=True)
    last_exit = fields.String(required=True, metadata={"description": "How its last process ended."})
    reason = fields.String(required=True, metadata={"description": "Why it is, or was last, of no use."})
    advice = fields.String(required=True, metadata={"description": "What an operator can do about that."})
    compiled = fields.Integer(
        required=True, metadata={"description": "Programs that its last warm-up compiled (IPUs only)."}
    )
    from_cache = fields.Integer(
        required=True, metadata={"description": "Programs that it found in the cache of compiled programs."}
    )


class QueueSchema(Schema):
    """What waits for a model."""

    backlog = fields.Integer(required=True, metadata={"description": "Accepted, not dispatched."})
    in_flight = fields.Integer(required=True, metadata={"description": "Dispatched, not answered."})
    max_backlog = fields.Integer(required=True)
    expected_wait_s = fields.Float(required=True)


class LimitsSchema(Schema):
    """What a client must not exceed."""

    max_client_batch_size = fields.Integer(required=True)
    max_request_bytes = fields.Integer(required=True)
    request_limit_s = fields.Float(required=True)


class ModelSchema(Schema):
    """One configured model."""

    name = fields.String(required=True)
    route = fields.String(required=True)
    ready = fields.Boolean(required=True)
    state = fields.String(required=True, metadata={"description": "`ready`, or why it is not."})
    checkpoint = fields.String(required=True)
    revision = fields.String(required=True)
    demo = fields.Boolean(
        required=True, metadata={"description": "A small stand-in answers, not the configured checkpoint."}
    )
    device = fields.String(required=True)
    dtype = fields.String(required=True)
    replicas = fields.List(fields.Nested(ReplicaSchema), required=True)
    queue = fields.Nested(QueueSchema, required=True)
    load_s = fields.Float(required=True, metadata={"description": "How long the last load and compile took, seconds."})
    last_error = fields.String(required=True)
    advice = fields.String(required=True, metadata={"description": "What an operator can do about it."})
    limits = fields.Nested(LimitsSchema, required=True)


class ModelsSchema(Schema):
    """All configured models."""

    models = fields.List(fields.Nested(ModelSchema), required=True)


def blueprint(face: Face) -> Any:
    """Return the routes about models."""
    routes = ApiBlueprint("models", __name__, description="Ask what the models are and how they stand.")

    def models() -> Response:
        known = _known(face)
        return _json({"models": [_model(face, contract, known) for contract in face.contracts]})

    def model(name: str) -> Response:
        found = [contract for contract in face.contracts if contract.model.name == name]
        if not found:
            raise HttpError(HttpCode.NOT_FOUND, "No such model is configured.")
        return _json(_model(face, found[0], _known(face)))

    doc: dict[str, Any] = {"operationId": "models", "summary": "All configured models."}
    Route("/models", models, doc=doc, answer={"schema": ModelsSchema}, errors=[ErrorCode.NOT_READY]).add_to(routes)
    parameter = {"in": "path", "name": "name", "required": True, "schema": {"type": "string"}}
    doc = {"operationId": "model", "summary": "One configured model.", "parameters": [parameter]}
    errors: list[Code] = [HttpCode.NOT_FOUND, ErrorCode.NOT_READY]
    Route("/models/<name>", model, doc=doc, answer={"schema": ModelSchema}, errors=errors).add_to(routes)
    return routes


def _known(face: Face) -> dict[str, ModelStatus]:
    """Return the supervisor's status by model. Raises `RequestError`."""
    return {status.model: status for status in face.standing.status().models}


def _json(value: Any) -> Response:
    """Return a JSON answer that no cache keeps."""
    return Response(msgspec.json.encode(value), mimetype="application/json", headers={"Cache-Control": "no-store"})


def _model(face: Face, contract: Contract, known: dict[str, ModelStatus]) -> dict[str, Any]:
    """Return one model as `ModelSchema` describes it."""
    configured = contract.model
    nothing = ModelStatus(configured.name, False, ABSENT, contract.identity, "", [], 0, 0, configured.max_backlog)
    status = known.get(configured.name, nothing)
    identity: Identity = status.identity
    return {
        "name": configured.name,
        "route": configured.route,
        "ready": status.ready,
        "state": "ready" if status.ready else status.reason,
        "checkpoint": identity.checkpoint,
        "revision": identity.revision,
        "demo": identity.demo,
        "device": identity.device,
        "dtype": identity.dtype,
        "replicas": status.replicas,
        "queue": {name: getattr(status, name) for name in ("backlog", "in_flight", "max_backlog", "expected_wait_s")},
        "load_s": status.load_s,
        "last_error": status.last_error,
        "advice": status.advice,
        "limits": {
            "max_client_batch_size": configured.max_client_batch_size,
            "max_request_bytes": face.settings.max_request_bytes,
            "request_limit_s": face.settings.request_limit_s,
        },
    }
