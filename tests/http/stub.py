"""A supervisor that is not there: has the client's interface, encodes real messages, computes nothing."""

import secrets
import threading
from typing import Any, Callable, Optional

import msgspec

from ipu_supervisor.config import Config, ModelConfig
from ipu_supervisor.protocol import messages
from ipu_supervisor.protocol.deadline import Deadline
from ipu_supervisor.protocol.errors import ErrorCode, ProtocolError, RequestError

#: What each model answers to any input.
ANSWERS: dict[str, Callable[[dict[str, Any]], Any]] = {
    "echo": lambda inputs: {"results": inputs["text"], "pid": 1},
    "question_answering": lambda inputs: {"results": inputs["context"][:40], "score": 0.5},
    "summarization": lambda inputs: {"results": [{"summary_text": inputs["documents"][:80]}]},
    "embeddings": lambda inputs: {"results": [0.6, -0.8]},
}
TIMING = messages.Timing(queue_ms=2.0, batch_ms=0.5, inference_ms=30.0)


def outcome(result: Any) -> messages.Outcome:
    """Return the outcome of an item that went well."""
    return messages.Outcome(result=msgspec.Raw(messages.encode(result)))


def failed(code: ErrorCode, message: str = "stub", retry_after_s: Optional[float] = None) -> messages.Outcome:
    """Return the outcome of an item that failed."""
    return messages.Outcome(failure=messages.Failure(code, message, retry_after_s))


class StubClient:
    """Answers as `answer` says: a decoded input in, an `Outcome` or a plain value out; or raises `raising`."""

    def __init__(self, config: Config, demo: bool = False) -> None:
        self.models = {model.name: model for model in config.models}
        self.reset(demo)

    def reset(self, demo: bool = False) -> None:
        """Forget every call and behave."""
        self.demo = demo
        self.calls: list[messages.Call] = []
        self.deadlines: list[Deadline] = []
        self.sockets: list[Any] = []
        self.answer: Optional[Callable[[dict[str, Any]], Any]] = None
        self.raising: Optional[BaseException] = None
        self.status_raising: Optional[RequestError] = None
        self.draining = False
        #: What is told to whoever is content with a picture of a second ago.
        self.earlier: Optional[messages.Status] = None
        self.changed: dict[str, dict[str, Any]] = {}
        #: A call waits until this is set, so that tests can hold one.
        self.gate = threading.Event()
        self.gate.set()
        self.waiting = threading.Semaphore(0)

    def call(self, model, items, sizes, deadline, *, request_id="", traceparent="", client_socket=None):
        try:
            raw = [msgspec.Raw(messages.encode(item)) for item in items]
        except ProtocolError as error:
            raise RequestError(ErrorCode.INVALID_INPUT, str(error)) from None
        sent: Any = messages.Call(
            secrets.token_bytes(16), model, raw, list(sizes), deadline.budget_ms(), request_id, traceparent
        )
        call: Any = messages.Decoder(messages.ToSupervisor)(messages.encode(sent))
        self.calls.append(call)
        self.deadlines.append(deadline)
        self.sockets.append(client_socket)
        self.waiting.release()
        self.gate.wait(30)
        if self.raising is not None:
            raise self.raising
        reply = messages.Reply(
            call.call_id, [self._outcome(model, item) for item in call.items], TIMING, self.identity(model)
        )
        return messages.Decoder(messages.ToService)(messages.encode(reply))

    def status(self, deadline, *, fresh=False):
        if not fresh and self.earlier is not None:
            return self.earlier
        if self.status_raising is not None:
            raise self.status_raising
        status = messages.Status(
            "0.0-stub", 1, 5.0, self.draining, [self._model(model) for model in self.models.values()]
        )
        return messages.Decoder(messages.ToService)(messages.encode(status))

    def identity(self, name: str) -> messages.Identity:
        model = self.models[name]
        return messages.Identity(name, model.checkpoint, model.revision, self.demo, "cpu", "float32")

    def _outcome(self, model: str, item: msgspec.Raw) -> messages.Outcome:
        answered = (self.answer or ANSWERS.get(model, dict))(msgspec.msgpack.decode(item))
        return answered if isinstance(answered, messages.Outcome) else outcome(answered)

    def _model(self, model: ModelConfig) -> messages.ModelStatus:
        values = {
            "model": model.name,
            "ready": True,
            "reason": "",
            "identity": self.identity(model.name),
            "file_hash": model.file.sha256,
            "replicas": [messages.ReplicaStatus(model.name + "-0", "READY", 4.0, 2, "")],
            "backlog": 3,
            "in_flight": 1,
            "max_backlog": model.max_backlog,
            "expected_wait_s": 2.4,
            "load_s": 1.5,
            "counters": {"computed": 7.0, "refused_overloaded": 2.0, "restarts": 1.0, "quarantined": 1.0},
        }
        return messages.ModelStatus(**{**values, **self.changed.get(model.name, {})})
