"""The stand-in on the path, a pretended machine of its own for each test, and tiny checkpoints."""

import faulthandler
import importlib
import os
import pathlib
import signal
import sys
import warnings
from typing import Any

import pytest

from ipu_supervisor import layout
from ipu_supervisor.engines import load
from tests.ipu.standin import standin_machine
from tests.models import tiny

STANDIN = pathlib.Path(__file__).parent / "standin"
#: Warnings of old libraries about themselves, each by its text and module.
THIRD_PARTY = (
    "ignore:`torch.jit.script` is deprecated:DeprecationWarning:torch.jit._script",
    "ignore:The 'warn' method is deprecated:DeprecationWarning:transformers.models.open_llama.modeling_open_llama",
)


def pytest_configure(config):
    """Let the old libraries' own warnings pass."""
    for line in THIRD_PARTY:
        config.addinivalue_line("filterwarnings", line)


class Machine:
    """A pretended machine, looked at and disturbed from outside."""

    def __init__(self, folder):
        self.folder = folder

    def journal(self, *events):
        return standin_machine.journal(self.folder, *events)

    def holders(self):
        return standin_machine.holders(self.folder)

    def executions(self):
        return standin_machine.executions(self.folder)

    def inject(self, **fault):
        standin_machine.set_fault(self.folder, **fault)

    def heal(self):
        for fault in self.folder.glob("fault-*"):
            fault.unlink()


@pytest.fixture
def standin(tmp_path, monkeypatch):
    """Return a new machine; processes started meanwhile find it, the stand-in and its gc-info."""
    folder = tmp_path / "machine"
    folder.mkdir()
    for name in [name for name in os.environ if name.startswith(("STANDIN_", "POPTORCH_"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("STANDIN_FOLDER", str(folder))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("PYTHONPATH", str(STANDIN), prepend=os.pathsep)
    monkeypatch.setenv("PATH", str(STANDIN / "bin"), prepend=os.pathsep)
    return Machine(folder)


@pytest.fixture(scope="session")
def imported_poptorch():
    """Import the stand-in into this process, and undo what its import does to a process."""
    sys.path.insert(0, str(STANDIN))
    before = os.environ.get("RDMAV_FORK_SAFE")
    module = importlib.import_module("poptorch")
    importlib.import_module("torch").set_num_threads(1)
    faulthandler.unregister(signal.SIGTERM)
    del os.environ["RDMAV_FORK_SAFE"]
    if before is not None:
        os.environ["RDMAV_FORK_SAFE"] = before
    return module


@pytest.fixture
def poptorch(imported_poptorch, standin):
    """Return the stand-in on a new machine."""
    return imported_poptorch


@pytest.fixture
def wrap(poptorch):
    """Return `wrap(model, **setters)`: an executor with options set."""

    def wrapped(model, **setters):
        options = poptorch.Options()
        options.autoRoundNumIPUs(True)
        for name, value in setters.items():
            getattr(options, name)(value)
        return poptorch.inferenceModel(model, options)

    return wrapped


@pytest.fixture
def pipeline_on(poptorch, monkeypatch, tmp_path, request):
    """Return a function that makes a model file's pipeline on a device, in float32 unless told, warmed up."""
    monkeypatch.setenv("POPTORCH_CACHE_DIR", str(tmp_path / "programs"))

    def make(module, folder, device="ipu", ipu=None, dtype="float32", **options):
        pipeline = module.Pipeline
        checked = pipeline.Options().load(options)
        settings = layout.complete(layout.IpuSchema().load(ipu or {}), pipeline.task)
        plan = {"ipu": settings, "shapes": pipeline.shapes(checked)}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # old libraries about themselves
            engine: Any = load.load(pipeline.task, folder, device=device, dtype=dtype, threads=1, layout=plan)
            request.addfinalizer(engine.close)
            made = pipeline(engine, checked)
            made.compile()
        return made

    return make


@pytest.fixture(scope="session")
def checkpoints(tmp_path_factory):
    """Return the folders of tiny checkpoints, by name."""
    root = tmp_path_factory.mktemp("checkpoints")
    return {maker.__name__: maker(root / maker.__name__) for maker in (tiny.distilbert, tiny.bart)}
