"""The one table from error code to HTTP status, and the one shape of an error answer.

`{"error": {"code", "message", "request_id", "fields"?}}`, whatever went wrong: a wire code, a schema, a route, a bug.
"""

import enum
import logging
import math
from collections.abc import Iterator, Mapping
from typing import Any

import msgspec
from flask import Flask, Response, g, redirect, request
from flask.typing import ResponseReturnValue
from marshmallow import Schema, fields
from werkzeug.exceptions import HTTPException
from werkzeug.routing import RequestRedirect

from ipu_supervisor.protocol.errors import ClientGone, ErrorCode, RequestError

#: Most faults of one body that are named in an answer, and the longest field name, characters (chosen).
MAX_FAULTS, MAX_FIELD_CHARS = 20, 100


class HttpCode(enum.StrEnum):
    """Every way in which the web side itself answers "no"."""

    BAD_REQUEST = "BAD_REQUEST"
    BAD_JSON = "BAD_JSON"
    UNAUTHORIZED = "UNAUTHORIZED"
    NOT_FOUND = "NOT_FOUND"
    METHOD_NOT_ALLOWED = "METHOD_NOT_ALLOWED"
    BODY_TOO_LARGE = "BODY_TOO_LARGE"
    UNSUPPORTED_MEDIA_TYPE = "UNSUPPORTED_MEDIA_TYPE"
    INVALID_FIELDS = "INVALID_FIELDS"
    CLIENT_GONE = "CLIENT_GONE"
    INTERNAL = "INTERNAL"


Code = ErrorCode | HttpCode

#: The status of every code, and what it means to a client.
STATUS: dict[Code, tuple[int, str]] = {
    ErrorCode.INVALID_INPUT: (422, "The model cannot serve this input; sending it again will not help."),
    ErrorCode.UNKNOWN_MODEL: (404, "The supervisor does not serve this model."),
    ErrorCode.OVERLOADED: (429, "Too much work is waiting; come back after `Retry-After` seconds."),
    ErrorCode.NOT_READY: (503, "The model is not ready; come back after `Retry-After` seconds."),
    ErrorCode.DRAINING: (503, "The server takes no new requests; come back after `Retry-After` seconds."),
    ErrorCode.DEADLINE_EXCEEDED: (504, "The request's time ran out before the answer came."),
    ErrorCode.REPLICA_DIED: (503, "The model's process died and no time was left to run the request again."),
    ErrorCode.POISON: (
        500,
        "This request ended the model's process twice, which died or took too long; it is refused for ten minutes.",
    ),
    ErrorCode.MODEL_ERROR: (500, "The model failed on this input; the log tells more under the request id."),
    ErrorCode.PROTOCOL: (502, "The supervisor and the web side did not understand each other."),
    HttpCode.BAD_JSON: (400, "The body is not JSON."),
    HttpCode.BAD_REQUEST: (400, "The request cannot be read."),
    HttpCode.UNAUTHORIZED: (401, "Credentials are missing or wrong."),
    HttpCode.NOT_FOUND: (404, "No such route."),
    HttpCode.METHOD_NOT_ALLOWED: (405, "The route does not take this method; `Allow` names those it takes."),
    HttpCode.BODY_TOO_LARGE: (413, "The body is larger than the server takes."),
    HttpCode.UNSUPPORTED_MEDIA_TYPE: (415, "The body must be sent as `Content-Type: application/json`."),
    HttpCode.INVALID_FIELDS: (422, "The body or a header does not fit the schema; `fields` names what is wrong."),
    HttpCode.CLIENT_GONE: (499, "The client hung up; only the log sees this."),
    HttpCode.INTERNAL: (500, "A fault of the server; the log tells more under the request id."),
}
#: Codes whose own message may tell internals: it goes to the log, the client gets the table's sentence.
WITHHELD = frozenset({ErrorCode.MODEL_ERROR, ErrorCode.PROTOCOL})
#: What a status that Flask or Werkzeug raised is called: the first code that has it.
BY_STATUS = {STATUS[code][0]: code for code in reversed(HttpCode)}


class ErrorDetailSchema(Schema):
    """What went wrong."""

    code = fields.String(required=True, metadata={"description": "One of a closed list, for programs."})
    message = fields.String(required=True, metadata={"description": "A sentence for people."})
    request_id = fields.String(required=True, metadata={"description": "Find the request in the log by this id."})
    faults = fields.Dict(
        keys=fields.String(),
        values=fields.List(fields.String()),
        data_key="fields",
        metadata={"description": "What is wrong with which field; nested ones as `inputs.0.text`."},
    )


class ErrorSchema(Schema):
    """The one shape of every error."""

    error = fields.Nested(ErrorDetailSchema, required=True)


class HttpError(Exception):
    """A request that the web side itself refuses."""

    def __init__(self, code: HttpCode, message: str = "") -> None:
        """Store the code and a sentence for the client; without one, the table's."""
        super().__init__(message)
        self.code = code
        self.message = message


class InvalidFields(Exception):
    """A body or header does not fit its schema; `messages` is marshmallow's."""

    def __init__(self, messages: Mapping[Any, Any]) -> None:
        """Store what is wrong with which field."""
        super().__init__("invalid fields")
        self.messages = messages


def register(app: Flask) -> None:
    """Answer every exception of `app` in the one shape."""
    app.register_error_handler(RequestError, _request_error)
    app.register_error_handler(HttpError, _http_error)
    app.register_error_handler(InvalidFields, _invalid_fields)
    app.register_error_handler(ClientGone, _client_gone)
    app.register_error_handler(HTTPException, _http_exception)
    app.register_error_handler(Exception, _unforeseen)


def error_response(
    code: Code,
    message: str = "",
    *,
    retry_after_s: float | None = None,
    status: int | None = None,
    extra: Mapping[str, Any] | None = None,
    **detail: Any,
) -> Response:
    """Return an error in the one shape; `extra` goes beside `error`, `detail` into it. 429 and 503 carry `Retry-After`.

    `message` is read by the client as it is: what came over the wire goes through `public` first.
    """
    g.code = code.value
    status = STATUS[code][0] if status is None else status
    error = {"code": code.value, "message": message or STATUS[code][1], "request_id": g.request_id, **detail}
    response = Response(msgspec.json.encode({"error": error, **(extra or {})}), status, mimetype="application/json")
    if status in (429, 503):
        response.headers["Retry-After"] = str(max(1, math.ceil(min(retry_after_s or 0, 86_400))))
    return response


def public(code: Code, message: str) -> str:
    """Return what a client may read of a message from the wire; one that may tell internals is kept for the log."""
    if code not in WITHHELD:
        return message
    g.detail = message
    return STATUS[code][1]


def _request_error(error: RequestError) -> Response:
    """Answer a refusal or failure that came over the wire."""
    return error_response(error.code, public(error.code, error.message), retry_after_s=error.retry_after_s)


def _http_error(error: HttpError) -> Response:
    """Answer what the web side itself refuses."""
    return error_response(error.code, error.message)


def _invalid_fields(error: InvalidFields) -> Response:
    """Answer a body or header that does not fit its schema."""
    faults = dict(list(_flat("", error.messages))[:MAX_FAULTS])
    name, messages = next(iter(faults.items()))
    return error_response(HttpCode.INVALID_FIELDS, f"{name}: {' '.join(messages)}", fields=faults)


def _flat(prefix: str, messages: Any) -> Iterator[tuple[str, list[str]]]:
    """Yield `inputs.0.text` and its sentences for marshmallow's nested messages; `body` is the body as a whole."""
    if not isinstance(messages, Mapping):
        sentences = messages if isinstance(messages, list) else [messages]
        yield prefix[:MAX_FIELD_CHARS] or "body", [str(sentence) for sentence in sentences]
        return
    for name, inner in messages.items():
        part = "" if name == "_schema" else str(name)
        yield from _flat(f"{prefix}.{part}" if prefix and part else prefix or part, inner)


def _client_gone(error: ClientGone) -> Response:
    """Give the log its 499; nobody reads the answer."""
    return error_response(HttpCode.CLIENT_GONE)


def _http_exception(error: HTTPException) -> ResponseReturnValue:
    """Answer what Flask and Werkzeug raise: unknown routes, wrong methods, bodies too large."""
    if isinstance(error, RequestRedirect):
        return redirect(error.new_url, error.code)
    status = error.code or 500
    code = BY_STATUS.get(status, HttpCode.BAD_REQUEST if status < 500 else HttpCode.INTERNAL)
    response = error_response(code, status=status)
    kept = [(name, value) for name, value in error.get_headers(request.environ) if name.lower() != "content-type"]
    response.headers.extend(kept)
    return response


def _unforeseen(error: Exception) -> Response:
    """Answer a bug: the trace stays in the log, the client gets the id."""
    fault = {"event": "unforeseen", "request_id": g.request_id, "path": request.path}
    logging.getLogger("service").error("unforeseen", exc_info=error, extra={"fields": fault})
    return error_response(HttpCode.INTERNAL)
