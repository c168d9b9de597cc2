"""Stands for the supervisor on a real socket, and misbehaves as it is told. For the tests of the client.

A thread with a ROUTER of its own. Each call takes the next word of the plan, or of the plan it brings in its request
id; with no word left it is echoed. After a death the next incarnation binds the same path, in a new context: as with a
process that was killed and started again.
"""

import collections
import pathlib
import threading
from typing import Any, Callable, Deque, Dict, List, Optional

import zmq

from ipu_supervisor.protocol import messages
from ipu_supervisor.protocol.errors import ErrorCode
from ipu_supervisor.protocol.messages import Call, Cancel, Failure, Identity, Outcome, Refusal, Reply, Status, Timing

#: What the peer answers to a status query.
STATUS = Status("test", 1, 0.0, False, [])


class Peer:
    """A ROUTER that echoes, or does what the plan says."""

    def __init__(self, folder: pathlib.Path) -> None:
        """Store where to listen."""
        self.endpoint = "ipc://{}/s".format(folder)
        self.plan: Deque[str] = collections.deque()
        self.calls: List[Call] = []
        self.cancels: List[Cancel] = []
        self.queries = 0
        self.deaths = 0
        #: Called in the peer's thread with each call before it is acted on.
        self.on_call: Callable[[Call], Any] = lambda call: None
        self._held: List[List[bytes]] = []
        self._words: Dict[str, Callable[[List[bytes], Call], Any]] = {
            "echo": lambda envelope, call: self._send(envelope, echo(call)),
            "twice": self._twice,
            "drop": lambda envelope, call: None,
            "late": lambda envelope, call: self._held.append([*envelope, messages.encode(echo(call))]),
            "foreign": lambda envelope, call: self._send(envelope, echo(call, call_id=b"f" * 16)),
            "status": lambda envelope, call: self._send(envelope, STATUS),
            "refuse": lambda envelope, call: self._send(envelope, Refusal(Failure(ErrorCode.PROTOCOL, "refused"))),
            "garbage": lambda envelope, call: self._socket.send_multipart([*envelope, b"\xc1garbage"]),
            "empty": lambda envelope, call: self._socket.send_multipart([*envelope, b""]),
            "short": lambda envelope, call: self._send(
                envelope, Reply(call.call_id, [], Timing(), Identity(call.model))
            ),
            "die": lambda envelope, call: self._die(),
            "answer and die": self._answer_and_die,
        }
        self._stop = threading.Event()
        self._born = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> "Peer":
        """Start, and wait until the path is bound."""
        self._thread.start()
        assert self._born.wait(60)
        return self

    def __exit__(self, *why: object) -> None:
        """Stop and unbind."""
        self._stop.set()
        self._thread.join(60)

    def _run(self) -> None:
        """Serve until told to stop."""
        self._bind()
        while not self._stop.is_set():
            if self._socket.poll(10):
                *envelope, frame = self._socket.recv_multipart()
                self._hear(envelope, messages.Decoder(messages.ToSupervisor)(frame))
        self._context.destroy(linger=0)

    def _bind(self) -> None:
        """Begin a life."""
        self._context = zmq.Context()
        self._socket = self._context.socket(zmq.ROUTER)
        self._socket.setsockopt(zmq.ROUTER_MANDATORY, 1)
        self._socket.bind(self.endpoint)
        self._born.set()

    def _hear(self, envelope: List[bytes], message: Any) -> None:
        """Note a message, and act on a call as the plan says."""
        if isinstance(message, Cancel):
            self.cancels.append(message)
        elif isinstance(message, Call):
            self.calls.append(message)
            self.on_call(message)
            word = self._word(message)
            held, self._held = ([], self._held) if word == "late" else (self._held, [])
            for frames in held:
                self._send_frames(frames)
            self._words[word](envelope, message)
        else:
            self.queries += 1
            self._send(envelope, STATUS)

    def _word(self, call: Call) -> str:
        """Return what to do: the word for this attempt in the call's own plan, or the next of the peer's."""
        if call.request_id:
            attempts = [seen for seen in self.calls if seen.call_id == call.call_id]
            return (call.request_id.split(",") + ["echo"] * len(attempts))[len(attempts) - 1]
        return self.plan.popleft() if self.plan else "echo"

    def _send(self, envelope: List[bytes], message: messages.ToService) -> None:
        self._send_frames([*envelope, messages.encode(message)])

    def _send_frames(self, frames: List[bytes]) -> None:
        """Send; a client that is gone is no matter."""
        try:
            self._socket.send_multipart(frames, zmq.NOBLOCK)
        except zmq.ZMQError:
            return

    def _twice(self, envelope: List[bytes], call: Call) -> None:
        self._send(envelope, echo(call))
        self._send(envelope, echo(call))

    def _answer_and_die(self, envelope: List[bytes], call: Call) -> None:
        self._send(envelope, echo(call))
        self._die()

    def _die(self) -> None:
        """Lose every connection and all that waits in it, then come back."""
        self._held.clear()
        self._context.destroy(linger=0)
        self.deaths += 1
        self._bind()


def echo(call: Call, call_id: Optional[bytes] = None) -> Reply:
    """Return the reply that gives every item back."""
    outcomes = [Outcome(item) for item in call.items]
    return Reply(call_id or call.call_id, outcomes, Timing(), Identity(call.model))
