"""One request to the supervisor and its one reply, over as many connections as it takes.

A request gets exactly one answer, its own: late and foreign replies are dropped and counted.
"""

import socket
import time
from typing import Any, Callable, Optional, Union

import zmq

from ipu_supervisor.protocol import messages
from ipu_supervisor.protocol.connection import RECONNECT_MAX_MS, Line
from ipu_supervisor.protocol.deadline import Deadline
from ipu_supervisor.protocol.errors import ClientGone, ErrorCode, ProtocolError, RequestError
from ipu_supervisor.protocol.messages import Cancel, Refusal, Reply, Status

#: Longest wait for a supervisor that is not there, seconds: a restart fits well, and a client learns soon that
#: nobody comes.
ABSENT_LIMIT_S = 10.0
#: How often one call is sent again after its connection broke.
MAX_RESENDS = 20
#: How long after its deadline a call still waits for what the supervisor says of it, seconds: that has the results of
#: items that were in time, and knows of a death (chosen: the supervisor answers within a few milliseconds).
VERDICT_S = 0.03


class Exchange:
    """One request and its one reply, over as many connections as it takes."""

    def __init__(
        self,
        line: Line,
        frame: Callable[[], bytes],
        call_id: Optional[bytes],
        deadline: Deadline,
        client_socket: Optional[socket.socket],
    ) -> None:
        """Store what is asked; `frame` makes the bytes with the budget that is left; no `call_id`: a status query."""
        self._line = line
        self._connection = line.connection()
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
            self._connection = self._line.renewed()
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
                self._connection = self._line.renewed()
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
        self._line.resent += self._sends > 0
        self._sends += 1
        self._sent = True
        self._absent_since = None

    def _wait_s(self) -> float:
        """Return how long to wait for the next event. Raises `RequestError` when there is no time left."""
        left_s = self._deadline.left_s()
        if self._sent:
            if left_s + VERDICT_S <= 0:
                self._cancel()
                raise RequestError(ErrorCode.DEADLINE_EXCEEDED, "No answer within the request's time limit.")
            return left_s + VERDICT_S
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
            message = self._line.decode(frame)
        except ProtocolError as error:
            raise RequestError(ErrorCode.PROTOCOL, "The supervisor's answer is {}".format(error)) from None
        if isinstance(message, Refusal):
            failure = message.failure
            raise RequestError(failure.code, failure.message, failure.retry_after_s)
        if isinstance(message, Status) if self._call_id is None else self._is_mine(message):
            return message
        self._line.dropped += 1
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
