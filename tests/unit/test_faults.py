"""Every kind of error of the IPU's library, and the remedy in the one table."""

import sys
import types
from typing import Any

import pytest

from ipu_supervisor.engines import faults


def told(error) -> Any:
    return faults.of(error)


@pytest.fixture
def poptorch(monkeypatch):
    """Stand in for the module: only the classes, whose details lie on the class, as in the real one."""
    module: Any = types.ModuleType("poptorch")
    module.Error = type("Error", (Exception,), {"type": "", "message": ""})
    module.RecoverableError = type("RecoverableError", (module.Error,), {"recovery_action": ""})
    module.UnrecoverableError = type("UnrecoverableError", (module.Error,), {})
    monkeypatch.setitem(sys.modules, "poptorch", module)
    return module


@pytest.mark.parametrize(
    ("text", "origin", "kind"),
    [
        ("Failed to acquire 2 IPU(s)", "poptorch_cpp_error", "BUSY"),
        ("Failed to acquire 4 IPU(s)\nNo device found on the system with 4 IPUs", "x", "NO_SUCH_DEVICE"),
        ("Failed to acquire 1 IPU(s): No IPU detected in the system", "x", "NO_SUCH_DEVICE"),
        ("tile 0 is full", "poplar_memory_allocation_error", "OUT_OF_MEMORY"),
        ("Out of memory on tile 0", "popart_exception", "OUT_OF_MEMORY"),
        ("the inputs passed at runtime don't match the inputs used to compile the model", "poptorch_py_error", ""),
        ("something else", "popart_exception", "OTHER"),
    ],
)
def test_a_plain_error_is_told_by_its_words(text, origin, kind):
    assert faults.kind_of(text, origin) == kind


@pytest.mark.parametrize("action", faults.RECOVERY)
def test_a_recoverable_error_names_its_recovery(poptorch, action):
    poptorch.RecoverableError.recovery_action = action
    fault = told(poptorch.RecoverableError("lost"))
    assert (fault.kind, str(fault)) == (action, action + ": lost")
    poptorch.RecoverableError.recovery_action = "another error came later"
    assert fault.remedy is faults.TABLE[action]


def test_an_unknown_recovery_has_the_replica_started_again(poptorch):
    assert told(poptorch.RecoverableError("lost")).kind == "OTHER"


def test_an_unrecoverable_error_is_final_and_raises_the_alarm(poptorch):
    fault = told(poptorch.UnrecoverableError("gone"))
    assert fault.final
    assert fault.remedy.alarm


def test_an_error_is_found_behind_those_that_wrap_it(poptorch):
    wrapped = ValueError("the model and the configuration seem to be incompatible")
    wrapped.__cause__ = poptorch.Error("Failed to acquire 1 IPU(s)")
    assert told(wrapped).kind == "BUSY"


def test_a_message_that_the_library_wrote_to_a_file_is_read_there(poptorch, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    error = poptorch.Error("In x: 'popart_exception': See poptorch_error.log for details")
    assert told(error).kind == "OTHER"
    (tmp_path / "poptorch_error.log").write_text("Out of memory: 3 tiles\n" + "line\n" * 100, encoding="utf-8")
    assert told(error).kind == "OUT_OF_MEMORY"


def test_inputs_of_another_shape_harm_no_device(poptorch):
    assert told(poptorch.Error("these are not the inputs used to compile the model")) is None


def test_what_the_library_did_not_raise_is_no_device_fault(poptorch):
    assert told(ValueError("Failed to acquire")) is None


def test_without_the_library_there_are_no_device_faults(monkeypatch):
    monkeypatch.delitem(sys.modules, "poptorch", raising=False)
    assert told(ValueError("x")) is None


def test_long_texts_are_cut():
    assert len(str(faults.DeviceFault("OTHER", "x" * 10_000))) <= faults.MAX_TEXT + len("OTHER: ")


def test_every_remedy_says_what_to_do_and_no_alarm_restarts():
    for remedy in faults.TABLE.values():
        assert remedy.advice.endswith(".")
        assert remedy.final or not remedy.alarm
        assert not (remedy.final and remedy.waits)
