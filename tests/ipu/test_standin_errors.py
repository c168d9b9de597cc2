"""The stand-in's errors, which a test injects from outside, and what it does to the process that imports it."""

import os
import signal
import sys
from typing import Any

import pytest

torch: Any = pytest.importorskip("torch")

# ---- injected errors -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("action", ["IPU_RESET", "LINK_RESET", "PARTITION_RESET", "FULL_RESET"])
def test_a_recoverable_error_names_its_action_once(poptorch, wrap, standin, action):
    executor = wrap(torch.nn.Linear(4, 3))
    executor(torch.zeros(1, 4))
    standin.inject(when="execute", kind=action)
    with pytest.raises(poptorch.RecoverableError) as caught:
        executor(torch.zeros(1, 4))
    assert caught.value.recovery_action == action
    executor(torch.zeros(1, 4))
    assert standin.executions() == {os.getpid(): 3}


@pytest.mark.parametrize(
    ("when", "kind", "error", "type_"),
    [
        ("execute", "unrecoverable", "UnrecoverableError", "poplar_unrecoverable_runtime_error"),
        ("execute", "other", "Error", "poplar_application_runtime_error"),
        ("compile", "out_of_memory", "Error", "poplar_memory_allocation_error"),
        ("attach", "acquire", "Error", "poptorch_cpp_error"),
    ],
)
def test_other_faults_can_be_injected(poptorch, wrap, standin, when, kind, error, type_):
    standin.inject(when=when, kind=kind, times=2)
    executor = wrap(torch.nn.Linear(4, 3))
    for _ in range(2):
        with pytest.raises(poptorch.Error) as caught:
            executor(torch.zeros(1, 4))
        assert type(caught.value) is getattr(poptorch, error)
        assert caught.value.type == type_
    executor(torch.zeros(1, 4))


def test_a_fault_can_last_for_one_model_and_say_what_a_test_wants(poptorch, wrap, standin):
    standin.inject(when="compile", kind="other", model="Bilin", times=-1, type="popart_exception", message="no")
    wrap(torch.nn.Linear(4, 3))(torch.zeros(1, 4))
    for _ in range(3):
        with pytest.raises(poptorch.Error, match="'popart_exception': no"):
            wrap(torch.nn.Bilinear(4, 4, 3))(torch.zeros(1, 4), torch.zeros(1, 4))
    with pytest.raises(ValueError, match="no such fault"):
        standin.inject(when="later", kind="other")


def test_a_later_error_overwrites_what_an_earlier_one_shows(poptorch, wrap, standin):
    executor, shown = wrap(torch.nn.Linear(4, 3)), []
    for action in ("IPU_RESET", "FULL_RESET"):
        standin.inject(when="execute", kind=action)
        with pytest.raises(poptorch.RecoverableError) as caught:
            executor(torch.zeros(1, 4))
        shown.append(caught.value)
    assert [error.recovery_action for error in shown] == ["FULL_RESET", "FULL_RESET"]


def test_a_long_message_goes_to_a_file_in_the_working_directory(poptorch, wrap, standin, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    standin.inject(when="compile", kind="long_message")
    with pytest.raises(poptorch.Error, match=r"See poptorch_error\.log") as caught:
        wrap(torch.nn.Linear(4, 3))(torch.zeros(1, 4))
    assert "line 99" not in str(caught.value)
    assert "line 99" in (tmp_path / "poptorch_error.log").read_text()


def test_an_unknown_name_is_refused_not_recorded(poptorch, wrap):
    options = poptorch.Options()
    for owner in (options, options.Precision, options.TensorLocations, poptorch):
        with pytest.raises(NotImplementedError, match="enableExecutableCahcing"):
            owner.enableExecutableCahcing("x")
    for refused in (lambda: options._Popart.set("outlineTreshold", 1), lambda: wrap(torch.nn.Linear(4, 3)).cycleCount):
        with pytest.raises(NotImplementedError, match="does not model"):
            refused()
    assert not hasattr(poptorch, "trainingModel")


# ---- what the import does to a process ------------------------------------------------------------------------------

IMPORTED = """
import os, signal
signal.signal(signal.SIGTERM, lambda *_: print("handler from before", flush=True))
import poptorch
os.kill(os.getpid(), signal.SIGTERM)
signal.signal(signal.SIGTERM, lambda *_: print("handler from after", flush=True))
os.kill(os.getpid(), signal.SIGTERM)
if os.fork() == 0:
    os._exit(0)
os.wait()
print("fork safe:", os.environ["RDMAV_FORK_SAFE"])
"""


def test_the_import_takes_sigterm_and_notes_a_fork(standin, spawn):
    child = spawn([sys.executable, "-c", IMPORTED])
    assert child.wait(60) == 0
    log = child.log_text()
    assert "handler from before" not in log
    assert "most recent call first" in log
    assert "handler from after\nfork safe: 1" in log
    assert [line["pid"] for line in standin.journal("fork")] == [child.pid]


HANDLED = """
import signal, sys, torch, poptorch
signal.signal(signal.SIGTERM, lambda *_: sys.exit("handler"))
poptorch.inferenceModel(torch.nn.Linear(4, 3))(torch.zeros(1, 4))
"""


def status(pid, name):
    with open("/proc/{}/status".format(pid)) as lines:
        return next(line.split()[1] for line in lines if line.startswith(name + ":"))


def test_a_hang_ignores_sigterm_and_a_kill_frees_the_ipus(standin, spawn, wait_until):
    standin.inject(when="execute", kind="hang")
    child = spawn([sys.executable, "-c", HANDLED])
    wait_until(lambda: standin.journal("fault") and status(child.pid, "State") == "S", 60)
    child.process.terminate()
    wait_until(lambda: int(status(child.pid, "ShdPnd"), 16) == 0 and status(child.pid, "State") == "S")
    assert "handler" not in child.log_text()
    assert standin.holders() == {0: child.pid}
    child.process.kill()
    assert child.wait() == -signal.SIGKILL
    assert standin.holders() == {}


def test_sigterm_waits_for_the_end_of_a_compile(standin, spawn, wait_until):
    child = spawn([sys.executable, "-c", HANDLED], env={"STANDIN_COMPILE_S": "4"})
    wait_until(lambda: standin.journal("attach") and status(child.pid, "State") == "S", 60)
    child.process.terminate()
    assert child.wait(60) == 1
    assert "handler" in child.log_text()
    attach, detach = standin.journal()
    assert detach["at"] - attach["at"] >= 4


def test_ipus_come_free_when_a_process_ends_and_the_cache_serves_the_next(standin, spawn, tmp_path):
    code = "import torch, poptorch; poptorch.inferenceModel(torch.nn.Linear(4, 3))(torch.zeros(1, 4))"
    for _ in range(2):
        child = spawn([sys.executable, "-c", code], env={"POPTORCH_CACHE_DIR": str(tmp_path / "cache")})
        assert child.wait(60) == 0
    events = [line["event"] for line in standin.journal()]
    assert events == ["attach", "compile", "detach", "attach", "cache_hit", "detach"]
    assert sorted(standin.executions().values()) == [1, 1]
