"""The daemon as its operator sees it: starts, refuses, stops, tells why; what it does with bad inputs and replicas."""

import contextlib
import hashlib
import os
import pathlib
import signal
import socket
import stat
import threading
import time
from typing import Any, List

import msgspec
import pytest

from ipu_supervisor.protocol.client import SupervisorClient
from ipu_supervisor.protocol.deadline import Deadline
from ipu_supervisor.protocol.errors import ClientGone, ErrorCode, RequestError
from tests.conftest import running_s
from tests.integration.harness import PATIENCE_S, ROOT, Daemon, alive, echo, end, kill

#: What a request takes that is never waited for, milliseconds: less than the 30 s that a batch may take.
LONG_MS = 25_000


@pytest.fixture
def daemon(spawn, short_dir, wait_until):
    """One supervisor with one echo replica that is ready."""
    daemon = Daemon(spawn, short_dir, echo()).start()
    wait_until(daemon.ready)
    return daemon


def result(reply):
    """Return the text of a reply with one good outcome."""
    (outcome,) = reply.outcomes
    assert outcome.failure is None, outcome.failure
    return msgspec.msgpack.decode(outcome.result)["results"]


def failure(reply):
    """Return the code of a reply with one bad outcome."""
    (outcome,) = reply.outcomes
    return outcome.failure.code if outcome.failure else None


def in_thread(function, *arguments, **named):
    """Run a function in a thread; return the thread and the list its result (or exception) goes to."""
    done = []

    def run():
        try:
            done.append(function(*arguments, **named))
        except Exception as error:  # noqa: BLE001  # the test looks at it
            done.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    return thread, done


@contextlib.contextmanager
def waiting(daemon, *texts, **inputs):
    """Let clients wait for answers while the block runs; then each hangs up, and sees that nobody answered it."""

    def wait(text, ours):
        items = [{"text": text, **inputs}]
        client = SupervisorClient(daemon.endpoint)
        client.call("echo", items, [1], Deadline.after(PATIENCE_S), client_socket=ours)

    with contextlib.ExitStack() as pairs:
        ends = [[pairs.enter_context(end) for end in socket.socketpair()] for _ in texts]
        asked = [in_thread(wait, text, ours) for text, (ours, _) in zip(texts, ends)]
        try:
            yield
        finally:
            for _, theirs in ends:
                theirs.close()
            for thread, _ in asked:
                thread.join(PATIENCE_S)
    assert all(isinstance(done[0], ClientGone) for _, done in asked), asked


def test_ctrl_c_leaves_no_process_and_no_socket(daemon, wait_until):
    pids = daemon.pids()
    os.killpg(daemon.child.pid, signal.SIGINT)
    assert daemon.child.wait() == 0
    assert not any(alive(pid) for pid in pids)
    assert not [path for path in daemon.folder.iterdir() if stat.S_ISSOCK(path.stat().st_mode)]


def test_sockets_are_open_to_no_more_than_they_must(daemon):
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in daemon.folder.iterdir() if path.is_socket()}
    assert modes == {"s.sock": 0o660, "replicas.sock": 0o600, "operator.sock": 0o600}


@pytest.mark.parametrize("elsewhere", [False, True], ids=["same folder", "same endpoint"])
def test_a_second_supervisor_is_refused_and_the_first_serves_on(daemon, elsewhere):
    if elsewhere:
        daemon.env["SUPERVISOR_RUN_DIR"] = str(daemon.folder / "elsewhere")
    done = daemon.command("run")
    assert (done.returncode, b"another supervisor" in done.stderr) == (75, True)
    assert result(daemon.ask("still here")) == "still here"


@pytest.mark.parametrize(
    ("env", "why"),
    [
        ({"SUPERVISOR_RUN_DIR": "/dev/null"}, b"File exists"),
        ({"SUPERVISOR_RUN_DIR": "/proc/nowhere"}, b"No such file"),
        ({"SUPERVISOR_ENDPOINT": "tcp://192.0.2.1:5555", "SUPERVISOR_CURVE_KEYS": "keys"}, b"Cannot assign"),
    ],
)
def test_sockets_that_cannot_be_bound_are_a_fault_of_the_settings_that_is_told(short_dir, spawn, env, why):
    daemon = Daemon(spawn, short_dir, [], **env)
    daemon.env["SUPERVISOR_RUN_DIR"] = daemon.env.get("SUPERVISOR_RUN_DIR", str(short_dir))
    if "SUPERVISOR_CURVE_KEYS" in env:
        daemon.env["SUPERVISOR_CURVE_KEYS"] = str(short_dir / "keys")
        assert daemon.command("keys", str(short_dir / "keys")).returncode == 0
    done = daemon.command("run")
    assert (done.returncode, b"error: cannot listen on" in done.stderr, why in done.stderr) == (78, True, True), done


def test_a_key_that_is_none_is_told(short_dir, spawn):
    keys = {"SUPERVISOR_ENDPOINT": "tcp://127.0.0.1:5555", "SUPERVISOR_CURVE_KEYS": str(short_dir / "keys")}
    daemon = Daemon(spawn, short_dir, [], SUPERVISOR_RUN_DIR=str(short_dir), **keys)
    assert daemon.command("keys", str(short_dir / "keys")).returncode == 0
    (short_dir / "keys/supervisor.key_secret").write_text("nonsense", encoding="ascii")
    done = daemon.command("run")
    assert (done.returncode, b"error: cannot listen on" in done.stderr) == (78, True), done


def test_killed_supervisor_takes_its_replicas_along_even_frozen_ones(daemon, wait_until):
    (replica,) = daemon.pids()
    kill(replica, signal.SIGSTOP)
    kill(daemon.child.pid)
    wait_until(lambda: not alive(replica))
    daemon.child.wait()
    daemon.start()
    wait_until(daemon.ready)
    assert result(daemon.ask("again")) == "again"


def test_the_expected_wait_counts_the_rest_of_a_load_whose_time_was_measured(short_dir, spawn, wait_until):
    daemon = Daemon(spawn, short_dir, echo(options={"load_delay_s": 5.0})).start()
    wait_until(daemon.ready, 30)
    assert daemon.model().expected_wait_s < 1
    end(daemon.pids()[0], wait_until)
    wait_until(lambda: daemon.states() == ["LOADING"])
    model = daemon.model()
    assert 0 < model.expected_wait_s <= model.load_s


def test_every_fault_of_the_settings_is_named_at_once(short_dir, spawn):
    daemon = Daemon(
        spawn, short_dir, [{"model": "nope"}, {"model": "echo", "replicas": 0, "colour": 1}], LOG_LEVEL="LOUD"
    )
    done = daemon.command("run")
    assert done.returncode == 78
    for part in (b"nope", b"replicas", b"colour", b"LOG_LEVEL"):
        assert part in done.stderr


def test_a_bad_model_file_stops_the_start_with_a_code_of_its_own(short_dir, spawn):
    (short_dir / "odd.py").write_text("x = 1\n", encoding="utf-8")
    daemon = Daemon(spawn, short_dir, [{"model": "odd"}], MODELS_PATH=str(short_dir))
    done = daemon.command("run")
    assert (done.returncode, b"class Pipeline" in done.stderr) == (65, True)


def test_too_few_devices_stop_the_start(short_dir, spawn):
    models: List[Any] = [
        {"model": "question_answering", "device": "ipu", "replicas": 3},
        {"model": "embeddings", "device": "ipu"},
    ]
    done = Daemon(spawn, short_dir, models, SUPERVISOR_IPUS="2").command("run")
    assert done.returncode == 69
    assert b"has 2 IPUs, but question_answering needs 3 (3 replica(s) x 1), embeddings needs 1" in done.stderr


def test_every_wrong_ipu_setting_is_named_at_the_start_with_its_rule_and_the_fix(short_dir, spawn):
    (short_dir / "config.json").write_text('{"model_type": "bart", "encoder_layers": 12, "decoder_layers": 12}')
    models: List[Any] = [
        {"model": "question_answering", "device": "ipu", "max_batch_size": 8, "ipu": {"ipus": 3, "batch_size": 4}},
        {
            "model": "summarization",
            "device": "ipu",
            "ipu": {"ipus": 1, "inference_parallelize_kwargs": {"num_beams": 4}},
        },
    ]
    done = Daemon(spawn, short_dir, models).command("check-config")
    told = done.stderr.decode()
    assert done.returncode == 78
    assert "[0].ipu: ipus: Must be a power of two (IPUs are acquired in such groups): 4 would hold 3" in told
    assert "[0].max_batch_size: 8, but the program is compiled for ipu.batch_size x ipu.replication = 4" in told
    assert "[1].ipu.ipus: 1, but encoder and decoder each need IPUs of their own; set 2 or more" in told
    assert "num_beams: 4, but the program is compiled for options.num_beams = 3" in told

    models = [
        {"model": "summarization", "device": "ipu", "checkpoint": str(short_dir), "ipu": {"layers_per_ipu": [12, 11]}}
    ]
    done = Daemon(spawn, short_dir, models, SUPERVISOR_IPUS="4").command("check-config")
    assert (done.returncode, b"[12, 11] adds up to 23, but the checkpoint has 12 + 12 layers" in done.stderr) == (
        78,
        True,
    )


def test_ipus_that_cannot_be_counted_stop_the_start(short_dir, spawn):
    models = [{"model": "question_answering", "device": "ipu"}]
    done = Daemon(spawn, short_dir, models, PATH="/nowhere").command("run")
    assert (done.returncode, b"set SUPERVISOR_IPUS" in done.stderr) == (69, True)


def test_an_unknown_model_is_refused(daemon):
    with pytest.raises(RequestError) as refused:
        daemon.client.call("nobody", [{}], [1], Deadline.after(PATIENCE_S))
    assert refused.value.code is ErrorCode.UNKNOWN_MODEL


@pytest.mark.parametrize(
    ("fault", "code"),
    [
        ("raise", ErrorCode.MODEL_ERROR),
        ("invalid", ErrorCode.INVALID_INPUT),
        ("bad_output", ErrorCode.MODEL_ERROR),
        ("bad_length", ErrorCode.MODEL_ERROR),
        ("crash", ErrorCode.POISON),
        ("exit", ErrorCode.POISON),
    ],
)
def test_a_bad_input_gets_its_code_and_the_next_one_its_answer(daemon, fault, code):
    assert failure(daemon.ask("bad", fault=fault)) is code
    assert result(daemon.ask("good")) == "good"


def test_poison_is_refused_within_a_second_of_its_second_death_and_then_at_the_door(daemon):
    assert failure(daemon.ask("venom", fault="exit")) is ErrorCode.POISON
    assert daemon.executions()["venom"] == 2
    assert failure(daemon.ask("venom", fault="exit")) is ErrorCode.POISON
    assert daemon.executions()["venom"] == 2


def test_a_hang_in_native_code_is_killed_and_answered_and_others_are_served(spawn, short_dir, wait_until):
    daemon = Daemon(spawn, short_dir, echo(batch_limit_s=2)).start()
    wait_until(daemon.ready)
    thread, done = in_thread(daemon.ask, "hung", fault="hang", client=SupervisorClient(daemon.endpoint))
    wait_until(lambda: daemon.executions()["hung"] == 1)
    assert result(daemon.ask("behind it")) == "behind it"
    thread.join(PATIENCE_S)
    assert failure(done[0]) is ErrorCode.POISON


def test_why_a_replica_died_is_told(daemon, wait_until):
    daemon.ask("bye", fault="exit")
    wait_until(lambda: daemon.model().replicas[0].last_exit)
    assert daemon.model().replicas[0].last_exit == "exited with code 41"
    shown = daemon.command("status").stdout.decode()
    assert "exited with code 41" in shown


def test_a_request_longer_than_its_limit_fails_at_the_limit(daemon):
    began, began_running = time.monotonic(), running_s()
    with pytest.raises(RequestError) as late:
        daemon.ask("slow", limit_s=1, delay_ms=LONG_MS)
    took, took_running = time.monotonic() - began, running_s() - began_running
    daemon.child.kill()
    assert late.value.code is ErrorCode.DEADLINE_EXCEEDED
    assert took >= 0.99
    assert took_running <= 2


def test_ten_abandoned_jobs_cost_at_most_one_execution(daemon, wait_until):
    with waiting(daemon, "job 0", delay_ms=4000):
        wait_until(lambda: daemon.executions()["job 0"])
        with waiting(daemon, *["job {}".format(number) for number in range(1, 10)], delay_ms=4000):
            wait_until(lambda: daemon.model().backlog == 9)
    began = running_s()
    assert result(daemon.ask("trivial")) == "trivial"
    assert running_s() - began <= 5
    assert [text for text in daemon.executions() if text.startswith("job")] == ["job 0"]
    assert daemon.executions()["job 0"] == 1


def test_nobody_waits_beside_an_idle_replica(spawn, short_dir, wait_until):
    daemon = Daemon(spawn, short_dir, echo(replicas=2)).start()
    wait_until(lambda: daemon.ready(2))
    with waiting(daemon, "long", delay_ms=LONG_MS):
        wait_until(lambda: daemon.executions()["long"])
        began = running_s()
        for number in range(6):
            daemon.ask("short {}".format(number))
        assert running_s() - began < 1.5
    daemon.child.kill()


def test_equal_requests_in_flight_run_once(daemon, wait_until):
    asked = [in_thread(daemon.ask, "same", delay_ms=3000, client=SupervisorClient(daemon.endpoint)) for _ in range(8)]
    for thread, _ in asked:
        thread.join(PATIENCE_S)
    assert [result(done[0]) for _, done in asked] == ["same"] * 8
    assert daemon.executions()["same"] == 1


def test_a_full_backlog_refuses_with_a_time_to_come_back(spawn, short_dir, wait_until):
    daemon = Daemon(spawn, short_dir, echo(max_backlog=2)).start()
    wait_until(daemon.ready)
    began = time.monotonic()
    daemon.ask("first", delay_ms=300)
    took = time.monotonic() - began
    with waiting(daemon, "runs", delay_ms=LONG_MS):
        wait_until(lambda: daemon.executions()["runs"])
        with waiting(daemon, "waits", "waits too"):
            wait_until(lambda: daemon.model().backlog == 2)
            with pytest.raises(RequestError) as refused:
                daemon.ask("one too many")
    daemon.child.kill()
    assert refused.value.code is ErrorCode.OVERLOADED
    assert 0 < (refused.value.retry_after_s or 0) <= 3 * took, "three requests are there, and one was measured"


def test_a_bad_item_fails_alone_in_its_batch(spawn, short_dir, wait_until):
    daemon = Daemon(spawn, short_dir, echo(max_batch_size=8)).start()
    wait_until(daemon.ready)
    items = [{"text": str(number), "fault": "raise" if number == 2 else ""} for number in range(5)]
    reply = daemon.client.call("echo", items, [1] * 5, Deadline.after(PATIENCE_S))
    assert [outcome.failure.code if outcome.failure else None for outcome in reply.outcomes] == [
        None, None, ErrorCode.MODEL_ERROR, None, None
    ]  # fmt: skip


def test_a_replica_that_cannot_load_is_failed_with_its_reason_and_others_serve(spawn, short_dir, wait_until):
    (short_dir / "broken.py").write_text(
        "class Pipeline:\n    def __init__(self):\n        raise OSError('no weights here')\n"
        "    def __call__(self, inputs):\n        return inputs\n",
        encoding="utf-8",
    )
    daemon = Daemon(spawn, short_dir, [*echo(), {"model": "broken"}], MODELS_PATH=str(short_dir)).start()
    wait_until(daemon.ready)
    wait_until(lambda: "FAILED" in [replica.state for replica in daemon.status().models[1].replicas], limit_s=60)
    broken = daemon.status().models[1]
    assert (broken.ready, "no weights here" in broken.reason) == (False, True)
    assert result(daemon.ask("fine")) == "fine"
    with pytest.raises(RequestError) as refused:
        daemon.client.call("broken", [{}], [1], Deadline.after(PATIENCE_S))
    assert refused.value.code is ErrorCode.NOT_READY


def test_an_older_model_file_serves_unchanged(spawn, short_dir, wait_until):
    (short_dir / "older_one.py").write_text(
        "class Pipeline:\n    def __init__(self):\n        self.n = 0\n    def compile(self):\n        self.n = 1\n"
        "    def __call__(self, inputs: dict) -> dict:\n        return {'n': self.n, **inputs}\n",
        encoding="utf-8",
    )
    daemon = Daemon(spawn, short_dir, [{"model": "older_one"}], MODELS_PATH=str(short_dir)).start()
    wait_until(daemon.ready)
    (outcome,) = daemon.client.call("older_one", [{"a": "b"}], [1], Deadline.after(PATIENCE_S)).outcomes
    assert msgspec.msgpack.decode(outcome.result) == {"n": 1, "a": "b"}


def test_reload_and_scale_lose_no_request(daemon, wait_until):
    (first,) = daemon.pids()
    thread, done = in_thread(daemon.ask, "in flight", delay_ms=1500, client=SupervisorClient(daemon.endpoint))
    wait_until(lambda: daemon.executions()["in flight"])
    assert daemon.command("reload", "echo").returncode == 0
    wait_until(lambda: not alive(first))
    thread.join(PATIENCE_S)
    assert result(done[0]) == "in flight"
    assert daemon.executions()["in flight"] == 1
    assert daemon.command("scale", "echo", "3").returncode == 0
    wait_until(lambda: daemon.ready(3))
    assert daemon.command("scale", "echo", "1").returncode == 0
    wait_until(lambda: len(daemon.pids()) == 1)


def test_drain_answers_what_was_accepted_and_refuses_what_comes(daemon, wait_until):
    thread, done = in_thread(daemon.ask, "accepted", delay_ms=3000, client=SupervisorClient(daemon.endpoint))
    wait_until(lambda: daemon.executions()["accepted"])
    assert daemon.command("drain").returncode == 0
    with pytest.raises(RequestError) as refused:
        daemon.ask("late")
    assert refused.value.code is ErrorCode.DRAINING
    thread.join(PATIENCE_S)
    assert result(done[0]) == "accepted"


def test_an_operator_verb_on_the_inference_socket_is_garbage(daemon):
    import zmq

    from ipu_supervisor.protocol import messages

    with zmq.Context() as context, context.socket(zmq.REQ) as asking:
        asking.linger = 0
        asking.connect(daemon.endpoint)
        asking.send(messages.encode(messages.OperatorCommand("drain")))
        assert asking.poll(int(PATIENCE_S * 1000))
        decode: messages.Decoder[messages.ToService] = messages.Decoder(messages.ToService)
        answer = decode(asking.recv())
    assert isinstance(answer, messages.Refusal)
    assert answer.failure.code is ErrorCode.PROTOCOL
    assert result(daemon.ask("unmoved")) == "unmoved"
    assert daemon.status().counters["refused_frames"] == 1


def test_check_config_says_what_would_be_served(daemon):
    done = daemon.command("check-config")
    assert (done.returncode, b"POST /echo" in done.stdout) == (0, True)


def test_a_call_waits_for_a_model_that_is_loading(spawn, short_dir, wait_until):
    daemon = Daemon(spawn, short_dir, echo(options={"load_delay_s": 1})).start()
    wait_until(lambda: pathlib.Path(str(daemon.folder / "s.sock")).exists())
    assert result(daemon.ask("patience")) == "patience"


def test_tcp_beyond_loopback_needs_keys_and_works_with_them(spawn, short_dir, wait_until):
    bare = Daemon(spawn, short_dir, echo(), SUPERVISOR_ENDPOINT="tcp://192.0.2.1:5555")
    assert b"SUPERVISOR_CURVE_KEYS" in bare.command("run").stderr
    made = Daemon(spawn, short_dir, echo()).command("keys", str(short_dir / "keys"))
    assert made.returncode == 0
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    endpoint = "tcp://127.0.0.1:{}".format(port)
    keys = short_dir / "keys"
    env = {"SUPERVISOR_ENDPOINT": endpoint, "SUPERVISOR_CURVE_KEYS": str(keys), "SUPERVISOR_RUN_DIR": str(short_dir)}
    daemon = Daemon(spawn, short_dir, echo(), **env)
    daemon.client = SupervisorClient(endpoint, keys, status_age_s=0)
    daemon.start()
    wait_until(daemon.ready)
    assert result(daemon.ask("sealed")) == "sealed"
    with pytest.raises(RequestError) as refused:
        daemon.ask("in the clear", limit_s=2, client=SupervisorClient(endpoint))
    assert refused.value.code is ErrorCode.NOT_READY


def test_replicas_see_the_settings_of_the_env_file(spawn, short_dir, wait_until):
    (short_dir / "see.py").write_text(
        "import os\nclass Pipeline:\n    def __call__(self, inputs):\n"
        "        return {'level': os.environ.get('POPTORCH_LOG_LEVEL')}\n",
        encoding="utf-8",
    )
    (short_dir / ".env").write_text("POPTORCH_LOG_LEVEL=ERR\n", encoding="utf-8")
    daemon = Daemon(spawn, short_dir, [{"model": "see"}], MODELS_PATH=str(short_dir), PYTHONPATH=str(ROOT))
    daemon.start(cwd=short_dir)
    wait_until(daemon.ready)
    (outcome,) = daemon.client.call("see", [{}], [1], Deadline.after(PATIENCE_S)).outcomes
    assert msgspec.msgpack.decode(outcome.result) == {"level": "ERR"}


@pytest.mark.parametrize("fault", ["crash", "exit", "hang", "raise", "invalid", "bad_output", "bad_length"])
def test_echo_obeys_no_fault_unless_it_is_configured_to(short_dir, spawn, wait_until, fault):
    daemon = Daemon(spawn, short_dir, echo(options={"faults": False})).start()
    wait_until(daemon.ready)
    assert result(daemon.ask("plain", fault=fault, delay_ms=60_000)) == "plain"


def test_a_host_that_was_suspended_does_not_make_the_supervisor_blame_its_replicas(spawn, short_dir, wait_until):
    daemon = Daemon(spawn, short_dir, echo(batch_limit_s=5)).start()
    wait_until(daemon.ready)
    (replica,) = daemon.pids()
    thread, done = in_thread(daemon.ask, "asleep", delay_ms=1500, client=SupervisorClient(daemon.endpoint))
    wait_until(lambda: daemon.executions()["asleep"])
    for pid in (replica, daemon.child.pid):
        kill(pid, signal.SIGSTOP)
    wake_at = time.monotonic() + 8
    wait_until(lambda: time.monotonic() > wake_at, 20)
    for pid in (daemon.child.pid, replica):
        kill(pid, signal.SIGCONT)
    thread.join(PATIENCE_S)
    assert result(done[0]) == "asleep"
    assert (daemon.executions()["asleep"], daemon.pids()) == (1, [replica])


def test_reload_serves_the_model_file_as_it_is_now(spawn, short_dir, wait_until):
    path = short_dir / "changing.py"
    text = "class Pipeline:\n    def __call__(self, inputs):\n        return {{'version': {}}}\n"
    path.write_text(text.format(1), encoding="utf-8")
    daemon = Daemon(spawn, short_dir, [{"model": "changing"}], MODELS_PATH=str(short_dir)).start()
    wait_until(daemon.ready)
    before = daemon.model().file_hash

    def version():
        (outcome,) = daemon.client.call("changing", [{}], [1], Deadline.after(PATIENCE_S)).outcomes
        return msgspec.msgpack.decode(outcome.result)["version"]

    assert version() == 1
    path.write_text(text.format(2), encoding="utf-8")
    end(daemon.pids()[0], wait_until)
    assert version() == 1, "a new life runs what the supervisor read"
    assert daemon.command("reload", "changing").returncode == 0
    wait_until(lambda: version() == 2)
    assert daemon.model().file_hash == hashlib.sha256(path.read_bytes()).hexdigest() != before


def test_a_supervisor_that_stops_starts_nothing_any_more(daemon, wait_until):
    thread, done = in_thread(daemon.ask, "last", delay_ms=5000, client=SupervisorClient(daemon.endpoint))
    wait_until(lambda: daemon.executions()["last"])
    kill(daemon.child.pid, signal.SIGTERM)
    wait_until(lambda: daemon.status().draining)
    refused = daemon.command("reload")
    assert (refused.returncode, b"stops" in refused.stdout) == (1, True)
    thread.join(PATIENCE_S)
    assert (result(done[0]), daemon.child.wait()) == ("last", 0)
