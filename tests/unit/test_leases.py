"""What the replicas of all models share: the IPUs, and the turn to compile."""

import pytest

from ipu_supervisor.core import actions
from ipu_supervisor.core.compiles import CompileGate
from ipu_supervisor.core.crew import GRACE_S
from ipu_supervisor.core.leases import Leases
from ipu_supervisor.core.replica import State
from ipu_supervisor.protocol.messages import Hello, Identity, Loaded, Ready, Unable
from tests.unit.histories import History

# ---- IPUs ------------------------------------------------------------------------------------------------------------


def test_a_lease_lasts_until_it_is_given_back():
    leases, wanted = Leases(4, {"qa": 1, "summarization": 2}), {"qa": 1, "summarization": 2}
    assert leases.take("qa-1.1", "qa", wanted)
    assert leases.take("summarization-1.1", "summarization", wanted)
    assert not leases.take("summarization-2.1", "summarization", wanted)
    assert leases.held == 3
    leases.give("summarization-1.1")
    assert leases.take("summarization-2.1", "summarization", wanted)


def test_a_replica_beyond_the_wanted_leaves_to_others_what_they_want():
    needs = {"qa": 1, "embeddings": 1, "summarization": 2}
    leases, wanted = Leases(5, needs), dict.fromkeys(needs, 1)
    for model in wanted:
        assert leases.take(model + "-1.1", model, wanted)
    assert leases.take("qa-2.1", "qa", wanted)
    leases.give("summarization-1.1")
    assert not leases.take("embeddings-2.1", "embeddings", wanted), "summarization comes back for them"
    assert leases.take("summarization-2.1", "summarization", wanted)
    leases.give("qa-1.1")
    assert leases.take("embeddings-2.1", "embeddings", wanted)


def test_a_model_on_another_device_needs_none():
    leases = Leases(0, {})
    assert leases.take("echo-1.1", "echo", {"echo": 1})
    assert leases.room_for_both("echo", {"echo": 8})
    leases.give("echo-1.1")
    leases.give("never there")


def test_what_is_lacking_is_counted_over_all_models():
    leases = Leases(4, {"qa": 1, "summarization": 2})
    assert leases.lacking({"qa": 2, "summarization": 1}) == 0
    assert leases.lacking({"qa": 3, "summarization": 1, "echo": 9}) == 1


@pytest.mark.parametrize(("ipus", "room"), [(3, []), (4, ["qa"]), (5, ["qa", "summarization"])])
def test_a_rolling_change_needs_room_for_one_more_of_its_own_model(ipus, room):
    leases, wanted = Leases(ipus, {"qa": 1, "summarization": 2}), {"qa": 1, "summarization": 1}
    assert [model for model in wanted if leases.room_for_both(model, wanted)] == room


# ---- compiling -------------------------------------------------------------------------------------------------------


def load(history, *names):
    """Have replicas ask for their turn."""
    for name in names:
        history.says(name, Hello(1))
        history.says(name, Loaded(Identity("m")))


def test_replicas_compile_one_after_the_other_in_the_order_of_asking():
    history = History(replicas=3)
    load(history, "m-2.1", "m-3.1", "m-1.1")
    compiling = []
    for _ in range(3):
        (name,) = [name for name in history.alive if history.state(name) is State.COMPILING]
        compiling.append(name)
        history.says(name, Ready(0.0))
    assert compiling == ["m-2.1", "m-3.1", "m-1.1"]


@pytest.mark.parametrize("who", ["m-1.1", "m-2.1"])
def test_one_that_dies_compiling_or_in_line_leaves_the_line(who):
    history = History(replicas=3)
    load(history, "m-1.1", "m-2.1", "m-3.1")
    history.dies(who)
    for name in sorted({"m-1.1", "m-2.1", "m-3.1"} - {who}):
        assert [name for name in history.alive if history.state(name) is State.COMPILING] == [name]
        history.says(name, Ready(0.0))


def stopped_in_its_compile(how):
    """Return a history whose first replica ends in its compile, by its own word or overdue; the second is in line."""
    history = History(replicas=2, load_limit_s=50.0)
    load(history, "m-1.1", "m-2.1")
    if how == "unable":
        history.says("m-1.1", Unable("out of memory", final=False))
    else:
        history.pass_time(50)
    assert (history.state("m-1.1"), history.state("m-2.1")) == (State.STOPPING, State.WAITING_TO_COMPILE)
    return history


@pytest.mark.parametrize("how", ["unable", "overdue"])
def test_one_that_is_stopped_in_its_compile_keeps_its_turn_until_its_process_has_ended(how):
    history = stopped_in_its_compile(how)
    history.dies("m-1.1")
    assert history.state("m-2.1") is State.COMPILING


@pytest.mark.parametrize("how", ["unable", "overdue"])
def test_one_that_is_stopped_in_its_compile_and_does_not_end_keeps_its_turn_until_it_is_killed(how):
    history = stopped_in_its_compile(how)
    history.pass_time(GRACE_S - 0.001)
    assert history.state("m-2.1") is State.WAITING_TO_COMPILE
    history.pass_time(0.001)
    assert history.did(actions.Kill) == [actions.Kill("m-1.1")]
    assert history.state("m-2.1") is State.COMPILING


def test_one_that_is_stopped_in_line_keeps_nobody_waiting():
    history = History(replicas=3)
    load(history, "m-1.1", "m-2.1", "m-3.1")
    history.says("m-2.1", Hello(1))
    assert history.state("m-2.1") is State.STOPPING
    history.says("m-1.1", Ready(0.0))
    assert history.state("m-3.1") is State.COMPILING


def test_a_replica_waits_for_its_turn_to_compile_as_long_as_others_compile():
    history = History(load_limit_s=50.0)
    history.gate.asks("someone else")
    history.gate.next()
    load(history, "m-1.1")
    history.pass_time(10_000)
    assert history.states() == ["WAITING_TO_COMPILE"]
    history.gate.leaves("someone else")
    history.grant()
    assert history.states() == ["COMPILING"]


def test_a_replica_that_takes_no_turns_is_ready_while_others_compile():
    history = History(in_turn=False)
    history.gate.asks("someone else")
    history.gate.next()
    assert history.boot_all().states() == ["READY"]
    assert history.did(actions.WantCompile) == []


def test_the_gate_serves_all_models_one_at_a_time():
    gate = CompileGate()
    gate.asks("a-1.1")
    gate.asks("b-1.1")
    assert (gate.next(), gate.next()) == ("a-1.1", None)
    gate.leaves("a-1.1")
    assert (gate.next(), gate.next()) == ("b-1.1", None)
    gate.leaves("nobody")
    assert gate.next() is None
    gate.leaves("b-1.1")
    assert gate.next() is None


def test_a_grant_for_one_that_no_longer_waits_is_given_back():
    history = History().boot_all()
    assert history.pool.granted("m-1.1", history.now) == [actions.CompileOver("m-1.1")]
    assert history.pool.granted("m-1.7", history.now) == [actions.CompileOver("m-1.7")]
