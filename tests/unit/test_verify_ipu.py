"""What `verify_ipu` makes of the times it measures, from replayed ones: no test waits for a real device to be fast."""

import json

import pytest

from ipu_supervisor import config
from ipu_supervisor.protocol.messages import Identity, ModelStatus, ReplicaStatus
from ipu_supervisor.verify_ipu.models import MEASURED, SLOW_MS, ModelChecks
from ipu_supervisor.verify_ipu.report import CHECKS, NOT_SEEN, NOT_TRIED, SEEN, Report
from ipu_supervisor.verify_ipu.run import Run
from ipu_supervisor.verify_ipu.serving import Answer, Place

#: What the first start took to compile, seconds.
COMPILE_S = 100.0
#: Four of each kind: three lengths, and one, three, four and five rows.
REQUESTS = 48


class Replayed:
    """A supervisor whose calls take what `took_ms` says for the number of the call and its rows, milliseconds."""

    def __init__(self, took_ms, restarts=0, **replica):
        self.took_ms, self.calls, self.restarts = took_ms, 0, restarts
        self.load_s = replica.pop("load_s", 0.0)
        self.replica = ReplicaStatus(replica="question_answering.0.1", state="READY", since_s=0.0, **replica)

    def ask(self, items, limit_s):
        took_ms = self.took_ms(self.calls, len(items))
        self.calls += 1
        return Answer([{}] * len(items), took_ms, took_ms / 1000)

    def look(self):
        return ModelStatus(
            model="question_answering",
            ready=True,
            reason="",
            identity=Identity("question_answering"),
            file_hash="",
            replicas=[self.replica],
            backlog=0,
            in_flight=0,
            max_backlog=1,
            counters={"restarts": float(self.restarts)},
        )

    def between(self, replica, first, then):
        return self.load_s


@pytest.fixture
def place(tmp_path):
    (tmp_path / "executables").mkdir()
    return Place(tmp_path, {})


@pytest.fixture
def checks(place):
    """Return the checks of question answering with four rows in a batch."""
    return checks_of(place, batch_size=4)


def checks_of(place, batch_size):
    entry = {"model": "question_answering", "device": "ipu", "ipu": {"batch_size": batch_size}}
    [model] = config.from_env({"SERVER_MODELS": json.dumps([entry])}).models
    return ModelChecks(Run(place, Report(), frozenset(CHECKS), limit_s=1.0, requests=REQUESTS), entry, model)


def judged(checks, name, look, served):
    """Return the verdict and the figures of one check."""
    checks.run.check(name, checks.model, look, served)
    [found] = checks.run.report.findings
    return found.verdict, found.figures


def compile_one(place):
    """Put one more compiled program into the cache."""
    name = "{}.popef".format(len(list(place.executables.iterdir())))
    (place.executables / name).write_bytes(b"")


# ---- batches ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("single_ms", "full_ms", "verdict"), [(10.0, 10.0, SEEN), (10.0, 39.0, SEEN), (10.0, 40.0, NOT_SEEN)]
)
def test_a_full_batch_must_answer_more_a_second_than_single_requests(checks, single_ms, full_ms, verdict):
    served = Replayed(lambda call, rows: single_ms if rows == 1 else full_ms)
    found, figures = judged(checks, "batches", checks._batches, served)
    assert (found, served.calls) == (verdict, 2 * MEASURED)
    assert "single: p50 10.0 ms, slowest 10.0 ms, 100.0/s; 4 at once: p50 {:.1f} ms".format(full_ms) in figures


def test_a_host_that_pauses_now_and_then_does_not_make_batches_slow(checks):
    served = Replayed(lambda call, rows: 1000.0 if call % 5 == 0 else 10.0)
    assert judged(checks, "batches", checks._batches, served)[0] == SEEN


def test_batches_of_one_row_have_nothing_to_be_compared_with(place):
    checks = checks_of(place, batch_size=1)
    verdict, figures = judged(checks, "batches", checks._batches, Replayed(lambda call, rows: 10.0))
    assert verdict == NOT_TRIED
    assert figures.startswith("ipu.batch_size is 1; single: p50 10.0 ms")


# ---- traffic ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("slow_ms", "verdict"), [(10.0, SEEN), (SLOW_MS, SEEN), (SLOW_MS + 1, NOT_SEEN), (10 * SLOW_MS, NOT_SEEN)]
)
def test_one_answer_as_slow_as_a_compile_is_found_among_two_of_its_kind(checks, slow_ms, verdict):
    served = Replayed(lambda call, rows: slow_ms if call == 3 else 10.0)
    found, figures = judged(checks, "traffic", checks._traffic, served)
    assert (found, served.calls) == (verdict, REQUESTS)
    assert "slowest {:.1f} times the fastest of its kind".format(slow_ms / 10) in figures


def test_a_slow_model_is_not_one_that_compiles(checks):
    served = Replayed(lambda call, rows: 5 * SLOW_MS + call)
    assert judged(checks, "traffic", checks._traffic, served)[0] == SEEN


def test_a_program_that_appears_under_traffic_is_a_compile(checks, place):
    def took_ms(call, rows):
        if call == REQUESTS - 1:
            compile_one(place)
        return 10.0

    verdict, figures = judged(checks, "traffic", checks._traffic, Replayed(took_ms))
    assert verdict == NOT_SEEN
    assert "files in the cache: 0 before, 1 after" in figures


def test_a_replica_that_restarted_under_traffic_is_not_as_documented(checks):
    served = Replayed(lambda call, rows: 10.0, restarts=1)
    assert judged(checks, "traffic", checks._traffic, served)[0] == NOT_SEEN


# ---- the cache -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("load_s", "compiled", "from_cache", "verdict"),
    [
        (1.0, 0, 1, SEEN),
        (COMPILE_S / 2, 0, 1, NOT_SEEN),
        (1.0, 1, 0, NOT_SEEN),
        (1.0, 0, 0, NOT_SEEN),
    ],
)
def test_a_second_start_must_find_its_program_and_be_ready_in_less_than_half_the_time(
    checks, place, load_s, compiled, from_cache, verdict
):
    compile_one(place)
    checks._compile_s, checks._earlier = COMPILE_S, checks.run.cached()
    served = Replayed(lambda call, rows: 10.0, load_s=load_s, compiled=compiled, from_cache=from_cache)
    assert judged(checks, "cache", checks._cached, served)[0] == verdict


def test_a_second_start_that_fills_the_cache_has_not_found_its_program_there(checks, place):
    checks._compile_s, checks._earlier = COMPILE_S, checks.run.cached()
    compile_one(place)
    verdict, figures = judged(checks, "cache", checks._cached, Replayed(lambda call, rows: 10.0, from_cache=1))
    assert verdict == NOT_SEEN
    assert "files in the cache: 0 before, 1 after" in figures
