"""Startup, liveness and readiness: three questions, three answers, each at once.

Liveness and startup never ask the supervisor: a broken device must not make an orchestrator restart web workers.
"""

from typing import Any

import flask
import msgspec
from flask import Response, request
from marshmallow import Schema, fields

from ipu_supervisor.config import ModelConfig
from ipu_supervisor.protocol.errors import ErrorCode, RequestError
from ipu_supervisor.protocol.messages import ModelStatus
from service.errors import ErrorSchema, error_response
from service.face import Face
from service.openapi import ApiBlueprint, Route
from service.routes import playground


class HealthSchema(Schema):
    """The web side works."""

    status = fields.String(required=True, metadata={"example": "ok"})


class ModelReadinessSchema(Schema):
    """Whether one model can be asked, and if not, why."""

    ready = fields.Boolean(required=True)
    reason = fields.String(required=True, metadata={"description": "Empty when ready."})


class ReadinessSchema(Schema):
    """Every configured model can be asked."""

    status = fields.String(required=True, metadata={"example": "ready"})
    models = fields.Dict(keys=fields.String(), values=fields.Nested(ModelReadinessSchema), required=True)


class NotReadySchema(ErrorSchema):
    """Some configured model cannot be asked, or none is configured."""

    models = fields.Dict(keys=fields.String(), values=fields.Nested(ModelReadinessSchema), required=True)


class MessageSchema(Schema):
    """Every configured model can be asked."""

    message = fields.String(required=True, metadata={"example": "Health Check Passed!"})


def blueprint(face: Face) -> Any:
    """Return the documented health routes."""
    routes = ApiBlueprint("health", __name__, description="Ask whether this server works.")

    def root() -> Response:
        if _wants_html():
            return playground.page("playground.html", face)
        return _readiness(face, {"message": "Health Check Passed!"})

    def readiness() -> Response:
        return _readiness(face, None)

    for name, summary in {"startup": "Is this web process up?", "liveness": "Does this web process work?"}.items():
        Route(
            f"/health/{name}",
            _works,
            doc={"operationId": name, "summary": summary},
            answer={"schema": HealthSchema},
        ).add_to(routes)
    asked: dict[str, Any] = {"errors": [ErrorCode.NOT_READY], "error_schema": NotReadySchema}
    doc = {"operationId": "readiness", "summary": "Can every configured model be asked?"}
    Route("/health/readiness", readiness, doc=doc, answer={"schema": ReadinessSchema}, **asked).add_to(routes)
    doc = {"operationId": "root", "summary": "Readiness in short; a browser gets the playground."}
    Route("/", root, doc=doc, answer={"schema": MessageSchema}, **asked).add_to(routes)
    return routes


def aliases(face: Face) -> flask.Blueprint:
    """Return the same questions at the paths that other servers' probes ask."""
    routes = flask.Blueprint("probes", __name__)
    routes.add_url_rule("/livez", "livez", _works)
    for name in ("readyz", "healthz", "ping"):
        routes.add_url_rule("/" + name, name, lambda: _readiness(face, None))
    return routes


def _wants_html() -> bool:
    """Say whether the client is a browser; no preference at all means JSON."""
    accepted = request.accept_mimetypes
    return accepted["text/html"] > accepted["application/json"]


def _works() -> Response:
    """Answer that this process answers."""
    return Response(b'{"status":"ok"}', mimetype="application/json")


def _readiness(face: Face, short: Any) -> Response:
    """Answer 200 (with `short`, if given) when every configured model can be asked, else 503 and why, per model."""
    reasons = _reasons(face)
    models = {name: {"ready": not reason, "reason": reason} for name, reason in reasons.items()}
    missing = [f"{name}: {reason}" for name, reason in reasons.items() if reason]
    if missing or not models:
        message = "; ".join(missing) or "No model is configured: set SERVER_MODELS."
        response = error_response(ErrorCode.NOT_READY, message, extra={"models": models})
    else:
        answer = short or {"status": "ready", "models": models}
        response = Response(msgspec.json.encode(answer), mimetype="application/json")
    response.headers.update({"Cache-Control": "no-store", "Vary": "Accept"})
    return response


def _reasons(face: Face) -> dict[str, str]:
    """Return for each configured model why it cannot be asked now; empty when it can.

    Not a second ago: another worker may have called itself ready since.
    """
    configured = face.settings.config.models
    try:
        status = face.standing.status(fresh=True)
    except RequestError as error:
        return {model.name: error.message for model in configured}
    if status.draining:
        return {model.name: "the supervisor is draining" for model in configured}
    known = {model.model: model for model in status.models}
    return {model.name: _reason(model, known.get(model.name)) for model in configured}


def _reason(model: ModelConfig, status: ModelStatus | None) -> str:
    """Return why one model cannot be asked; empty when it can."""
    if status is None:
        return "the supervisor does not serve it"
    if status.file_hash != model.file.sha256:
        return "the web side and its replicas hold different versions of its model file; restart or reload the older"
    return "" if status.ready else status.reason or "no replica is usable yet"
