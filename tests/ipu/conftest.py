"""The stand-in on the path, and a pretended machine of its own for each test."""

import os
import pathlib
import sys

import pytest

from tests.ipu.standin import standin_machine

STANDIN = pathlib.Path(__file__).parent / "standin"
sys.path.insert(0, str(STANDIN))


@pytest.fixture
def standin(tmp_path, monkeypatch):
    """Return a new machine's folder; processes started meanwhile find it, and the stand-in."""
    folder = tmp_path / "machine"
    folder.mkdir()
    for name in [name for name in os.environ if name.startswith(("STANDIN_", "POPTORCH_"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("STANDIN_FOLDER", str(folder))
    paths = [str(STANDIN), os.environ.get("PYTHONPATH", "")]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(path for path in paths if path))
    return Machine(folder)


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
