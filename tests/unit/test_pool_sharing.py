"""Named histories of items that share: one computation with many waiters, one batch with a bad item."""

import pytest

from ipu_supervisor.core import actions, requests
from ipu_supervisor.core.batching import filling
from ipu_supervisor.core.replica import State
from ipu_supervisor.protocol.errors import ErrorCode
from ipu_supervisor.protocol.messages import BatchDone, Outcome, Unable
from tests.unit.histories import History


def ready(**settings):
    return History(**settings).boot_all()


# ---- coalescing ------------------------------------------------------------------------------------------------------


def test_equal_items_run_once_and_every_call_gets_the_answer():
    history = ready()
    history.call("warm")
    calls = [history.call("a"), history.call("b", "a"), history.call("a", "a")]
    history.answer_all()
    assert [history.results(call) for call in calls] == [["a"], ["b", "a"], ["a", "a"]]
    assert history.pool.requests.counts["computed"] == 3


def test_an_equal_item_joins_a_computation_that_is_already_aboard():
    history = ready()
    history.call("a")
    joined = history.call("a")
    history.answer()
    assert history.results(joined) == ["a"]
    assert history.running == {}


def test_each_waiter_is_told_its_own_time():
    history = ready()
    history.call("busy", budget_s=100)
    first = history.call("a", budget_s=100)
    history.pass_time(20)
    second = history.call("a", budget_s=100)
    history.pass_time(1)
    history.answer()
    history.pass_time(0.5)
    third = history.call("a", budget_s=100)
    history.pass_time(0.25)
    last = history.call("a", budget_s=100)
    history.answer()
    timing = history.replies[last].timing
    assert (timing.queue_ms, timing.batch_ms, timing.inference_ms) == (0, 0, 0), (
        "it did not wait, whatever the batch took"
    )
    queued = [history.replies[call].timing.queue_ms for call in (first, second, third)]
    assert queued == pytest.approx([21_000, 1_000, 0])
    aboard = [history.replies[call].timing.batch_ms + 1 for call in (first, second, third)]
    assert aboard == pytest.approx([750, 750, 250])


def test_a_waiter_that_cancels_leaves_the_computation_to_the_others():
    history = ready()
    history.call("warm")
    gone, stays = history.call("a"), history.call("a")
    history.cancel(gone)
    history.answer_all()
    assert history.results(stays) == ["a"]
    assert history.results(gone) == []


def test_the_last_waiter_takes_the_computation_along():
    history = ready()
    history.call("warm")
    first, second = history.call("a"), history.call("a")
    history.cancel(first)
    assert history.waiting() == ["a"]
    history.cancel(second)
    assert history.waiting() == []
    history.answer()
    assert history.running == {}


def test_a_waiter_that_expires_leaves_the_computation_to_the_one_with_the_latest_deadline():
    history = ready()
    history.call("warm")
    short, long = history.call("a", budget_s=1), history.call("a", budget_s=5)
    history.pass_time(2)
    assert history.results(short) == [ErrorCode.DEADLINE_EXCEEDED]
    history.answer_all()
    assert history.results(long) == ["a"]


def test_models_that_are_not_deterministic_compute_every_item():
    history = ready(deterministic=False)
    calls = [history.call("a"), history.call("a", "a")]
    history.answer_all()
    assert [history.results(call) for call in calls] == [["a"], ["a", "a"]]
    assert history.pool.requests.counts["computed"] == 3


def test_equal_items_that_wait_by_themselves_are_refused_with_the_one_that_killed_twice():
    history = ready(deterministic=False)
    calls = [history.call("bad"), history.call("bad", "good"), history.call("bad")]
    history.dies()
    history.boot_all()
    assert history.aboard() == {"m-1.2": ["bad"]}
    history.dies()
    assert [history.results(call) for call in calls] == [[ErrorCode.POISON], [], [ErrorCode.POISON]]
    assert history.waiting() == ["good"]
    history.pass_time(1)
    history.boot_all()
    history.answer()
    assert history.results(calls[1]) == [ErrorCode.POISON, "good"]
    assert history.pool.requests._shared == {}


def test_a_cancelled_computation_that_is_aboard_can_be_joined_again():
    history = ready()
    history.cancel(history.call("a"))
    again = history.call("a")
    history.answer()
    assert history.results(again) == ["a"]


def test_cancelling_an_unknown_call_does_nothing():
    history = ready()
    history.cancel(b"0" * 16)
    assert history.pool.requests.counts["cancelled"] == 0


# ---- batches ---------------------------------------------------------------------------------------------------------


def test_a_batch_holds_no_more_bytes_than_one_message_carries_and_one_item_at_least(monkeypatch):
    monkeypatch.setattr(requests, "MOST_BYTES", 100)
    history = ready(cost=filling(8))
    texts = ["warm", "a" * 200, "b" * 40, "c" * 40, "d" * 40]
    calls = [history.call(text) for text in texts]
    sent = []
    while history.running:
        sent += [[text[0] for text in batch] for batch in history.aboard().values()]
        history.answer()
    assert sent == [["w"], ["a"], ["b", "c"], ["d"]]
    assert [history.results(call) for call in calls] == [[text] for text in texts]


# ---- bad items -------------------------------------------------------------------------------------------------------


def batch_of_three():
    history = ready(cost=filling(4))
    history.call("warm")
    calls = [history.call(text) for text in "abc"]
    history.answer()
    assert history.aboard() == {"m-1.1": ["a", "b", "c"]}
    return history, calls


def test_a_batch_that_raises_is_run_singly_and_only_the_culprit_fails():
    history, calls = batch_of_three()
    history.raises()
    for text in "abc":
        assert history.aboard() == {"m-1.1": [text]}
        history.raises() if text == "b" else history.answer()
    assert [history.results(call) for call in calls] == [["a"], [ErrorCode.MODEL_ERROR], ["c"]]


def test_a_batch_that_raises_on_a_draining_replica_is_not_run_again_when_the_new_one_failed_for_good():
    history, calls = batch_of_three()
    history.perform(history.pool.reload(history.now))
    history.boot("m-2.1")
    history.says("m-2.1", Unable("no such checkpoint", final=True))
    history.dies("m-2.1")
    history.raises("m-1.1")
    assert [history.results(call) for call in calls] == [[ErrorCode.NOT_READY]] * 3


def test_items_of_a_batch_that_raised_do_not_mix_with_new_ones():
    history, _ = batch_of_three()
    history.call("d")
    history.raises()
    assert history.aboard() == {"m-1.1": ["a"]}
    assert history.waiting() == ["b", "c", "d"]


def test_an_item_that_was_cancelled_is_not_run_again_after_its_batch_raised():
    history, calls = batch_of_three()
    history.cancel(calls[1])
    history.raises()
    history.answer()
    assert history.aboard() == {"m-1.1": ["c"]}


@pytest.mark.parametrize("outcomes", [0, 2, 4])
def test_a_wrong_number_of_outcomes_counts_as_an_error_of_the_batch(outcomes):
    history, calls = batch_of_three()
    run = history.running["m-1.1"]
    history.says("m-1.1", BatchDone(run.batch_id, [Outcome(run.items[0])] * outcomes, 1.0))
    assert history.aboard() == {"m-1.1": ["a"]}
    history.answer_all()
    assert [history.results(call) for call in calls] == [["a"], ["b"], ["c"]]


def test_a_lone_item_with_a_wrong_number_of_outcomes_fails():
    history = ready()
    call = history.call("a")
    history.says("m-1.1", BatchDone(history.running["m-1.1"].batch_id, [], 1.0))
    assert history.results(call) == [ErrorCode.MODEL_ERROR]
    assert history.state("m-1.1") is State.READY


def test_a_late_reply_to_an_earlier_batch_is_dropped_and_counted():
    history = ready()
    history.call("a")
    first = history.running["m-1.1"]
    history.answer()
    second = history.call("b")
    history.perform(history.pool.said("m-1.1", BatchDone(first.batch_id, [Outcome(first.items[0])], 1.0), history.now))
    assert history.results(second) == []
    assert history.pool.requests.counts["late_replies"] == 1
    history.answer()
    assert history.results(second) == ["b"]
    assert len(history.did(actions.Answer)) == 2
