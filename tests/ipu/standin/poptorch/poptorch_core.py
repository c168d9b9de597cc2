"""What PopTorch's C++ half shows: its errors, and taking IPUs.

Faithful: the classes, that an error of the C++ half sets its attributes on the exception's *class*,
`poptorch_error.log`. Not: the wording of most messages; while it waits for an IPU, signal handlers run.
"""

import os
import pathlib
import time
from typing import Optional, Type

import standin_machine as machine

from poptorch import _native

#: Longer messages go to a file, lines (PopTorch).
LONGEST_MESSAGE = 80
#: How often a busy IPU is tried again under POPTORCH_WAIT_FOR_IPU, seconds (PopTorch: 15; here tests wait for it).
TRY_AGAIN_EVERY_S = 0.02


class Error(Exception):
    """An error of PopTorch or of what lies beneath."""


class RecoverableError(Error):
    """An error that goes away after `recovery_action`."""


class UnrecoverableError(Error):
    """An error for which the machine has to be taken out of operation."""


def raise_native(error: Type[Error], kind: str, message: str, where: str = "", recovery_action: str = "") -> None:
    """Raise an error as the C++ half does: its attributes go to the class, so the next error overwrites them."""
    location = "  [0] {}".format(where or "PoplarExecutable::run")
    text = "In standin:0: '{}': {}\nError raised in:\n{}".format(kind, message, location)
    if text.count("\n") >= LONGEST_MESSAGE:
        pathlib.Path("poptorch_error.log").write_text(text + "\n", encoding="utf-8")
        message = "See poptorch_error.log for details"
        text = "In standin:0: '{}': {}".format(kind, message)
    error.message, error.type, error.location = message, kind, location  # type: ignore[attr-defined]
    if recovery_action:
        error.recovery_action = recovery_action  # type: ignore[attr-defined]
    raise error(text)


def create_error(message: str) -> Error:
    """Return an error as the Python half makes it: its attributes are its own."""
    error = Error("'poptorch_py_error': {}".format(message))
    error.type, error.message, error.location = "poptorch_py_error", message, ""  # type: ignore[attr-defined]
    return error


def attach(ipus: int, round_up: bool, ipu_id: Optional[int], model: str) -> machine.Device:
    """Take that many IPUs, or raise; with POPTORCH_WAIT_FOR_IPU=1 wait for as long as it takes."""
    size = 1 << (ipus - 1).bit_length()
    if size != ipus and not round_up:
        raise create_error("{} IPUs are no power of two, and autoRoundNumIPUs is off".format(ipus))
    strike("attach", model, size)
    groups = machine.groups(size)
    if ipu_id is not None:
        groups = [group for group in (machine.group(ipu_id),) if group in groups]
    device = machine.acquire(groups)
    while device is None and groups and os.environ.get("POPTORCH_WAIT_FOR_IPU") == "1":
        time.sleep(TRY_AGAIN_EVERY_S)
        device = machine.acquire(groups)
    if device is None:
        _not_acquired(size, "" if groups else "No device found on the system with {} IPUs".format(size))
    machine.record("attach", model=model, ipus=device.ipus)
    return device


def detach(device: machine.Device, model: str) -> None:
    """Give IPUs back."""
    try:
        # First, so that no other process's attach stands before it in the journal.
        machine.record("detach", device.folder, model=model, ipus=device.ipus)
    finally:
        device.release()


def strike(when: str, model: str, ipus: int = 1, rows: int = 0) -> None:
    """Raise or hang if a test has injected a fault for this moment, and for a program of so many rows."""
    fault = machine.take_fault(when, model, rows)
    if fault is None:
        return
    kind = fault["kind"]
    machine.record("fault", model=model, when=when, kind=kind)
    if kind == "hang":
        _native.hang()
    if kind == "acquire":
        _not_acquired(ipus, "")
    error, kind_of_error, message = {
        "unrecoverable": (UnrecoverableError, "poplar_unrecoverable_runtime_error", "Fabric error"),
        "out_of_memory": (Error, "poplar_memory_allocation_error", "Out of memory: too much for the tiles"),
        "other": (Error, "poplar_application_runtime_error", "The program stopped"),
        "long_message": (Error, "popart_exception", "\n".join("line {}".format(line) for line in range(100))),
    }.get(kind, (RecoverableError, "poplar_recoverable_runtime_error", "The fabric lost a device"))
    action = kind if kind in machine.RESETS else ""
    raise_native(error, fault.get("type", kind_of_error), fault.get("message", message), recovery_action=action)


def _not_acquired(ipus: int, why: str) -> None:
    """Raise the error of IPUs that are busy or not there."""
    message = "Failed to acquire {} IPU(s)".format(ipus)
    raise_native(Error, "poptorch_cpp_error", message + ("\n" + why if why else ""), where="Compiler::initSession")
