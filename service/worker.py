"""Gunicorn's threaded worker, less the three places in which one client can hold up all the others.

Runs in the worker process: `handle` and `handle_request` in its pool, all else in its main thread, which accepts and
watches every connection.
"""

import contextlib
import functools
import io
import math
import re
import selectors
import ssl
import threading
import time
import uuid
from concurrent.futures import Future, ThreadPoolExecutor
from http import HTTPStatus
from typing import Any

import msgspec
from gunicorn.http.errors import (
    ConfigurationProblem,
    ExpectationFailed,
    InvalidResponseHeader,
    InvalidResponseHeaderName,
    LimitRequestHeaders,
    LimitRequestLine,
    ParseException,
    UnsupportedTransferCoding,
)
from gunicorn.workers.gthread import STOP_KEEPALIVE_LINGER, ThreadWorker

#: Longest wait for the rest of a body that nobody read, seconds. Gunicorn's own 5 s would let refused clients that
#: never send their body occupy the spare threads (chosen: what has been sent arrives in less).
UNREAD_LIMIT_S = 0.05
#: Longest that a client may take for all of its headers, and longest silence in its body and while it takes its answer,
#: seconds (chosen: a phone's network recovers in less). `gunicorn_conf` puts the latter on the sockets.
SILENCE_LIMIT_S = 10
#: Most bytes of headers (chosen: as much as nginx takes), and how much is read at once.
MOST_HEAD_BYTES, CHUNK_BYTES = 32 * 1024, 8192
#: What is answered to what is no request; all that Gunicorn raises about one is a `ParseException`.
STATUS: dict[type[Exception], HTTPStatus] = {
    **dict.fromkeys(
        (ConfigurationProblem, InvalidResponseHeader, InvalidResponseHeaderName), HTTPStatus.INTERNAL_SERVER_ERROR
    ),
    LimitRequestLine: HTTPStatus.REQUEST_URI_TOO_LONG,
    LimitRequestHeaders: HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE,
    UnsupportedTransferCoding: HTTPStatus.NOT_IMPLEMENTED,
    ExpectationFailed: HTTPStatus.EXPECTATION_FAILED,
    ParseException: HTTPStatus.BAD_REQUEST,
    ssl.SSLError: HTTPStatus.BAD_REQUEST,
}
#: What the first line of a request looks like, as far as it must before more is waited for.
REQUEST_LINE = re.compile(rb"\S+ \S+ HTTP/\d\.\d\Z")
#: Threads that say goodbye, and how many connections may wait for them; beyond that a connection is cut (chosen).
CLOSERS, MAX_CLOSING = 4, 256


class Source:
    """A client's socket while its body is read: until a moment at most, which the app may set."""

    def __init__(self, sock: Any, parser: Any = None) -> None:
        """Store the socket; there is no limit yet but the socket's own, on silence."""
        self._sock, self._parser = sock, parser
        self.until = math.inf
        self.overdue = False

    def finish(self) -> None:
        """Read what is left of the body; where it does not come, the answer says that the connection ends."""
        self.until, come = time.monotonic() + UNREAD_LIMIT_S, False
        with contextlib.suppress(Exception):  # Gunicorn's many about chunks, and the socket's
            come = self._parser.finish_body(deadline=self.until)
        if not come:
            self._parser.mesg.must_close = True

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


def refusal(status: HTTPStatus, why: str) -> bytes:
    """Return the whole answer to what is no request, so that it never reached the app."""
    from service import errors  # here, for the master process imports this file and would keep that one over reloads

    ours = status is HTTPStatus.INTERNAL_SERVER_ERROR
    code, name = errors.HttpCode.INTERNAL if ours else errors.HttpCode.BAD_REQUEST, uuid.uuid4().hex
    message = errors.STATUS[code][1] if ours else f"{errors.STATUS[code][1]} {why}"
    body = msgspec.json.encode({"error": {"code": code.value, "message": message, "request_id": name}})
    head = (
        f"HTTP/1.1 {status.value} {status.phrase}\r\nConnection: close\r\nX-Request-ID: {name}\r\n"
        f"Content-Type: application/json\r\nX-Content-Type-Options: nosniff\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    return head.encode("ascii") + body


def is_whole(head: bytes) -> bool:
    """Say whether the parser needs no more for the headers of a request, or refuses what there is."""
    head = head[2:] if head[:2] == b"\r\n" else head
    first, end, _ = head.partition(b"\r\n")
    refused = head.count(b"\n") != head.count(b"\r\n") or (end and not REQUEST_LINE.match(first))
    return bool(b"\r\n\r\n" in head or refused)


class Worker(ThreadWorker):  # type: ignore[misc]  # Gunicorn has no types
    """Answers as `gthread` does."""

    def init_process(self) -> None:
        """Prepare for saying goodbye, then run."""
        self._closers = ThreadPoolExecutor(CLOSERS, "close")
        self._closing = threading.BoundedSemaphore(MAX_CLOSING)
        super().init_process()

    def enqueue_req(self, conn: Any) -> None:
        """Have a thread answer a request once its headers have come: no thread waits for those."""
        if self.cfg.is_ssl or self.cfg.http2_cleartext != "off" or self._has_come(conn):
            super().enqueue_req(conn)
            return
        conn.timeout = time.monotonic() + (SILENCE_LIMIT_S if self.alive else STOP_KEEPALIVE_LINGER)
        self.pending_conns.append(conn)
        self.poller.register(conn.sock, selectors.EVENT_READ, functools.partial(self._hear, conn))

    def _hear(self, conn: Any, sock: Any) -> None:
        """Take in more of a request's headers."""
        if self._has_come(conn):
            self.poller.unregister(sock)
            self.pending_conns.remove(conn)
            super().enqueue_req(conn)

    def _has_come(self, conn: Any) -> bool:
        """Read what is there of a request's headers; say whether a thread can go on with it, or with its end."""
        conn.init()
        conn.sock.setblocking(False)
        held = conn.parser.unreader.buf
        held.seek(0, io.SEEK_END)
        while not is_whole(held.getvalue()) and held.tell() <= MOST_HEAD_BYTES:
            try:
                read = conn.sock.recv(CHUNK_BYTES)
            except BlockingIOError:
                return False
            except OSError:
                return True
            if not read:
                return True
            held.write(read)
        return True

    def _cap_keepalive(self, deadline: float) -> None:
        """Let a stopping worker wait no longer for headers than for the next request of a connection that it kept."""
        super()._cap_keepalive(deadline)
        for conn in self.pending_conns:
            conn.timeout = min(conn.timeout, deadline)

    def handle(self, conn: Any) -> Any:
        """Answer a request whose headers have come; too many are refused before any more is read."""
        held = conn.parser.unreader.buf.getvalue() if conn.initialized else b""
        if len(held) > MOST_HEAD_BYTES and not is_whole(held):
            self.handle_error(None, conn.sock, conn.client, LimitRequestHeaders("more than they may be"))
            return False
        return super().handle(conn)

    def handle_error(self, req: Any, client: Any, addr: Any, exc: BaseException) -> None:
        """Refuse what is no request in the one shape of errors."""
        kinds = (status for kind, status in STATUS.items() if isinstance(exc, kind))
        status = next(kinds, HTTPStatus.INTERNAL_SERVER_ERROR)
        if status == HTTPStatus.INTERNAL_SERVER_ERROR:
            self.log.exception("Error handling a request")
        else:
            self.log.warning("refused %s from %s: %s", status, addr[0] if addr else "", exc)
        with contextlib.suppress(OSError):
            client.sendall(refusal(status, str(exc)))

    def handle_request(self, req: Any, conn: Any) -> Any:
        """Answer one request; `service.body` finds beside its body what limits the reading."""
        reader = conn.parser.unreader
        reader.sock = req.body.source = Source(conn.sock, conn.parser)
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
