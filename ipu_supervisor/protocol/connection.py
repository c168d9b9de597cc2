"""One thread's REQ socket to the supervisor, and what sees it break.

Sockets are made lazily and belong to one thread of one process: nothing survives a fork.
"""

import os
import pathlib
import threading
import weakref
from typing import Optional

import zmq
import zmq.auth
from zmq.utils.monitor import recv_monitor_message

from ipu_supervisor.protocol import messages

#: Pause between two attempts to connect, milliseconds: first, and longest.
RECONNECT_MS, RECONNECT_MAX_MS = 20, 250


class Connection:
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
        self._established = False
        self.socket.connect(endpoint)
        self.close = weakref.finalize(self, _close, os.getpid(), self.socket, self.monitor)

    def broke(self) -> bool:
        """Say whether a connection that was established has broken since the last call.

        One that ends before its handshake, as with other keys, is tried again by libzmq, after a pause.
        """
        broke = False
        while self.monitor.poll(0):
            happened = recv_monitor_message(self.monitor, zmq.NOBLOCK)["event"]
            self._established |= happened == zmq.EVENT_HANDSHAKE_SUCCEEDED
            broke |= self._established and happened == zmq.EVENT_DISCONNECTED
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
    """Close sockets, unless they came over a fork: those are not ours, and share descriptors with the parent's."""
    if os.getpid() != pid:
        return
    socket.disable_monitor()
    monitor.close(linger=0)
    socket.close(linger=0)


_contexts: "dict[int, zmq.Context[zmq.Socket[bytes]]]" = {}
_contexts_lock = threading.Lock()


def _context() -> "zmq.Context[zmq.Socket[bytes]]":
    """Return this process's context, for any number of threads; one inherited over a fork is never used."""
    with _contexts_lock:
        if os.getpid() not in _contexts:
            _contexts.clear()
            context = _contexts[os.getpid()] = zmq.Context()
            context.set(zmq.MAX_SOCKETS, context.get(zmq.SOCKET_LIMIT))
        return _contexts[os.getpid()]


class Line:
    """This process's connections to one supervisor: one a thread, made when first used."""

    def __init__(self, endpoint: str, curve_keys: Optional[pathlib.Path] = None) -> None:
        """Store where the supervisor listens."""
        self._endpoint = endpoint
        self._curve_keys = curve_keys
        self._local = threading.local()
        self.decode: messages.Decoder[messages.ToService] = messages.Decoder(messages.ToService)
        #: Replies that were not the awaited one.
        self.dropped = 0
        #: Calls that were sent again after the connection broke.
        self.resent = 0

    def connection(self) -> Connection:
        """Return this thread's connection."""
        if getattr(self._local, "pid", None) != os.getpid():
            self._local.connection = Connection(self._endpoint, self._curve_keys)
            self._local.pid = os.getpid()
        connection: Connection = self._local.connection
        return connection

    def renewed(self) -> Connection:
        """Return a new connection in place of this thread's, which broke.

        A socket that lost its peer takes a message now and then and loses it, and may never connect again (libzmq 4.3.5
        with REQ_RELAXED and IMMEDIATE; seen in 1 of 20 restarts of a peer).
        """
        # Where no new one can be made, for want of descriptors, the next call tries again.
        self._local.pid = None
        self._local.connection.close()
        return self.connection()
