"""What `verify_ipu` makes of what it sees of the machine: each check has something to see, and something else."""

import signal

import pytest

from ipu_supervisor.verify_ipu.machine import MachineChecks, check_host
from ipu_supervisor.verify_ipu.models import MEASURED
from ipu_supervisor.verify_ipu.report import CHECKS, NOT_SEEN, SEEN
from tests.unit.verify_ipu_replays import Replayed, host_of, judged, model_of, replica, run_of, state


@pytest.fixture
def machine(tmp_path):
    """Return the checks of a machine with two IPUs, and a replica on each."""
    run = run_of(tmp_path, CHECKS)
    return MachineChecks(run, host_of(counted=2, largest=2), model_of(run), most=8)


@pytest.mark.parametrize(
    ("check", "host", "verdict"),
    [
        ("libraries", {}, SEEN),
        ("libraries", {"hardware": 21}, SEEN),
        ("libraries", {"hardware": 1}, NOT_SEEN),
        ("libraries", {"optimum-graphcore": "0.7.0"}, NOT_SEEN),
        ("libraries", {"fault": "no module named poptorch"}, NOT_SEEN),
        ("count", {"counted": 4, "largest": 4}, SEEN),
        ("count", {"counted": 7, "largest": 4}, SEEN),
        ("count", {"counted": 8, "largest": 4}, NOT_SEEN),
        ("count", {"counted": 3, "largest": 4}, NOT_SEEN),
        ("count", {"counted": None, "largest": 4}, NOT_SEEN),
        ("count", {"counted": 0, "largest": 0}, NOT_SEEN),
        ("count", {"counted": 128, "largest": 64}, SEEN),
        ("count", {"counted": 128, "largest": 32}, NOT_SEEN),
    ],
)
def test_the_libraries_and_the_count_must_fit_and_a_process_sees_64_ipus_at_most(tmp_path, check, host, verdict):
    run = run_of(tmp_path, [check])
    check_host(run, host_of(**host))
    assert [found.verdict for found in run.report.findings if found.check == check] == [verdict]


@pytest.mark.parametrize(("together_ms", "verdict"), [(10.0, SEEN), (13.3, SEEN), (13.4, NOT_SEEN), (20.0, NOT_SEEN)])
def test_two_replicas_must_answer_half_as_much_again_as_one(machine, together_ms, verdict):
    served = Replayed(took_ms=lambda call, rows: 10.0 if call < MEASURED else together_ms)
    found, figures = judged(machine.run, "replicas", machine._side_by_side, served)
    assert (found, next(served.calls)) == (verdict, 3 * MEASURED)
    assert figures.startswith("400.0 answers/s for one client, {:.1f} for 2".format(8000 / together_ms))


def test_replicas_that_take_turns_unfairly_do_not_seem_to_compute_at_the_same_moment(machine):
    # One of two clients waits while the other has nineteen answers, each as fast as one alone.
    served = Replayed(took_ms=lambda call, rows: 190.0 if call >= MEASURED and call % 20 == 0 else 10.0)
    assert judged(machine.run, "replicas", machine._side_by_side, served)[0] == NOT_SEEN


@pytest.mark.parametrize(
    ("printed", "verdict"),
    [("error: 3 replicas need 1 IPUs more than the 2 there are", SEEN), ("IPUs more", NOT_SEEN), ("error", NOT_SEEN)],
)
def test_one_replica_more_must_be_refused_for_want_of_ipus(machine, printed, verdict):
    assert judged(machine.run, "full", machine._one_more, Replayed(printed=printed))[0] == verdict


@pytest.mark.parametrize(("pids", "verdict"), [((12, 34), SEEN), ((12, 3), NOT_SEEN), ((5, 34), NOT_SEEN)])
def test_gc_monitor_must_name_every_process(machine, pids, verdict):
    machine.host = host_of(printed="| 12 | python | 0 |\n|34|python|1|")
    served = Replayed(state(*(replica(pid=pid) for pid in pids)))
    assert judged(machine.run, "gc_monitor", machine._monitored, served)[0] == verdict


@pytest.mark.parametrize(
    ("after", "verdict"),
    [
        (state(replica(state="BACKOFF"), restarts=1, error="BUSY: Failed to acquire"), SEEN),
        (state(replica(state="BACKOFF"), restarts=1, error="OTHER: Failed to acquire"), NOT_SEEN),
        (state(replica(state="FAILED"), restarts=1, error="BUSY: Failed to acquire"), NOT_SEEN),
        (state(replica(), restarts=1, error="BUSY: Failed to acquire"), NOT_SEEN),
    ],
)
def test_ipus_that_others_hold_must_be_busy_and_waited_for(machine, after, verdict):
    machine.run.serves = [Replayed(state(replica(state="LOADING")), after)]
    assert judged(machine.run, "busy", machine._busy)[0] == verdict


@pytest.mark.parametrize(
    ("check", "number", "how", "other"),
    [
        ("terminated", signal.SIGTERM, "exited with code 0", "killed by SIGKILL"),
        ("killed", signal.SIGKILL, "killed by SIGKILL", "exited with code 0"),
    ],
)
@pytest.mark.parametrize(("restarts", "in_order", "verdict"), [(1, 1, SEEN), (2, 1, NOT_SEEN), (1, 0, NOT_SEEN)])
def test_a_replica_must_end_as_documented_and_its_successor_start_once(
    machine, check, number, how, other, restarts, in_order, verdict
):
    last_exit = how if in_order else other
    after = state(replica("question_answering.0.2", last_exit=last_exit), replica("other.1.1"), restarts=5 + restarts)
    served = Replayed(state(restarts=5), after)
    found, figures = judged(machine.run, check, machine._ended, served, number, how)
    assert (found, figures.partition(" after ")[0]) == (verdict, last_exit)


@pytest.mark.parametrize(
    ("check", "look", "kind"),
    [("no_such_device", "_too_many_ipus", "NO_SUCH_DEVICE"), ("out_of_memory", "_too_large", "OUT_OF_MEMORY")],
)
@pytest.mark.parametrize(
    ("after", "restarts", "told", "verdict"),
    [
        ("FAILED", 1, "{}: no", SEEN),
        ("FAILED", 1, "OTHER: {}", NOT_SEEN),
        ("BACKOFF", 1, "{}: no", NOT_SEEN),
        ("READY", 0, "", NOT_SEEN),
        ("FAILED", 2, "{}: no", NOT_SEEN),
    ],
)
def test_an_error_that_is_final_must_be_told_once_by_its_kind(
    machine, check, look, kind, after, restarts, told, verdict
):
    end = state(replica(state=after), restarts=restarts, error=told.format(kind))
    machine.run.serves = [Replayed(state(replica(state="LOADING")), end)]
    assert judged(machine.run, check, getattr(machine, look))[0] == verdict
