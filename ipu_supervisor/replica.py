"""The child process: load, compile, READY, then serve one batch after the other. Exits with its parent.

One thread does everything: what answers a probe is what computes. Started by a launcher, which writes the
specification (JSON) to its stdin.
"""

import base64
import contextlib
import ctypes
import importlib
import json
import os
import pathlib
import signal
import sys
import time
import zlib
from typing import Any, Callable, Dict, List, Mapping, NoReturn, Sequence, Tuple

import msgspec
import zmq
from marshmallow import Schema

from ipu_supervisor import log
from ipu_supervisor.engines import faults
from ipu_supervisor.engines.base import Engine
from ipu_supervisor.models import catalog, older
from ipu_supervisor.models.base import InvalidInput
from ipu_supervisor.protocol import messages
from ipu_supervisor.protocol.errors import ErrorCode
from ipu_supervisor.protocol.messages import Failure, Identity, Outcome

#: `prctl` option that names the signal a process gets when its parent dies (linux/prctl.h).
PR_SET_PDEATHSIG = 1
#: Exit code of a replica that could not load or compile, or lost its device.
EXIT_UNABLE = 3
#: Longest message of a model's exception that is passed on, characters.
MAX_REASON = 500

_encoder = msgspec.msgpack.Encoder(enc_hook=lambda value: value.tolist())


def die_with_parent(parent: int) -> None:
    """Have the kernel kill this process when the supervisor dies, however it dies."""
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)


class Model:
    """A loaded pipeline behind its schemas: bytes in, outcomes out."""

    def __init__(self, pipeline: Any, output: Callable[[], Schema]) -> None:
        """Store the pipeline and the schema that its answers must meet."""
        self._pipeline = pipeline
        self._output = output()

    def compile(self) -> Tuple[int, int]:
        """Prepare for serving; return how many programs were compiled, and how many came from the cache.

        Raises what the model raises, and `ModelFileError` where it left something to compile while serving.
        """
        engine = self._pipeline.engine or Engine()
        needed, before = engine.programs()
        try:
            self._pipeline.compile()
        except InvalidInput as error:
            text = "the model refuses its own example ({}); change its options, or the example"
            raise catalog.ModelFileError(text.format(error)) from error
        if engine.built() < needed:
            text = "its `compile` ran {} of the {} programs that requests need; have it answer the example"
            raise catalog.ModelFileError(text.format(engine.built(), needed))
        after = engine.programs()[1]
        compiled = max(0, min(needed, after - before))
        return compiled, min(needed - compiled, before, after)

    def close(self) -> None:
        """Give the devices back, if they still can be."""
        try:
            (self._pipeline.engine or Engine()).close()
        except Exception as error:  # noqa: BLE001  # a device may be in any state
            log.event("device_not_given_back", 30, error=repr(error)[:MAX_REASON])

    def run(self, message: messages.Run) -> Any:
        """Return `BatchDone`, or `BatchRaised` when the model raised on the whole batch. Raises `DeviceFault`."""
        began = time.perf_counter()
        try:
            answers = self._pipeline([msgspec.msgpack.decode(item) for item in message.items])
            outcomes = [
                self._outcome(answer, request_id) for answer, request_id in zip(answers, _ids(message, answers))
            ]
        except Exception as error:  # noqa: BLE001  # a model file may raise anything
            _raise_device_fault(error)
            log.event(
                "batch_raised", 40, exc_info=True, error=repr(error)[:MAX_REASON], request_ids=message.request_ids
            )
            return messages.BatchRaised(message.batch_id, _failure(error), _since_ms(began))
        return messages.BatchDone(message.batch_id, outcomes, _since_ms(began))

    def _outcome(self, answer: Any, request_id: str) -> Outcome:
        """Return what one answer becomes: an exception or an answer that the schema refuses fails alone."""
        if isinstance(answer, Exception):
            _raise_device_fault(answer)
            _log_failed(answer, request_id)
            return Outcome(failure=_failure(answer))
        try:
            encoded = _encoder.encode(answer)
            problems = self._output.validate(msgspec.msgpack.decode(encoded))
        except (TypeError, ValueError, AttributeError, RecursionError) as error:
            problems = {"_schema": [str(error)]}
        if problems:
            log.event("bad_output", 40, problems=str(problems)[:MAX_REASON], request_id=request_id)
            return Outcome(failure=Failure(ErrorCode.MODEL_ERROR, "The model's answer does not fit its schema."))
        return Outcome(result=msgspec.Raw(encoded))


def _raise_device_fault(error: Exception) -> None:
    """Raise `DeviceFault` if an exception means that the device, and so this process, can do no more."""
    fault = faults.of(error)
    if fault is not None:
        raise fault from error


def _log_failed(error: Exception, request_id: str) -> None:
    """Log what a model returned in place of an answer: with its traceback, unless it is about the input."""
    fields: Dict[str, Any] = {"error": repr(error)[:MAX_REASON], "request_id": request_id}
    try:
        raise error
    except InvalidInput:
        log.event("item_failed", 20, **fields)
    except Exception:  # noqa: BLE001  # a model file may return anything
        log.event("item_failed", 40, exc_info=True, **fields)


def _ids(message: messages.Run, answers: Sequence[Any]) -> Sequence[str]:
    """Return a request id per answer, empty where there is none."""
    return [*message.request_ids, *[""] * len(answers)][: len(answers)]


def _failure(error: Exception) -> Failure:
    """Return what the client learns of an exception: the model's own words only where they are about the input."""
    if isinstance(error, InvalidInput):
        return Failure(ErrorCode.INVALID_INPUT, str(error)[:MAX_REASON])
    return Failure(ErrorCode.MODEL_ERROR, "The model raised {}.".format(type(error).__name__))


def _since_ms(began: float) -> float:
    """Return the milliseconds since a moment of the performance counter."""
    return (time.perf_counter() - began) * 1000


class Link:
    """The socket to the supervisor."""

    def __init__(self, name: str, endpoint: str) -> None:
        """Connect under the replica's name."""
        self._socket: zmq.Socket[bytes] = zmq.Context.instance().socket(zmq.DEALER)
        self._socket.setsockopt(zmq.IDENTITY, name.encode())
        self._socket.setsockopt(zmq.LINGER, 2000)
        self._socket.setsockopt(zmq.MAXMSGSIZE, messages.MAX_MESSAGE_BYTES)
        self._socket.connect(endpoint)
        self._decode: messages.Decoder[messages.ToReplica] = messages.Decoder(messages.ToReplica)

    def say(self, message: messages.FromReplica) -> None:
        """Send a message; a batch whose outcomes are too large to send becomes a failure."""
        frame = messages.encode(message)
        if len(frame) > messages.MAX_MESSAGE_BYTES and isinstance(message, messages.BatchDone):
            failure = Failure(ErrorCode.MODEL_ERROR, "The model's answer is too large to send.")
            frame = messages.encode(messages.BatchRaised(message.batch_id, failure, message.inference_ms))
        self._socket.send(frame)

    def hear(self) -> messages.ToReplica:
        """Wait for the next message. Raises `ProtocolError`."""
        return self._decode(self._socket.recv())


def load(spec: Mapping[str, Any]) -> Tuple[Model, Identity]:
    """Return the model and its identity; imports torch where the model needs an engine."""
    from ipu_supervisor.engines import load as engines

    source = zlib.decompress(base64.b64decode(spec["source"]))
    file = catalog.parse(spec["model"], pathlib.Path(spec["path"]), source)
    engine = engines.load(
        spec["task"],
        spec["checkpoint"],
        spec["revision"],
        spec["checkpoints"],
        spec["device"],
        spec["dtype"],
        spec["threads"],
        spec,
    )
    pipeline = older.pipeline_for(file, engine, spec["options"])
    identity = Identity(file.name)
    if engine is not None:
        identity = Identity(file.name, engine.checkpoint, engine.revision, engine.demo, engine.device, engine.dtype)
    return Model(pipeline, pipeline.Output), identity


def serve(link: Link, model: Model) -> NoReturn:
    """Answer batches and probes for ever."""
    while True:
        message = link.hear()
        if isinstance(message, messages.Probe):
            link.say(messages.ProbeAnswer(message.number))
        elif isinstance(message, messages.Run):
            link.say(model.run(message))


def live(link: Link, spec: Mapping[str, Any], at_end: contextlib.ExitStack) -> NoReturn:
    """Load, wait for the turn to compile, compile and warm up, then serve; `at_end` gives the devices back.

    Raises what goes wrong.
    """
    link.say(messages.Hello(os.getpid()))
    _go_to(spec["folder"])
    if spec["device"] == "ipu":
        # Takes SIGTERM when it is imported, which a model file may put off to its first batch.
        with contextlib.suppress(ImportError):
            importlib.import_module("poptorch")
        signal.signal(signal.SIGTERM, _leave)
    model, identity = load(spec)
    at_end.callback(model.close)
    # Whatever the model file has imported.
    signal.signal(signal.SIGTERM, _leave)
    link.say(messages.Loaded(identity))
    while not isinstance(link.hear(), messages.CompileGranted):
        log.event("unexpected_message", 30, model=spec["model"])
    began = time.perf_counter()
    compiled, from_cache = model.compile()
    link.say(messages.Ready(time.perf_counter() - began, compiled, from_cache))
    serve(link, model)


def _go_to(folder: str) -> None:
    """Work in a folder of this replica's own, if it has one: the IPU's library writes logs where it is."""
    if folder:
        os.makedirs(folder, exist_ok=True)
        os.chdir(folder)


def _leave(number: int, frame: Any) -> None:
    """End on SIGTERM by unwinding, so that devices are given back; a second one does not interrupt that."""
    signal.signal(number, signal.SIG_IGN)
    sys.exit(0)


def main() -> None:
    """Run the replica that stdin describes."""
    spec: Dict[str, Any] = json.load(sys.stdin)
    die_with_parent(spec["parent"])
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, _leave)
    log.configure(spec["log_level"], spec["log_format"])
    link = Link(spec["replica"], spec["endpoint"])
    # What went wrong is said before the devices are given back: a broken one may never let go.
    with contextlib.ExitStack() as at_end:
        try:
            live(link, spec, at_end)
        except Exception as error:  # noqa: BLE001  # a model file may raise anything
            unable = _unable(faults.of(error) or error)
            log.event("replica_unable", 40, exc_info=not unable.final, replica=spec["replica"], error=unable.reason)
            sys.stderr.flush()
            link.say(unable)
            sys.exit(EXIT_UNABLE)


def _unable(error: BaseException) -> messages.Unable:
    """Return what the supervisor learns of what ended this replica."""
    if not isinstance(error, faults.DeviceFault):
        waits = getattr(error, "waits", False) is True
        return messages.Unable(_reason(error), final=_is_final(error), waits=waits)
    remedy = error.remedy
    return messages.Unable(
        str(error)[:MAX_REASON], remedy.final, remedy.advice, remedy.alarm, remedy.waits, not remedy.blames_input
    )


def _is_final(error: BaseException) -> bool:
    """Say whether loading again could not help: the model file, or a checkpoint that does not exist."""
    return isinstance(error, catalog.ModelFileError) or getattr(error, "final", False) is True


def _reason(error: BaseException) -> str:
    """Return in one line why a replica cannot serve."""
    lines: List[str] = "{}: {}".format(type(error).__name__, error).splitlines()
    return " ".join(lines)[:MAX_REASON]


if __name__ == "__main__":
    main()
