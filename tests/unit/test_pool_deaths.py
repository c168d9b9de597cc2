"""Named histories of dying replicas: what was aboard, poison, giving up."""

from ipu_supervisor.core import actions
from ipu_supervisor.core.batching import filling
from ipu_supervisor.core.crew import GRACE_S
from ipu_supervisor.core.replica import State
from ipu_supervisor.protocol.errors import ErrorCode
from ipu_supervisor.protocol.messages import Hello, Unable
from tests.unit.histories import History


def ready(**settings):
    return History(**settings).boot_all()


def restart(history):
    """Bring the place back to READY, however long it backs off."""
    while history.states() == ["BACKOFF"]:
        history.pass_time(0.5)
    history.boot_all()


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


def test_failed_starts_are_not_held_against_a_replica_that_did_start():
    history = History()
    for _ in range(4):
        history.dies(history.alive[0], "exited with code 3")
        history.pass_time(60)
    history.boot_all()
    history.pass_time(3600)
    call = history.call("a", budget_s=100)
    history.dies()
    history.pass_time(60)
    history.boot_all()
    history.answer()
    assert history.results(call) == ["a"]


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
    assert history.pool.crew.last_error == "m-1.1: overdue in BUSY (batch_limit_s is 30 s)"
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


def test_ten_poisonous_inputs_in_a_row_fail_alone_and_never_the_model():
    history = ready()
    for number in range(10):
        poison = history.call("input {}".format(number), budget_s=600)
        history.dies()
        restart(history)
        history.dies()
        restart(history)
        assert history.results(poison) == [ErrorCode.POISON]
    assert history.states() == ["READY"]


def test_deaths_that_no_input_is_found_guilty_of_give_the_model_up():
    history = ready()
    for number in range(5):
        restart(history)
        history.cancel(history.call("input {}".format(number)))
        history.dies()
    assert history.states() == ["FAILED"]


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


# ---- devices ---------------------------------------------------------------------------------------------------------


def loses_its_device(history, **unable):
    """Have the replica say why it can serve no more, and end."""
    name = history.alive[0]
    history.says(name, Unable("LINK_RESET: gone", **unable))
    history.dies(name)


def test_a_device_that_is_busy_is_waited_for_without_end():
    history = History()
    for _ in range(20):
        loses_its_device(history, final=False, waits=True, advice="See gc-monitor.")
        while history.states() == ["BACKOFF"]:
            history.pass_time(0.5)
    assert history.boot_all().states() == ["READY"]


def test_a_device_that_only_an_operator_can_bring_back_fails_its_replica_and_raises_the_alarm():
    history = ready()
    loses_its_device(history, final=True, alarm=True, advice="Reset the links.")
    assert history.states() == ["FAILED"]
    assert history.noted("operator_alarm") == 1
    assert history.pool.crew.alarms() == 1
    assert "Reset the links." in history.pool.crew.why_not_ready()


def test_a_reload_tries_again_what_an_operator_brought_back():
    history = ready()
    loses_its_device(history, final=True, alarm=True)
    history.perform(history.pool.reload(history.now))
    history.boot_all()
    assert history.states() == ["READY"]
    assert history.pool.crew.alarms() == 0


def test_what_was_aboard_a_broken_device_is_run_elsewhere_and_not_blamed():
    history = ready(replicas=2)
    lost = history.call("a")
    history.says("m-1.1", Unable("LINK_RESET: gone", final=True, alarm=True, blameless=True))
    history.dies("m-1.1")
    history.dies("m-2.1")
    history.boot_all()
    history.answer()
    assert history.results(lost) == ["a"]


def test_a_replica_that_ends_is_not_waited_for_by_what_was_aboard_and_killed_after_its_grace():
    history = ready(replicas=2)
    aboard = history.call("a")
    history.says("m-1.1", Unable("LINK_RESET: gone", final=True, alarm=True, blameless=True))
    assert history.states() == ["STOPPING", "BUSY"]
    history.answer("m-2.1")
    assert history.results(aboard) == ["a"]
    history.pass_time(GRACE_S)
    assert history.noted("replica_killed") == 1
    history.dies("m-1.1")
    assert history.states() == ["FAILED", "READY"]
    assert history.pool.crew.last_error == "LINK_RESET: gone"


def test_what_is_given_up_for_good_stays_so_whoever_is_found_guilty_meanwhile():
    history = ready(replicas=2)
    history.call("bad")
    history.dies("m-1.1")
    history.says("m-2.1", Unable("LINK_RESET: gone", final=True, alarm=True))
    history.dies(next(name for name in history.alive if name != "m-2.1"))
    history.dies("m-2.1")
    assert history.state("m-2.1") is State.FAILED
    assert history.noted("operator_alarm") == 1


def test_a_reset_counts_against_what_was_aboard():
    history = ready()
    bad = history.call("bad")
    for _ in range(2):
        history.says(history.alive[0], Unable("IPU_RESET: x", final=False))
        history.dies()
        restart(history)
    assert history.results(bad) == [ErrorCode.POISON]


def test_a_replica_without_a_lease_waits_and_is_not_given_up():
    history = History()
    for _ in range(20):
        name = history.alive.pop()
        history.perform(history.pool.unleased(name, "waits for IPUs", history.now))
        assert history.pool.crew.last_error == "waits for IPUs"
        while history.states() == ["BACKOFF"]:
            history.pass_time(1)
    assert (history.pool.crew.restarts, history.noted("replica_exited"), history.noted("replica_waits")) == (0, 0, 20)
    history.dies(history.alive[0], "exited with code 3")
    history.pass_time(60)
    assert history.boot_all().states() == ["READY"]
