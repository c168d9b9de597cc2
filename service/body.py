"""Reads a body and checks it against a schema: strict JSON, bounded, never a 5xx for what a client sent."""

import math
from typing import Any

import flask
import msgspec
from marshmallow import Schema, ValidationError
from webargs.flaskparser import FlaskParser
from werkzeug.exceptions import HTTPException, RequestEntityTooLarge

from ipu_supervisor.protocol.errors import ErrorCode, RequestError
from service.errors import HttpCode, HttpError, InvalidFields


class BodyParser(FlaskParser):
    """The parser behind `Blueprint.arguments`."""

    def load_json(self, req: flask.Request, schema: Schema) -> Any:
        """Return what the body holds. Raises what is answered 400, 413, 415 or 422."""
        if req.mimetype != "application/json":
            raise HttpError(HttpCode.UNSUPPORTED_MEDIA_TYPE)
        if req.headers.get("Content-Encoding", "identity") != "identity":
            raise HttpError(
                HttpCode.UNSUPPORTED_MEDIA_TYPE, "The body must be sent as it is: no Content-Encoding is taken."
            )
        try:
            return msgspec.json.decode(_read(req))
        except RecursionError:
            raise RequestError(ErrorCode.INVALID_INPUT, "The body is nested too deeply.") from None
        except (msgspec.MsgspecError, UnicodeDecodeError) as error:
            raise HttpError(HttpCode.BAD_JSON, f"The body is not JSON: {error}") from None

    def handle_error(self, error: ValidationError, *args: Any, **kwargs: Any) -> Any:
        """Name the fields at fault in the one error shape."""
        messages = error.normalized_messages()
        raise InvalidFields(messages.get("json", messages))


def finish(req: flask.Request) -> None:
    """Read what nobody read of a body, before the answer says whether the connection goes on."""
    source = getattr(req.environ["wsgi.input"], "source", None)  # see service.worker
    if source is not None:
        source.finish()


def _read(req: flask.Request) -> bytes:
    """Return the whole body, within the request's own limit.

    A chunked one that is too large, broken or cut short raises a 4xx here, not a 5xx.
    Werkzeug cuts a chunked body at its limit and says nothing, so its limit is one byte above ours.
    """
    most = (req.max_content_length or math.inf) - 1
    too_large = HttpError(HttpCode.BODY_TOO_LARGE, f"The body is too large; at most {most} bytes are taken.")
    source = getattr(req.environ["wsgi.input"], "source", None)
    if source is not None:
        source.until = flask.g.deadline.at
    try:
        body = req.get_data(cache=False)
    except RequestEntityTooLarge:
        raise too_large from None
    except Exception as error:  # Gunicorn's many about chunks, the socket's, and Werkzeug's that hides those
        if source is not None and source.overdue:
            late = "The request's time ran out before its body had come."
            raise RequestError(ErrorCode.DEADLINE_EXCEEDED, late) from None
        if isinstance(error, HTTPException):
            raise
        raise HttpError(HttpCode.BAD_REQUEST, f"The body could not be read: {type(error).__name__}.") from error
    if len(body) > most:
        raise too_large
    return body
