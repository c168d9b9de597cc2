"""The tests' own engine where an earlier run was killed: what it left names processes that are others' by now."""

import pytest

from tests.deploy.engine import CONTAINERD, DAEMON, Engine


@pytest.fixture
def left(tmp_path, spawn):
    """Return an engine's folder, and a process of somebody else's that its files name."""
    other = spawn(["sleep", "600"])
    (tmp_path / "bin").mkdir()
    for file in (DAEMON, CONTAINERD):
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / file).write_text(str(other.pid), encoding="ascii")
    return tmp_path, other


def test_a_process_that_has_the_number_of_a_dead_daemon_is_not_ended(left):
    folder, other = left
    Engine(folder).stop()
    assert other.process.poll() is None


def test_a_process_that_has_the_number_of_a_dead_daemon_keeps_none_from_starting(left):
    folder, _ = left
    Engine(folder).forget_the_dead()
    assert not (folder / DAEMON).exists()
    assert not (folder / CONTAINERD).exists()
