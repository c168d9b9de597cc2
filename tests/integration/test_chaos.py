"""Processes killed at random moments under load: who gets which answer."""

import random
import signal
import threading

import msgspec
import pytest

from ipu_supervisor.protocol.client import SupervisorClient
from ipu_supervisor.protocol.deadline import Deadline
from tests.integration.harness import Daemon, Load, alive, echo, end, kill

#: How many kills each test makes.
KILLS = 10
#: Budget of every request, seconds.
BUDGET_S = 30


def asker(daemon):
    """Return `ask(text)` for `Load`: every thread uses one client."""
    client = SupervisorClient(daemon.endpoint)

    def ask(text):
        reply = client.call("echo", [{"text": text, "delay_ms": 10}], [1], Deadline.after(BUDGET_S))
        (outcome,) = reply.outcomes
        assert outcome.failure is None, outcome.failure
        return msgspec.msgpack.decode(outcome.result)["results"]

    return ask


@pytest.mark.slow
def test_replicas_killed_at_random_moments_lose_no_request(spawn, short_dir, wait_until):
    daemon = Daemon(spawn, short_dir, echo(replicas=2)).start()
    wait_until(lambda: daemon.ready(2))
    pause, chance = threading.Event(), random.Random(1)
    with Load(8, asker(daemon)) as load:
        for _ in range(KILLS):
            pause.wait(chance.uniform(0.1, 0.6))
            end(chance.choice(daemon.pids()), wait_until)
            load.go_on(wait_until)
    assert not load.errors
    assert not load.wrong()
    assert len(load.answers) == len(load.asked) > 100
    executions = daemon.executions()
    assert set(executions) == set(load.asked)
    assert sum(executions.values()) <= len(load.asked) + KILLS


@pytest.mark.slow
def test_supervisor_killed_ten_times_under_load_costs_time_not_answers(spawn, short_dir, wait_until):
    daemon = Daemon(spawn, short_dir, echo(replicas=2)).start()
    wait_until(lambda: daemon.ready(2))
    pause, chance, orphans = threading.Event(), random.Random(2), set()
    with Load(8, asker(daemon)) as load:
        for _ in range(KILLS):
            pause.wait(chance.uniform(0.1, 0.6))
            orphans.update(daemon.pids())
            kill(daemon.child.pid)
            daemon.child.wait()
            daemon.start()
            wait_until(lambda: not any(alive(pid) for pid in orphans), what="replicas die with their supervisor")
            load.go_on(wait_until)
    assert not load.wrong()
    assert len(load.answers) >= 0.99 * len(load.asked) > 100
    assert load.slowest_s <= BUDGET_S + 1


@pytest.mark.slow
@pytest.mark.parametrize("busy", [False, True], ids=["idle", "busy"])
def test_a_frozen_replica_is_replaced_and_its_request_answered(spawn, short_dir, wait_until, busy):
    daemon = Daemon(spawn, short_dir, echo(batch_limit_s=2)).start()
    wait_until(daemon.ready)
    (frozen,) = daemon.pids()
    with Load(1, asker(daemon)) if busy else Load(0, asker(daemon)) as load:
        if busy:
            wait_until(lambda: load.answered() > 5)
        kill(frozen, signal.SIGSTOP)
        wait_until(lambda: not alive(frozen), limit_s=20, what="the frozen process is killed")
        wait_until(daemon.ready)
        seen = load.answered()
        wait_until(lambda: not busy or load.answered() > seen + 5)
    assert not load.errors
    assert not load.wrong()
