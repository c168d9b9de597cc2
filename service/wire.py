"""Between HTTP headers and the wire: what a client may set, and what every inference answer tells.

Reads and writes headers of Flask's current request; decides nothing.
"""

import re
import time
import urllib.parse
import uuid

from flask import Response, g, request

from ipu_supervisor.protocol.deadline import MAX_BUDGET_MS
from ipu_supervisor.protocol.messages import Identity, Reply
from service.errors import InvalidFields

#: Smallest and largest `X-Request-Timeout`, seconds: what the wire's budget can say.
MIN_LIMIT_S, MAX_LIMIT_S = 0.001, MAX_BUDGET_MS / 1000
#: A request id of the client's that is echoed and logged; anything else is replaced.
REQUEST_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}\Z")
#: A decimal number as JSON writes it; `float` alone would also take `nan`, `1_0` and white space.
NUMBER = re.compile(r"\d{1,20}(\.\d{1,30})?([eE][+-]?\d{1,3})?\Z", re.ASCII)
#: W3C trace context, version 00 and what may follow it.
TRACEPARENT = re.compile(r"[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}\Z")

#: How OpenAPI describes the headers that inference routes read.
REQUEST_HEADERS = [
    {
        "in": "header",
        "name": "X-Request-Timeout",
        "description": "Give up after this many seconds (504). Default: the server's own limit.",
        "schema": {"type": "number", "minimum": MIN_LIMIT_S, "maximum": MAX_LIMIT_S},
    },
    {
        "in": "header",
        "name": "X-Request-ID",
        "description": "Echoed and logged if it is 1 to 128 letters, digits, `.`, `_` or `-`; otherwise one is made.",
        "schema": {"type": "string"},
    },
]
#: How OpenAPI describes the headers of an inference answer.
ANSWER_HEADERS = {
    "X-Request-ID": {"schema": {"type": "string"}, "description": "Names the request in the log."},
    "X-Model": {
        "schema": {"type": "string"},
        "description": "Name, checkpoint and revision; `demo=true` for a stand-in.",
    },
    "metrics-latency": {"schema": {"type": "number"}, "description": "Seconds in this server."},
    "Server-Timing": {"schema": {"type": "string"}, "description": "Queue, batch and inference, milliseconds."},
    "x-queue-time": {"schema": {"type": "integer"}, "description": "Waiting for a replica, milliseconds."},
    "x-inference-time": {"schema": {"type": "integer"}, "description": "Computing, milliseconds."},
    "x-total-time": {"schema": {"type": "integer"}, "description": "All of it, milliseconds."},
}


def request_id() -> str:
    """Return the client's request id if it is sane, else a new one."""
    given = request.headers.get("X-Request-ID", "")
    return given if REQUEST_ID.match(given) else uuid.uuid4().hex


def limit_s(default_s: float) -> float:
    """Return how long the client wants to wait, seconds. Raises `InvalidFields`."""
    given = request.headers.get("X-Request-Timeout")
    if given is None:
        return default_s
    seconds = float(given) if NUMBER.match(given) else 0.0
    if not MIN_LIMIT_S <= seconds <= MAX_LIMIT_S:
        raise InvalidFields(
            {"X-Request-Timeout": [f"Must be a number of seconds from {MIN_LIMIT_S} to {MAX_LIMIT_S:.0f}."]}
        )
    return seconds


def traceparent() -> str:
    """Return the client's trace context if it is one, else nothing."""
    given = request.headers.get("traceparent", "")
    return given if TRACEPARENT.match(given) else ""


def model_header(identity: Identity) -> str:
    """Return `X-Model`: what computed, and loudly whether it is a demo model."""
    checkpoint, revision = (
        urllib.parse.quote(text, safe="/:@._-+") for text in (identity.checkpoint, identity.revision)
    )
    return f'{identity.model}; checkpoint="{checkpoint}"; revision="{revision}"' + (
        "; demo=true" if identity.demo else ""
    )


def tell(response: Response, identity: Identity, reply: Reply | None) -> None:
    """Put on an inference answer who computed it and where the time went."""
    total_s = time.monotonic() - g.started
    response.headers["X-Model"] = model_header(identity)
    response.headers["metrics-latency"] = f"{total_s:.6f}"
    response.headers["x-total-time"] = str(round(total_s * 1000))
    if reply is None:
        return
    timing = reply.timing
    response.headers["x-queue-time"] = str(round(timing.queue_ms))
    response.headers["x-inference-time"] = str(round(timing.inference_ms))
    response.headers["Server-Timing"] = (
        f"queue;dur={timing.queue_ms:.3f}, batch;dur={timing.batch_ms:.3f}, inference;dur={timing.inference_ms:.3f}"
    )
