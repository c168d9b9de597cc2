"""What a deployment asks of systemd, with a fake one, and what it hears from its caller."""

import pathlib
import signal

import pytest

from deploy.host import cli, units
from tests.unit.host_world import MAIN, CutOff, World

ROOT = pathlib.Path(__file__).resolve().parents[2]
NEW = "0.0.0.0:8101"


@pytest.fixture
def world(tmp_path, monkeypatch):
    """A host on which a serves."""
    world = World(tmp_path / "host", monkeypatch)
    world.deploy("a")
    return world


@pytest.mark.parametrize("address", ["0.0.0.0:8100", "[::]:65535", "[fe80::1]:1", "127.0.0.1:80"])
def test_an_ip_address_and_a_port_are_taken(address):
    units.check_address(address)


@pytest.mark.parametrize(
    "address",
    [
        *("localhost:8100", "0.0.0.0:0", "0.0.0.0:65536", "0.0.0.0", ":8100", "::1:80", "[127.0.0.1]:80", "[[::1]]:80"),
        *("0.0.0.0:1\nExecStartPre=/bin/touch /bad", "0.0.0.0:80\n", "[fe80::1%\n]:80", "0.0.0.0:٨٠"),
    ],
)
def test_what_systemd_could_not_listen_on_or_could_take_for_another_line_is_refused(address):
    with pytest.raises(units.UnitFailed, match="is no address of a port"):
        units.check_address(address)


def test_an_address_that_stays_closes_nothing(world):
    asked = len(world.asked)
    units.listen("0.0.0.0:8100")
    assert [verb for verb, *_ in world.asked[asked:]] == ["show"]


def test_an_address_that_moves_is_loaded_whatever_cut_off_the_deployment_before(world):
    for step in range(1, 20):
        world.deploy("a")
        world.steps, world.cut_at = 0, step
        try:
            units.listen(NEW)
        except CutOff:
            world.cut_at = None
            units.listen(NEW)
            assert NEW in world.loaded, step
            assert not {MAIN, units.PORT} & set(world.running), step
        else:
            break
    assert step > 6
    world.cut_at = None


@pytest.mark.parametrize(("half", "unset"), [("web", "HF_TOKEN"), ("supervisor", None)])
def test_the_hubs_token_is_the_supervisors_alone(world, half, unset):
    units.run_as(half, world.layout.current, world.layout.venvs, ["-m", "ipu_supervisor", "check-config"])
    assert world.properties.get("UnsetEnvironment") == unset
    name = {"web": "model-server-web@", "supervisor": "model-server-supervisor"}[half]
    unit = (ROOT / f"deploy/systemd/{name}.service").read_text(encoding="utf-8")
    assert ("\nUnsetEnvironment=HF_TOKEN\n" in unit) == (unset is not None)


@pytest.fixture
def handlers(monkeypatch):
    """What happens at each signal while a command runs."""
    seen: dict = {}
    numbers = (signal.SIGHUP, signal.SIGINT, signal.SIGTERM)
    before = {number: signal.getsignal(number) for number in numbers}

    def note(layout, given):
        """Note the handlers."""
        seen.update((number, signal.getsignal(number)) for number in numbers)

    for name, (_, changes) in cli.COMMANDS.items():
        monkeypatch.setitem(cli.COMMANDS, name, (note, changes))
    yield seen
    for number, handler in before.items():
        signal.signal(number, handler)


def test_a_command_that_changes_what_is_served_goes_to_its_end_whatever_its_caller_does(world, handlers):
    assert cli.main(["apply"], world.layout) == 0
    assert set(handlers.values()) == {signal.SIG_IGN}


def test_a_command_that_only_looks_ends_with_its_caller(world, handlers):
    assert cli.main(["status"], world.layout) == 0
    assert signal.SIG_IGN not in (handlers[signal.SIGINT], handlers[signal.SIGTERM])
