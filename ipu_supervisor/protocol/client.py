"""The web side's client: one REQ socket per thread, a budget, a watch on the HTTP client, re-sending after a broken connection.

Sockets are made lazily and belong to one thread of one process: nothing survives a fork. A call gets exactly one answer, its own:
late and foreign replies are dropped and counted.
"""

import os
import pathlib
import secrets
import socket
import threading
import time
import weakref
from typing import Any, List, Optional, Sequence, Union

import msgspec
import zmq
import zmq.auth
from zmq.utils.monitor import recv_monitor_message

from ipu_supervisor.protocol import messages
from ipu_supervisor.protocol.deadline import Deadline
from ipu_supervisor.protocol.errors import ClientGone, ErrorCode, ProtocolError, RequestError
from ipu_supervisor.protocol.messages import Call, Cancel, Refusal, Reply, Status, StatusQuery

#: Longest wait for a supervisor that is not there, seconds: a restart fits well, and a client learns soon that
#: nobody comes.
ABSENT_LIMIT_S = 10.0
#: How often one call is sent again after its connection broke.
MAX_RESENDS = 20
#: Pause between two attempts to connect, milliseconds: first, and longest.
RECONNECT_MS, RECONNECT_MAX_MS = 20, 250
#: How long a status is good, seconds.
STATUS_AGE_S = 1.0
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


class _Connection:
    """One thread's socket, and the monitor that sees its connection break."""

    def __init__(self, endpoint: str, curve_keys: Optional[pathlib.Path]) -> None:
        """Connect in the background."""
        context = _context()
        self.socket = context.socket(zmq.REQ)
        for option, value in (
            (zmq.REQ_RELAXED, 1),
            (zmq.REQ_CORRELATE, 1),
            (zmq.IMMEDIATE, 1),
            (zmq.LINGER, 0),
            (zmq.RECONNECT_IVL, RECONNECT_MS),
            (zmq.RECONNECT_IVL_MAX, RECONNECT_MAX_MS),
            (zmq.MAXMSGSIZE, messages.MAX_MESSAGE_BYTES),
        ):
            self.socket.setsockopt(option, value)
        if curve_keys is not None and endpoint.startswith("tcp://"):
            self.socket.curve_publickey, self.socket.curve_secretkey = zmq.auth.load_certificate(
                str(curve_keys / "service.key_secret")
            )
            self.socket.curve_serverkey = zmq.auth.load_certificate(str(curve_keys / "supervisor.key"))[0]
        self.monitor = self.socket.get_monitor_socket(zmq.EVENT_DISCONNECTED | zmq.EVENT_HANDSHAKE_SUCCEEDED)
        self.socket.connect(endpoint)
        self.close = weakref.finalize(self, _close, os.getpid(), self.socket, self.monitor)

    def broke(self) -> bool:
        """Say whether the connection broke since the last call."""
        broke = False
        while self.monitor.poll(0):
            broke |= recv_monitor_message(self.monitor, zmq.NOBLOCK)["event"] == zmq.EVENT_DISCONNECTED
        return broke

    def send(self, frame: bytes) -> bool:
        """Send without waiting; say whether anybody is connected to take it."""
        try:
            self.socket.send(frame, zmq.NOBLOCK)
        except zmq.Again:
            return False
        return True

    def receive(self) -> Optional[bytes]:
        """Return a reply to the latest request, if there is one. Never waits: after a stale reply `poll` lies."""
        try:
            return self.socket.recv(zmq.NOBLOCK)
        except zmq.Again:
            return None


def _close(pid: int, socket: "zmq.Socket[bytes]", monitor: "zmq.Socket[bytes]") -> None:
    """Close sockets, unless they were inherited over a fork: those are not ours, and share descriptors with the parent's."""
    if os.getpid() != pid:
        return
    socket.disable_monitor()
    monitor.close(linger=0)
    socket.close(linger=0)


_contexts: "dict[int, zmq.Context[zmq.Socket[bytes]]]" = {}
_contexts_lock = threading.Lock()


def _context() -> "zmq.Context[zmq.Socket[bytes]]":
    """Return this process's context; one inherited over a fork is never used."""
    with _contexts_lock:
        if os.getpid() not in _contexts:
            _contexts.clear()
            _contexts[os.getpid()] = zmq.Context()
        return _contexts[os.getpid()]


class SupervisorClient:
    """What the web side knows of the supervisor."""

    def __init__(
        self, endpoint: str, curve_keys: Optional[pathlib.Path] = None, status_age_s: float = STATUS_AGE_S
    ) -> None:
        """Store where the supervisor listens, and how long a status is good (seconds); connects when first used."""
        self._endpoint = endpoint
        self._status_age_s = status_age_s
        self._curve_keys = curve_keys
        self._local = threading.local()
        self.decode: messages.Decoder[messages.ToService] = messages.Decoder(messages.ToService)
        self._status_lock = threading.Lock()
        self._status: Union[Status, RequestError, None] = None
        self._status_at = 0.0
        #: Replies that were not the awaited one.
        self.dropped = 0
        #: Calls that were sent again after the connection broke.
        self.resent = 0

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

        reply = _Exchange(self, frame, call_id, deadline, client_socket).run()
        assert isinstance(reply, Reply)
        if len(reply.outcomes) != len(items):
            raise RequestError(ErrorCode.PROTOCOL, "The supervisor gave another number of answers than it got inputs.")
        return _whole(reply)

    def status(self, deadline: Deadline) -> Status:
        """Return the supervisor's state, at most a second old. Raises `RequestError` NOT_READY when nobody answers in time."""
        if not self._status_lock.acquire(timeout=deadline.remaining_s()):
            raise RequestError(ErrorCode.NOT_READY, "The supervisor does not answer.", 1.0)
        try:
            if self._status is None or time.monotonic() - self._status_at > self._status_age_s:
                self._status = self._ask_status(deadline)
                self._status_at = time.monotonic()
        finally:
            self._status_lock.release()
        if isinstance(self._status, RequestError):
            raise RequestError(self._status.code, self._status.message, self._status.retry_after_s)
        return self._status

    def _ask_status(self, deadline: Deadline) -> Union[Status, RequestError]:
        """Return a fresh status, or why there is none: that too is good for a second, so that probes do not queue up."""
        try:
            answer = _Exchange(self, _status_frame, None, deadline, None).run()
        except RequestError as error:
            return error
        assert isinstance(answer, Status)
        return answer

    def connection(self) -> _Connection:
        """Return this thread's connection."""
        if getattr(self._local, "pid", None) != os.getpid():
            self._local.connection = _Connection(self._endpoint, self._curve_keys)
            self._local.pid = os.getpid()
        connection: _Connection = self._local.connection
        return connection

    def renewed(self) -> _Connection:
        """Return a new connection in place of this thread's, which broke.

        A socket that lost its peer takes a message now and then and loses it, and may never connect again (libzmq 4.3.5
        with REQ_RELAXED and IMMEDIATE; seen in 1 of 20 restarts of a peer).
        """
        self._local.connection.close()
        self._local.connection = _Connection(self._endpoint, self._curve_keys)
        return self.connection()


def _status_frame() -> bytes:
    """Return the question for the status."""
    return messages.encode(StatusQuery())


class _Exchange:
    """One request and its one reply, over as many connections as it takes."""

    def __init__(
        self,
        client: SupervisorClient,
        frame: Any,
        call_id: Optional[bytes],
        deadline: Deadline,
        client_socket: Optional[socket.socket],
    ) -> None:
        """Store what is asked; `frame` makes the bytes with the budget that is left, `call_id` is `None` for a status query."""
        self._client = client
        self._connection = client.connection()
        self._frame = frame
        self._call_id = call_id
        self._deadline = deadline
        self._client_socket = client_socket
        self._sent = False
        self._sends = 0
        self._absent_since: Optional[float] = None

    def run(self) -> Union[Reply, Status]:
        """Send, wait, and send again when the connection breaks. Raises `RequestError`, `ClientGone`."""
        if self._connection.broke():
            self._connection = self._client.renewed()
        poller = self._poller()
        while True:
            if not self._sent:
                self._send()
            events = dict(poller.poll(max(1, int(self._wait_s() * 1000 + 0.999))))
            self._watch_client(poller, events)
            reply = self._reply() if self._sent else None
            if reply is not None:
                return reply
            if self._connection.broke():
                self._connection = self._client.renewed()
                self._sent = False
                poller = self._poller()

    def _poller(self) -> zmq.Poller:
        """Return what to wait for: a reply, the connection's end or return, the client's end."""
        poller = zmq.Poller()
        poller.register(self._connection.socket, zmq.POLLIN)
        poller.register(self._connection.monitor, zmq.POLLIN)
        if self._client_socket is not None:
            poller.register(self._client_socket.fileno(), zmq.POLLIN)
        return poller

    def _send(self) -> None:
        """Send the request when somebody is there to take it."""
        if self._sends > MAX_RESENDS:
            raise RequestError(ErrorCode.NOT_READY, "The supervisor keeps breaking the connection.", 1.0)
        if not self._connection.send(self._frame()):
            self._absent_since = self._absent_since or time.monotonic()
            return
        self._client.resent += self._sends > 0
        self._sends += 1
        self._sent = True
        self._absent_since = None

    def _wait_s(self) -> float:
        """Return how long to wait for the next event. Raises `RequestError` when there is no time left."""
        left_s = self._deadline.remaining_s()
        if self._sent:
            if left_s <= 0:
                self._cancel()
                raise RequestError(ErrorCode.DEADLINE_EXCEEDED, "No answer within the request's time limit.")
            return left_s
        absent_s = time.monotonic() - (self._absent_since or time.monotonic())
        if left_s <= 0 or absent_s >= ABSENT_LIMIT_S:
            raise RequestError(ErrorCode.NOT_READY, "The supervisor cannot be reached.", 1.0)
        return min(left_s, ABSENT_LIMIT_S - absent_s, RECONNECT_MAX_MS / 1000)

    def _reply(self) -> Union[Reply, Status, None]:
        """Return the awaited reply if it is there. Raises `RequestError` for a refusal.

        Any other reply is dropped, and the call is sent again: a REQ socket takes one reply to each request.
        """
        frame = self._connection.receive()
        if frame is None:
            return None
        try:
            message = self._client.decode(frame)
        except ProtocolError as error:
            raise RequestError(ErrorCode.PROTOCOL, "The supervisor's answer is {}".format(error)) from None
        if isinstance(message, Refusal):
            failure = message.failure
            raise RequestError(failure.code, failure.message, failure.retry_after_s)
        if isinstance(message, Status) if self._call_id is None else self._is_mine(message):
            return message
        self._client.dropped += 1
        self._sent = False
        return None

    def _is_mine(self, message: Union[Reply, Status]) -> bool:
        """Say whether a message answers this call."""
        return isinstance(message, Reply) and message.call_id == self._call_id

    def _watch_client(self, poller: zmq.Poller, events: Any) -> None:
        """Raise `ClientGone` when the HTTP client hung up; bytes of a pipelined request only end the watch."""
        watched = self._client_socket
        if watched is None or not events.get(watched.fileno()):
            return
        try:
            peeked = watched.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT)
        except BlockingIOError:
            return
        except OSError:
            peeked = b""
        if peeked == b"":
            self._cancel()
            raise ClientGone("the client hung up")
        poller.unregister(watched.fileno())
        self._client_socket = None

    def _cancel(self) -> None:
        """Tell the supervisor that nobody waits any more; there is no answer to that."""
        if self._call_id is not None:
            self._connection.send(messages.encode(Cancel(self._call_id)))


def _whole(reply: Reply) -> Reply:
    """Return the reply, or raise `RequestError` when every item was refused with the same code."""
    codes: List[Optional[ErrorCode]] = [outcome.failure.code if outcome.failure else None for outcome in reply.outcomes]
    failure = reply.outcomes[0].failure
    if failure is not None and failure.code in WHOLE and len(set(codes)) == 1:
        raise RequestError(failure.code, failure.message, failure.retry_after_s)
    return reply
