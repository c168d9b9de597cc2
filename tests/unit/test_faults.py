"""Every kind of error of the IPU's library, and the remedy in the one table."""

import sys
import types
from typing import Any

import pytest

from ipu_supervisor import replica
from ipu_supervisor.engines import faults
from ipu_supervisor.protocol.errors import ErrorCode
from tests.unit.histories import History

#: What follows from each kind: starts until the replica is given up (None: it never is), whether the alarm is raised,
#: and whether an input that was aboard twice is blamed.
OUTCOMES = {
    "BUSY": (None, False, False),
    "NO_SUCH_DEVICE": (1, False, False),
    "UNSUPPORTED_DEVICE": (1, False, False),
    "OUT_OF_MEMORY": (1, False, False),
    "IPU_RESET": (5, False, True),
    "LINK_RESET": (1, True, False),
    "PARTITION_RESET": (1, True, False),
    "FULL_RESET": (1, True, False),
    "UNRECOVERABLE": (1, True, False),
    "OTHER": (5, False, True),
}


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


@pytest.mark.parametrize("link", ["__cause__", "__context__"])
def test_an_error_is_found_behind_those_that_wrap_it(poptorch, link):
    wrapped = ValueError("the model and the configuration seem to be incompatible")
    setattr(wrapped, link, poptorch.Error("Failed to acquire 1 IPU(s)"))
    assert told(wrapped).kind == "BUSY"


def test_the_librarys_own_call_stack_is_neither_told_nor_looked_at(poptorch):
    error = poptorch.Error("something else\nError raised in:\n  [0] popart::Out of memory handler")
    assert str(told(error)) == "OTHER: something else"


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


def ends(history, kind):
    """Have a replica end of an error of this kind, as `replica.main` does."""
    name = next(iter(history.running), history.alive[0])
    history.says(name, replica._unable(faults.DeviceFault(kind, "x")))
    history.dies(name, "exited with code {}".format(replica.EXIT_UNABLE))


@pytest.mark.parametrize("kind", faults.TABLE)
def test_each_kind_has_the_replica_started_again_or_given_up_and_raises_the_alarm_or_not(kind):
    history, most = History(), 20
    starts = 0
    while history.alive and starts < most:
        ends(history, kind)
        history.pass_time(60)
        starts += 1
    given_up_after, alarm, _ = OUTCOMES[kind]
    assert starts == (given_up_after or most)
    assert (history.states() == ["FAILED"]) == (given_up_after is not None)
    assert history.pool.crew.alarms() == alarm


@pytest.mark.parametrize("kind", faults.TABLE)
def test_each_kind_blames_what_was_aboard_or_not(kind):
    history = History(replicas=3).boot_all()
    aboard = history.call("a", budget_s=600)
    for _ in range(2):
        ends(history, kind)
    assert history.results(aboard) == [ErrorCode.POISON] * OUTCOMES[kind][2]
