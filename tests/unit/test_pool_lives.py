"""Named histories of lives: limits of every state, rolling changes, scaling, stopping."""

import pytest

from ipu_supervisor.core import actions
from ipu_supervisor.core.crew import GRACE_S, START_LIMIT_S
from ipu_supervisor.core.replica import State
from ipu_supervisor.protocol.errors import ErrorCode
from ipu_supervisor.protocol.messages import CompileGranted, Hello, Identity, Loaded, Unable
from tests.unit.histories import History

LOADED = Loaded(Identity("m"))


def ready(**settings):
    return History(**settings).boot_all()


def reload(history):
    history.perform(history.pool.reload(history.now))


def scale(history, wanted):
    history.perform(history.pool.scale(wanted, history.now))


# ---- the limits of states --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "state", "limit_s", "why"),
    [
        ([], State.STARTING, START_LIMIT_S, "STARTING (it said nothing for 120 s)"),
        ([Hello(1)], State.LOADING, 50.0, "LOADING (load_limit_s is 50 s)"),
        ([Hello(1), LOADED, CompileGranted()], State.COMPILING, 50.0, "COMPILING (load_limit_s is 50 s)"),
    ],
)
def test_a_replica_that_stays_too_long_in_a_state_on_its_way_is_stopped(words, state, limit_s, why):
    history = History(load_limit_s=50.0)
    history.gate.asks("someone else")
    history.gate.next()
    for word in words:
        if isinstance(word, CompileGranted):
            history.perform(history.pool.granted("m-1.1", history.now))
        else:
            history.says("m-1.1", word)
    assert history.state("m-1.1") is state
    history.pass_time(limit_s - 0.01)
    assert history.did(actions.Terminate) == []
    history.pass_time(0.01)
    assert history.did(actions.Terminate) == [actions.Terminate("m-1.1")]
    assert history.state("m-1.1") is State.STOPPING
    assert history.replica("m-1.1").reason == "m-1.1: overdue in " + why


def levels(history, event):
    """Return how bad the log calls each event of a name."""
    return [note.fields["level"] for note in history.did(actions.Note) if note.event == event]


def test_an_end_that_nobody_wanted_is_a_warning_and_one_that_somebody_did_is_none():
    history = ready(replicas=2, batch_limit_s=3.0)
    scale(history, 1)
    history.dies("m-2.1", "exited with code 0")
    assert (levels(history, "replica_stopping"), levels(history, "replica_exited")) == ([20], [20])
    history.call("a")
    history.pass_time(3.0 + GRACE_S)
    history.dies("m-1.1", "killed by SIGKILL")
    assert levels(history, "replica_stopping") == levels(history, "replica_exited") == [20, 30]
    assert levels(history, "replica_killed") == [30]


def test_a_draining_replica_keeps_the_limit_of_the_batch_that_is_aboard():
    history = ready(batch_limit_s=10.0)
    history.call("a", budget_s=60)
    history.pass_time(6)
    reload(history)
    history.boot("m-2.1")
    assert history.states() == ["DRAINING", "READY"]
    history.pass_time(4)
    assert history.did(actions.Terminate) == [actions.Terminate("m-1.1")]
    history.answer("m-2.1")


def test_a_replica_that_is_ready_or_given_up_may_rest():
    history = ready()
    history.pass_time(10_000)
    assert history.states() == ["READY"]


# ---- rolling change --------------------------------------------------------------------------------------------------


def test_a_reload_starts_the_new_before_it_stops_the_old():
    history = ready()
    reload(history)
    assert history.states() == ["READY", "STARTING"]
    call = history.call("a")
    assert history.aboard() == {"m-1.1": ["a"]}
    history.boot("m-2.1")
    assert history.states() == ["DRAINING", "READY"]
    history.call("b")
    assert history.aboard()["m-2.1"] == ["b"]
    history.answer("m-1.1")
    assert history.results(call) == ["a"]
    assert history.states() == ["STOPPING", "BUSY"]
    history.dies("m-1.1")
    assert history.states() == ["BUSY"]


def test_a_reload_replaces_one_replica_after_the_other_and_never_serves_with_fewer():
    history = ready(replicas=3)
    reload(history)
    for _ in range(3):
        assert len(history.pool.crew.places) == 4
        (fresh,) = [name for name in history.alive if history.state(name) is State.STARTING]
        history.boot(fresh)
        assert history.pool.crew.usable() == 3
        (old,) = [name for name in history.alive if history.state(name) is State.STOPPING]
        history.dies(old)
    assert [name.split("-")[1] for name in sorted(history.alive)] == ["4.1", "5.1", "6.1"]
    assert history.states() == ["READY"] * 3


def test_without_room_for_both_the_old_stops_first_and_the_backlog_waits():
    history = ready(room_for_both=False)
    running = history.call("a")
    reload(history)
    assert history.states() == ["DRAINING"]
    waiting = history.call("b")
    history.answer()
    assert history.results(running) == ["a"]
    assert history.states() == ["STOPPING"]
    history.dies("m-1.1")
    history.boot("m-2.1")
    history.answer()
    assert history.results(waiting) == ["b"]


def test_without_room_for_both_one_replica_at_a_time_is_missing():
    history = ready(replicas=3, room_for_both=False)
    reload(history)
    for _ in range(3):
        assert history.pool.crew.usable() == 2
        (old,) = [name for name in history.alive if history.state(name) is State.STOPPING]
        history.dies(old)
        (fresh,) = [name for name in history.alive if history.state(name) is State.STARTING]
        history.boot(fresh)
    assert history.states() == ["READY"] * 3
    assert all(replica.generation == 1 for replica in history.pool.crew.all())


@pytest.mark.parametrize("room", [True, False])
def test_a_second_reload_in_the_middle_of_the_first_ends_with_the_newest(room):
    history = ready(replicas=2, room_for_both=room)
    reload(history)
    reload(history)
    for _ in range(10):
        for name in list(history.alive):
            if history.state(name) is State.STOPPING:
                history.dies(name)
        history.boot_all()
    assert history.states() == ["READY"] * 2
    assert all(replica.generation == 2 for replica in history.pool.crew.all())


def test_a_new_generation_that_fails_leaves_the_old_one_serving():
    history = ready()
    reload(history)
    for _ in range(5):
        (fresh,) = set(history.alive) - {"m-1.1"}
        history.dies(fresh)
        history.pass_time(20)
    assert sorted(history.states()) == ["FAILED", "READY"]
    call = history.call("a")
    history.answer("m-1.1")
    assert history.results(call) == ["a"]


@pytest.mark.parametrize("room", [True, False])
def test_a_reload_in_which_every_replica_old_and_new_fails_for_good_leaves_nobody_waiting(room):
    history = History(replicas=2, room_for_both=room).boot_all()
    reload(history)
    waiting = history.call("a", "b", "c", budget_s=3600)
    for _ in range(2):
        for name in list(history.alive):
            if history.state(name) is not State.STOPPING:
                history.says(name, Unable("no such thing", final=True))
            history.dies(name, "exited with code 3")
    assert set(history.states()) == {"FAILED"}
    assert set(history.results(waiting)) == {ErrorCode.NOT_READY}
    assert history.refusal(history.call("late", budget_s=3600)).code is ErrorCode.NOT_READY


def test_a_new_replica_for_which_the_room_is_gone_gives_way_to_the_old_which_goes_first():
    history = ready()
    reload(history)
    while len(history.alive) > 1:
        history.perform(history.pool.unleased(history.alive.pop(), "waits for IPUs", history.now))
    history.pool.crew.make_room(False)
    history.pass_time(3)
    assert history.did(actions.Terminate) == [actions.Terminate("m-1.1")]
    history.dies("m-1.1")
    assert history.boot_all().states() == ["READY"]


def test_an_old_replica_that_restarts_beside_a_failed_new_one_is_waited_for():
    history = ready()
    reload(history)
    for _ in range(5):
        (fresh,) = set(history.alive) - {"m-1.1"}
        history.dies(fresh)
        history.pass_time(20)
    history.dies("m-1.1")
    call = history.call("a")
    assert history.results(call) == []
    history.boot("m-1.2")
    history.answer()
    assert history.results(call) == ["a"]


def test_a_reload_lets_go_of_a_replica_that_is_not_usable_before_one_that_is():
    history = ready(replicas=2)
    history.dies("m-1.1")
    reload(history)
    history.boot("m-3.1")
    assert history.state("m-2.1") is State.READY
    assert history.state("m-1.2") is State.STOPPING


@pytest.mark.parametrize("end", ["answer", "dies"])
def test_what_is_aboard_a_draining_replica_is_answered_when_the_new_one_fails_for_good(end):
    history = ready()
    call = history.call("a")
    reload(history)
    history.boot("m-2.1")
    history.says("m-2.1", Unable("no such checkpoint", final=True))
    waits = history.call("b")
    history.dies("m-2.1")
    assert history.states() == ["DRAINING", "FAILED"]
    assert (history.results(call), history.results(waits)) == ([], [ErrorCode.NOT_READY])
    getattr(history, end)("m-1.1")
    assert history.results(call) == (["a"] if end == "answer" else [ErrorCode.NOT_READY])


def test_what_was_aboard_a_draining_replica_that_dies_is_run_by_the_new_one():
    history = ready()
    call = history.call("a")
    reload(history)
    history.boot("m-2.1")
    history.dies("m-1.1")
    history.answer("m-2.1")
    assert history.results(call) == ["a"]
    assert history.states() == ["READY"]


# ---- scaling, stopping -----------------------------------------------------------------------------------------------


def test_scaling_up_starts_the_missing_and_gives_them_work():
    history = ready()
    history.call("a")
    history.call("b")
    scale(history, 3)
    history.boot_all()
    assert sorted(text for texts in history.aboard().values() for text in texts) == ["a", "b"]
    assert history.states() == ["BUSY", "BUSY", "READY"]


def test_scaling_down_drains_the_surplus_and_loses_nothing():
    history = ready(replicas=3)
    calls = [history.call(text) for text in "abcd"]
    scale(history, 1)
    assert sorted(history.states()) == ["BUSY", "DRAINING", "DRAINING"]
    history.answer_all()
    assert [history.results(call) for call in calls] == [["a"], ["b"], ["c"], ["d"]]
    for name in list(history.alive):
        if history.state(name) is State.STOPPING:
            history.dies(name)
    assert history.states() == ["READY"]


def test_scaling_down_lets_go_of_what_failed_first():
    history = History(replicas=2)
    for _ in range(5):
        history.dies(next(name for name in history.alive if name.startswith("m-1")))
        history.pass_time(20)
    history.boot_all()
    assert sorted(history.states()) == ["FAILED", "READY"]
    scale(history, 1)
    assert history.states() == ["READY"]


def test_scaling_down_lets_go_of_what_failed_before_what_is_on_its_way():
    history = History(replicas=2)
    history.says("m-1.1", Unable("no such checkpoint", final=True))
    history.dies("m-1.1")
    for name in ("m-2.1", "m-2.2"):
        history.dies(name)
    assert history.states() == ["FAILED", "BACKOFF"]
    call = history.call("a")
    scale(history, 1)
    history.pass_time(1)
    history.boot_all()
    history.answer()
    assert history.results(call) == ["a"]


def test_scaling_down_and_up_at_once_ends_with_the_wanted_number():
    history = ready(replicas=2)
    scale(history, 1)
    scale(history, 2)
    for name in list(history.alive):
        if history.state(name) is State.STOPPING:
            history.dies(name)
    history.boot_all()
    assert history.states() == ["READY"] * 2


def test_a_replica_that_is_scaled_away_while_it_backs_off_leaves_no_place():
    history = History(replicas=2)
    for _ in range(2):
        history.dies(next(name for name in history.alive if name.startswith("m-2")))
    assert sorted(history.states()) == ["BACKOFF", "STARTING"]
    scale(history, 1)
    history.pass_time(60)
    assert history.states() == ["STARTING"]


def test_stopping_answers_everybody_terminates_every_replica_and_starts_none():
    history = ready(replicas=2)
    calls = [history.call(text) for text in "abc"]
    history.perform(history.pool.stop_all(history.now))
    assert [history.results(call) for call in calls] == [[ErrorCode.DRAINING]] * 3
    assert {action.replica for action in history.did(actions.Terminate)} == {"m-1.1", "m-2.1"}
    assert history.refusal(history.call("d")).code is ErrorCode.DRAINING
    for name in list(history.alive):
        history.dies(name)
    history.pass_time(600)
    assert history.alive == []
    assert history.states() == []


def test_a_pool_says_why_it_is_not_ready():
    history = History()
    assert history.pool.crew.why_not_ready() == "no usable replica (STARTING)"
    history.boot_all()
    assert history.pool.crew.why_not_ready() == ""
    history.dies("m-1.1", "killed by SIGSEGV")
    assert history.pool.crew.why_not_ready() == "no usable replica (STARTING): m-1.1: killed by SIGSEGV"


def test_names_of_models_may_have_hyphens():
    history = History(model="all-mini-lm").boot_all()
    assert history.alive == ["all-mini-lm-1.1"]
