"""Older model files that import poptorch, which takes SIGTERM: a replica that is told to end still does."""

from tests.ipu.serving import IpuStack

LATE = """
class Pipeline:
    def compile(self):
        import poptorch, torch
        self.model = poptorch.inferenceModel(torch.nn.Linear(4, 3))
        self.model(torch.zeros(1, 4))

    def __call__(self, inputs):
        return {"ok": True}
"""

SLOW = """
import pathlib, threading
import poptorch

class Pipeline:
    def __init__(self):
        pathlib.Path({!r}).touch()
        threading.Event().wait()

    def __call__(self, inputs):
        return {{}}
"""


def test_one_that_is_told_to_end_while_it_loads_ends(spawn, short_dir, wait_until):
    loading = short_dir / "loading"
    (short_dir / "slow.py").write_text(SLOW.format(str(loading)), encoding="utf-8")
    models = [{"model": "slow", "device": "ipu"}]
    stack = IpuStack(spawn, short_dir, models, MODELS_PATH=str(short_dir), SUPERVISOR_IPUS="4")
    stack.daemon.start()
    wait_until(lambda: loading.exists() and stack.daemon.states() == ["LOADING"], 60)
    assert stack.daemon.child.terminate() == 0
    assert "exited with code 0" in stack.daemon.child.log_text()
    assert "replica_killed" not in stack.daemon.child.log_text()


def test_it_still_gives_its_ipu_back_when_it_is_told_to_end(spawn, short_dir, wait_until):
    (short_dir / "late.py").write_text(LATE, encoding="utf-8")
    models = [{"model": "late", "device": "ipu"}]
    stack = IpuStack(spawn, short_dir, models, MODELS_PATH=str(short_dir), SUPERVISOR_IPUS="4")
    stack.daemon.start()
    wait_until(stack.daemon.ready, 60)
    assert set(stack.machine.holders().values()) == set(stack.daemon.pids())
    assert stack.daemon.child.terminate() == 0
    assert stack.machine.holders() == {}
    assert "exited with code 0" in stack.daemon.child.log_text()
    assert "replica_killed" not in stack.daemon.child.log_text()
