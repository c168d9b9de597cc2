"""What `verify_ipu` makes of the figures of one model, from replayed ones: no test waits for a device to be fast."""

import pytest

from ipu_supervisor.verify_ipu import inputs
from ipu_supervisor.verify_ipu.models import CLIENTS, MEASURED, SCORE_DIFFERENCE, SLOW_S
from ipu_supervisor.verify_ipu.plan import verify
from ipu_supervisor.verify_ipu.report import CHECKS, NOT_SEEN, NOT_TRIED, SEEN
from ipu_supervisor.verify_ipu.serving import Served
from tests.unit.verify_ipu_replays import (
    COMPILE_S,
    REQUESTS,
    Replayed,
    host_of,
    judged,
    model_of,
    replica,
    run_of,
    settings_of,
    state,
)


@pytest.fixture
def checks(tmp_path):
    """Return the checks of question answering with four rows in a batch."""
    return model_of(run_of(tmp_path, CHECKS))


def compile_one(checks, suffix=".popef"):
    """Put one more compiled program into the cache."""
    folder = checks.run.place.executables
    (folder / "{}{}".format(len(list(folder.iterdir())), suffix)).write_bytes(b"")


# ---- starts ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("only", "told_as"), [("precision", "compile"), ("busy", "cache")])
def test_a_start_that_fails_is_told_with_its_reason_whatever_is_wanted(tmp_path, only, told_as):
    run = run_of(tmp_path, [only])
    run.serves = [Replayed(state(replica(state="FAILED"), error="OUT_OF_MEMORY: at compile"))]
    verify(run, host_of(), [settings_of()], replicas=2)
    found = {one.check: (one.verdict, one.figures) for one in run.report.findings}
    assert sorted(found) == sorted([only, told_as])
    assert (found[told_as], found[only][0]) == ((NOT_SEEN, "OUT_OF_MEMORY: at compile"), NOT_TRIED)
    assert not run.report.as_documented()


def test_libraries_that_are_not_there_are_told_whatever_is_wanted(tmp_path):
    run = run_of(tmp_path, ["precision"])
    verify(run, host_of(fault="no module named poptorch"), [settings_of()], replicas=2)
    found = [(one.check, one.verdict, one.figures) for one in run.report.findings]
    assert found[0] == ("libraries", NOT_SEEN, "no module named poptorch")
    assert [one[:2] for one in found[1:]] == [("precision", NOT_TRIED)]


@pytest.mark.parametrize(
    ("compiled", "files", "verdict"),
    [
        (1, [".popef"], SEEN),
        (2, [".popef"], NOT_SEEN),
        (0, [".popef"], NOT_SEEN),
        (1, [".popef", ".popef"], NOT_SEEN),
        (1, [".txt"], NOT_SEEN),
        (1, [], NOT_SEEN),
    ],
)
def test_the_first_start_must_compile_one_program_and_leave_one_file(checks, compiled, files, verdict):
    for suffix in files:
        compile_one(checks, suffix)
    served = Replayed(state(replica(compiled=compiled)))
    assert judged(checks.run, "compile", checks._compiled, served)[0] == verdict


@pytest.mark.parametrize(
    ("batch_size", "replicas", "given", "most"),
    [(4, 1, 256, 256), (64, 1, 256, 520), (64, 16, 1, 1040), (4, 1, 999, 999)],
)
def test_what_the_checks_ask_at_one_moment_fits_the_backlog(tmp_path, batch_size, replicas, given, most):
    run = run_of(tmp_path, [])
    checks = model_of(run, batch_size=batch_size, max_backlog=given, max_client_batch_size=1)
    for start in (checks.first_start, lambda: checks.second_start(replicas, lambda served: None)):
        run.serves = [Replayed(load_s=1.0)]
        assert start()
        rows = max(len(items) for items in inputs.mixed(checks.model, REQUESTS, batch_size))
        assert run.entry["max_backlog"] >= max(CLIENTS, run.entry["replicas"]) * rows
    assert run.entry["max_backlog"] == most


# ---- precision -------------------------------------------------------------------------------------------------------


def test_half_precision_is_compared_only_where_it_is_used(checks):
    served = Replayed(state(dtype="float32"))
    assert judged(checks.run, "precision", checks._precision, served) == (NOT_TRIED, "it computes in float32")


@pytest.mark.parametrize(
    ("found", "score", "verdict"),
    [
        ("forty", 0.9, SEEN),
        ("forty", 0.9 + SCORE_DIFFERENCE - 0.001, SEEN),
        ("forty", 0.9 + SCORE_DIFFERENCE + 0.001, NOT_SEEN),
        ("fifty", 0.9, NOT_SEEN),
    ],
)
def test_answers_in_half_precision_must_be_those_of_the_cpu(checks, found, score, verdict):
    checks.run.serves = [Replayed(result={"results": ["forty"], "score": 0.9})]
    served = Replayed(result={"results": [found], "score": score})
    assert judged(checks.run, "precision", checks._precision, served)[0] == verdict


@pytest.mark.parametrize(("text", "verdict"), [("a b c", SEEN), ("a b c d e", SEEN), ("a b x", NOT_SEEN)])
def test_summaries_in_half_precision_must_keep_six_words_of_ten(tmp_path, text, verdict):
    checks = model_of(run_of(tmp_path, CHECKS), name="summarization")
    checks.run.serves = [Replayed(result={"results": [{"summary_text": "a b c"}]})]
    served = Replayed(result={"results": [{"summary_text": text}]})
    assert judged(checks.run, "precision", checks._precision, served)[0] == verdict


# ---- batches ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("single_ms", "full_ms", "verdict"), [(10.0, 10.0, SEEN), (10.0, 39.0, SEEN), (10.0, 40.0, NOT_SEEN)]
)
def test_a_full_batch_must_answer_more_a_second_than_single_requests(checks, single_ms, full_ms, verdict):
    served = Replayed(took_ms=lambda call, rows: single_ms if rows == 1 else full_ms)
    found, figures = judged(checks.run, "batches", checks._batches, served)
    assert (found, next(served.calls)) == (verdict, 2 * MEASURED)
    assert "single: p50 10.0 ms, slowest 10.0 ms, 100.0/s; 4 at once: p50 {:.1f} ms".format(full_ms) in figures


def test_a_host_that_pauses_now_and_then_does_not_make_batches_slow(checks):
    served = Replayed(took_ms=lambda call, rows: 1000.0 if call % 5 == 0 else 10.0)
    assert judged(checks.run, "batches", checks._batches, served)[0] == SEEN


def test_batches_of_one_row_have_nothing_to_be_compared_with(tmp_path):
    checks = model_of(run_of(tmp_path, CHECKS), batch_size=1)
    verdict, figures = judged(checks.run, "batches", checks._batches, Replayed(took_ms=lambda call, rows: 10.0))
    assert verdict == NOT_TRIED
    assert figures.startswith("ipu.batch_size is 1; single: p50 10.0 ms")


# ---- traffic ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "slow", [range(3, 4), range(REQUESTS - 1, REQUESTS), range(REQUESTS)], ids=["alone", "at once", "every"]
)
@pytest.mark.parametrize(("slow_s", "verdict"), [(COMPILE_S / 2 - 1, SEEN), (COMPILE_S / 2, NOT_SEEN)])
def test_an_answer_must_be_twice_as_fast_as_a_compile(checks, slow, slow_s, verdict):
    served = Replayed(took_ms=lambda call, rows: slow_s * 1000 if call in slow else 10.0)
    found, figures = judged(checks.run, "traffic", checks._traffic, served)
    assert (found, next(served.calls)) == (verdict, REQUESTS)
    assert "slowest {:.2f} s, a program compiled in 100.00 s".format(slow_s) in figures


def test_one_of_two_programs_may_have_been_compiled_again(tmp_path):
    checks = model_of(run_of(tmp_path, CHECKS), name="summarization")
    served = Replayed(took_ms=lambda call, rows: COMPILE_S / 4 * 1000)
    assert judged(checks.run, "traffic", checks._traffic, served)[0] == NOT_SEEN


def test_a_compile_of_no_time_says_nothing_of_a_busy_host(checks):
    checks._compile_s = SLOW_S
    served = Replayed(took_ms=lambda call, rows: SLOW_S * 1000 - 1)
    assert judged(checks.run, "traffic", checks._traffic, served)[0] == SEEN


def test_a_program_that_appears_under_traffic_is_a_compile(checks):
    def took_ms(call, rows):
        if call == REQUESTS - 1:
            compile_one(checks)
        return 10.0

    verdict, figures = judged(checks.run, "traffic", checks._traffic, Replayed(took_ms=took_ms))
    assert verdict == NOT_SEEN
    assert "files in the cache: 0 before, 1 after" in figures


def test_a_replica_that_restarted_under_traffic_is_not_as_documented(checks):
    served = Replayed(state(restarts=1))
    assert judged(checks.run, "traffic", checks._traffic, served)[0] == NOT_SEEN


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
def test_a_second_start_must_find_its_program_and_every_replica_be_ready_in_less_than_half_the_time(
    checks, load_s, compiled, from_cache, verdict
):
    compile_one(checks)
    checks._earlier = checks.run.cached()
    other, last = replica("other", from_cache=1), replica("last", compiled=compiled, from_cache=from_cache)
    served = Replayed(state(other, last), load_s={"other": 1.0, "last": load_s})
    assert judged(checks.run, "cache", checks._cached, served)[0] == verdict


def test_a_second_start_that_fills_the_cache_has_not_found_its_program_there(checks):
    checks._earlier = checks.run.cached()
    compile_one(checks)
    verdict, figures = judged(checks.run, "cache", checks._cached, Replayed(state(replica(from_cache=1))))
    assert verdict == NOT_SEEN
    assert "files in the cache: 0 before, 1 after" in figures


def test_a_replica_that_was_never_seen_ready_is_a_finding_and_not_the_end(checks):
    served = Served(checks.run.place, "second", checks.entry)
    assert judged(checks.run, "cache", served.ready_after, "qa.0.1") == (NOT_SEEN, "qa.0.1 was never seen READY")


def test_how_long_a_replica_took_is_counted_from_the_start_or_from_a_state_that_was_seen(checks):
    served = Served(checks.run.place, "second", checks.entry)
    served.started_at, served.seen = 1.0, {("qa.0.1", "COMPILING"): 5.0, ("qa.0.1", "READY"): 12.0}
    took = [served.ready_after("qa.0.1", *state) for state in ([], ["COMPILING"], ["WAITING_TO_COMPILE"])]
    assert took == [11.0, 7.0, 0.0]
