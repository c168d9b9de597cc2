"""The stand-in for PopTorch is faithful where it matters to a server; test_standin_optimum.py runs optimum on it."""

import gc
import os
import signal
import subprocess
import sys
import threading
from typing import Any

import pytest

torch: Any = pytest.importorskip("torch")

#: A process that holds IPUs without torch, until it is killed.
HOLD = "import signal, standin_machine as m; m.acquire(m.groups({})) and signal.pause()"


class Net(torch.nn.Module):
    """A layer, and a switch that is no tensor."""

    def __init__(self, seed=0):
        super().__init__()
        torch.manual_seed(seed)
        self.layer = torch.nn.Linear(4, 3)

    def forward(self, x, twice=False):
        return self.layer(x) * (2 if twice else 1)


class Remembering(torch.nn.Module):
    """Adds to what it has on the device."""

    def __init__(self):
        super().__init__()
        self.register_buffer("total", torch.zeros(1))

    def forward(self, x):
        self.total += x.sum()
        return self.total.clone()


@pytest.fixture
def hold(standin, spawn, wait_until):
    """Return `hold(size)`: another process that holds that many IPUs."""

    def held(size):
        before = len(standin.holders())
        child = spawn([sys.executable, "-c", HOLD.format(size)])
        wait_until(lambda: len(standin.holders()) == before + size)
        return child

    return held


# ---- static inputs ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("args", "kwargs", "what"),
    [
        ((torch.zeros(3, 4),), {}, "Shape mismatch for x"),
        ((torch.zeros(2, 4, dtype=torch.float64),), {}, "Data type mismatch for x"),
        ((torch.zeros(2, 4),), {"twice": True}, "Value mismatch for twice"),
        (([torch.zeros(2, 4)],), {}, "Type mismatch for x"),
    ],
)
def test_inputs_unlike_the_compiled_ones_are_refused(poptorch, wrap, args, kwargs, what):
    executor = wrap(Net())
    executor(torch.zeros(2, 4))
    with pytest.raises(poptorch.Error, match=what) as caught:
        executor(*args, **kwargs)
    assert caught.value.type == "poptorch_py_error"
    assert "inputs passed at runtime don't match the inputs used to compile the model" in str(caught.value)


def test_float32_is_bit_equal_and_half_is_computed_in_float32_and_returned_as_half(wrap):
    rows = torch.randn(2, 4)
    assert torch.equal(wrap(Net())(rows), Net()(rows))
    half = wrap(Net().half())(rows.half())
    assert half.dtype == torch.float16
    assert torch.equal(half, Net().half().float()(rows.half().float()).half())


def test_a_batch_is_split_over_iterations_and_replicas(wrap, standin):
    rows = torch.randn(12, 4)
    executor = wrap(Net(), deviceIterations=3, replicationFactor=2)
    assert torch.equal(executor(rows), torch.cat([Net()(part) for part in rows.split(2)]))
    assert len(standin.holders()) == 2
    with pytest.raises(AssertionError, match="does not divide"):
        wrap(Net(), deviceIterations=3)(torch.zeros(4, 4))


def test_what_is_on_the_device_stays_until_it_is_copied_again(wrap):
    net, state = Net(), Remembering()
    executor = wrap(net)
    rows = torch.ones(1, 4)
    first = executor(rows)
    with torch.no_grad():
        net.layer.bias += 1
    assert torch.equal(executor(rows), first)
    executor.copyWeightsToDevice()
    assert torch.equal(executor(rows), net(rows))
    remembering = wrap(state, updatableNamedBuffers=["total"])
    assert [float(remembering(torch.ones(1))) for _ in range(2)] == [1, 2]
    assert float(state.total) == 0
    remembering.copyNamedBuffersToDevice()
    assert float(remembering(torch.ones(1))) == 1


def test_each_replica_has_buffers_of_its_own_that_last_through_iterations(wrap):
    rows = torch.tensor([1.0, 10.0])
    replicas = wrap(Remembering(), replicationFactor=2)
    assert [replicas(rows).tolist() for _ in range(2)] == [[1, 10], [2, 20]]
    iterations = wrap(Remembering(), deviceIterations=2)
    assert [iterations(rows).tolist() for _ in range(2)] == [[1, 11], [12, 22]]


# ---- devices ---------------------------------------------------------------------------------------------------------


def test_blocks_and_replicas_decide_how_many_ipus_are_held(poptorch, wrap, standin):
    placed = torch.nn.Sequential(*(poptorch.BeginBlock(torch.nn.Linear(4, 4), ipu_id=ipu) for ipu in (0, 2)))
    executor = wrap(placed)
    executor(torch.zeros(1, 4))
    assert standin.holders() == dict.fromkeys(range(4), os.getpid())
    poptorch.removeBlocks(placed)
    assert len(standin.holders()) == 4
    executor.destroy()
    again = wrap(placed)
    again(torch.zeros(1, 4))
    assert set(standin.holders()) == {0}


@pytest.mark.parametrize("how", ["detach", "destroy", "garbage"])
def test_ipus_come_free(wrap, standin, how):
    executor = wrap(Net())
    executor(torch.zeros(1, 4))
    assert standin.holders() == {0: os.getpid()}
    if how == "garbage":
        del executor
        gc.collect()
    else:
        {"detach": executor.detachFromDevice, "destroy": executor.destroy}[how]()
    assert standin.holders() == {}
    assert [line["event"] for line in standin.journal()] == ["attach", "compile", "detach"]


def test_a_busy_ipu_is_refused_until_its_process_dies(poptorch, wrap, hold, wait_until, standin):
    other = hold(4)
    executor = wrap(Net())
    with pytest.raises(poptorch.Error, match=r"Failed to acquire 1 IPU\(s\)") as caught:
        executor(torch.zeros(1, 4))
    assert caught.value.type == "poptorch_cpp_error"
    assert "No device found" not in caught.value.message
    assert not executor.isCompiled()
    assert set(standin.holders().values()) == {other.pid}
    os.kill(other.pid, signal.SIGKILL)
    wait_until(lambda: not standin.holders())
    executor(torch.zeros(1, 4))
    assert executor.isAttachedToDevice()


def test_a_machine_that_is_too_small_says_so_and_is_not_waited_for(poptorch, wrap, monkeypatch):
    monkeypatch.setenv("POPTORCH_WAIT_FOR_IPU", "1")
    with pytest.raises(poptorch.Error, match="No device found on the system with 8 IPUs") as caught:
        wrap(Net(), replicationFactor=5)(torch.zeros(5, 4))
    assert caught.value.message.startswith("Failed to acquire 8 IPU(s)")


def test_waiting_for_an_ipu(wrap, hold, monkeypatch, wait_until, standin):
    monkeypatch.setenv("POPTORCH_WAIT_FOR_IPU", "1")
    other = hold(4)
    executor = wrap(Net())
    waiting = threading.Thread(target=executor, args=(torch.zeros(1, 4),))
    waiting.start()
    assert other.process.poll() is None
    assert not executor.isAttachedToDevice()
    other.kill()
    waiting.join(60)
    assert executor.isAttachedToDevice()


def test_a_group_of_ipus_is_aligned_and_can_be_chosen_by_its_number(poptorch, wrap, standin, hold):
    hold(1)
    executor = wrap(Net(), replicationFactor=2)
    executor(torch.zeros(2, 4))
    assert standin.journal("attach")[-1]["ipus"] == [2, 3]
    executor.detachFromDevice()
    chosen = wrap(Net(), useIpuId=3)
    chosen(torch.zeros(1, 4))
    assert standin.journal("attach")[-1]["ipus"] == [3]
    with pytest.raises(poptorch.Error, match="No device found"):
        wrap(Net(), useIpuId=5)(torch.zeros(1, 4))


def test_the_hardware_is_asked_for_as_in_poptorch(poptorch, monkeypatch):
    assert poptorch.ipuHardwareVersion() == 2
    assert poptorch.ipuHardwareIsAvailable(4)
    assert not poptorch.ipuHardwareIsAvailable(8)
    monkeypatch.setenv("STANDIN_IPU_VERSION", "21")
    assert poptorch.ipuHardwareVersion() == 21
    for name, value in (("POPTORCH_IPU_MODEL", "1"), ("STANDIN_IPUS", "0")):
        with monkeypatch.context() as patch:
            patch.setenv(name, value)
            assert not poptorch.ipuHardwareIsAvailable()
            with pytest.raises(AssertionError, match="No IPU hardware"):
                poptorch.ipuHardwareVersion()


def test_gc_info_counts_the_ipus(standin):
    def gc_info(count, *args):
        env = {**os.environ, "STANDIN_IPUS": count}
        return subprocess.run(["gc-info", *args], env=env, capture_output=True, check=False)

    assert gc_info("8", "--ipu-count").stdout == b"8\n"
    none = gc_info("0", "--ipu-count")
    assert (none.returncode, none.stdout) == (1, b"")
    assert b"no IPU" in none.stderr
    assert gc_info("8", "--device-info").returncode == 2


# ---- compiling -------------------------------------------------------------------------------------------------------


def test_a_compile_takes_its_time_and_leaves_a_file_that_makes_the_next_one_short(wrap, standin, monkeypatch, tmp_path):
    monkeypatch.setenv("STANDIN_COMPILE_S", "3")
    monkeypatch.setenv("POPTORCH_CACHE_DIR", str(tmp_path / "cache"))
    first, second = wrap(Net(seed=1)), wrap(Net(seed=2))
    first(torch.zeros(1, 4))
    assert first.compilationTime() >= 3
    assert len(list((tmp_path / "cache").glob("*.popef"))) == 1
    second(torch.zeros(1, 4))
    assert second.compilationTime() < 3
    assert [line["event"] for line in standin.journal("compile", "cache_hit")] == ["compile", "cache_hit"]
    monkeypatch.delenv("STANDIN_COMPILE_S")
    wrap(Net(), enableExecutableCaching=str(tmp_path / "other")).compile(torch.zeros(1, 4))
    assert len(list((tmp_path / "other").glob("*.popef"))) == 1
    wrap(Net(), enableExecutableCaching=None).compile(torch.zeros(1, 4))
    assert len(standin.journal("compile")) == 3


def test_what_makes_another_program(wrap, standin, monkeypatch, tmp_path):
    monkeypatch.setenv("POPTORCH_CACHE_DIR", str(tmp_path))
    rows = torch.zeros(2, 4)
    programs = [
        lambda: wrap(Net())(rows),
        lambda: wrap(Net())(rows[:1]),
        lambda: wrap(Net())(rows, twice=True),
        lambda: wrap(Net().half())(rows.half()),
        lambda: wrap(Net(), deviceIterations=2)(rows),
        lambda: wrap(Net(), replicationFactor=2)(rows),
        lambda: wrap(torch.nn.Linear(4, 3))(rows),
        lambda: wrap(torch.nn.Linear(4, 5))(rows),
    ]
    for program in (*programs, *programs):
        program()
    events = [line["event"] for line in standin.journal("compile", "cache_hit")]
    assert events == ["compile"] * len(programs) + ["cache_hit"] * len(programs)


def test_making_a_tensor_in_another_thread_fails_while_a_model_compiles(wrap):
    caught, factory = [], torch.zeros

    class Meddled(torch.nn.Module):
        def forward(self, x):
            thread = threading.Thread(target=self.meddle)
            thread.start()
            thread.join()
            return x + torch.zeros(1)

        def meddle(self):
            try:
                torch.zeros(1)
            except RuntimeError as error:
                caught.append(str(error))

    executor = wrap(Meddled())
    executor(torch.zeros(1))
    assert len(caught) == 1
    assert "torch.zeros called by another thread" in caught[0]
    executor(torch.zeros(1))
    assert len(caught) == 1
    assert torch.zeros is factory


def test_a_failed_compile_leaves_nothing_behind(wrap, standin):
    factory, executor = torch.zeros, wrap(Net())
    with pytest.raises(RuntimeError, match="shapes"):
        executor(torch.zeros(1, 5))
    assert torch.zeros is factory
    assert standin.holders() == {}
    assert not executor.isCompiled()


def test_connecting_on_demand_compiles_without_ipus_and_never_does_not_run(poptorch, wrap, hold, standin):
    hold(4)
    never = wrap(Net(), connectionType=poptorch.ConnectionType.Never)
    never.compile(torch.zeros(1, 4))
    assert never.isCompiled()
    with pytest.raises(AssertionError, match="Never"):
        never(torch.zeros(1, 4))
    demand = wrap(Net(), connectionType=poptorch.ConnectionType.OnDemand)
    with pytest.raises(poptorch.Error, match="Failed to acquire"):
        demand.compile(torch.zeros(1, 4))
    assert len(standin.journal("compile")) == 2
