"""The web side's client: calls with a budget, and the status; typed errors only.

How a call survives a broken connection is in `exchange.py`.
"""

import pathlib
import secrets
import socket
import threading
import time
from typing import Any, List, Optional, Sequence, Union, cast

import msgspec

from ipu_supervisor.protocol import messages
from ipu_supervisor.protocol.connection import Line
from ipu_supervisor.protocol.deadline import Deadline
from ipu_supervisor.protocol.errors import ErrorCode, ProtocolError, RequestError
from ipu_supervisor.protocol.exchange import Exchange
from ipu_supervisor.protocol.messages import Call, Reply, Status, StatusQuery

#: How long a status is good, seconds.
STATUS_AGE_S = 1.0
#: What is said of a supervisor that answers no question for its status.
SILENT = "The supervisor does not answer."
#: Codes that refuse a call as a whole when every item carries them.
WHOLE = frozenset(
    {
        ErrorCode.OVERLOADED,
        ErrorCode.NOT_READY,
        ErrorCode.DRAINING,
        ErrorCode.UNKNOWN_MODEL,
        ErrorCode.DEADLINE_EXCEEDED,
    }
)


class SupervisorClient:
    """What the web side knows of the supervisor."""

    def __init__(
        self, endpoint: str, curve_keys: Optional[pathlib.Path] = None, status_age_s: float = STATUS_AGE_S
    ) -> None:
        """Store where the supervisor listens, and how long a status is good (seconds); connects when first used."""
        self.line = Line(endpoint, curve_keys)
        self._status_age_s = status_age_s
        self._status_lock = threading.Lock()
        self._status: Union[Status, RequestError, None] = None
        self._status_at = 0.0

    def call(
        self,
        model: str,
        items: Sequence[Any],
        sizes: Sequence[int],
        deadline: Deadline,
        *,
        request_id: str = "",
        traceparent: str = "",
        client_socket: Optional[socket.socket] = None,
    ) -> Reply:
        """Run `model` on `items`; return one outcome per item.

        `sizes`: the model file's estimates, tokens. `client_socket`: the HTTP client's own, watched while waiting.
        Raises `RequestError` when the call is refused or fails as a whole, `ClientGone` when the client hung up.
        """
        call_id = secrets.token_bytes(messages.CALL_ID_BYTES)
        try:
            raw = [msgspec.Raw(messages.encode(item)) for item in items]
            messages.encode([model, request_id, traceparent])
        except ProtocolError as error:
            raise RequestError(ErrorCode.INVALID_INPUT, "The input {}.".format(error)) from None
        if sum(len(bytes(item)) for item in raw) > messages.MAX_MESSAGE_BYTES - 65536:
            raise RequestError(ErrorCode.INVALID_INPUT, "The inputs together are too large; send fewer at a time.")

        def frame() -> bytes:
            return messages.encode(
                Call(call_id, model, raw, list(sizes), deadline.budget_ms(), request_id, traceparent)
            )

        reply = Exchange(self.line, frame, call_id, deadline, client_socket).run()
        if not isinstance(reply, Reply) or len(reply.outcomes) != len(items):
            raise RequestError(ErrorCode.PROTOCOL, "The supervisor gave another number of answers than it got inputs.")
        return _whole(reply)

    def status(self, deadline: Deadline, *, fresh: bool = False) -> Status:
        """Return the supervisor's state, at most a second old. Raises `RequestError` when nobody answers in time.

        `fresh`: as it is now, unless nobody answered within the last second.
        """
        if not self._status_lock.acquire(timeout=deadline.remaining_s()):
            raise RequestError(ErrorCode.NOT_READY, SILENT, 1.0)
        try:
            known = self._status
            old = time.monotonic() - self._status_at > self._status_age_s
            if known is None or old or (fresh and isinstance(known, Status)):
                self._status = known = self._ask_status(deadline)
                self._status_at = time.monotonic()
        finally:
            self._status_lock.release()
        if isinstance(known, RequestError):
            raise RequestError(known.code, known.message, known.retry_after_s)
        return known

    def _ask_status(self, deadline: Deadline) -> Union[Status, RequestError]:
        """Return a fresh status, or why there is none: that too is good for a second, lest probes queue up."""
        try:
            return cast(Status, Exchange(self.line, _status_frame, None, deadline, None).run())
        except RequestError as error:
            if error.code is ErrorCode.DEADLINE_EXCEEDED:
                return RequestError(ErrorCode.NOT_READY, SILENT, 1.0)
            return error


def _status_frame() -> bytes:
    """Return the question for the status."""
    return messages.encode(StatusQuery())


def _whole(reply: Reply) -> Reply:
    """Return the reply, or raise `RequestError` when every item was refused with the same code."""
    codes: List[Optional[ErrorCode]] = [outcome.failure.code if outcome.failure else None for outcome in reply.outcomes]
    failure = reply.outcomes[0].failure
    if failure is not None and failure.code in WHOLE and len(set(codes)) == 1:
        raise RequestError(failure.code, failure.message, failure.retry_after_s)
    return reply
