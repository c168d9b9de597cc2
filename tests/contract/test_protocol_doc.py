"""docs/protocol.md names every message, every field, every number that it must, and no message that there is not."""

import pathlib
import re

import msgspec
import pytest

from ipu_supervisor import sockets
from ipu_supervisor.core import crew
from ipu_supervisor.protocol import exchange, messages

TEXT = (pathlib.Path(__file__).parents[2] / "docs/protocol.md").read_text(encoding="utf-8")
WORDS = set(re.findall(r"`([^`\s]+)`", TEXT))
STRUCTS = {
    name: thing
    for name, thing in vars(messages).items()
    if isinstance(thing, type) and issubclass(thing, msgspec.Struct) and thing is not messages.Message
}
TAGS = {str(thing.__struct_config__.tag) for thing in STRUCTS.values() if thing.__struct_config__.tag}


@pytest.mark.parametrize("tag", sorted(TAGS))
def test_every_message_is_described(tag):
    assert tag in WORDS


@pytest.mark.parametrize("name", sorted(STRUCTS))
def test_every_field_is_described(name):
    assert set(STRUCTS[name].__struct_fields__) - WORDS == set()


def test_every_message_that_is_described_exists():
    described = set(re.findall(r"^\*\*`(\w+)`\*\*", TEXT, re.MULTILINE)) | set(
        re.findall(r"^\| `(\w+)` \| (?:`(?:batch_id|number|pid|identity|warmup_s|reason)`.*)?\|", TEXT, re.MULTILINE)
    )
    assert described - TAGS == set()
    assert len(described) > 10


@pytest.mark.parametrize(
    "sentence",
    [
        "At most {} MiB".format(messages.MAX_MESSAGE_BYTES // 2**20),
        "{} random bytes".format(messages.CALL_ID_BYTES),
        "1 to {} inputs".format(messages.MAX_ITEMS),
        "at most {} times".format(exchange.MAX_RESENDS),
        "at most {:g} s, then".format(exchange.ABSENT_LIMIT_S),
        "silent for {:g} s is probed".format(crew.PROBE_INTERVAL_S),
        "answer within {:g} s".format(crew.PROBE_LIMIT_S),
        "SIGKILL {:g} s".format(crew.GRACE_S),
        "({:04o})".format(sockets.RUN_DIR_MODE),
        "| {:04o} | `call`".format(sockets.FRONT_MODE),
        "| {:04o} | `operator`".format(sockets.PRIVATE_MODE),
    ],
)
def test_the_numbers_are_those_of_the_code(sentence):
    assert sentence in " ".join(TEXT.split())
