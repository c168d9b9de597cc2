"""Named histories of dying replicas: what was aboard, poison, giving up, overdue batches, silent replicas."""

import pytest

from ipu_supervisor.core import actions
from ipu_supervisor.core.batching import filling
from ipu_supervisor.core.crew import GRACE_S, PROBE_INTERVAL_S, PROBE_LIMIT_S, STALE_S
from ipu_supervisor.core.replica import State
from ipu_supervisor.protocol.errors import ErrorCode
from ipu_supervisor.protocol.messages import BatchDone, Hello, Outcome, Probe, ProbeAnswer, Run, Unable
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


# ---- death -----------------------------------------------------------------------------------------------------------


def test_what_was_aboard_a_replica_that_died_is_run_again_alone_before_all_else():
    history = ready(cost=filling(4))
    history.call("warm")
    calls = [history.call(text) for text in "abc"]
    history.answer()
    history.call("d")
    history.dies()
    restart(history)
    for text in "abc":
        assert history.aboard() == {"m-1.2": [text]}
        history.answer()
    assert [history.results(call) for call in calls] == [["a"], ["b"], ["c"]]
    assert history.aboard() == {"m-1.2": ["d"]}


def test_a_death_touches_only_what_was_aboard():
    history = ready(replicas=2)
    lost, kept = history.call("a"), history.call("b")
    history.dies("m-1.1")
    history.answer("m-2.1")
    assert history.results(kept) == ["b"]
    assert history.aboard() == {"m-2.1": ["a"]}
    history.answer()
    assert history.results(lost) == ["a"]


def test_a_second_death_makes_an_input_poison_and_spares_the_rest():
    history = ready(cost=filling(4))
    history.call("warm")
    bad, good = history.call("bad"), history.call("good")
    history.answer()
    history.dies()
    restart(history)
    assert history.aboard() == {"m-1.2": ["bad"]}
    history.dies()
    assert history.results(bad) == [ErrorCode.POISON]
    assert history.results(good) == []
    restart(history)
    history.answer()
    assert history.results(good) == ["good"]


def poisoned(text="bad", **settings):
    history = ready(**settings)
    history.call(text)
    for _ in range(2):
        history.dies()
        restart(history)
    return history


def test_poison_is_refused_at_the_door_for_ten_minutes_and_then_forgotten():
    history = poisoned()
    history.pass_time(590)
    assert history.results(history.call("bad")) == [ErrorCode.POISON]
    history.pass_time(10)
    again = history.call("bad")
    history.answer()
    assert history.results(again) == ["bad"]


def test_poison_at_the_door_does_not_touch_the_other_items_of_its_call():
    history = poisoned()
    call = history.call("good", "bad", "fine")
    history.answer_all()
    assert history.results(call) == ["good", ErrorCode.POISON, "fine"]


def test_everybody_who_waits_for_poison_is_told():
    history = ready()
    calls = [history.call("bad"), history.call("bad")]
    history.dies()
    restart(history)
    history.dies()
    assert [history.results(call) for call in calls] == [[ErrorCode.POISON]] * 2


def test_an_input_that_is_answered_is_acquitted():
    history = ready()
    history.call("a")
    history.dies()
    restart(history)
    history.answer()
    again = history.call("a")
    history.dies()
    assert history.results(again) == []


def test_one_death_is_one_death_however_many_equal_items_were_aboard():
    history = ready(cost=filling(4), deterministic=False)
    history.call("warm")
    call = history.call("a", "a")
    history.answer()
    assert history.aboard() == {"m-1.1": ["a", "a"]}
    history.dies()
    restart(history)
    history.answer_all()
    assert history.results(call) == ["a", "a"]


def test_a_suspect_that_comes_again_runs_alone():
    history = ready(cost=filling(4))
    history.cancel(history.call("suspect"))
    history.dies()
    restart(history)
    history.call("warm")
    for text in ("a", "suspect", "b"):
        history.call(text)
    history.answer()
    assert history.aboard() == {"m-1.2": ["a", "b"]}
    history.answer()
    assert history.aboard() == {"m-1.2": ["suspect"]}


def test_what_nobody_waits_for_is_not_run_again():
    history = ready()
    history.cancel(history.call("a"))
    history.dies()
    restart(history)
    assert history.running == {}
    assert history.pool.requests.counts["rerun"] == 0


def test_a_request_whose_budget_ends_before_it_can_be_run_again_is_told_of_the_death():
    history = ready()
    call = history.call("a", budget_s=2)
    history.dies()
    history.pass_time(2)
    assert history.results(call) == [ErrorCode.REPLICA_DIED]


# ---- giving up -------------------------------------------------------------------------------------------------------


def test_boot_failures_are_given_up_after_five():
    history = History()
    for _ in range(4):
        history.dies(history.alive[0], "exited with code 1")
        history.pass_time(2)
    assert history.states() == ["STARTING"]
    history.dies(history.alive[0], "exited with code 1")
    history.pass_time(3600)
    assert history.states() == ["FAILED"]
    assert len(history.did(actions.Spawn)) == 5
    assert history.noted("replica_failed") == 1


def test_the_pauses_between_restarts_double_from_half_a_second():
    history = History()
    pauses = []
    for _ in range(4):
        died_at = history.now
        history.dies(history.alive[0])
        while not history.alive:
            history.pass_time(0.25)
        pauses.append(history.now - died_at)
    assert pauses == [0.0, 0.5, 1.0, 2.0]


def test_a_replica_that_cannot_ever_load_is_given_up_at_once_with_its_reason():
    history = History()
    history.says("m-1.1", Hello(1))
    history.says("m-1.1", Unable("no such checkpoint", final=True))
    history.dies("m-1.1", "exited with code 3")
    assert history.states() == ["FAILED"]
    assert history.pool.crew.last_error == "no such checkpoint"


def test_the_last_error_is_that_of_the_last_life():
    history = History()
    history.says("m-1.1", Unable("the hub cannot be reached", final=False))
    history.dies("m-1.1", "exited with code 3")
    assert history.pool.crew.last_error == "the hub cannot be reached"
    history.dies("m-1.2", "killed by SIGKILL")
    assert history.pool.crew.last_error == "m-1.2: killed by SIGKILL"


def test_the_last_error_says_that_a_replica_was_overdue_and_is_cleared_by_the_next_that_is_ready():
    history = ready()
    history.call("a")
    history.pass_time(30)
    history.dies("m-1.1", "killed by SIGTERM")
    assert history.pool.crew.last_error == "m-1.1: overdue in BUSY"
    restart(history)
    assert history.pool.crew.last_error == ""


def test_a_lone_suspect_that_kills_does_not_count_towards_giving_up():
    history = ready()
    for number in range(4):
        history.call("bad {}".format(number))
        history.dies()
        restart(history)
        history.dies()
        restart(history)
    assert history.states() == ["READY"]


def test_deaths_of_idle_replicas_do_not_count_towards_giving_up():
    history = ready()
    for _ in range(10):
        history.dies(history.alive[0])
        restart(history)
    assert history.states() == ["READY"]


def test_a_model_that_dies_of_five_different_inputs_in_a_row_is_given_up():
    history = ready()
    for number in range(5):
        last = history.call("input {}".format(number), budget_s=600)
        history.dies()
        if history.states() != ["FAILED"]:
            restart(history)
            history.dies()
            restart(history)
    assert history.states() == ["FAILED"]
    assert history.results(last) == [ErrorCode.NOT_READY]


def test_an_answer_wipes_the_slate_clean():
    history = ready()
    for number in range(8):
        history.call("a{}".format(number))
        history.dies()
        restart(history)
        history.answer()
    assert history.states() == ["READY"]


def test_a_reload_tries_again_what_was_given_up():
    history = History()
    history.says("m-1.1", Unable("no such checkpoint", final=True))
    history.dies("m-1.1")
    history.perform(history.pool.reload(history.now))
    history.boot_all()
    assert history.states() == ["READY"]


def test_a_process_that_cannot_be_started_backs_off_like_one_that_died():
    history = ready()
    for expected in ("STARTING", "BACKOFF"):
        history.dies(history.alive[0], "could not be started")
        assert history.states() == [expected]


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


def test_a_batch_that_is_overdue_twice_is_poison():
    history = ready(batch_limit_s=3.0)
    call = history.call("a", budget_s=100)
    history.pass_time(3)
    history.dies("m-1.1")
    restart(history)
    history.pass_time(3)
    assert history.results(call) == [ErrorCode.POISON]


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
