"""The web side's socket: frames in, valid calls out; replies back to the latest envelope of their call.

Runs in the loop's thread. Decides nothing about models.
"""

from typing import Dict, List, Optional, Tuple, Union

import zmq

from ipu_supervisor.protocol import messages
from ipu_supervisor.protocol.deadline import MAX_BUDGET_MS
from ipu_supervisor.protocol.errors import ErrorCode, ProtocolError
from ipu_supervisor.protocol.messages import Call, Cancel, Failure, Outcome, Refusal, Reply, StatusQuery

#: Most messages taken from a socket before the others get their turn (chosen).
TURN = 256
#: Routing frames before the payload, the empty delimiter included.
Envelope = List[bytes]


class Front:
    """Receives from and answers to the web side."""

    def __init__(self, socket: "zmq.Socket[bytes]") -> None:
        """Store the bound ROUTER."""
        self._socket = socket
        self._decode: messages.Decoder[messages.ToSupervisor] = messages.Decoder(messages.ToSupervisor)
        self._envelopes: Dict[bytes, Envelope] = {}
        #: Replies whose asker was gone, and frames that were no message.
        self.dropped = 0
        self.garbage = 0

    def receive(self) -> List[Tuple[Envelope, Union[Call, Cancel, StatusQuery]]]:
        """Return what arrived, at most a turn's worth; garbage is refused and counted here."""
        arrived = []
        for _ in range(TURN):
            try:
                frames = self._socket.recv_multipart(zmq.NOBLOCK)
            except zmq.Again:
                break
            message = self._open(frames)
            if message is not None:
                arrived.append((frames[:-1], message))
        return arrived

    def expect(self, call_id: bytes, envelope: Envelope) -> bool:
        """Remember where a call's reply goes; say whether the call is new. A re-sent call moves its reply."""
        known = call_id in self._envelopes
        self._envelopes[call_id] = envelope
        return not known

    def forget(self, call_id: bytes) -> None:
        """Drop the address of a call that was cancelled."""
        self._envelopes.pop(call_id, None)

    def answer(self, reply: Reply) -> None:
        """Send the one reply of a call."""
        envelope = self._envelopes.pop(reply.call_id, None)
        if envelope is None:
            self.dropped += 1
        else:
            self.send(envelope, reply)

    def send(self, envelope: Envelope, message: messages.ToService) -> None:
        """Send one message; an asker that is gone is counted, a reply too large is replaced by a failure."""
        frame = messages.encode(message)
        if len(frame) > messages.MAX_MESSAGE_BYTES and isinstance(message, Reply):
            failure = Failure(
                ErrorCode.MODEL_ERROR, "The answers together are too large to send; ask for fewer at a time."
            )
            frame = messages.encode(refused(message.call_id, len(message.outcomes), failure, message.identity))
        try:
            self._socket.send_multipart([*envelope, frame], zmq.NOBLOCK)
        except (zmq.Again, zmq.ZMQError):
            self.dropped += 1

    def _open(self, frames: List[bytes]) -> Optional[Union[Call, Cancel, StatusQuery]]:
        """Return the message in a REQ's frames, or `None` after refusing it."""
        if len(frames) < 3 or frames[-2] != b"":
            self.garbage += 1
            return None
        try:
            message = self._decode(frames[-1])
            check(message)
        except ProtocolError as error:
            self.garbage += 1
            self.send(frames[:-1], Refusal(Failure(ErrorCode.PROTOCOL, str(error))))
            return None
        return message


def check(message: Union[Call, Cancel, StatusQuery]) -> None:
    """Raise `ProtocolError` for a message whose fields contradict each other or go beyond the bounds."""
    if isinstance(message, StatusQuery):
        return
    if len(message.call_id) != messages.CALL_ID_BYTES:
        raise ProtocolError("a call id has {} bytes".format(messages.CALL_ID_BYTES))
    if isinstance(message, Cancel):
        return
    if not message.items:
        raise ProtocolError("a call has 1 to {} items".format(messages.MAX_ITEMS))
    if max(map(len, (message.model, message.request_id, message.traceparent))) > messages.MAX_NAME:
        raise ProtocolError(
            "a model, a request id and a trace context have at most {} characters".format(messages.MAX_NAME)
        )
    if len(message.sizes) != len(message.items) or min(message.sizes) < 0:
        raise ProtocolError("a call has one size per item, none negative")
    if not 0 <= message.budget_ms <= MAX_BUDGET_MS:
        raise ProtocolError("a budget is 0 to {} ms".format(MAX_BUDGET_MS))


def refused(call_id: bytes, items: int, failure: Failure, identity: messages.Identity) -> Reply:
    """Return the reply that gives every item of a call the same failure."""
    return Reply(call_id, [Outcome(failure=failure)] * items, messages.Timing(), identity)
