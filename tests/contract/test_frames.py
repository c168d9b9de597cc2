"""The wire, held by golden frames; and what is no frame of it is `ProtocolError`, nothing else."""

import enum
import typing

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ipu_supervisor import front
from ipu_supervisor.protocol import messages
from ipu_supervisor.protocol.deadline import MAX_BUDGET_MS
from ipu_supervisor.protocol.errors import ErrorCode, ProtocolError
from tests.contract import samples

FAMILIES = {
    "ToSupervisor": messages.ToSupervisor,
    "ToService": messages.ToService,
    "ToReplica": messages.ToReplica,
    "FromReplica": messages.FromReplica,
    "OperatorCommand": messages.OperatorCommand,
    "OperatorAnswer": messages.OperatorAnswer,
}
DECODERS: typing.Dict[str, typing.Any] = {name: messages.Decoder(family) for name, family in FAMILIES.items()}
MEMBERS = [typing.get_args(family) or [family] for family in FAMILIES.values()]
EVERY: typing.List[typing.Any] = [member for members in MEMBERS for member in members]
TAGS = {member.__struct_config__.tag: member for member in EVERY}


def frame(name: str) -> bytes:
    return (samples.FRAMES / (name + ".msgpack")).read_bytes()


def decoder_for(name: str) -> typing.Any:
    kind = type(samples.SAMPLES[name])
    return next(DECODERS[key] for key, family in FAMILIES.items() if kind in (typing.get_args(family) or [family]))


# ---- golden frames ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", sorted(samples.SAMPLES))
def test_a_golden_frame_is_the_message_and_the_message_is_the_frame(name):
    message = decoder_for(name)(frame(name))
    assert message == samples.SAMPLES[name]
    assert messages.encode(message) == frame(name)


def test_every_message_type_has_a_golden_frame_of_its_own_tag():
    assert set(TAGS) <= set(samples.SAMPLES)
    assert len(TAGS) == len(EVERY), "two messages with one tag"
    for tag, kind in TAGS.items():
        assert type(samples.SAMPLES[tag]) is kind
    defined = {
        thing for thing in vars(messages).values() if isinstance(thing, type) and issubclass(thing, messages.Message)
    }
    assert defined - {messages.Message} == set(EVERY)


def test_there_is_no_other_golden_frame_and_the_index_is_of_these():
    names = {path.stem for path in samples.FRAMES.glob("*.msgpack")}
    assert names == set(samples.SAMPLES)
    written = (samples.FRAMES / "index.md").read_text(encoding="utf-8")
    assert written == samples.index({name: frame(name) for name in samples.SAMPLES})


def test_the_error_codes_are_a_closed_list():
    assert {code.value for code in ErrorCode} == {
        *("INVALID_INPUT", "UNKNOWN_MODEL", "OVERLOADED", "NOT_READY", "DRAINING"),
        *("DEADLINE_EXCEEDED", "REPLICA_DIED", "POISON", "MODEL_ERROR", "PROTOCOL"),
    }
    assert issubclass(ErrorCode, enum.Enum)
    changed = frame("refusal").replace(b"PROTOCOL", b"BROTOCOL")
    with pytest.raises(ProtocolError):
        DECODERS["ToService"](changed)


# ---- versions --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", sorted(samples.SAMPLES))
def test_unknown_fields_are_ignored(name):
    content: typing.Dict[str, typing.Any] = dict(msgspec.msgpack.decode(frame(name)))
    content["from_the_future"] = [{"anything": [1, 2.5, None, b"bytes"]}]
    assert decoder_for(name)(messages.encode(content)) == samples.SAMPLES[name]


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_an_unknown_tag_is_refused(family):
    strangers: typing.List[typing.Any] = [{"type": "format_disk"}, {"type": 1}, {"type": None}, {}, [], "call", 7]
    for stranger in strangers:
        with pytest.raises(ProtocolError):
            DECODERS[family](messages.encode(stranger))


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_a_message_of_another_family_is_refused(family):
    members = typing.get_args(FAMILIES[family]) or [FAMILIES[family]]
    for tag, kind in TAGS.items():
        if kind not in members:
            with pytest.raises(ProtocolError):
                DECODERS[family](frame(tag))


def test_no_message_stops_anything_on_the_inference_socket():
    assert set(typing.get_args(messages.ToSupervisor)) == {messages.Call, messages.Cancel, messages.StatusQuery}


# ---- garbage ---------------------------------------------------------------------------------------------------------


def refused_or_valid(data: bytes) -> None:
    """Decode with every decoder: a message comes out, or `ProtocolError`; and a message can be encoded again."""
    for decode in DECODERS.values():
        try:
            message = decode(data)
        except ProtocolError as error:
            messages.encode(messages.Refusal(messages.Failure(ErrorCode.PROTOCOL, str(error))))
        else:
            messages.encode(message)


@settings(max_examples=400, deadline=None)
@given(st.binary(max_size=200))
def test_random_bytes_are_a_protocol_error(data):
    refused_or_valid(data)


@settings(max_examples=600, deadline=None)
@given(st.sampled_from(sorted(samples.SAMPLES)), st.data())
def test_damaged_frames_are_a_protocol_error(name, data):
    damaged = bytearray(frame(name))
    for _ in range(data.draw(st.integers(1, 3))):
        damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    refused_or_valid(bytes(damaged))


@pytest.mark.parametrize("name", sorted(samples.SAMPLES))
def test_a_truncated_frame_is_a_protocol_error_and_so_is_one_with_bytes_after_it(name):
    whole = frame(name)
    for length in range(len(whole)):
        with pytest.raises(ProtocolError):
            decoder_for(name)(whole[:length])
    with pytest.raises(ProtocolError):
        decoder_for(name)(whole + b"\xc0")


def call_with(items: bytes) -> bytes:
    head = b"\x86\xa4type\xa4call\xa7call_id\xc4\x10" + bytes(16) + b"\xa5model\xa1m\xa5sizes\x91\x01\xa9budget_ms\x01"
    return head + b"\xa5items" + items


def test_the_hand_made_call_is_one():
    assert DECODERS["ToSupervisor"](call_with(b"\x91\xc0")).items == [messages.NIL]


@pytest.mark.parametrize("depth", [10_000, 1_000_000])
@pytest.mark.parametrize("level", [b"\x91", b"\x81\xa1a"])
def test_deep_nesting_is_a_protocol_error(level, depth):
    with pytest.raises(ProtocolError):
        DECODERS["ToSupervisor"](call_with(b"\x91" + level * depth + b"\xc0"))
    with pytest.raises(ProtocolError):
        DECODERS["ToSupervisor"](b"\x82\xa4type\xacstatus_query\xa1x" + level * depth + b"\xc0")


@pytest.mark.parametrize(
    "header", [b"\xdd\xff\xff\xff\xff", b"\xdc\xff\xff", b"\xdf\xff\xff\xff\xff", b"\xc6\xff\xff\xff\xff"]
)
def test_a_length_beyond_the_frame_is_a_protocol_error(header):
    with pytest.raises(ProtocolError):
        DECODERS["ToSupervisor"](call_with(header))
    with pytest.raises(ProtocolError):
        DECODERS["ToSupervisor"](header)


def test_the_size_is_checked_before_anything_is_decoded():
    decode: typing.Any = messages.Decoder(messages.ToSupervisor, max_bytes=len(frame("call")))
    assert decode(frame("call")) == samples.SAMPLES["call"]
    with pytest.raises(ProtocolError, match="at most"):
        decode(b"\xc1" * (len(frame("call")) + 1))


@pytest.mark.parametrize("text", [b"\xed\xa0\x80", b"\xff\xfe", b"\xc0\x80"])
def test_text_that_is_not_unicode_is_a_protocol_error(text):
    broken = call_with(b"\x91\xc0").replace(b"\xa5model\xa1m", b"\xa5model" + bytes([0xA0 + len(text)]) + text)
    with pytest.raises(ProtocolError):
        DECODERS["ToSupervisor"](broken)


@pytest.mark.parametrize("value", ["\ud800", ["a", "\udfff"], {"\udc00": 1}, object(), {1: object()}, 2**64, 1j])
def test_what_cannot_be_encoded_is_a_protocol_error(value):
    with pytest.raises(ProtocolError):
        messages.encode(value)


# ---- what fields may hold --------------------------------------------------------------------------------------------

CALL = samples.SAMPLES["call"]


@pytest.mark.parametrize(
    "change",
    [
        {"call_id": b""},
        {"call_id": bytes(15)},
        {"call_id": bytes(17)},
        {"items": [], "sizes": []},
        {"sizes": [1]},
        {"sizes": [1, 2, 3]},
        {"sizes": [1, -1]},
        {"budget_ms": -1},
        {"budget_ms": MAX_BUDGET_MS + 1},
    ],
    ids=str,
)
def test_fields_out_of_bounds_are_a_protocol_error(change):
    front.check(CALL)  # type: ignore[arg-type]
    with pytest.raises(ProtocolError):
        front.check(msgspec.structs.replace(CALL, **change))  # type: ignore[arg-type]


def test_a_cancellation_needs_a_whole_call_id_and_a_status_query_nothing():
    front.check(messages.StatusQuery())
    front.check(messages.Cancel(bytes(16)))
    with pytest.raises(ProtocolError):
        front.check(messages.Cancel(bytes(4)))
