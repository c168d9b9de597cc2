"""Deployments on a host with a fake systemd: what they refuse, what they go back to, and what cuts them off."""

import itertools
import os
import sys

import pytest

from deploy.host import activate, cli, releases, units
from deploy.host.activate import Facts
from deploy.host.layout import HostSettings
from deploy.scripts.wait_ready import NotReady
from tests.unit.host_world import MAIN, NEXT, World

#: What is said where a deployment has failed and there is nothing to go back to.
NOTHING = "nothing is rolled back: no other release served before this deployment"


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


def test_a_supervisor_is_restarted_for_a_change_of_what_it_runs_on_and_for_nothing_else(world):
    def restarts():
        before = world.asked.count(("restart", units.SUPERVISOR))
        world.deploy("b")
        return world.asked.count(("restart", units.SUPERVISOR)) - before

    world.facts["web_only"] = ["SERVER_PORT"]
    world.environment.write_text("# a comment\n\nSERVER_PORT=1\n", encoding="utf-8")
    assert restarts() == 0
    world.environment.write_text("OMP_NUM_THREADS=2\n", encoding="utf-8")
    assert [restarts(), restarts()] == [1, 0]
    (world.release("b") / "app/.env").write_text("LOG_LEVEL=INFO\n", encoding="utf-8")
    assert restarts() == 1
    world.facts["model_files"] = ["another hash"]
    assert restarts() == 1
    world.unit = "another unit"
    assert restarts() == 1


def test_a_model_that_has_failed_is_tried_again_by_the_supervisor_that_stays(world):
    world.lost = "qa FAILED: the disk was full"
    world.deploy("c", supervisor="b")
    assert world.served() == "cbc"
    assert world.asked.count(("restart", units.SUPERVISOR)) == 2
    assert [text for text in world.said if "tried again" in text] == ["qa has failed, and is tried again"]


def test_a_model_that_fails_again_costs_the_others_no_restart(world):
    world.lost, world.incurable = "qa FAILED: it never loads", True
    with pytest.raises(NotReady, match="qa FAILED: it never loads"):
        world.deploy("c", supervisor="b")
    assert world.asked.count(("restart", units.SUPERVISOR)) == 2
    assert world.served()[:2] == "bb"


def test_a_deployment_that_waits_ends_where_somebody_wants_no_server_and_goes_back_to_nothing(world, monkeypatch):
    def wait(server, limit_s, say, ended):
        assert not ended()
        world.layout.stopping.touch()
        raise NotReady(ended())

    with monkeypatch.context() as patched:
        patched.setattr(activate, "wait", wait)
        with pytest.raises(NotReady, match="`model-server stop` ends it"):
            world.deploy("c")
    assert (world.current(), world.said[-1]) == ("c", "no other release is served in its place")
    world.layout.stopping.unlink()
    world.running.clear()
    rollback(world, monkeypatch)
    assert world.served() == "bbb"


def test_a_deployment_that_still_installs_ends_before_anything_is_touched_where_somebody_wants_no_server(world):
    world.layout.stopping.touch()
    asked = len(world.asked)
    with pytest.raises(NotReady, match="`model-server stop` ends it"):
        world.deploy("c")
    assert (world.served(), world.asked[asked:]) == ("bbb", [])


def test_after_a_stop_a_deployment_starts_everything_again_now_and_at_every_boot(world):
    world.running.clear()
    asked = len(world.asked)
    world.deploy("b")
    assert world.served() == "bbb"
    assert {("enable", "--quiet", units.TARGET), ("start", units.TARGET)} <= set(world.asked[asked:])


def test_the_first_one_and_the_stand_in_are_waited_for_as_long_as_the_settings_say(world):
    main, stand_in = (units.private_address(instance) for instance in (units.MAIN, units.NEXT))
    world.facts["wait_s"], world.waits = 7.0, []
    asked = len(world.asked)
    world.deploy("c")
    assert world.waits == [(stand_in, 7.0), (main, activate.WEB_LIMIT_S)]
    assert [unit for verb, unit, *_ in world.asked[asked:] if verb == "restart"] == [units.SUPERVISOR, NEXT, MAIN]
    world.running.clear()
    world.deploy("c")
    assert world.waits[2:] == [(main, 7.0)]


@pytest.mark.parametrize("unit", [units.SUPERVISOR, NEXT])
def test_a_unit_that_will_not_come_back_ends_the_wait_with_its_last_words(world, unit):
    world.failed = {unit}
    with pytest.raises(NotReady, match=f"{unit} failed\nits words"):
        world.deploy("c", supervisor="b")


def test_settings_that_do_not_work_have_no_other_release_to_go_back_to(world):
    world.bad = {"b"}
    with pytest.raises(NotReady):
        world.deploy("b")
    assert world.said[-1] == NOTHING


def test_changed_settings_forget_no_release_and_leave_nothing_pending(world, monkeypatch):
    world.deploy("b")
    assert not world.layout.pending.is_symlink()
    rollback(world, monkeypatch)
    assert world.served() == "aaa"


@pytest.mark.parametrize("running", [None, "x"])
def test_old_releases_go_but_not_current_and_previous_nor_what_something_runs_from(world, monkeypatch, running):
    for age, letter in enumerate("abxyz"):
        os.utime(str(world.release(letter) / releases.STAMP), (1000 + age, 1000 + age))
    monkeypatch.setattr(units, "release_of", lambda unit: running and world.release(running))
    world.deploy("b")
    assert {path.name[0] for path in world.layout.releases.iterdir()} == {"a", "b", running or "z"}


@pytest.fixture
def fresh(tmp_path, monkeypatch):
    """A host to which nothing was deployed, and on which a, b and c never get ready."""
    world = World(tmp_path / "fresh", monkeypatch)
    world.bad = set("abc")
    return world


def test_a_release_that_never_served_is_nothing_to_go_back_to(fresh, monkeypatch):
    for letter in "aab":
        with pytest.raises(NotReady):
            fresh.deploy(letter)
        assert fresh.said[-1] == NOTHING
    with pytest.raises(releases.Refused, match="no other release has served"):
        rollback(fresh, monkeypatch)
    fresh.deploy("x")
    with pytest.raises(releases.Refused, match="no other release has served"):
        rollback(fresh, monkeypatch)
    assert fresh.served() == "xxx"
    with pytest.raises(NotReady):
        fresh.deploy("c")
    assert fresh.served() == "xxx"


def test_a_release_that_gets_ready_later_has_served_from_then_on(fresh):
    with pytest.raises(NotReady):
        fresh.deploy("a")
    fresh.bad = {"b"}
    fresh.deploy("a")
    with pytest.raises(NotReady):
        fresh.deploy("b")
    assert fresh.served() == "aaa"


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


def test_settings_that_the_supervisor_refuses_end_a_deployment_before_anything_is_touched(world):
    world.refused = {"c"}
    asked = len(world.asked)
    with pytest.raises(units.UnitFailed, match="the supervisor refuses the settings"):
        world.deploy("c")
    assert (world.served(), world.asked[asked:]) == ("bbb", [])


def test_a_comment_in_another_encoding_stops_no_deployment(world):
    world.environment.write_bytes(b"# caf\xe9\nLOG_LEVEL=caf\xe9\n")
    world.deploy("b")
    world.environment.write_bytes(b"# caf\xe8\nLOG_LEVEL=caf\xe9\n")
    restarts = world.asked.count(("restart", units.SUPERVISOR))
    world.deploy("b")
    assert world.asked.count(("restart", units.SUPERVISOR)) == restarts


def test_an_address_that_systemd_would_refuse_ends_a_deployment_before_anything_is_touched(world):
    world.facts["address"] = "localhost:8100"
    asked = len(world.asked)
    with pytest.raises(units.UnitFailed, match="SERVER_BIND must be an IP address"):
        world.deploy("c")
    assert (world.served(), world.asked[asked:]) == ("bbb", [])


def test_a_port_that_is_taken_ends_a_deployment_before_anything_is_touched(world):
    world.facts["address"] = "0.0.0.0:22"
    world.taken = {"0.0.0.0:22"}
    asked = len(world.asked)
    with pytest.raises(units.UnitFailed, match=r"0\.0\.0\.0:22 is taken"):
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
