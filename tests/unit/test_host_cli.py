"""The command `model-server`, on a host with a fake systemd: who waits for whom, and how a command ends."""

import fcntl
import hashlib
import os
import signal
import sys

import pytest

from deploy.host import cli, releases, units
from deploy.scripts.wait_ready import Seen
from tests.unit.host_world import MAIN, World

SIGNALS = (signal.SIGHUP, signal.SIGINT, signal.SIGTERM)
CHANGING = (["deploy", "a" * 40, "b" * 64], ["apply"], ["rollback"], ["start"], ["stop"])
LOOKING = (["status"], ["logs"], ["ctl", "status"])


@pytest.fixture
def world(tmp_path, monkeypatch):
    """A host on which a serves; what a command does to this process is taken back."""
    world = World(tmp_path / "host", monkeypatch)
    world.deploy("a")
    before, umask = {number: signal.getsignal(number) for number in SIGNALS}, os.umask(0o077)
    yield world
    os.umask(umask)
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.fixture
def seen(monkeypatch):
    """What a command saw that does nothing else: what happens at each signal, and the umask."""
    seen: dict = {}

    def look(layout, given):
        """Look around."""
        seen.update(handlers=[signal.getsignal(number) for number in SIGNALS], umask=os.umask(0o022))

    for name, (_, changes) in cli.COMMANDS.items():
        monkeypatch.setitem(cli.COMMANDS, name, (look, changes))
    return seen


@pytest.fixture
def silent(monkeypatch):
    """What a command reads, and where nobody writes: the end to write at, while it is in the list."""
    reading, writing = os.pipe()
    ends = [writing]
    with open(reading, encoding="ascii") as stream:
        monkeypatch.setattr(sys, "stdin", stream)
        yield ends
    for end in ends:
        os.close(end)


@pytest.fixture
def nobody(world):
    """Be a user who may do nothing on the host."""
    world.layout.root.chmod(0o500)
    root = os.geteuid() == 0
    if root:
        os.seteuid(65534)
    yield
    if root:
        os.seteuid(0)
    world.layout.root.chmod(0o755)


@pytest.mark.parametrize("command", CHANGING, ids="-".join)
def test_a_command_that_changes_what_is_served_goes_to_its_end_alone_whatever_its_caller_does(world, seen, command):
    with world.layout.lock.open("w") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        assert (cli.main(command, world.layout), seen) == (75, {})
    assert cli.main(command, world.layout) == 0
    assert seen == {"handlers": [signal.SIG_IGN] * 3, "umask": 0o022}


@pytest.mark.parametrize("command", LOOKING, ids="-".join)
def test_a_command_that_only_looks_waits_for_nobody_and_ends_with_its_caller(world, seen, command):
    with world.layout.lock.open("w") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        assert cli.main(command, world.layout) == 0
    assert signal.SIG_IGN not in seen["handlers"][1:]


def test_commands_are_those_that_change_what_is_served_and_those_that_look():
    assert list(cli.COMMANDS) == [name for name, *_ in CHANGING + LOOKING]


@pytest.mark.parametrize(
    ("looked", "code", "said"),
    [
        (Seen(True, "ready"), 0, "ready"),
        (Seen(False, "qa: LOADING 1 s"), 1, "status FAILED: qa: LOADING 1 s"),
        (Seen(False, "qa: BACKOFF 1 s", "qa, last error: no"), 1, "status FAILED: qa: BACKOFF 1 s; qa, last error: no"),
        (Seen(False, "qa: FAILED 1 s", failed="qa FAILED: why"), 1, "status FAILED: qa FAILED: why"),
    ],
)
def test_the_status_is_an_exit_code_too(world, monkeypatch, looked, code, said):
    monkeypatch.setattr(cli, "look", lambda server: looked)
    assert cli.main(["status"], world.layout) == code
    assert (world.said[-1], "release " + "a" * 40 in world.said) == (said, True)


def test_stop_and_start_are_for_the_next_boots_too(world):
    asked = len(world.asked)
    assert [cli.main([command], world.layout) for command in ("stop", "start")] == [0, 0]
    assert world.asked[asked:] == [
        ("disable", "--quiet", units.TARGET),
        ("stop", *units.ALL),
        ("enable", "--quiet", units.TARGET),
        *(("start", unit) for unit in (units.SUPERVISOR, units.PORT, MAIN, units.TARGET)),
    ]


@pytest.mark.parametrize("unit", [units.SUPERVISOR, units.PORT, MAIN])
def test_a_start_after_which_something_does_not_run_fails_with_its_reason(world, unit):
    cli.main(["stop"], world.layout)
    world.broken_units = {unit}
    assert cli.main(["start"], world.layout) == 1
    assert world.said[-1] == f"start FAILED: {unit} does not start"


def test_a_second_deployment_is_refused_at_once_and_lets_the_first_go_on(world):
    with world.layout.lock.open("w") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        assert cli.main(["apply"], world.layout) == 75
    assert (world.clock.now, world.layout.stopping.exists()) == (100.0, False)


@pytest.mark.timeout(10)
def test_a_deployment_of_which_nothing_comes_ends_and_held_nobody_up_meanwhile(world, monkeypatch, silent):
    monkeypatch.setattr(releases, "SILENCE_LIMIT_S", 0.0)
    with world.layout.lock.open("w") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        assert cli.main(["deploy", "a" * 40, "b" * 64], world.layout) == 1
    assert world.said[-1] == "deploy FAILED: nothing of the archive came for 0 s; nothing was unpacked"


@pytest.mark.timeout(10)
def test_a_deployment_that_has_come_while_another_goes_on_is_refused(world, silent):
    os.close(silent.pop())
    with world.layout.lock.open("w") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        assert cli.main(["deploy", "a" * 40, hashlib.sha256(b"").hexdigest()], world.layout) == 75
    assert world.said[-1] == "another deployment is going on"


@pytest.mark.parametrize("command", ["status", "stop"])
def test_without_the_rights_of_root_a_command_says_that_it_needs_them(world, nobody, command):
    assert cli.main([command], world.layout) == 1
    assert world.said[-1].startswith(f"{command} FAILED: it needs root: ")


def test_a_stop_ends_the_deployment_that_goes_on_and_then_stops(world):
    with world.layout.lock.open("w") as other:
        fcntl.flock(other, fcntl.LOCK_EX)

        def deploy_on():
            """End at the third look, as a deployment would."""
            assert world.layout.stopping.exists()
            world.layout.stopping.unlink()
            if world.clock.now > 101:
                fcntl.flock(other, fcntl.LOCK_UN)

        world.clock.meanwhile = deploy_on
        assert cli.main(["stop"], world.layout) == 0
    assert world.said[-2:] == ["a deployment is going on, and is asked to end", "stopped"]
    assert not world.running


def test_a_stop_that_a_deployment_does_not_heed_in_time_changes_nothing(world):
    with world.layout.lock.open("w") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        assert cli.main(["stop"], world.layout) == 75
    assert world.clock.now == 100.0 + cli.STOP_LIMIT_S
    assert (world.served(), world.layout.stopping.exists()) == ("aaa", False)
