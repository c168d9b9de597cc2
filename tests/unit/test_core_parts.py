"""The parts of the core, each on its own."""

import itertools

import msgspec
import pytest

from ipu_supervisor.core import backoff, calls, quarantine
from ipu_supervisor.core.backlog import Backlog, Computation, Waiter
from ipu_supervisor.core.backoff import Backoff
from ipu_supervisor.core.batching import SINGLY, Cost, choose, filling
from ipu_supervisor.core.calls import Calls, Pending
from ipu_supervisor.core.quarantine import Quarantine
from ipu_supervisor.core.rate import ServiceRate
from ipu_supervisor.core.replica import ON_ITS_WAY, TRANSITIONS, USABLE, WITHOUT_PROCESS, Event, Replica, State
from ipu_supervisor.core.replica import WrongTransition as Wrong
from ipu_supervisor.protocol.messages import Identity, Outcome, Timing


def computation(name, size=1, alone=False):
    made = Computation(name.encode(), name.encode(), msgspec.Raw(b"\xc0"), size, 0.0)
    made.alone = alone
    return made


def names(computations):
    return [made.name.decode() for made in computations]


# ---- the life of a replica -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("state", "event"), list(itertools.product(State, Event)))
def test_every_event_in_every_state_is_listed_or_raises(state, event):
    replica = Replica("m-1", 0, 0.0)
    replica.state = state
    if event in TRANSITIONS[state]:
        replica.happened(event, 5.0)
        assert (replica.state, replica.since) == (TRANSITIONS[state][event], 5.0)
    else:
        with pytest.raises(Wrong):
            replica.happened(event, 5.0)
        assert (replica.state, replica.since) == (state, 0.0)


def test_the_table_knows_every_state_and_every_state_can_be_reached():
    assert set(TRANSITIONS) == set(State)
    reached = {state for row in TRANSITIONS.values() for state in row.values()}
    assert reached == set(State)


def test_every_process_can_end_at_any_moment_and_be_stopped_unless_it_is():
    for state in set(State) - WITHOUT_PROCESS:
        assert TRANSITIONS[state][Event.EXITED] is State.STOPPED
        assert state is State.STOPPING or TRANSITIONS[state][Event.STOP] is State.STOPPING


def test_the_only_way_to_ready_is_over_a_warm_up_or_an_answer():
    ways = {(state, event) for state, row in TRANSITIONS.items() for event, to in row.items() if to is State.READY}
    assert ways == {(State.COMPILING, Event.WARM), (State.BUSY, Event.ANSWERED)}


def test_the_kinds_of_states_do_not_overlap():
    assert set() == USABLE & (ON_ITS_WAY | WITHOUT_PROCESS)
    assert {State.BACKOFF} == ON_ITS_WAY & WITHOUT_PROCESS


# ---- backlog ---------------------------------------------------------------------------------------------------------


def test_a_backlog_keeps_the_order_of_arrival_and_counts_items_and_tokens():
    backlog = Backlog()
    for name, size in (("a", 3), ("b", 4), ("c", 5)):
        backlog.append(computation(name, size))
    assert (names(backlog), len(backlog), backlog.size) == (["a", "b", "c"], 3, 12)
    assert names(backlog.head(2)) == ["a", "b"]


def test_a_computation_leaves_from_anywhere_and_leaving_twice_changes_nothing():
    backlog = Backlog()
    made = [computation(name, 2) for name in "abc"]
    for one in made:
        backlog.append(one)
    backlog.remove(made[1])
    backlog.remove(made[1])
    assert (names(backlog), len(backlog), backlog.size) == (["a", "c"], 2, 4)


def test_what_left_from_the_middle_and_is_put_back_is_there_once_and_first():
    backlog = Backlog()
    made = [computation(name) for name in "abcd"]
    for one in made:
        backlog.append(one)
    backlog.remove(made[2])
    backlog.remove(made[3])
    backlog.put_back([made[2], made[3]])
    assert names(backlog) == names(backlog.head(10)) == ["c", "d", "a", "b"]
    assert (len(backlog), backlog.size) == (4, 4)


# ---- calls -----------------------------------------------------------------------------------------------------------

DONE, NOBODY = Outcome(), Identity("m")


def pending(number, deadline, items=1):
    return Pending(bytes([number]), deadline, [b"key"] * items)


def test_a_call_is_answered_when_its_last_item_is_and_only_once():
    table = Calls()
    table.add(pending(1, 10.0, items=2))
    assert table.settle(Waiter(b"\1", 1), DONE, Timing(), NOBODY) is None
    assert table.settle(Waiter(b"\1", 1), DONE, Timing(), NOBODY) is None
    reply = table.settle(Waiter(b"\1", 0), DONE, Timing(), NOBODY)
    assert reply is not None
    assert len(reply.outcomes) == 2
    assert table.settle(Waiter(b"\1", 0), DONE, Timing(), NOBODY) is None
    assert len(table) == 0


def test_the_timing_of_a_call_is_that_of_its_slowest_item():
    table = Calls()
    table.add(pending(1, 10.0, items=2))
    table.settle(Waiter(b"\1", 0), DONE, Timing(5.0, 1.0, 2.0), NOBODY)
    reply = table.settle(Waiter(b"\1", 1), DONE, Timing(1.0, 1.0, 1.0), NOBODY)
    assert reply is not None
    assert reply.timing == Timing(5.0, 1.0, 2.0)


def test_the_calls_whose_budget_is_over_come_up_in_order_and_only_those():
    table = Calls()
    for number, deadline in ((1, 30.0), (2, 10.0), (3, 20.0)):
        table.add(pending(number, deadline))
    assert table.next_deadline() == 10.0
    assert table.overdue(9.9) == []
    assert table.overdue(20.0) == [b"\2", b"\3"]
    table.forget(b"\2")
    table.forget(b"\3")
    assert table.next_deadline() == 30.0


def test_a_call_sent_again_after_its_answer_has_its_new_deadline():
    table = Calls()
    table.add(pending(1, 10.0))
    table.settle(Waiter(b"\1", 0), DONE, Timing(), NOBODY)
    table.add(pending(1, 12.0))
    assert table.next_deadline() == 12.0
    assert table.overdue(11.0) == []
    assert table.overdue(12.0) == [b"\1"]


def test_the_deadlines_of_answered_calls_do_not_pile_up():
    table = Calls()
    table.add(Pending(b"first", 5.0, [b"key"]))
    for number in range(10_000):
        call_id = number.to_bytes(4, "big")
        table.add(Pending(call_id, 86_400.0, [b"key"]))
        table.settle(Waiter(call_id, 0), DONE, Timing(), NOBODY)
    assert len(table._deadlines) <= calls.SLACK + 3
    assert table.next_deadline() == 5.0


# ---- backoff ---------------------------------------------------------------------------------------------------------


def test_the_first_restart_is_at_once_and_each_further_one_waits_twice_as_long_up_to_a_limit():
    record = Backoff()
    pauses = [record.died(counts=False) for _ in range(10)]
    assert pauses == [0.0, 0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 30.0, 30.0, 30.0]
    assert not record.hopeless()


def test_a_thousand_deaths_do_not_overflow():
    record = Backoff()
    assert {record.died(counts=False) for _ in range(1000)} <= {0.0, 0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 30.0}


def test_starts_that_failed_are_forgotten_when_one_succeeds_and_lives_without_progress_are_not():
    record = Backoff()
    for _ in range(backoff.GIVE_UP_AFTER - 1):
        for _ in range(backoff.GIVE_UP_AFTER - 1):
            record.died(counts=True)
        record.started()
        record.died(counts=True)
        assert not record.hopeless()
    record.started()
    record.died(counts=True)
    assert record.hopeless()


def test_five_failures_in_a_row_are_hopeless_and_progress_forgets_them():
    record = Backoff()
    for _ in range(backoff.GIVE_UP_AFTER - 1):
        record.died(counts=True)
    record.progressed()
    for _ in range(backoff.GIVE_UP_AFTER - 1):
        record.died(counts=True)
    assert not record.hopeless()
    record.died(counts=True)
    assert record.hopeless()


# ---- quarantine ------------------------------------------------------------------------------------------------------


def test_the_second_death_is_poison_for_ten_minutes_from_then():
    ward = Quarantine()
    assert not ward.died(b"a", 0.0)
    assert not ward.is_poison(b"a", 0.0)
    assert ward.died(b"a", 100.0)
    assert ward.is_poison(b"a", 699.9)
    assert not ward.is_poison(b"a", 700.0)
    assert ward.deaths(b"a", 700.0) == 0


def test_a_death_that_is_long_ago_does_not_add_up_with_a_new_one():
    ward = Quarantine()
    ward.died(b"a", 0.0)
    assert not ward.died(b"a", 600.0)


def test_the_ward_counts_whom_it_holds_now_and_forgets_the_others():
    ward = Quarantine()
    for moment, key in ((0.0, b"a"), (300.0, b"b")):
        ward.died(key, moment)
        ward.died(key, moment)
    assert ward.counts(599.0) == {"quarantined": 2.0}
    assert ward.counts(600.0) == {"quarantined": 1.0}
    ward.died(b"c", 2000.0)
    assert list(ward._deaths) == [b"c"]


def test_the_ward_has_a_bound():
    ward = Quarantine()
    for number in range(quarantine.MOST + 5):
        ward.died(number.to_bytes(4, "big"), 0.0)
    assert ward.deaths((4).to_bytes(4, "big"), 1.0) == 0
    assert ward.deaths((5).to_bytes(4, "big"), 1.0) == 1


# ---- rate ------------------------------------------------------------------------------------------------------------


def test_a_rate_is_unknown_then_the_first_measure_then_a_moving_average():
    rate = ServiceRate()
    assert rate.seconds(1, 100) == 0.0
    rate.measured(2.0, 10)
    assert rate.seconds(1, 100) == pytest.approx(20.0)
    for _ in range(9):
        rate.measured(2.0, 10)
    rate.measured(12.0, 10)
    # 0.2 s a unit, moved by a tenth of the way to 1.2.
    assert rate.seconds(1, 100) == pytest.approx(30.0)


def test_a_rate_tells_what_a_batch_costs_by_itself_from_what_its_content_does():
    rate = ServiceRate()
    for cost in [10] * 9 + [400] + [10] * 30:
        rate.measured(0.020 + 0.0003 * cost, cost)
    assert rate.seconds(1, 10) == pytest.approx(0.023)
    assert rate.seconds(30, 30 * 400) == pytest.approx(30 * 0.14)


@pytest.mark.parametrize("samples", [[(1.0, 10), (0.1, 20)] * 5, [(0.1, 10), (5.0, 20)] * 5, [(1.0, 0)] * 3])
def test_no_work_is_estimated_at_less_than_nothing(samples):
    rate = ServiceRate()
    for seconds, cost in samples:
        rate.measured(seconds, cost)
    assert rate.seconds(1, 0) >= 0.0
    assert rate.seconds(0, 100) >= 0.0


# ---- choosing --------------------------------------------------------------------------------------------------------


def test_a_plain_cpu_takes_one_at_a_time_in_order():
    assert names(choose([computation("a", 100), computation("b", 1)], SINGLY, 0.0)) == ["a"]


def test_a_static_device_fills_its_batch():
    waiting = [computation(name, 10) for name in "abcdef"]
    assert names(choose(waiting, filling(4), 0.0)) == ["a", "b", "c", "d"]
    assert names(choose(waiting[:2], filling(4), 0.0)) == ["a", "b"]


def test_the_company_of_the_oldest_is_the_nearest_in_size_and_runs_in_order_of_arrival():
    sizes = {"oldest": 10, "huge": 500, "near": 12, "big": 90, "nearer": 11}
    waiting = [computation(name, size) for name, size in sizes.items()]
    assert names(choose(waiting, filling(3), 0.0)) == ["oldest", "near", "nearer"]


def test_no_batch_is_larger_than_the_token_cap_and_padding_counts():
    waiting = [computation("a", 10), computation("b", 14), computation("c", 15)]
    assert names(choose(waiting, filling(8, max_tokens=30), 0.0)) == ["a", "b"]
    assert names(choose(waiting, filling(8, max_tokens=45), 0.0)) == ["a", "b", "c"]


def test_an_item_over_the_token_cap_runs_alone():
    assert names(choose([computation("a", 100), computation("b", 1)], filling(8, max_tokens=30), 0.0)) == ["a"]


def test_a_device_where_padding_costs_takes_only_what_pays():
    waiting = [computation("a", 10), computation("b", 10), computation("c", 100)]
    assert names(choose(waiting, Cost(fixed=1.0, per_token=1.0, max_batch=8), 0.0)) == ["a", "b"]
    assert names(choose(waiting, Cost(fixed=10_000.0, per_token=1.0, max_batch=8), 0.0)) == ["a", "b", "c"]


def test_a_suspect_runs_alone_and_is_nobodys_company():
    waiting = [computation("a", alone=True), computation("b"), computation("c", alone=True), computation("d")]
    assert names(choose(waiting, filling(8), 0.0)) == ["a"]
    assert names(choose(waiting[1:], filling(8), 0.0)) == ["b", "d"]


def test_a_thousand_are_chosen_without_looking_at_each_other_a_thousand_times():
    class Counting(int):
        looks = 0

        def __add__(self, other):
            Counting.looks += 1
            return int(self) + other

        __radd__ = __add__

    waiting = [computation(str(number), Counting(10)) for number in range(4096)]
    assert len(choose(waiting, filling(1024), 0.0)) == 1024
    assert Counting.looks <= 2 * 1024


def test_nothing_is_chosen_of_nothing():
    assert choose([], filling(8), 0.0) == []


@pytest.mark.parametrize("cost", [SINGLY, filling(3), filling(3, max_tokens=20), Cost(1.0, 1.0, 4)])
def test_nobody_is_passed_over_for_ever(cost):
    waiting = [computation("odd", 1000)] + [computation(str(number), 1) for number in range(10)]
    assert "odd" in names(choose(waiting, cost, 0.0))


def test_work_counts_full_batches_and_tokens():
    assert SINGLY.work(5, 120) == 120
    assert filling(4).work(9, 120) == 3
    assert filling(4, max_tokens=20).work(9, 120) == 6
    assert filling(4).work(0, 0) == 0
    assert [cost.batches(9, 120) for cost in (SINGLY, filling(4), filling(4, max_tokens=20))] == [9, 3, 6]
