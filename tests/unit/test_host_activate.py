"""Deployments on a host with a fake systemd: what they refuse, what they go back to, and what cuts them off."""

import itertools
import os
import sys

import pytest

from deploy.host import cli, units
from deploy.host.activate import Facts
from deploy.host.layout import HostSettings
from deploy.scripts.wait_ready import NotReady
from tests.unit.host_world import MAIN, NEXT, World


@pytest.fixture
def world(tmp_path, monkeypatch):
    """A host on which b serves and a served before."""
    return serving_b(World(tmp_path / "host", monkeypatch))


@pytest.fixture
def cut_off(tmp_path, monkeypatch):
    """Hosts on which b served and the deployment of c was cut off: each at another step, and booted or not."""

    def hosts():
        for number in itertools.count():
            step, boots = number // 2, number % 2
            world = serving_b(World(tmp_path / str(number), monkeypatch))
            if not world.deploy_until_step(step, "c"):
                assert step > 20
                return
            if boots:
                world.boot()
            yield step, world

    return hosts()


def serving_b(world):
    for letter in "ab":
        world.deploy(letter)
    assert world.served() == "bbb"
    return world


def rollback(world, monkeypatch):
    monkeypatch.setattr(HostSettings, "read", classmethod(lambda cls: cls(sys.executable)))
    cli.rollback(world.layout, cli._parser().parse_args(["rollback"]))


def test_a_supervisor_whose_code_is_the_same_stays_as_it_is(world):
    world.deploy("c", supervisor="b")
    assert world.served() == "cbc"
    assert world.asked.count(("restart", units.SUPERVISOR)) == 2


def test_after_a_deployment_that_was_cut_off_any_release_gets_its_own_supervisor(cut_off):
    for step, world in cut_off:
        world.deploy("b")
        assert world.served() == "bbb", step


def test_after_a_deployment_that_was_cut_off_a_failing_one_goes_back_to_what_served_last(cut_off):
    for step, world in cut_off:
        world.bad = {"d"}
        with pytest.raises(NotReady):
            world.deploy("d")
        assert world.served() == "bbb", step


def test_after_a_deployment_that_was_cut_off_a_rollback_goes_to_what_served_last(cut_off, monkeypatch):
    for step, world in cut_off:
        switched = world.current() == "c"
        rollback(world, monkeypatch)
        assert world.served() == ("bbb" if switched else "aaa"), step
        rollback(world, monkeypatch)
        assert world.served() == ("aaa" if switched else "bbb"), step


def test_a_deployment_that_was_cut_off_can_be_done_again_and_rolled_back(cut_off, monkeypatch):
    for step, world in cut_off:
        world.deploy("c")
        assert world.served() == "ccc", step
        rollback(world, monkeypatch)
        assert world.served() == "bbb", step


def test_a_rollback_that_fails_too_does_not_forget_what_served_last(world):
    world.bad, world.broken_units = {"c", "d"}, {MAIN, NEXT}
    with pytest.raises(units.UnitFailed):
        world.deploy("c")
    assert any("THE ROLLBACK FAILED TOO" in text for text in world.said)
    world.broken_units.clear()
    with pytest.raises(NotReady):
        world.deploy("d")
    assert world.served() == "bbb"


def test_whatever_goes_wrong_the_release_before_is_served_again(world, monkeypatch):
    listen = units.listen
    surprises = iter([ZeroDivisionError("never thought of")])

    def surprising(address):
        for surprise in surprises:
            raise surprise
        listen(address)

    monkeypatch.setattr(units, "listen", surprising)
    with pytest.raises(ZeroDivisionError):
        world.deploy("c")
    assert world.served() == "bbb"


def test_whatever_goes_wrong_with_the_rollback_is_told_beside_what_went_wrong_first(world, monkeypatch):
    monkeypatch.setattr(units, "listen", lambda address: 1 // 0)
    with pytest.raises(ZeroDivisionError):
        world.deploy("c")
    assert world.said[-1].startswith("THE ROLLBACK FAILED TOO: ")


def test_an_environment_that_cannot_check_the_settings_changes_nothing_that_serves(world):
    link = world.layout.current / "venv-supervisor"
    before = os.readlink(str(link))
    world.broken_venvs = {"/srv/typo"}
    with pytest.raises(units.UnitFailed, match="/srv/typo"):
        world.deploy("b", venv="/srv/typo")
    assert (os.readlink(str(link)), world.served()) == (before, "bbb")


def test_an_environment_made_by_hand_is_linked_and_the_supervisor_restarted_in_it(world):
    world.deploy("b", venv="/srv/sdk")
    assert os.path.realpath(str(world.layout.current / "venv-supervisor")) == "/srv/sdk"
    assert world.asked.count(("restart", units.SUPERVISOR)) == 3


def test_an_address_that_systemd_would_refuse_ends_a_deployment_before_anything_is_touched(world):
    world.facts["address"] = "localhost:8100"
    asked = len(world.asked)
    with pytest.raises(units.UnitFailed, match="SERVER_BIND must be an IP address"):
        world.deploy("c")
    assert (world.served(), world.asked[asked:]) == ("bbb", [])


def test_what_model_files_print_does_not_hide_the_facts(world):
    world.printed = "loading my model file\n{}\n"
    world.deploy("c")
    assert world.served() == "ccc"


@pytest.mark.parametrize("said", ["", "no facts", "[1]", '{"address": "0.0.0.0:8100"}'])
def test_facts_that_are_none_are_refused_with_what_was_said(said):
    with pytest.raises(units.UnitFailed, match="understands: " + said.replace("[", r"\[").replace("{", r"\{")):
        Facts.read(said)


def test_a_stand_in_that_does_not_start_is_stopped(world):
    stopped = world.asked.count(("stop", NEXT, NEXT.replace(".service", ".socket")))
    world.broken_units = {NEXT}
    with pytest.raises(units.UnitFailed):
        world.deploy("c", supervisor="b")
    assert world.asked.count(("stop", NEXT, NEXT.replace(".service", ".socket"))) == stopped + 2


def test_a_stand_in_that_was_left_behind_goes_also_where_nothing_else_serves(world):
    world.running[NEXT] = world.running.pop(MAIN)
    world.deploy("b")
    assert sorted(world.running) == sorted([units.SUPERVISOR, units.PORT, MAIN])
