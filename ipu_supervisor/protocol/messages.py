"""Every message that crosses a socket: frozen, tagged, msgpack; and the one total decoder.

`docs/protocol.md` is the specification, `tests/contract/` holds golden frames. Unknown fields are ignored, an unknown
tag or anything else that does not fit is `ProtocolError`; sizes are bounded before a byte is decoded. Never pickle,
never a method name.
"""

import sys
from typing import Any, Dict, Generic, List, Optional, TypeVar, Union

import msgspec

from ipu_supervisor.protocol.errors import ErrorCode, ProtocolError

if sys.version_info >= (3, 9):
    from typing import Annotated
else:
    from typing_extensions import Annotated

#: Largest message that either side sends or takes, bytes (chosen: an order of magnitude over the largest HTTP body).
MAX_MESSAGE_BYTES = 64 * 1024 * 1024
#: Largest number of items in one call (chosen; `max_client_batch_size` is far below). The decoder counts before reading
#: them: 20 MB of nils would become 1.4 GB of objects.
MAX_ITEMS = 4096
AT_MOST = msgspec.Meta(max_length=MAX_ITEMS)
#: Longest name of a model or a request, and trace context, characters (the web side's own limits are at most as wide).
MAX_NAME = 256
#: Length of a call id, bytes.
CALL_ID_BYTES = 16

#: The result of an item that has none: msgpack's nil.
NIL = msgspec.Raw(b"\xc0")


class Message(msgspec.Struct, frozen=True, tag_field="type"):
    """What every message shares: immutable, and told apart by its `type`."""


class Failure(msgspec.Struct, frozen=True):
    """Why one item has no result."""

    code: ErrorCode
    message: str
    retry_after_s: Optional[float] = None


class Outcome(msgspec.Struct, frozen=True):
    """The answer to one item: a result (msgpack, as the model file returned it), or `NIL` and a failure."""

    result: msgspec.Raw = NIL
    failure: Optional[Failure] = None


class Timing(msgspec.Struct, frozen=True):
    """Where the slowest item of a call spent its time, milliseconds."""

    queue_ms: float = 0.0
    batch_ms: float = 0.0
    inference_ms: float = 0.0


class Identity(msgspec.Struct, frozen=True):
    """What computes: told in `X-Model` and `/models`, so that nobody is answered by a demo model unknowingly."""

    model: str
    checkpoint: str = ""
    revision: str = ""
    demo: bool = False
    device: str = ""
    dtype: str = ""


# ---- web side to supervisor ------------------------------------------------------------------------------------------


class Call(Message, frozen=True, tag="call"):
    """Run one model on some items within a budget."""

    call_id: bytes
    model: str
    items: Annotated[List[msgspec.Raw], AT_MOST]
    sizes: Annotated[List[int], AT_MOST]
    budget_ms: int
    request_id: str = ""
    traceparent: str = ""


class Cancel(Message, frozen=True, tag="cancel"):
    """Nobody waits for this call any more. Not answered."""

    call_id: bytes


class StatusQuery(Message, frozen=True, tag="status_query"):
    """Ask for the read-only status."""


# ---- supervisor to web side ------------------------------------------------------------------------------------------


class Reply(Message, frozen=True, tag="reply"):
    """The one answer to a call: as many outcomes as it had items, in their order."""

    call_id: bytes
    outcomes: List[Outcome]
    timing: Timing
    identity: Identity


class ReplicaStatus(msgspec.Struct, frozen=True):
    """One replica as the operator sees it."""

    replica: str
    state: str
    since_s: float
    pid: int = 0
    last_exit: str = ""
    #: Why it is not, or was last not, of use; and what an operator can do about it.
    reason: str = ""
    advice: str = ""
    #: Programs that its last warm-up compiled, and those that it found in the cache of compiled programs.
    compiled: int = 0
    from_cache: int = 0


class ModelStatus(msgspec.Struct, frozen=True):
    """One pool as the operator sees it. `file_hash` is the SHA-256 of the model file that the supervisor holds."""

    model: str
    ready: bool
    reason: str
    identity: Identity
    file_hash: str
    replicas: List[ReplicaStatus]
    backlog: int
    in_flight: int
    max_backlog: int
    expected_wait_s: float = 0.0
    load_s: float = 0.0
    last_error: str = ""
    advice: str = ""
    last_stderr: List[str] = []
    counters: Dict[str, float] = {}


class Status(Message, frozen=True, tag="status"):
    """The answer to `StatusQuery`."""

    version: str
    pid: int
    uptime_s: float
    draining: bool
    models: List[ModelStatus]
    counters: Dict[str, float] = {}


class Refusal(Message, frozen=True, tag="refusal"):
    """The answer to a frame that was no valid request: the code is PROTOCOL or INVALID_INPUT."""

    failure: Failure


# ---- supervisor to replica -------------------------------------------------------------------------------------------


class CompileGranted(Message, frozen=True, tag="compile_granted"):
    """It is this replica's turn to compile."""


class Run(Message, frozen=True, tag="run"):
    """Compute one batch. `request_ids`: who first asked for each item, for the replica's log."""

    batch_id: int
    items: List[msgspec.Raw]
    request_ids: List[str] = []


class Probe(Message, frozen=True, tag="probe"):
    """Show that the serving thread still turns."""

    number: int


# ---- replica to supervisor -------------------------------------------------------------------------------------------


class Hello(Message, frozen=True, tag="hello"):
    """The process is up and begins to load its weights."""

    pid: int


class Loaded(Message, frozen=True, tag="loaded"):
    """Weights are in memory; the replica asks to compile."""

    identity: Identity


class Ready(Message, frozen=True, tag="ready"):
    """The warm-up on the model's own example succeeded.

    `compiled`: programs that it compiled; `from_cache`: programs that it found in the cache of compiled programs.
    """

    warmup_s: float
    compiled: int = 0
    from_cache: int = 0


class Unable(Message, frozen=True, tag="unable"):
    """The process can serve no more and exits: loading or compiling failed, or its device did.

    `final`: trying again cannot help. `advice`: what an operator can do. `alarm`: an operator must act. `waits`: trying
    again later may help, for as long as it takes. `blameless`: what was aboard did not cause it.
    """

    reason: str
    final: bool
    advice: str = ""
    alarm: bool = False
    waits: bool = False
    blameless: bool = False


class BatchDone(Message, frozen=True, tag="batch_done"):
    """One outcome per item of the batch."""

    batch_id: int
    outcomes: List[Outcome]
    inference_ms: float


class BatchRaised(Message, frozen=True, tag="batch_raised"):
    """The model raised on the batch as a whole; nobody's outcome is known."""

    batch_id: int
    failure: Failure
    inference_ms: float


class ProbeAnswer(Message, frozen=True, tag="probe_answer"):
    """The serving thread answers a probe."""

    number: int


# ---- operator socket -------------------------------------------------------------------------------------------------


class OperatorCommand(Message, frozen=True, tag="operator"):
    """A closed set of verbs: drain, reload, scale. `model` empty means all of them."""

    verb: str
    model: str = ""
    replicas: int = 0


class OperatorAnswer(Message, frozen=True, tag="operator_answer"):
    """What became of an operator's command."""

    ok: bool
    message: str


ToSupervisor = Union[Call, Cancel, StatusQuery]
ToService = Union[Reply, Status, Refusal]
ToReplica = Union[CompileGranted, Run, Probe]
FromReplica = Union[Hello, Loaded, Ready, Unable, BatchDone, BatchRaised, ProbeAnswer]

T = TypeVar("T")
_encoder = msgspec.msgpack.Encoder()


def encode(message: object) -> bytes:
    """Return the msgpack bytes of a message or a plain value.

    Raises `ProtocolError` for what cannot be encoded: lone surrogates, nesting without end.
    """
    try:
        return _encoder.encode(message)
    except (UnicodeEncodeError, RecursionError, TypeError, OverflowError, ValueError) as error:
        raise ProtocolError("cannot be encoded: {}".format(error)) from None


class Decoder(Generic[T]):
    """Decodes one family of messages; anything else is `ProtocolError`."""

    def __init__(self, family: Any, max_bytes: int = MAX_MESSAGE_BYTES) -> None:
        """Prepare the decoder for a message type or a union of them."""
        self._decoder: msgspec.msgpack.Decoder[T] = msgspec.msgpack.Decoder(family)
        self._max_bytes = max_bytes

    def __call__(self, frame: bytes) -> T:
        """Return the message in `frame`. Raises `ProtocolError`."""
        if len(frame) > self._max_bytes:
            raise ProtocolError("a message of {} bytes; at most {} are taken".format(len(frame), self._max_bytes))
        try:
            return self._decoder.decode(frame)
        except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError, ValueError) as error:
            raise ProtocolError("not a message: {}".format(error)) from None
