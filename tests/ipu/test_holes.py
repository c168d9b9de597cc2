"""IPUs that are free and yet no group: what is told of them, and what an operator's reload does about it."""

from typing import Any, Dict, List

import pytest

from tests.ipu.serving import IpuStack
from tests.ipu.standin import standin_machine

#: A model file that takes as many IPUs as its program has copies.
OLDER = """
class Pipeline:
    def __init__(self):
        import poptorch, torch
        self.rows = torch.zeros({copies}, 4)
        options = poptorch.Options().replicationFactor({copies})
        self.model = poptorch.inferenceModel(torch.nn.Linear(4, 3), options)
    def compile(self):
        self.model(self.rows)
    def __call__(self, inputs):
        return {{"results": self.model(self.rows).tolist()}}
"""
MODELS: List[Dict[str, Any]] = [
    {"model": "pair", "device": "ipu", "ipu": {"ipus": 2}},
    {"model": "single", "device": "ipu", "replicas": 2},
]


@pytest.fixture
def stack(spawn, short_dir, monkeypatch):
    """Return a service, not started, on four IPUs."""
    for copies, name in enumerate(("single", "pair"), 1):
        (short_dir / (name + ".py")).write_text(OLDER.format(copies=copies), encoding="utf-8")
    stack = IpuStack(spawn, short_dir, MODELS, MODELS_PATH=str(short_dir))
    monkeypatch.setenv("STANDIN_FOLDER", str(stack.machine.folder))
    return stack


@pytest.mark.slow
@pytest.mark.timeout(180)
def test_a_group_that_free_ipus_do_not_make_is_told_and_a_reload_makes_it(stack, wait_until):
    others: Any = [standin_machine.acquire([range(ipu, ipu + 1)]) for ipu in (0, 2)]
    stack.daemon.start()
    wait_until(lambda: sorted(stack.machine.holders()) == [0, 1, 2, 3], 60, "the single ones lie between the others")
    for other in others:
        other.release()
    before = stack.daemon.model().counters["restarts"]
    wait_until(lambda: stack.daemon.model().counters["restarts"] > before + 1, 60, "the pair is tried again")
    assert sorted(stack.machine.holders()) == [1, 3]
    advice = "those that are free are no such group: then `python -m ipu_supervisor reload`"
    wait_until(lambda: "BUSY: " in stack.daemon.model().reason and advice in stack.daemon.model().reason)

    assert stack.daemon.command("reload").returncode == 0
    wait_until(lambda: stack.daemon.ready() and sorted(stack.machine.holders()) == [0, 1, 2, 3], 60, "all have theirs")
    assert all(model.ready for model in stack.daemon.status().models)
