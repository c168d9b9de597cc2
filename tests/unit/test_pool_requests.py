"""Named histories of requests: dispatch, admission, waiting for a model on its way."""

import pytest

from ipu_supervisor.core.batching import filling
from ipu_supervisor.protocol.errors import ErrorCode
from ipu_supervisor.protocol.messages import Unable
from tests.unit.histories import History


def ready(**settings):
    return History(**settings).boot_all()


def reload(history, changed=False):
    history.perform(history.pool.reload(history.now, changed))


# ---- dispatch --------------------------------------------------------------------------------------------------------


def test_a_lone_request_never_waits_for_company():
    history = ready(cost=filling(8))
    history.call("a")
    assert history.aboard() == {"m-1.1": ["a"]}


def test_no_request_waits_beside_an_idle_replica():
    history = ready(replicas=2)
    for text in "abc":
        history.call(text)
    assert sorted(history.aboard().values()) == [["a"], ["b"]]
    history.answer("m-2.1")
    assert sorted(history.aboard().values()) in ([["a"], ["c"]], [["b"], ["c"]])


def test_a_busy_replica_is_sent_nothing_and_takes_all_that_fits_when_it_is_free():
    history = ready(cost=filling(4))
    calls = [history.call(text) for text in "abcdefg"]
    assert history.aboard() == {"m-1.1": ["a"]}
    history.answer()
    assert history.aboard() == {"m-1.1": ["b", "c", "d", "e"]}
    history.answer_all()
    assert [history.results(call) for call in calls] == [[text] for text in "abcdefg"]


def test_a_request_that_waited_for_the_model_runs_as_soon_as_it_is_ready():
    history = History()
    call = history.call("a")
    assert history.results(call) == []
    history.boot_all()
    assert history.aboard() == {"m-1.1": ["a"]}


def test_the_outcomes_of_a_call_come_in_the_order_of_its_items():
    history = ready(replicas=3)
    call = history.call("a", "b", "c")
    for name in ("m-3.1", "m-1.1", "m-2.1"):
        history.answer(name)
    assert history.results(call) == ["a", "b", "c"]


def test_the_reply_tells_who_computed_and_where_the_time_went():
    history = ready()
    history.call("a")
    call = history.call("b")
    history.pass_time(0.25)
    history.answer()
    history.pass_time(0.125)
    history.answer()
    reply = history.replies[call]
    assert reply.identity.checkpoint == "checkpoint"
    assert (reply.timing.queue_ms, reply.timing.batch_ms, reply.timing.inference_ms) == (250.0, 124.0, 1.0)


# ---- admission -------------------------------------------------------------------------------------------------------


def test_a_full_backlog_refuses_with_the_time_after_which_there_is_room():
    history = ready(max_backlog=4)
    history.call("warm")
    history.pass_time(2)
    history.answer()
    for text in "abcde":
        history.call(text)
    # Five items at the measured 2 s each are before it, four of them in the backlog: 2.5 s for each place in it.
    assert history.refusal(history.call("f")) == (ErrorCode.OVERLOADED, 2.5)
    assert history.waiting() == list("bcde")


def test_a_call_that_does_not_fit_is_refused_whole():
    history = ready(max_backlog=3)
    history.call("a")
    history.call("b")
    refused = history.call("c", "d", "e")
    assert history.results(refused) == [ErrorCode.OVERLOADED] * 3
    assert history.waiting() == ["b"]
    assert history.results(history.call("c", "d")) == []


def test_equal_items_of_a_call_take_one_place_in_the_backlog():
    history = ready(max_backlog=1)
    history.call("a")
    assert history.results(history.call("b", "b", "b")) == []


def test_a_budget_that_cannot_be_met_is_refused_at_the_door_and_says_when_it_could():
    history = ready()
    history.call("warm")
    history.pass_time(2)
    history.answer()
    for text in "abc":
        history.call(text)
    # Three items before it and its own take 8 s at the measured 2 s each.
    assert history.refusal(history.call("d", budget_s=5)) == (ErrorCode.OVERLOADED, pytest.approx(3.0))
    assert history.results(history.call("e", budget_s=8.5)) == []


def takes_s(size):
    """Return what a request of a size takes: something by itself, and something for each token."""
    return 0.020 + 0.0003 * size


def after_work(*sizes):
    """Return a history of a replica that has done requests of these sizes."""
    history = ready(max_backlog=1000)
    for number, size in enumerate(sizes):
        history.call("work {}".format(number), sizes=[size])
        history.pass_time(takes_s(size))
        history.answer()
    return history


def test_long_requests_are_not_refused_because_short_ones_cost_more_for_each_token():
    history = after_work(*[400, *[10] * 9] * 10)
    assert 30 * takes_s(400) < 5
    calls = [history.call("long {}".format(number), sizes=[400], budget_s=10) for number in range(30)]
    assert not any(history.results(call) for call in calls)


def test_short_requests_that_could_only_wait_to_die_are_refused_though_their_tokens_are_few():
    history = after_work(*[400] * 9, 10, *[400] * 9)
    calls = [history.call("short {}".format(number), sizes=[10], budget_s=2) for number in range(250)]
    taken = [call for call in calls if not history.results(call)]
    assert 80 < len(taken) < 90, "of 0.023 s each, 86 fit into 2 s"
    while history.running:
        history.pass_time(takes_s(10))
        if history.running:
            history.answer()
    assert sum(history.results(call) == [ErrorCode.DEADLINE_EXCEEDED] for call in taken) <= 2


def test_the_expected_wait_counts_what_is_aboard_and_what_waits():
    history = after_work(*[400, *[10] * 9] * 10)
    for number, waiting_s in ((1, takes_s(400)), (2, 2 * takes_s(400))):
        history.call("long {}".format(number), sizes=[400], budget_s=100)
        assert history.pool.expected_wait_s(history.now) == pytest.approx(waiting_s)


def test_while_no_rate_is_measured_every_call_that_fits_is_taken():
    history = ready()
    for text in "abcdefgh":
        assert history.results(history.call(text, budget_s=0.1)) == []


def test_a_slow_model_still_tries_a_lone_request_with_a_short_budget():
    history = ready()
    history.call("warm")
    history.pass_time(20)
    history.answer()
    assert history.results(history.call("a", budget_s=1)) == []
    assert history.aboard() == {"m-1.1": ["a"]}


def test_a_request_is_not_refused_beside_an_idle_replica_because_another_is_busy():
    history = ready(replicas=2)
    history.call("warm")
    history.pass_time(20)
    history.answer()
    history.call("a")
    assert history.results(history.call("b", budget_s=5)) == []
    assert len(history.running) == 2


def test_a_lone_request_on_a_batching_device_does_not_make_it_look_slow():
    history = ready(cost=filling(32))
    history.call("warm")
    history.pass_time(1)
    history.answer()
    calls = [history.call(str(number), budget_s=10) for number in range(64)]
    assert not any(history.results(call) for call in calls)
    # One batch aboard, two in the backlog, one second each.
    assert history.pool.expected_wait_s(history.now) == pytest.approx(3.0)


def test_no_budget_is_refused_as_too_late():
    history = ready()
    assert history.refusal(history.call("a", budget_s=0)).code is ErrorCode.DEADLINE_EXCEEDED


def test_expired_items_are_answered_at_their_deadline_and_never_dispatched():
    history = ready()
    history.call("a")
    late = history.call("b", budget_s=1)
    history.pass_time(0.999)
    assert history.results(late) == []
    history.pass_time(0.001)
    assert history.results(late) == [ErrorCode.DEADLINE_EXCEEDED]
    history.answer()
    assert history.running == {}


def test_an_item_that_expires_as_a_replica_becomes_free_is_not_dispatched():
    history = ready()
    history.call("a")
    late = history.call("b", budget_s=1)
    history.now += 1.0
    history.answer()
    assert history.running == {}
    assert history.results(late) == [ErrorCode.DEADLINE_EXCEEDED]


def test_only_the_open_items_of_a_call_expire():
    history = ready()
    call = history.call("a", "b", budget_s=1)
    history.answer()
    history.pass_time(1)
    assert history.results(call) == ["a", ErrorCode.DEADLINE_EXCEEDED]


# ---- not ready, failed, draining -------------------------------------------------------------------------------------


def test_a_call_waits_for_a_model_on_its_way_when_its_budget_covers_the_expected_load():
    history = History(load_s=10.0)
    assert history.results(history.call("a", budget_s=11)) == []


def test_a_call_whose_budget_does_not_cover_the_expected_load_is_refused_with_the_rest_of_it():
    history = History(load_s=10.0)
    history.pass_time(4)
    assert history.refusal(history.call("a", budget_s=2)) == (ErrorCode.NOT_READY, 4.0)


def test_an_unknown_load_time_lets_every_call_wait():
    history = History()
    assert history.results(history.call("a", budget_s=0.5)) == []


def test_the_expected_load_is_the_last_measured_one():
    history = History()
    history.boot("m-1.1", load_s=20)
    assert history.loads == [20.0]
    history.dies("m-1.1")
    assert history.refusal(history.call("a", budget_s=5)) == (ErrorCode.NOT_READY, 15.0)


def test_the_expected_wait_counts_what_is_left_of_the_load_while_no_replica_is_usable():
    history = History(load_s=10.0)
    history.pass_time(4)
    assert history.pool.expected_wait_s(history.now) == 6.0
    history.boot_all()
    history.call("warm")
    history.pass_time(2)
    history.answer()
    history.call("a")
    history.call("b")
    assert history.pool.expected_wait_s(history.now) == pytest.approx(4.0)
    history.dies()
    # Two items of 2 s, after a load of 4 s.
    assert history.pool.expected_wait_s(history.now) == pytest.approx(8.0)


def test_a_failed_model_refuses_at_once_and_answers_those_who_wait():
    history = History()
    waiting = history.call("a")
    history.says("m-1.1", Unable("no such checkpoint", final=True))
    history.dies("m-1.1")
    assert history.refusal(waiting).code is ErrorCode.NOT_READY
    assert history.refusal(history.call("b")) == (ErrorCode.NOT_READY, 30.0)


def test_a_draining_model_refuses_at_once_and_answers_what_it_accepted():
    history = ready()
    calls = [history.call("a"), history.call("b")]
    history.perform(history.pool.drain())
    assert history.refusal(history.call("c")) == (ErrorCode.DRAINING, 5.0)
    assert not history.pool.drained()
    history.answer_all()
    assert [history.results(call) for call in calls] == [["a"], ["b"]]
    assert history.pool.drained()


def test_a_model_that_fails_while_it_drains_answers_those_who_wait_at_once():
    history = History()
    call = history.call("a")
    history.perform(history.pool.drain())
    history.says("m-1.1", Unable("no such checkpoint", final=True))
    history.dies("m-1.1")
    assert history.results(call) == [ErrorCode.NOT_READY]
    assert history.pool.drained()


def test_a_reload_ends_a_drain():
    history = ready()
    history.perform(history.pool.drain())
    reload(history)
    assert history.results(history.call("a")) == []


# ---- poison and a reload ---------------------------------------------------------------------------------------------


def poisoned_and_reloaded(changed):
    """Return a history in which one input is refused, and its old replica's name; a new replica is on its way."""
    history = ready()
    history.call("bad")
    for _ in range(2):
        history.dies()
        history.pass_time(1)
        history.boot_all()
    (old,) = history.alive
    reload(history, changed)
    assert history.results(history.call("bad")) == [ErrorCode.POISON]
    return history, old


def test_poison_is_tried_again_once_a_replica_with_the_changed_model_file_is_ready():
    history, _ = poisoned_and_reloaded(changed=True)
    history.boot_all()
    again = history.call("bad")
    history.answer()
    assert history.results(again) == ["bad"]


def test_poison_stays_poison_after_a_reload_of_the_same_model_file():
    history, _ = poisoned_and_reloaded(changed=False)
    history.boot_all()
    assert history.results(history.call("bad")) == [ErrorCode.POISON]


def test_poison_stays_poison_when_only_a_replica_of_before_the_change_comes_back():
    history, old = poisoned_and_reloaded(changed=True)
    (new,) = set(history.alive) - {old}
    history.dies(old)
    history.pass_time(30)
    (old,) = set(history.alive) - {new}
    history.boot(old)
    assert history.results(history.call("bad")) == [ErrorCode.POISON]


def test_a_changed_model_file_outlasts_a_second_reload_and_counts_once():
    history, old = poisoned_and_reloaded(changed=True)
    reload(history)
    history.dies(next(name for name in history.alive if name != old))
    history.boot_all()
    assert history.results(history.call("bad")) == []
    for _ in range(2):
        history.dies(next(iter(history.running)))
        history.pass_time(1)
        history.boot_all()
    reload(history)
    history.boot_all()
    assert history.results(history.call("bad")) == [ErrorCode.POISON]
