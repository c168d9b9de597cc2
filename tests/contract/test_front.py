"""The supervisor's end of the front, over a real socket: what is a call, whose answer goes where."""

import tracemalloc

import msgspec
import pytest
import zmq

from ipu_supervisor import front
from ipu_supervisor.protocol import messages
from ipu_supervisor.protocol.errors import ErrorCode
from ipu_supervisor.protocol.messages import Call, Identity, Outcome, Refusal, Reply, Timing
from tests.contract.samples import CALL_ID, SAMPLES

REPLY = SAMPLES["reply"]


class Wire:
    """A front, and DEALERs in place of the web half's REQs, so that a test can also send what a REQ would not."""

    def __init__(self, folder):
        self.context = zmq.Context()
        self.dealers = []
        self.endpoint = "ipc://{}/front".format(folder)
        router = self.context.socket(zmq.ROUTER)
        router.setsockopt(zmq.ROUTER_MANDATORY, 1)
        router.bind(self.endpoint)
        self.router = router
        self.front = front.Front(router)

    def dealer(self):
        self.dealers.append(self.context.socket(zmq.DEALER))
        self.dealers[-1].connect(self.endpoint)
        return self.dealers[-1]

    def hears(self, dealer, *frames):
        dealer.send_multipart(list(frames))
        assert self.router.poll(5000)
        return self.front.receive()


@pytest.fixture
def wire(short_dir):
    made = Wire(short_dir)
    yield made
    made.context.destroy(linger=0)


def said(dealer):
    assert dealer.poll(5000), "nothing came"
    *envelope, frame = dealer.recv_multipart()
    return envelope, messages.Decoder(messages.ToService)(frame)


def test_a_call_comes_with_its_envelope_and_its_reply_goes_back_there(wire):
    asker = wire.dealer()
    ((envelope, call),) = wire.hears(asker, b"id", b"", messages.encode(SAMPLES["call"]))
    assert call == SAMPLES["call"]
    assert wire.front.expect(call.call_id, envelope)
    wire.front.answer(REPLY)
    assert said(asker) == ([b"id", b""], REPLY)


def test_a_call_that_is_sent_again_is_not_new_and_its_one_reply_goes_to_the_latest_place(wire):
    first, second = wire.dealer(), wire.dealer()
    frame = messages.encode(SAMPLES["call"])
    ((envelope, call),) = wire.hears(first, b"", frame)
    assert wire.front.expect(call.call_id, envelope)
    ((envelope, call),) = wire.hears(second, b"", frame)
    assert not wire.front.expect(call.call_id, envelope)
    wire.front.answer(REPLY)
    assert said(second)[1] == REPLY
    assert not first.poll(0)


def test_a_call_that_was_answered_or_forgotten_is_new_again(wire):
    assert wire.front.expect(CALL_ID, [b"peer", b""])
    wire.front.forget(CALL_ID)
    assert wire.front.expect(CALL_ID, [b"peer", b""])
    wire.front.answer(REPLY)
    assert wire.front.expect(CALL_ID, [b"peer", b""])


def test_a_reply_to_somebody_who_is_gone_or_never_was_is_dropped_and_counted(wire):
    wire.front.answer(REPLY)
    wire.front.expect(CALL_ID, [b"gone", b""])
    wire.front.answer(REPLY)
    assert wire.front.dropped == 2


@pytest.mark.parametrize("frame", [b"", b"\xc1", messages.encode(SAMPLES["run"]), messages.encode({"type": "call"})])
def test_a_frame_that_is_no_message_is_refused_and_counted(wire, frame):
    asker = wire.dealer()
    assert wire.hears(asker, b"id", b"", frame) == []
    envelope, answer = said(asker)
    assert envelope == [b"id", b""]
    assert isinstance(answer, Refusal)
    assert answer.failure.code is ErrorCode.PROTOCOL
    assert wire.front.garbage == 1


@pytest.mark.parametrize("frames", [[b""], [b"x"], [messages.encode(SAMPLES["call"])], [b"x", b"y"]])
def test_frames_without_an_envelope_are_counted_and_not_answered(wire, frames):
    asker = wire.dealer()
    assert wire.hears(asker, *frames) == []
    assert wire.front.garbage == 1
    assert not asker.poll(20)


def test_fields_out_of_bounds_are_refused(wire):
    asker = wire.dealer()
    call = Call(b"short", "echo", [messages.NIL], [1], 100)
    assert wire.hears(asker, b"", messages.encode(call)) == []
    assert isinstance(said(asker)[1], Refusal)


def test_a_reply_that_is_too_large_becomes_a_failure_of_every_item(wire, monkeypatch):
    asker = wire.dealer()
    ((envelope, call),) = wire.hears(asker, b"", messages.encode(SAMPLES["call"]))
    wire.front.expect(call.call_id, envelope)
    monkeypatch.setattr(messages, "MAX_MESSAGE_BYTES", 500)
    large = Outcome(msgspec.Raw(messages.encode("x" * 600)))
    wire.front.answer(Reply(call.call_id, [large, large], Timing(), Identity("echo")))
    codes = [outcome.failure.code for outcome in said(asker)[1].outcomes]
    assert codes == [ErrorCode.MODEL_ERROR] * 2


def test_one_turn_takes_no_more_than_its_share(wire):
    asker = wire.dealer()
    for _ in range(front.TURN + 10):
        asker.send_multipart([b"", messages.encode(messages.StatusQuery())])
    heard = 0
    while heard < front.TURN + 10:
        assert wire.router.poll(5000)
        turn = len(wire.front.receive())
        assert turn <= front.TURN
        heard += turn


def array(field, count):
    """Return a msgpack array of so many items, or sizes."""
    return b"\xdd" + count.to_bytes(4, "big") + (b"\xc0" if field == "items" else b"\x01") * count


@pytest.mark.parametrize("field", ["items", "sizes"])
@pytest.mark.parametrize("hidden", [False, True], ids=["", "behind the same field again"])
def test_a_million_items_are_refused_before_they_are_decoded(wire, field, hidden):
    fields = [("type", "call"), ("call_id", b"x" * 16), ("model", "echo"), ("budget_ms", 1)]
    pairs = [(name, msgspec.msgpack.encode(value)) for name, value in fields]
    pairs += [(field, array(field, 1_000_000))]
    pairs += [(name, array(name, 1)) for name in ("items", "sizes") if hidden or name != field]
    frame = bytes([0x80 | len(pairs)]) + b"".join(msgspec.msgpack.encode(name) + value for name, value in pairs)
    asker = wire.dealer()
    tracemalloc.start()
    try:
        assert wire.hears(asker, b"", frame) == []
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 3 * len(frame)
    assert said(asker)[1].failure.code is ErrorCode.PROTOCOL


@pytest.mark.parametrize("field", ["model", "request_id", "traceparent"])
def test_a_name_that_would_not_fit_the_message_to_a_replica_is_refused(wire, field):
    call = msgspec.structs.replace(SAMPLES["call"], **{field: "x" * 257})
    asker = wire.dealer()
    assert wire.hears(asker, b"", messages.encode(call)) == []
    assert "at most 256 characters" in said(asker)[1].failure.message
