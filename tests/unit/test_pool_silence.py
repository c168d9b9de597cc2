"""Named histories of replicas that say nothing, too late, or nonsense."""

import pytest

from ipu_supervisor.core import actions
from ipu_supervisor.core.crew import GRACE_S, PROBE_INTERVAL_S, PROBE_LIMIT_S, STALE_S
from ipu_supervisor.core.replica import State
from ipu_supervisor.protocol.errors import ErrorCode
from ipu_supervisor.protocol.messages import BatchDone, Hello, Outcome, Probe, ProbeAnswer, Run
from tests.unit.histories import History


def ready(**settings):
    return History(**settings).boot_all()


def restart(history):
    """Bring the place back to READY, however long it backs off."""
    while history.states() == ["BACKOFF"]:
        history.pass_time(0.5)
    history.boot_all()


def sent_to(history, name):
    return [type(send.message) for send in history.sent if send.replica == name]


# ---- overdue ---------------------------------------------------------------------------------------------------------


def test_an_overdue_batch_terminates_its_replica_and_runs_elsewhere_what_was_aboard():
    history = ready(replicas=2, batch_limit_s=3.0)
    stuck = history.call("a")
    history.pass_time(2.999)
    assert history.did(actions.Terminate) == []
    history.pass_time(0.001)
    assert history.did(actions.Terminate) == [actions.Terminate("m-1.1")]
    assert history.state("m-1.1") is State.STOPPING
    history.answer("m-2.1")
    assert history.results(stuck) == ["a"]


def test_a_terminated_replica_is_killed_after_its_grace_and_again_until_it_is_gone():
    history = ready(batch_limit_s=3.0)
    history.call("a")
    history.pass_time(3 + GRACE_S)
    assert history.did(actions.Kill) == [actions.Kill("m-1.1")]
    history.pass_time(2 * GRACE_S)
    assert history.did(actions.Kill) == [actions.Kill("m-1.1")] * 3
    history.dies("m-1.1")
    assert history.alive == ["m-1.2"]


def test_an_overdue_replica_takes_no_request_while_it_stops():
    history = ready(batch_limit_s=3.0)
    history.call("a")
    history.pass_time(3)
    history.call("b")
    assert history.running.keys() == {"m-1.1"}
    assert history.waiting() == ["a", "b"]


def test_a_late_reply_of_an_overdue_replica_is_dropped_and_counted():
    history = ready(replicas=2, batch_limit_s=3.0)
    call = history.call("a")
    run = history.running["m-1.1"]
    history.pass_time(3)
    history.says("m-1.1", BatchDone(run.batch_id, [Outcome(run.items[0])], 1.0))
    assert history.results(call) == []
    assert history.pool.requests.counts["late_replies"] == 1
    history.answer("m-2.1")
    assert history.results(call) == ["a"]


def test_a_late_reply_of_an_old_life_is_dropped_and_counted():
    history = ready()
    call = history.call("a")
    run = history.running["m-1.1"]
    history.dies()
    restart(history)
    history.perform(history.pool.said("m-1.1", BatchDone(run.batch_id, [Outcome(run.items[0])], 1.0), history.now))
    assert history.results(call) == []
    assert history.pool.requests.counts["late_replies"] == 1


@pytest.mark.parametrize("silent_s", [0.0, STALE_S])
def test_a_batch_that_is_overdue_twice_is_poison_also_after_an_answered_probe(silent_s):
    history = ready(batch_limit_s=30.0)
    for name in ("m-1.1", "m-1.2"):
        history.pass_time(silent_s)
        history.call("a", budget_s=20)
        assert (Probe in sent_to(history, name)) is bool(silent_s)
        history.pass_time(30)
        history.dies(name)
        restart(history)
    assert history.results(history.call("a")) == [ErrorCode.POISON]


# ---- silence ---------------------------------------------------------------------------------------------------------


def test_an_idle_replica_is_probed_when_it_was_silent():
    history = ready()
    history.pass_time(PROBE_INTERVAL_S - 0.001)
    assert Probe not in sent_to(history, "m-1.1")
    history.pass_time(0.001)
    assert sent_to(history, "m-1.1").count(Probe) == 1
    history.pass_time(PROBE_INTERVAL_S)
    assert sent_to(history, "m-1.1").count(Probe) == 2


def test_an_idle_replica_that_answers_no_probe_is_stopped_and_replaced():
    history = ready()
    history.deaf.add("m-1.1")
    history.pass_time(PROBE_INTERVAL_S + PROBE_LIMIT_S)
    assert history.did(actions.Terminate) == [actions.Terminate("m-1.1")]
    history.dies("m-1.1")
    assert history.alive == ["m-1.2"]
    why = "m-1.1: overdue in READY (its serving thread answered nothing for 5 s)"
    assert history.pool.crew.last_error == why


def test_a_batch_for_a_replica_that_was_silent_goes_with_a_probe():
    history = ready()
    history.pass_time(STALE_S)
    history.call("a")
    assert sent_to(history, "m-1.1")[-2:] == [Probe, Run]


def test_a_batch_for_a_replica_heard_lately_goes_without_a_probe():
    history = ready()
    history.call("a")
    assert sent_to(history, "m-1.1")[-2:] != [Probe, Run]


def test_a_frozen_replica_with_a_batch_is_stopped_within_the_probes_limit_not_the_batchs():
    history = ready(replicas=2, batch_limit_s=600.0)
    history.deaf.add("m-1.1")
    history.pass_time(STALE_S)
    call = history.call("a", budget_s=60)
    (name,) = history.running
    history.deaf.add(name)
    history.pass_time(PROBE_LIMIT_S + PROBE_INTERVAL_S)
    assert actions.Terminate(name) in history.did(actions.Terminate)
    assert history.results(call) == []


def freeze(history, *texts, budget_s=600.0):
    """Have all replicas fall silent, then ask for something, until none is left; return the calls."""
    history.deaf |= set(history.alive)
    history.pass_time(STALE_S)
    calls = [history.call(text, budget_s=budget_s) for text in texts]
    history.pass_time(PROBE_INTERVAL_S + PROBE_LIMIT_S)
    assert set(history.states()) == {"STOPPING"}
    return calls


@pytest.mark.parametrize("batch_limit_s", [600.0, 3.0])
def test_what_lies_behind_a_probe_that_is_not_answered_was_not_begun_and_is_not_blamed(batch_limit_s):
    history = ready(replicas=2, batch_limit_s=batch_limit_s)
    (call,) = freeze(history, "a")
    assert len([send for send in history.sent if isinstance(send.message, Run)]) == 2
    history.dies("m-1.1")
    history.boot_all()
    history.answer("m-1.2")
    assert history.results(call) == ["a"]


def test_what_lies_behind_a_probe_that_is_not_answered_is_told_of_the_death_when_no_time_is_left():
    history = ready()
    (call,) = freeze(history, "a", budget_s=PROBE_LIMIT_S + 1)
    assert history.results(call) == [ErrorCode.REPLICA_DIED]


def test_a_replica_that_dies_by_itself_may_have_begun_what_lies_behind_a_probe():
    history = ready()
    for name in ("m-1.1", "m-1.2"):
        history.deaf.add(name)
        history.pass_time(STALE_S)
        history.cancel(history.call("a"))
        history.dies(name)
        restart(history)
    assert history.results(history.call("a")) == [ErrorCode.POISON]


@pytest.mark.parametrize(("texts", "states"), [([], ["READY"]), (["a"], ["FAILED"])])
def test_five_times_silent_in_a_row_is_given_up_when_there_was_work_and_never_when_idle(texts, states):
    history = ready()
    for _ in range(5):
        for call in freeze(history, *texts):
            history.cancel(call)
        history.dies(history.alive[0])
        restart(history)
    assert history.states() == states


def test_a_replica_that_owes_an_answer_is_the_last_to_get_work():
    history = ready(replicas=2)
    history.deaf.add("m-1.1")
    history.pass_time(PROBE_INTERVAL_S)
    history.call("a")
    assert history.aboard() == {"m-2.1": ["a"]}


def test_a_busy_replica_is_not_probed_while_it_computes():
    history = ready(batch_limit_s=600.0)
    history.call("a")
    history.pass_time(100)
    assert Probe not in sent_to(history, "m-1.1")


def test_a_replica_that_says_what_its_state_does_not_know_is_stopped_and_loses_nothing():
    history = ready(replicas=2)
    call = history.call("a")
    (name,) = history.running
    history.perform(history.pool.said(name, Hello(1), history.now))
    assert history.state(name) is State.STOPPING
    history.running.pop(name)
    history.answer_all()
    assert history.results(call) == ["a"]


def test_an_unasked_probe_answer_hurts_nobody():
    history = ready()
    history.says("m-1.1", ProbeAnswer(99))
    assert history.states() == ["READY"]


@pytest.mark.parametrize("name", ["m-9.1", "m-1.7", "nonsense", ""])
def test_a_replica_that_is_not_known_is_ignored(name):
    history = ready()
    history.says(name, Hello(1))
    history.perform(history.pool.exited(name, "gone", history.now))
    assert history.states() == ["READY"]
