"""What the web side knows of the supervisor: the client's interface, and the last status it saw.

Decides nothing about HTTP. Shared by all threads of one worker.
"""

import pathlib
import socket
import threading
from collections.abc import Sequence
from typing import Any, Protocol

from ipu_supervisor.protocol.deadline import Deadline
from ipu_supervisor.protocol.errors import RequestError
from ipu_supervisor.protocol.messages import Identity, ModelStatus, Reply, Status

#: Longest that anyone waits for a status, seconds (chosen: health must answer before an orchestrator's probe gives up
#: at 1 s).
STATUS_LIMIT_S = 0.5


class Client(Protocol):
    """What `ipu_supervisor.protocol.client.SupervisorClient` does for the web side; tests hand in a stub."""

    def call(
        self,
        model: str,
        items: Sequence[Any],
        sizes: Sequence[int],
        deadline: Deadline,
        *,
        request_id: str = "",
        traceparent: str = "",
        client_socket: socket.socket | None = None,
    ) -> Reply:
        """Return one outcome per item. Raises `RequestError` for the whole call, `ClientGone` when nobody listens."""

    def status(self, deadline: Deadline, *, fresh: bool = False) -> Status:
        """Return a status at most 1 s old, or a fresh one. Raises `RequestError` when nobody answers."""


class Standing:
    """How the supervisor stands, as far as this worker knows."""

    def __init__(self, client: Client) -> None:
        """Store the client."""
        self._client = client
        self._asking = threading.Lock()
        self._last: dict[str, ModelStatus] = {}
        #: What computes for each model, as it was told last; and whether anything ever was.
        self._identities: dict[str, Identity] = {}
        self._told = False

    def status(self, *, fresh: bool = False) -> Status:
        """Return the status, at most a second old, or of now. Raises `RequestError` within `STATUS_LIMIT_S`."""
        status = self._client.status(Deadline.after(STATUS_LIMIT_S), fresh=fresh)
        self._last = {model.model: model for model in status.models}
        for model in status.models:
            self.computes(model.identity)
        return status

    def expected_wait_s(self, model: str) -> float:
        """Return the last known estimate for `model`, seconds."""
        self._ask()
        known = self._last.get(model)
        return known.expected_wait_s if known else 0.0

    def computes(self, identity: Identity) -> None:
        """Note what computes for a model; one that is not loaded yet says nothing."""
        self._told = True
        if identity.device:
            self._identities[identity.model] = identity

    def identity(self, configured: Identity) -> Identity:
        """Return what computes for a model, for answers that no replica gave: what is configured, until one says."""
        if not self._told:
            self._ask()
        return self._identities.get(configured.model, configured)

    def _ask(self) -> None:
        """Learn how the supervisor stands; one thread at most asks, the others never wait."""
        if self._asking.acquire(blocking=False):
            try:
                self.status()
            except RequestError:
                self._last = {}
            finally:
                self._asking.release()


def connect(endpoint: str, curve_keys: pathlib.Path | None) -> Client:
    """Return the real client. Its sockets are made by the threads that use them, so this is safe before a fork."""
    from ipu_supervisor.protocol.client import SupervisorClient

    client: Client = SupervisorClient(endpoint, curve_keys)
    return client
