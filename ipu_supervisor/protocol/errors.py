"""The closed list of error codes that cross the wire, and the exceptions that carry them.

Both halves import this file; it imports nothing of the project. What HTTP status a code becomes is decided in
`service/errors.py` alone.
"""

import enum
from typing import Optional


class ErrorCode(str, enum.Enum):
    """Every way in which the supervisor answers "no"."""

    #: The input cannot be served; sending it again will not help.
    INVALID_INPUT = "INVALID_INPUT"
    #: No such model in `SERVER_MODELS`.
    UNKNOWN_MODEL = "UNKNOWN_MODEL"
    #: The backlog is full or the budget cannot be met at the measured rate; try again after `retry_after_s`.
    OVERLOADED = "OVERLOADED"
    #: No usable replica, and none that could be ready within the budget.
    NOT_READY = "NOT_READY"
    #: The model or the whole supervisor takes no new requests.
    DRAINING = "DRAINING"
    #: The budget ran out before the answer came.
    DEADLINE_EXCEEDED = "DEADLINE_EXCEEDED"
    #: The replica died and no budget was left to run the request again.
    REPLICA_DIED = "REPLICA_DIED"
    #: The request killed two replicas and is refused from now on.
    POISON = "POISON"
    #: The model raised, or gave an answer that its own schema refuses.
    MODEL_ERROR = "MODEL_ERROR"
    #: A frame that is not the protocol.
    PROTOCOL = "PROTOCOL"


class ProtocolError(ValueError):
    """Bytes that are not a valid message: too large, not msgpack, an unknown tag, a wrong field."""


class RequestError(Exception):
    """A request was refused or failed as a whole, with a code of the closed list."""

    def __init__(self, code: ErrorCode, message: str, retry_after_s: Optional[float] = None) -> None:
        """Store the code, a sentence that says what to do, and when to come back (seconds)."""
        super().__init__(message)
        self.code = code
        self.message = message
        self.retry_after_s = retry_after_s


class ClientGone(Exception):
    """The HTTP client hung up before its answer was there; the request was cancelled."""
