"""Tells systemd how the supervisor is: ready, what it waits for, that its loop turns, that it stops.

Speaks the protocol of sd_notify(3) without its library, and does nothing where systemd did not ask for it. Decides
nothing. Runs in the loop's thread.
"""

import os
import socket
from typing import Mapping, Sequence

from ipu_supervisor.protocol.messages import ModelStatus

#: How often the status text is made, seconds (chosen: a person reads it; the loop turns a thousand times more often).
TELL_EVERY_S = 1.0
#: The watchdog is fed this many times within its limit, so that one late turn is no alarm.
FEEDS_PER_LIMIT = 3


class Notifier:
    """The datagram socket of the service manager; without an address it is silent."""

    def __init__(self, address: str = "", watchdog_s: float = 0.0) -> None:
        """Store where to send, and the watchdog's limit in seconds (0: there is none)."""
        self._address = "\0" + address[1:] if address.startswith("@") else address
        self._feed_every_s = watchdog_s / FEEDS_PER_LIMIT
        self._feed_at = self._tell_at = float("-inf")
        self._text = ""

    @classmethod
    def from_env(cls, environ: Mapping[str, str]) -> "Notifier":
        """Return the notifier that systemd's variables describe; a watchdog for another process is not ours."""
        ours = environ.get("WATCHDOG_PID", str(os.getpid())) == str(os.getpid())
        limit_us = environ.get("WATCHDOG_USEC", "") if ours else ""
        return cls(environ.get("NOTIFY_SOCKET", ""), int(limit_us) / 1e6 if limit_us.isdigit() else 0.0)

    def ready(self) -> None:
        """Say that the sockets are bound: from here on requests can wait for their model."""
        self._send("READY=1")

    def stopping(self) -> None:
        """Say that a stop has begun."""
        self._send("STOPPING=1")

    def status(self, text: str) -> None:
        """Say in one line what is going on; a text that was said last is not said again."""
        if text != self._text:
            self._text = text
            self._send("STATUS=" + text.replace("\n", " "))

    def due(self, now: float) -> bool:
        """Return whether a status text is wanted: once in `TELL_EVERY_S`, and never where nobody listens."""
        if not self._address or now < self._tell_at:
            return False
        self._tell_at = now + TELL_EVERY_S
        return True

    def alive(self, now: float) -> None:
        """Feed the watchdog, at most `FEEDS_PER_LIMIT` times within its limit."""
        if self._feed_every_s and now >= self._feed_at:
            self._feed_at = now + self._feed_every_s
            self._send("WATCHDOG=1")

    def _send(self, message: str) -> None:
        """Send one message; a service manager that does not listen is no reason to stop serving."""
        if not self._address:
            return
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as manager:
            manager.setblocking(False)
            try:
                manager.sendto(message.encode(), self._address)
            except OSError:
                return


def sentence(models: Sequence[ModelStatus]) -> str:
    """Return what every model does: `question_answering COMPILING 42 s; embeddings READY`."""
    return "; ".join("{} {}".format(model.model, _doing(model)) for model in models) or "no model is configured"


def _doing(model: ModelStatus) -> str:
    """Return what one model does: the states of its replicas, with their seconds while it cannot be asked."""
    if model.ready:
        usable = sum(replica.state in ("READY", "BUSY") for replica in model.replicas)
        return "READY" if usable == len(model.replicas) else "READY {}/{}".format(usable, len(model.replicas))
    failed = bool(model.replicas) and all(replica.state == "FAILED" for replica in model.replicas)
    if failed or not model.replicas:
        return "FAILED: {}".format(model.last_error or model.reason) if failed else model.reason
    return ", ".join("{} {:.0f} s".format(replica.state, replica.since_s) for replica in model.replicas)
