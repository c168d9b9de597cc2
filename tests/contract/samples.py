"""One sample of every message, and the golden frames that hold their bytes: run this file to write those anew.

A frame that changes is a change of the wire: both halves may be of different versions for a while.
"""

import pathlib
import textwrap
from typing import Dict

import msgspec

from ipu_supervisor.protocol import messages
from ipu_supervisor.protocol.errors import ErrorCode

FRAMES = pathlib.Path(__file__).parent / "frames"

CALL_ID = bytes(range(16))
ITEM = msgspec.Raw(messages.encode({"text": "häuser"}))
FAILURE = messages.Failure(ErrorCode.OVERLOADED, "Too many requests wait; come back later.", 2.5)
IDENTITY = messages.Identity("echo", "some/checkpoint", "0123abc", True, "cpu", "float32")
MODEL = messages.ModelStatus(
    model="echo",
    ready=False,
    reason="no usable replica (BACKOFF)",
    identity=IDENTITY,
    file_hash="00ff",
    replicas=[messages.ReplicaStatus("echo-1.3", "BACKOFF", 0.5, 4711, "killed by SIGSEGV", "BUSY: …", "Wait.", 1, 2)],
    backlog=3,
    in_flight=1,
    max_backlog=256,
    expected_wait_s=0.25,
    load_s=12.5,
    last_error="echo-1.2: killed by SIGSEGV",
    advice="Wait.",
    last_stderr=["Segmentation fault"],
    counters={"computed": 7.0},
)

#: By name of the frame's file; most are named after the message's tag.
SAMPLES: Dict[str, messages.Message] = {
    "call": messages.Call(CALL_ID, "echo", [ITEM, messages.NIL], [3, 0], 1500, "request-1", "00-ab-cd-01"),
    "call_shortest": messages.Call(CALL_ID, "echo", [messages.NIL], [1], 0),
    "cancel": messages.Cancel(CALL_ID),
    "status_query": messages.StatusQuery(),
    "reply": messages.Reply(
        CALL_ID,
        [messages.Outcome(ITEM), messages.Outcome(failure=FAILURE)],
        messages.Timing(1.5, 0.25, 20.0),
        IDENTITY,
    ),
    "status": messages.Status("0.1.0", 4242, 3600.0, False, [MODEL], {"dropped_replies": 1.0}),
    "refusal": messages.Refusal(messages.Failure(ErrorCode.PROTOCOL, "not a message")),
    "compile_granted": messages.CompileGranted(),
    "run": messages.Run(17, [ITEM], ["request-1"]),
    "probe": messages.Probe(5),
    "hello": messages.Hello(4711),
    "loaded": messages.Loaded(IDENTITY),
    "ready": messages.Ready(0.75, 1, 2),
    "unable": messages.Unable("BUSY: Failed to acquire", False, "Wait.", True, True, True),
    "batch_done": messages.BatchDone(17, [messages.Outcome(ITEM)], 20.0),
    "batch_raised": messages.BatchRaised(17, messages.Failure(ErrorCode.MODEL_ERROR, "It raised."), 20.0),
    "probe_answer": messages.ProbeAnswer(5),
    "operator": messages.OperatorCommand("scale", "echo", 2),
    "operator_answer": messages.OperatorAnswer(True, "echo will have 2 replicas"),
}


def index(frames: Dict[str, bytes]) -> str:
    """Return the list of the frames that people read: what is in each, and its bytes."""
    parts = ["# Golden frames\n\nWritten by `python -m tests.contract.samples`.\n"]
    for name, frame in frames.items():
        content = textwrap.fill(repr(msgspec.msgpack.decode(frame)), 110)
        bytes_ = textwrap.fill(frame.hex(" "), 110)
        parts.append("## {}\n\n```\n{}\n```\n\n```\n{}\n```\n".format(name, content, bytes_))
    return "\n".join(parts)


def main() -> None:
    """Write the frames and their index."""
    FRAMES.mkdir(exist_ok=True)
    frames = {name: messages.encode(sample) for name, sample in SAMPLES.items()}
    for name, frame in frames.items():
        (FRAMES / (name + ".msgpack")).write_bytes(frame)
    (FRAMES / "index.md").write_text(index(frames), encoding="utf-8")


if __name__ == "__main__":
    main()
