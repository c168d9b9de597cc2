"""Both halves together over HTTP: who gets which answer when processes die, clients leave and everything is taken."""

import random
import signal
import statistics
import threading
import time

import gunicorn  # noqa: F401  # this file needs the web half
import pytest

from tests.conftest import running_s
from tests.integration.harness import PATIENCE_S, Load, alive, echo, end, kill
from tests.integration.stack import Stack, hang_up, maps, private_mb

#: How many kills each test makes.
KILLS = 10
#: What a request takes that is never waited for, milliseconds: less than the 30 s that a batch may take.
LONG_MS = 25_000


@pytest.fixture
def stack(spawn, short_dir, wait_until):
    """Four web workers and one echo replica, ready."""
    stack = Stack(spawn, short_dir, echo(), SERVER_NUM_WORKERS="4").start()
    wait_until(stack.ready)
    return stack


def asker(stack):
    """Return `ask(text)` for `Load`."""

    def ask(text):
        answer = stack.ask(text, delay_ms=10)
        assert answer.status == 200, answer
        return answer.body["results"]

    return ask


def in_threads(count, function):
    """Run `function(number)` in so many threads; return their results."""
    results = [None] * count

    def run(number):
        results[number] = function(number)

    threads = [threading.Thread(target=run, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    return threads, results


@pytest.mark.slow
def test_replicas_killed_under_load_every_http_request_is_answered_200(spawn, short_dir, wait_until, record_property):
    stack = Stack(spawn, short_dir, echo(replicas=2)).start()
    wait_until(lambda: stack.daemon.ready(2))
    wait_until(stack.ready)
    pause, chance = threading.Event(), random.Random(3)
    with Load(8, asker(stack)) as load:
        for _ in range(KILLS):
            pause.wait(chance.uniform(0.1, 0.6))
            end(chance.choice(stack.daemon.pids()), wait_until)
            load.go_on(wait_until)
    print(f"requests {len(load.asked)}, 200s {len(load.answers)}, executions {sum(stack.daemon.executions().values())}")
    assert (load.errors, load.wrong()) == ({}, {})
    assert len(load.asked) > 100


@pytest.mark.slow
def test_supervisor_killed_under_load_99_percent_of_http_requests_are_answered_200(spawn, short_dir, wait_until):
    stack = Stack(spawn, short_dir, echo(replicas=2)).start()
    wait_until(stack.ready)
    pause, chance = threading.Event(), random.Random(4)
    with Load(8, asker(stack)) as load:
        for _ in range(KILLS):
            pause.wait(chance.uniform(0.1, 0.6))
            kill(stack.daemon.child.pid)
            stack.daemon.child.wait()
            stack.daemon.start()
            load.go_on(wait_until)
    print(f"requests {len(load.asked)}, 200s {len(load.answers)}, slowest {load.slowest_s:.2f} s, errors {load.errors}")
    assert not load.wrong()
    assert len(load.answers) >= 0.99 * len(load.asked) > 100
    assert load.slowest_s <= 31


def test_a_client_that_hangs_up_frees_its_place(stack, wait_until):
    connections = [hang_up(stack, {"text": "job 0", "delay_ms": 4000})]
    wait_until(lambda: stack.daemon.executions()["job 0"])
    connections += [hang_up(stack, {"text": f"job {number}", "delay_ms": 4000}) for number in range(1, 10)]
    wait_until(lambda: stack.daemon.model().backlog == 9)
    for connection in connections:
        connection.close()
    began = running_s()
    assert stack.ask("trivial").status == 200
    took = running_s() - began
    executed = [text for text in stack.daemon.executions().elements() if text.startswith("job")]
    print(f"test A: {took:.2f} s, {len(executed)} of 10 abandoned jobs executed")
    assert took <= 5
    assert executed == ["job 0"]


def test_health_answers_while_every_place_is_taken_and_overload_is_429(spawn, short_dir, wait_until):
    stack = Stack(spawn, short_dir, echo(), SERVER_THREADS="4", SERVER_NUM_WORKERS="1").start()
    wait_until(stack.ready)
    first, running = in_threads(1, lambda number: stack.ask("first", delay_ms=6000))
    wait_until(lambda: stack.daemon.executions()["first"])
    threads, answers = in_threads(15, lambda number: stack.ask(f"busy {number}"))
    wait_until(lambda: stack.daemon.model().backlog == 3)
    took = []

    def health(path):
        began = time.monotonic()
        status = stack.request("GET", path).status
        took.append(time.monotonic() - began)
        return status

    for _ in range(5):
        assert [health(path) for path in ("/health/startup", "/health/liveness")] == [200, 200]
        # Where nothing answers for half a second, as in a pause of the machine, readiness is a 503 at first.
        wait_until(lambda: health("/health/readiness") == 200, 2, "the service is ready")
    assert stack.daemon.model().backlog == 3, "all of that was while every place was taken"
    for thread in (*first, *threads):
        thread.join(PATIENCE_S)
    statuses = sorted(answer.status for answer in answers)
    print(f"health at saturation: median {statistics.median(took):.4f} s, slowest {max(took):.4f} s; {statuses}")
    assert statistics.median(took) <= 0.1
    assert (running[0].status, statuses) == (200, [200] * 3 + [429] * 12)
    refused = [answer for answer in answers if answer.status == 429]
    assert all(int(answer.headers["retry-after"]) >= 1 for answer in refused)


def test_a_frozen_replica_makes_the_service_not_ready_and_its_request_is_answered(spawn, short_dir, wait_until):
    stack = Stack(spawn, short_dir, echo(batch_limit_s=3, options={"load_delay_s": 3})).start()
    wait_until(stack.ready, limit_s=20)
    (frozen,) = stack.daemon.pids()
    kill(frozen, signal.SIGSTOP)
    threads, answers = in_threads(1, lambda number: stack.ask("patience"))
    wait_until(lambda: not stack.ready(), limit_s=10, what="not ready within the batch limit")
    threads[0].join(PATIENCE_S)
    assert (answers[0].status, answers[0].body["results"]) == (200, "patience")
    assert not alive(frozen)


def test_a_request_longer_than_its_limit_is_504_at_the_limit(stack):
    began, began_running = time.monotonic(), running_s()
    answer = stack.request("POST", "/echo", {"text": "slow", "delay_ms": LONG_MS}, X_Request_Timeout="1")
    took, took_running = time.monotonic() - began, running_s() - began_running
    stack.daemon.child.kill()
    print(f"limit of 1 s: 504 after {took:.3f} s")
    assert answer.status == 504
    assert took >= 0.99
    assert took_running <= 2


@pytest.mark.torch
@pytest.mark.slow
def test_four_web_workers_share_one_copy_of_each_model_and_hold_no_torch(spawn, short_dir, wait_until):
    models = [{"model": "question_answering"}, {"model": "summarization"}, {"model": "embeddings"}]
    stack = Stack(spawn, short_dir, models, SERVER_NUM_WORKERS="4", CHECKPOINTS="demo").start()
    wait_until(stack.ready, limit_s=90)
    text = "Ada Lovelace wrote the first program. She lived in London."
    assert stack.request("POST", "/qa", {"context": text, "question": "Who wrote the first program?"}).status == 200
    assert stack.request("POST", "/summarization", {"documents": text}).status == 200
    assert len(stack.request("POST", "/embeddings", {"text": text}).body["results"]) == 384
    replicas = [replica.pid for model in stack.daemon.status().models for replica in model.replicas]
    workers = stack.workers()
    assert (len(replicas), len(workers)) == (3, 4)
    assert all("libtorch" in maps(pid) for pid in replicas)
    assert not any(name in maps(pid) for pid in workers for name in ("libtorch", "tokenizers", "numpy"))
    sizes = [private_mb(pid) for pid in workers]
    print(f"own memory of the web workers: {', '.join(f'{size:.0f}' for size in sizes)} MB")
    assert max(sizes) < 100


def test_metrics_add_up_over_all_workers_and_the_supervisor(stack, wait_until):
    for number in range(12):
        assert stack.ask("counted {}".format(number)).status == 200
    assert 'model_server_requests_total{code="200",model="echo"} 12.0' in stack.request("GET", "/metrics").body
    computed = 'model_server_supervisor_computed_total{model="echo"} 12.0'
    pages = []

    def shows_what_was_computed():
        pages.append(stack.request("GET", "/metrics").body)
        return computed in pages[-1]

    wait_until(shows_what_was_computed, what="the status is a second old at most")
    assert "model_server_supervisor_dropped_replies_total 0.0" in pages[-1]
