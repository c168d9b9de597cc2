"""The environments that a deployment installs for a release, and what it calls for that."""

import pathlib
import sys

import pytest

from deploy.host import units, venvs
from tests.unit.host_world import World

PIP = ["-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
EXACT = ["--no-deps", "--require-hashes"]


@pytest.fixture
def world(tmp_path, monkeypatch):
    """A host on which nothing was deployed yet."""
    return World(tmp_path / "host", monkeypatch)


def installed(world):
    """Return what pip was told, by the lock that it was told of."""
    pip = [command[1:] for command in world.commands if command[1:3] == ["-m", "pip"]]
    return {pathlib.Path(command[-1]).name: command[:-1] for command in pip}


@pytest.mark.parametrize("demo", [False, True])
def test_every_lock_is_installed_exactly_as_it_is_but_that_of_torch_which_has_no_hashes(world, demo):
    world.facts["demo"] = demo
    world.deploy("a")
    exact = ["service.txt", "supervisor-cpu.txt", *(["demo.txt"] if demo else [])]
    expected = {lock: [*PIP, *EXACT, "--requirement"] for lock in exact}
    assert installed(world) == {**expected, "torch.txt": [*PIP, "--requirement"]}
    compiled = [command[4:] for command in world.commands if "compileall" in command]
    assert compiled == [["service", "ipu_supervisor"], ["ipu_supervisor"]]


def test_an_environment_is_one_of_its_locks_and_its_python_and_is_installed_once(world, tmp_path):
    release, python = world.release("a"), tmp_path / "python"
    python.write_text("another", encoding="ascii")
    python.chmod(0o755)

    def provide(python):
        world.commands.clear()
        venv = venvs.provide(world.layout, release, "web", ["service.txt"], str(python), world.said.append)
        return venv, bool(world.commands)

    first, second = provide(sys.executable), provide(sys.executable)
    assert (first[1], second) == (True, (first[0], False))
    assert provide(python)[0] != first[0]
    (release / "app/requirements/service.txt").write_text("changed", encoding="ascii")
    assert provide(sys.executable)[0] != first[0]


def test_what_an_installation_that_broke_off_has_left_is_no_environment_and_goes(world):
    world.broken_lock = "torch.txt"
    with pytest.raises(units.UnitFailed, match="torch"):
        world.deploy("a")
    (half,) = world.layout.venvs.glob("supervisor-*")
    (half / "env/left").touch()
    world.broken_lock = "no lock"
    world.deploy("a")
    assert world.served() == "aaa"
    assert not (half / "env/left").exists()
