"""What the core asks the loop to do. Plain records; performing them is the loop's business."""

from typing import Any, Dict, NamedTuple, Union

from ipu_supervisor.protocol.messages import Reply, ToReplica


class Spawn(NamedTuple):
    """Start a replica process."""

    replica: str


class Send(NamedTuple):
    """Send a message to a replica."""

    replica: str
    message: ToReplica


class Terminate(NamedTuple):
    """Send SIGTERM to a replica's process group."""

    replica: str


class Kill(NamedTuple):
    """Send SIGKILL to a replica's process group."""

    replica: str


class WantCompile(NamedTuple):
    """A replica is ready to compile and waits for its turn."""

    replica: str


class CompileOver(NamedTuple):
    """A replica that had, or waited for, its turn to compile no longer needs it."""

    replica: str


class Answer(NamedTuple):
    """Send the one reply to a call."""

    reply: Reply


class LoadMeasured(NamedTuple):
    """Keep how long this model took from its start to READY, seconds."""

    model: str
    load_s: float


class Note(NamedTuple):
    """Log an event with its fields."""

    event: str
    fields: Dict[str, Any]


Action = Union[Spawn, Send, Terminate, Kill, WantCompile, CompileOver, Answer, LoadMeasured, Note]
