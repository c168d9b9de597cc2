"""Gunicorn's threaded worker, less the two places in which one client can hold up all the others.

Runs in the worker process: `finish_request` in its main thread, which accepts and watches every connection, the rest
in its pool.
"""

import math
import threading
import time
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from gunicorn.workers.gthread import ThreadWorker

#: Longest wait for the rest of a body that nobody read, seconds. Gunicorn's own 5 s would let refused clients that
#: never send their body occupy the spare threads (chosen: what has been sent arrives in less).
UNREAD_LIMIT_S = 0.05
#: Longest silence while a client sends its headers or body, and while it takes its answer, seconds (chosen: a phone's
#: network recovers in less). `gunicorn_conf` puts it on the sockets.
SILENCE_LIMIT_S = 10
#: Threads that say goodbye, and how many connections may wait for them; beyond that a connection is cut (chosen).
CLOSERS, MAX_CLOSING = 4, 256


class Source:
    """A client's socket while its body is read: until a moment at most, which the app may set."""

    def __init__(self, sock: Any) -> None:
        """Store the socket; there is no limit yet but the socket's own, on silence."""
        self._sock = sock
        self.until = math.inf
        self.overdue = False

    def recv(self, size: int) -> bytes:
        """Return what has come. At the moment set, `overdue` is and `TimeoutError` raised, however steady the drip."""
        left_s = self.until - time.monotonic()
        if left_s > SILENCE_LIMIT_S:
            return bytes(self._sock.recv(size))
        try:
            if left_s <= 0:
                raise TimeoutError
            self._sock.settimeout(left_s)
            return bytes(self._sock.recv(size))
        except TimeoutError:
            self.overdue = True
            raise
        finally:
            self._sock.settimeout(None)


class Worker(ThreadWorker):  # type: ignore[misc]  # Gunicorn has no types
    """Answers as `gthread` does."""

    def init_process(self) -> None:
        """Prepare for saying goodbye, then run."""
        self._closers = ThreadPoolExecutor(CLOSERS, "close")
        self._closing = threading.BoundedSemaphore(MAX_CLOSING)
        super().init_process()

    def handle_request(self, req: Any, conn: Any) -> Any:
        """Answer one request; `service.body` finds beside its body what limits the reading."""
        reader = conn.parser.unreader
        reader.sock = req.body.source = Source(conn.sock)
        try:
            return super().handle_request(req, conn)
        finally:
            reader.sock = conn.sock

    def finish_request(self, conn: Any, fs: "Future[Any]") -> None:
        """Close a connection beside the main thread: a graceful close waits up to 2 s for the client."""
        if fs.cancelled() or fs.exception() is not None or fs.result():
            super().finish_request(conn, fs)
            return
        self.nr_conns -= 1
        if self._closing.acquire(blocking=False):
            self._closers.submit(self._close, conn)
        else:
            conn.close()

    def _close(self, conn: Any) -> None:
        """Say goodbye to one client."""
        try:
            conn.close(graceful=True)
        finally:
            self._closing.release()

    def _keepalive_after(self, conn: Any, keepalive: bool) -> bool:
        """Keep a connection whose request was read to its end, or nearly so."""
        return bool(keepalive and conn.parser.finish_body(deadline=time.monotonic() + UNREAD_LIMIT_S))
