"""Each error of the IPU's library, injected into a serving replica, and what comes of it, seen over HTTP."""

import pytest

from ipu_supervisor.engines.faults import TABLE
from tests.integration.harness import end
from tests.ipu.serving import IpuStack
from tests.models import tiny

pytestmark = [pytest.mark.slow, pytest.mark.timeout(120)]

#: Longest that a replica takes to load again here, seconds: its imports take 3 s of a core.
LOAD_LIMIT_S = 40.0


@pytest.fixture(scope="module")
def served(spawn_for_module, short_dir_for_module):
    """Return a service with one model on one IPU; a batch may take 3 s."""
    model = {
        "model": "question_answering",
        "device": "ipu",
        "checkpoint": tiny.distilbert(short_dir_for_module / "distilbert"),
        "batch_limit_s": 3,
    }
    # One web worker, so that what was seen once is not followed by another's older picture.
    return IpuStack(spawn_for_module, short_dir_for_module, [model], SERVER_NUM_WORKERS="1").start()


@pytest.fixture
def stack(served, wait_until):
    """Return the service, ready and without faults; what a test broke for good, a reload brings back."""
    yield ready(served, wait_until)
    served.machine.heal()
    if "FAILED" in served.daemon.states():
        assert served.daemon.command("reload").returncode == 0


@pytest.fixture
def pair(stack, wait_until):
    """Return the same with two replicas, of which one is left afterwards."""
    assert stack.daemon.command("scale", "question_answering", "2").returncode == 0
    wait_until(lambda: stack.daemon.ready(2), LOAD_LIMIT_S)
    yield stack
    stack.machine.heal()
    assert stack.daemon.command("scale", "question_answering", "1").returncode == 0
    wait_until(lambda: len(stack.daemon.states()) == 1)


def ready(stack, wait_until):
    wait_until(lambda: stack.daemon.ready() and stack.ready(), LOAD_LIMIT_S, "the service is ready")
    return stack


def restarts(stack):
    return stack.daemon.model().counters["restarts"]


def question(number):
    """Return a question that was never asked, so that no input's past matters."""
    return "Who lives in Bristol, asks number {}?".format(number)


@pytest.mark.parametrize("kind", ["LINK_RESET", "PARTITION_RESET", "FULL_RESET", "unrecoverable"])
def test_a_device_that_an_operator_must_reset_fails_the_replica_and_raises_the_alarm(stack, wait_until, kind):
    logged = len(stack.daemon.child.log_text())
    stack.machine.inject(when="execute", kind=kind)
    answer = stack.qa(question=question(kind))
    assert (answer.status, answer.body["error"]["code"]) == (503, "NOT_READY")
    wait_until(lambda: stack.states() == ["FAILED"])
    told, remedy = stack.model(), TABLE[kind.upper()]
    assert told["last_error"].startswith(kind.upper() + ": ")
    assert told["advice"] == told["replicas"][0]["advice"] == remedy.advice
    wait_until(lambda: unready(stack, remedy.advice))
    assert stack.request("GET", "/health/liveness").status == 200
    alarm = 'model_server_supervisor_alarms{model="question_answering"} 1.0'
    wait_until(lambda: alarm in stack.request("GET", "/metrics").body)
    assert "CRITICAL operator_alarm model=question_answering" in stack.daemon.child.log_text()[logged:]
    assert stack.machine.holders() == {}

    # The operator has acted: a reload tries again, and what was aboard was never blamed.
    assert stack.daemon.command("reload").returncode == 0
    ready(stack, wait_until)
    assert stack.qa(question=question(kind)).status == 200
    wait_until(lambda: stack.model()["advice"] == "")


@pytest.mark.parametrize("kind", ["IPU_RESET", "other", "long_message"])
def test_a_device_that_a_restart_heals_costs_time_and_no_answer(stack, wait_until, kind):
    before = restarts(stack)
    stack.machine.inject(when="execute", kind=kind)
    assert stack.qa(question=question(kind)).status == 200
    assert restarts(stack) == before + 1


def test_an_input_that_costs_two_resets_is_refused_and_others_are_served(pair, wait_until):
    # For as long as it takes: a replica that starts again meanwhile is struck when it warms up.
    pair.machine.inject(when="execute", kind="IPU_RESET", times=-1)
    first = pair.qa(question=question("poison"))
    pair.machine.heal()
    wait_until(lambda: pair.daemon.ready(2), LOAD_LIMIT_S)
    again = pair.qa(question=question("poison"))
    assert [(answer.status, answer.body["error"]["code"]) for answer in (first, again)] == [(500, "POISON")] * 2
    assert pair.qa(question=question("well")).status == 200


def test_a_device_that_is_busy_is_waited_for_and_that_is_told(stack, wait_until):
    # Three times, so that the last wait is of 2 s: longer than the second that the web half keeps what it saw.
    stack.machine.inject(when="attach", kind="acquire", times=3)
    end_of_replica(stack, wait_until)
    wait_until(lambda: says(stack.model(), state="BACKOFF", error="BUSY", advice=TABLE["BUSY"].advice), LOAD_LIMIT_S)
    ready(stack, wait_until)
    assert stack.qa(question=question("busy")).status == 200


@pytest.mark.parametrize(
    ("env", "kind"),
    [
        ({"STANDIN_IPUS": "0", "SUPERVISOR_IPUS": "1"}, "NO_SUCH_DEVICE"),
        ({"STANDIN_IPU_VERSION": "1"}, "UNSUPPORTED_DEVICE"),
    ],
)
def test_ipus_that_are_not_there_or_of_no_use_fail_the_replica_and_are_told(spawn, short_dir, wait_until, env, kind):
    model = {"model": "question_answering", "device": "ipu", "checkpoint": tiny.distilbert(short_dir / "distilbert")}
    stack = IpuStack(spawn, short_dir, [model], SERVER_NUM_WORKERS="1", **env).start()
    wait_until(lambda: stack.daemon.states() == ["FAILED"] and stack.is_up(), LOAD_LIMIT_S)
    wait_until(lambda: says(stack.model(), "FAILED", kind + ": ", TABLE[kind].advice))
    wait_until(lambda: unready(stack, TABLE[kind].advice))
    answer = stack.qa()
    assert (answer.status, answer.body["error"]["code"]) == (503, "NOT_READY")
    assert restarts(stack) == 1


def test_too_little_memory_at_compile_is_a_fault_of_the_settings_and_not_tried_again(stack, wait_until):
    stack.machine.inject(when="compile", kind="out_of_memory", times=-1)
    before = restarts(stack)
    for program in programs(stack):
        program.unlink()
    end_of_replica(stack, wait_until)
    wait_until(lambda: stack.states() == ["FAILED"], LOAD_LIMIT_S)
    assert stack.model()["last_error"].startswith("OUT_OF_MEMORY")
    assert "ipu.batch_size" in stack.model()["advice"]
    assert restarts(stack) == before + 2, "the one that was ended, and the one that could not compile"


def test_a_hang_in_native_code_is_terminated_then_killed_and_answered(stack, wait_until):
    stack.machine.inject(when="execute", kind="hang")
    (pid,) = stack.daemon.pids()
    assert stack.qa(question=question("hang")).status == 200
    assert "killed by SIGKILL" in stack.daemon.model().replicas[0].last_exit
    assert pid not in stack.machine.holders().values()


def test_a_broken_device_that_never_lets_go_is_told_at_once_and_its_replica_killed(stack, wait_until):
    stack.machine.inject(when="execute", kind="LINK_RESET")
    stack.machine.inject(when="detach", kind="hang")
    answer = stack.qa(question=question("detach"))
    assert (answer.status, answer.body["error"]["code"]) == (503, "NOT_READY")
    wait_until(lambda: stack.states() == ["FAILED"])
    assert "killed by SIGKILL" in stack.daemon.model().replicas[0].last_exit
    assert stack.model()["last_error"].startswith("LINK_RESET: ")
    assert stack.machine.holders() == {}


def test_long_messages_of_the_library_lie_in_the_replicas_own_folder(stack, wait_until):
    stack.machine.inject(when="execute", kind="long_message")
    assert stack.qa(question=question("long")).status == 200
    [place] = {replica.replica.rpartition(".")[0] for replica in stack.daemon.model().replicas}
    assert (stack.daemon.folder / "replicas" / place / "poptorch_error.log").exists()


def unready(stack, why):
    """Say whether readiness is refused for a reason, and not for a supervisor that was silent for half a second."""
    readiness = stack.request("GET", "/health/readiness")
    return readiness.status == 503 and why in str(readiness.body)


def says(model, state, error, advice):
    """Say whether one picture of a model shows all of that."""
    states = [replica["state"] for replica in model["replicas"]]
    return (states, model["advice"]) == ([state], advice) and model["last_error"].startswith(error)


def end_of_replica(stack, wait_until):
    """End the replica from outside; the supervisor starts it again."""
    before = restarts(stack)
    end(stack.daemon.pids()[0], wait_until)
    wait_until(lambda: restarts(stack) > before)


def programs(stack):
    return list((stack.daemon.folder / "executables").glob("*.popef"))
