"""Gives back what it gets: for tests and load. Never in the default set.

With `faults` switched on in its options it also sleeps, crashes, hangs in native code and answers badly on request;
with `journal` set it notes each execution in that file, so that tests can count what truly ran.
"""

import ctypes
import os
import signal
import time
from typing import Any, Callable, Dict, List

from marshmallow import Schema, fields, validate

from ipu_supervisor.models.base import BasePipeline, InvalidInput, OptionsSchema, WholeNumber, encodable

#: What an input may ask for; done only where `faults` is on.
FAULT_NAMES = ("crash", "exit", "hang", "raise", "invalid", "bad_output", "bad_length")


class EchoInput(Schema):
    """A text, and what is to go wrong on the way (only where `faults` is on)."""

    text = fields.String(
        required=True, validate=[validate.Length(max=100_000), encodable], metadata={"example": "hello"}
    )
    delay_ms = WholeNumber(load_default=0, validate=validate.Range(0, 600_000))
    fault = fields.String(load_default="", validate=validate.OneOf(["", *FAULT_NAMES]))


class EchoOutput(Schema):
    """The same text, and the process that gave it."""

    results = fields.String(required=True)
    pid = fields.Integer(required=True)


class EchoOptions(OptionsSchema):
    """What `SERVER_MODELS` may set."""

    faults = fields.Boolean(load_default=False, metadata={"description": "Obey `delay_ms` and `fault`."})
    journal = fields.String(load_default="", metadata={"description": "File that gets one line per execution."})
    load_delay_s = fields.Float(load_default=0.0, validate=validate.Range(0, 600))


class Pipeline(BasePipeline):
    """Returns the text it was given."""

    route = "/echo"
    summary = "Give back the text (for tests and load)."
    example = {"text": "hello"}
    Input, Output, Options = EchoInput, EchoOutput, EchoOptions

    def __init__(self, engine: Any, options: Dict[str, Any]) -> None:
        """Take as long as the options say."""
        super().__init__(engine, options)
        time.sleep(options["load_delay_s"])

    def __call__(self, batch: List[Dict[str, Any]]) -> List[Any]:
        """Give every text back, or do what its fault says."""
        answers = [self._answer(inputs) for inputs in batch]
        short = self.options["faults"] and any(inputs.get("fault") == "bad_length" for inputs in batch)
        return answers[1:] if short else answers

    def compile(self) -> None:
        """Nothing to prepare; the journal stays empty until a request comes."""

    @classmethod
    def size(cls, inputs: Any) -> int:
        """Every echo costs the same."""
        return 1

    def _answer(self, inputs: Dict[str, Any]) -> Any:
        """Answer one input."""
        if self.options["journal"]:
            with open(self.options["journal"], "a", encoding="utf-8") as journal:
                journal.write("{} {}\n".format(os.getpid(), inputs["text"]))
        answer: Any = {"results": inputs["text"], "pid": os.getpid()}
        if not self.options["faults"]:
            return answer
        time.sleep(inputs.get("delay_ms", 0) / 1000)
        fault = FAULTS.get(inputs.get("fault", ""))
        return fault(answer) if fault else answer


def _crash(answer: Any) -> Any:
    """Die of a segmentation fault."""
    return ctypes.string_at(0)


def _exit(answer: Any) -> Any:
    """Die with an exit code and a last word."""
    os.write(2, b"echo was told to exit\n")
    os._exit(41)


def _hang(answer: Any) -> Any:
    """Sleep for ever in native code that holds the interpreter lock."""
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    ctypes.PyDLL(None).sleep(1_000_000)
    return answer


def _raise(answer: Any) -> Any:
    """Raise: the whole batch fails, and its members are run singly."""
    raise RuntimeError("echo was told to raise")


#: What each fault does with the answer.
FAULTS: Dict[str, Callable[[Any], Any]] = {
    "crash": _crash,
    "exit": _exit,
    "hang": _hang,
    "raise": _raise,
    "invalid": lambda answer: InvalidInput("echo was told to refuse"),
    "bad_output": lambda answer: {"nothing": "of the sort", "object": object()},
}
