"""What only a real Gunicorn can show: bytes on a socket, several workers, a death, saturation, an orderly end."""

import contextlib
import http.client
import json
import os
import pathlib
import select
import signal
import socket
import ssl
import struct
import subprocess
import sys
import time

import pytest
from prometheus_client.parser import text_string_to_metric_families

from service.worker import SILENCE_LIMIT_S, STATUS, Source, is_whole, refusal
from tests.conftest import running_s
from tests.http.server import MODELS, ROOT, serving, wait_until

pytestmark = pytest.mark.service

JSON = {"Content-Type": "application/json"}


@pytest.fixture(scope="module")
def server():
    with serving(SERVER_MAX_REQUEST_BYTES="100000") as started:
        yield started


def exchange(server, data, limit_s=60):
    """Send bytes as they are and return what comes back before the other side closes."""
    with socket.create_connection(("127.0.0.1", server.port), timeout=limit_s) as connection:
        connection.sendall(data)
        received = b""
        with contextlib.suppress(OSError):
            while part := connection.recv(65536):
                received += part
        return received


def chunked(chunks, ending=b"0\r\n\r\n", path=b"/echo"):
    head = b"POST " + path + b" HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\n"
    head += b"Transfer-Encoding: chunked\r\nConnection: close\r\n\r\n"
    return head + b"".join(b"%x\r\n%s\r\n" % (len(chunk), chunk) for chunk in chunks) + ending


def figures(server):
    text = server.ask("GET", "/metrics")[2].decode()
    return {
        (sample.name, sample.labels.get("model"), sample.labels.get("code")): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def test_a_chunked_body_is_read(server):
    assert b'"results":"ab"' in exchange(server, chunked([b'{"text": "a', b'b"}']))


def test_a_chunked_body_over_the_limit_is_a_413(server):
    answer = exchange(server, chunked([b"a" * 50_000] * 4))
    assert answer.startswith(b"HTTP/1.1 413 ")
    assert b'"BODY_TOO_LARGE"' in answer


def test_a_body_of_endless_chunks_is_cut_off(server):
    with socket.create_connection(("127.0.0.1", server.port), timeout=60) as connection:
        connection.sendall(chunked([], ending=b""))
        sent = 0
        with contextlib.suppress(OSError):
            while sent < 500_000_000:
                connection.sendall(b"8000\r\n" + b"a" * 0x8000 + b"\r\n")
                sent += 0x8000
        assert sent < 500_000_000


@pytest.mark.parametrize(
    "data",
    [
        chunked([b'{"text": "a"}'], ending=b"zz\r\n"),
        chunked([b'{"text": "a"}'], ending=b"5\r\nab"),
        b"POST /echo HTTP/1.0\r\nContent-Type: application/json\r\nContent-Length: 5\r\n\r\nabcde",
        b"POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: -5\r\n\r\n",
        b"POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nabcdef",
        b"GET /" + b"a" * 10_000 + b" HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nX: " + b"a" * 100_000 + b"\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
    ],
)
def test_broken_requests_are_the_clients_fault(server, data):
    with socket.create_connection(("127.0.0.1", server.port), timeout=10) as connection:
        with contextlib.suppress(OSError):
            connection.sendall(data)
            connection.shutdown(socket.SHUT_WR)
        received = b""
        with contextlib.suppress(OSError):
            while part := connection.recv(65536):
                received += part
    assert received == b"" or received[:10] in (b"HTTP/1.0 4", b"HTTP/1.1 4"), received[:200]
    if received:
        head, _, body = received.partition(b"\r\n\r\n")
        error = json.loads(body)["error"]
        assert (error["code"] in ("BAD_REQUEST", "BAD_JSON"), bool(error["message"])) == (True, True)
        assert f"X-Request-ID: {error['request_id']}".encode() in head
    assert server.ask("GET", "/health/liveness")[0] == 200


@pytest.mark.parametrize(
    ("head", "body", "status"),
    [
        (b"Content-Length: 200000", b"a" * 200_000, b"413"),
        (b"Content-Length: 200000", b"a", b"413"),
        (b"Content-Length: 9\r\nX-Request-Timeout: 0.1", b"{", b"504"),
        (b"Transfer-Encoding: chunked", b"zz\r\n", b"400"),
        (b"Content-Length: 9\r\nContent-Encoding: gzip", b"", b"415"),
    ],
)
def test_an_answer_that_ends_the_connection_says_so(server, head, body, status):
    start = b"POST /echo HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\n"
    answer = exchange(server, start + head + b"\r\n\r\n" + body)
    assert answer.split(b" ")[1] == status
    assert b"\r\nConnection: close\r\n" in answer


@pytest.mark.parametrize(
    ("start", "status"),
    [
        (b"GET /health/liveness", b"200"),
        (b"POST /nope", b"404"),
        (b"GET /echo", b"405"),
        (b"POST /echo", b"415"),
    ],
)
def test_a_broken_body_that_nobody_reads_changes_no_answer_and_ends_the_connection(server, start, status):
    logged = len(server.log())
    answer = exchange(server, start + b" HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n")
    assert answer.split(b" ")[1] == status
    assert b"\r\nConnection: close\r\n" in answer
    assert "Traceback" not in server.log()[logged:]


def test_a_client_that_resets_its_connection_instead_of_sending_its_body_is_no_fault_of_ours(server):
    logged = len(server.log())
    with socket.create_connection(("127.0.0.1", server.port), timeout=60) as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        connection.sendall(b"POST /echo HTTP/1.1\r\nHost: a\r\nContent-Type: text/plain\r\nContent-Length: 9\r\n\r\n")
    wait_until(lambda: '"status": 415' in server.log()[logged:], "it is answered")
    assert "Traceback" not in server.log()[logged:]


def test_an_answer_to_a_refused_request_whose_body_came_keeps_the_connection(server):
    head = b"POST /echo HTTP/1.1\r\nHost: a\r\nContent-Type: text/plain\r\nContent-Length: 60000\r\n\r\n"
    with socket.create_connection(("127.0.0.1", server.port), timeout=60) as connection:
        for _ in range(2):
            connection.sendall(head + b"a" * 60_000)
            answer = b""
            while b"}}" not in answer:
                answer += connection.recv(65536) or pytest.fail(f"no whole answer: {answer!r}")
            assert b"\r\nConnection: keep-alive\r\n" in answer


def test_hangup_with_wrong_settings_changes_nothing_and_with_right_ones_replaces_the_workers(tmp_path):
    model = tmp_path / "mine.py"
    model.write_text("class Pipeline:\n    pass\n", encoding="utf-8")
    with serving(SERVER_MODELS='[{"model": "mine"}]', MODELS_PATH=str(tmp_path), WEB_CONCURRENCY="1") as server:
        before = server.workers()
        model.write_text("def (\n", encoding="utf-8")
        os.kill(server.process.pid, signal.SIGHUP)
        wait_until(lambda: "mine.py: not Python" in server.log(), "the reload is refused", server.process)
        assert server.ask("GET", "/health/liveness")[0] == 200
        assert server.workers() == before
        model.write_text("class Pipeline:\n    pass\n", encoding="utf-8")
        os.kill(server.process.pid, signal.SIGHUP)
        wait_until(lambda: not set(server.workers()) & set(before), "the workers are replaced", server.process)
        assert server.ask("GET", "/health/liveness")[0] == 200


def test_a_refused_body_does_not_become_the_next_request(server):
    smuggled = b"GET /models HTTP/1.1\r\nHost: a\r\n\r\n"
    head = b"POST /echo HTTP/1.1\r\nHost: a\r\nContent-Type: text/plain\r\nContent-Length: %d\r\n\r\n" % len(smuggled)
    last = b"GET /health/liveness HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"
    answer = exchange(server, head + smuggled + last)
    assert answer.count(b"HTTP/1.1 ") == 2
    assert b"415" in answer.splitlines()[0]
    assert answer.endswith(b'{"status":"ok"}')


def test_figures_are_those_of_all_workers_and_outlive_one(server):
    key = ("model_server_requests_total", "echo", "200")
    before = figures(server).get(key, 0)
    for _ in range(20):
        assert server.ask("POST", "/echo", b'{"text": "a"}', JSON)[0] == 200
    assert figures(server)[key] == before + 20
    victim = server.workers()[0]
    os.kill(victim, signal.SIGKILL)
    wait_until(lambda: len(server.workers()) == 2 and victim not in server.workers(), "the worker is replaced")
    for _ in range(20):
        assert server.ask("POST", "/echo", b'{"text": "a"}', JSON)[0] == 200
    assert figures(server)[key] == before + 40
    assert figures(server)["model_server_requests_in_progress", "echo", None] == 0


def test_the_log_names_the_documentation_and_holds_only_json_lines(server):
    lines = [json.loads(line) for line in server.log().splitlines()]
    assert any(f"http://localhost:{server.port}/docs" in line.get("message", "") for line in lines)
    assert any(line["event"] == "access" and line["status"] == 200 for line in lines)


def test_web_workers_load_no_model(server):
    for worker in server.workers():
        maps = pathlib.Path(f"/proc/{worker}/maps").read_text(encoding="utf-8")
        assert not any(name in maps for name in ("numpy", "/torch/", "tokenizers"))


def test_the_web_side_imports_no_torch_transformers_or_numpy():
    code = (
        "import sys, service.wsgi; print([name for name in ('torch', 'transformers', 'numpy') if name in sys.modules])"
    )
    environ = {**os.environ, "SERVER_MODELS": '[{"model": "question_answering"}, {"model": "embeddings"}]'}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env=environ, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"


def test_bad_settings_stop_the_start_with_every_fault_and_their_exit_code():
    command = [sys.executable, "-m", "gunicorn", "-c", "service/gunicorn_conf.py"]
    environ = {**os.environ, "SERVER_PORT": "x", "SERVER_THREADS": "0", "SERVER_MODELS": "["}
    done = subprocess.run(command, cwd=ROOT, env=environ, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 78
    assert all(name in done.stderr for name in ("SERVER_PORT", "SERVER_THREADS", "SERVER_MODELS"))


def test_web_concurrency_and_gunicorn_cmd_args_still_work():
    with serving("--threads 3", WEB_CONCURRENCY="1", STUB_SLOW="1") as server:
        assert len(server.workers()) == 1
        with holding(server, 1):
            assert server.ask("POST", "/echo", b'{"text": "a"}', JSON)[0] == 429


@contextlib.contextmanager
def holding(server, number):
    """Let `number` requests be in progress while the block runs; the server ends with its block, whatever is left."""
    body = json.dumps({"text": "held", "delay_ms": 60_000}).encode()
    with contextlib.ExitStack() as held:
        for _ in range(number):
            connection = http.client.HTTPConnection("127.0.0.1", server.port)
            held.callback(connection.close)
            connection.request("POST", "/echo", body, JSON)
        wait_until(lambda: in_progress(server) == number, "all are in progress")
        yield
        assert in_progress(server) == number


def in_progress(server):
    return figures(server).get(("model_server_requests_in_progress", "echo", None))


def test_overload_is_refused_at_once_by_us_and_health_answers_at_saturation():
    with serving(SERVER_THREADS="4", WEB_CONCURRENCY="1", STUB_SLOW="1") as server, holding(server, 4):
        started = running_s()
        answers = [server.ask("POST", "/echo", b'{"text": "a"}', JSON) for _ in range(20)]
        assert {status for status, _, _ in answers} == {429}
        assert {headers["Retry-After"] for _, headers, _ in answers} == {"3"}
        assert [server.ask("GET", path)[0] for path in ("/health/liveness", "/readyz", "/")] == [200, 200, 200]
        assert running_s() - started < 10


def test_clients_that_say_nothing_do_not_keep_health_from_answering():
    with serving(SERVER_THREADS="2", WEB_CONCURRENCY="1") as server, contextlib.ExitStack() as silent:
        for _ in range(40):
            connection = silent.enter_context(socket.create_connection(("127.0.0.1", server.port)))
            connection.sendall(
                b"POST /echo HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\nContent-Length: 9\r\n\r\n{"
            )
        started = running_s()
        assert server.ask("GET", "/health/liveness")[0] == 200
        assert running_s() - started < 5


def test_clients_that_drip_their_headers_do_not_keep_health_from_answering():
    with serving(SERVER_THREADS="2", WEB_CONCURRENCY="1") as server, contextlib.ExitStack() as dripping:
        drops = [dripping.enter_context(socket.create_connection(("127.0.0.1", server.port))) for _ in range(40)]
        for number, connection in enumerate(drops):
            connection.sendall(b"GET /health/liveness HTTP/1.1\r\nX-Long: "[: 10 + number])
        asked = running_s()
        for _ in range(10):
            for connection in drops:
                connection.sendall(b"a")
            assert server.ask("GET", "/health/liveness")[0] == 200
        assert running_s() - asked < 5


def test_headers_that_come_in_pieces_are_read_also_those_behind_another_request():
    head = b"POST /echo HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\nContent-Length: 13\r\n\r\n"
    requests = 3 * (head + b'{"text": "a"}')
    with (
        serving(WEB_CONCURRENCY="1") as server,
        socket.create_connection(("127.0.0.1", server.port), timeout=60) as connection,
    ):
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for at in range(0, len(requests), 50):
            connection.sendall(requests[at : at + 50])
            # Answered by the thread that reads headers, which has seen the piece by then.
            assert server.ask("GET", "/health/liveness")[0] == 200
        answer = b""
        while answer.count(b'"pid":1}') < 3:
            answer += connection.recv(65536) or pytest.fail(f"no whole answer: {answer!r}")
    assert answer.count(b"HTTP/1.1 200 ") == 3


def test_headers_without_end_are_a_431(server):
    with socket.create_connection(("127.0.0.1", server.port), timeout=60) as connection:
        connection.sendall(b"GET / HTTP/1.1\r\n" + b"X-Long: %s\r\n" % (b"a" * 4000) * 10)
        assert connection.recv(100).startswith(b"HTTP/1.1 431 ")


@pytest.mark.parametrize("drips", [False, True])
def test_headers_that_are_never_whole_cost_their_connection(server, drips):
    with socket.create_connection(("127.0.0.1", server.port), timeout=60) as connection:
        connection.sendall(b"GET / HTTP/1.1\r\nHost: a\r\nX: ")
        limit = running_s() + 3 * SILENCE_LIMIT_S
        while drips and running_s() < limit and not select.select([connection], [], [], 0.05)[0]:
            connection.sendall(b"a")
        assert running_s() < limit, "cut off while it drips"
        with contextlib.suppress(ConnectionResetError):
            assert connection.recv(100) == b""


@pytest.mark.parametrize(
    "line", [b"hello\r\n", b"\r\n\r\n", b"GET / HTTP/1.1\n", b"GET /\r\n", b"GET / HTTP/1.1\r\nA: b\n"]
)
def test_what_begins_as_no_request_is_refused_without_more(line):
    assert is_whole(line)
    assert not is_whole(b"\r\nGET / HTTP/1.1\r\nA: b\r\n")
    assert is_whole(b"\r\nGET / HTTP/1.1\r\nA: b\r\n\r\n")


def test_connections_whose_headers_have_not_come_hold_up_no_stop_and_no_worker():
    with serving(WEB_CONCURRENCY="1") as server, contextlib.ExitStack() as pending:
        (worker,) = server.workers()
        for linger in (0, 1):
            connection = pending.enter_context(socket.create_connection(("127.0.0.1", server.port)))
            connection.sendall(b"GET / HTTP/1.1\r\n")
            if linger:
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                connection.close()
        assert server.ask("GET", "/health/liveness")[0] == 200
        assert server.workers() == [worker]
        began = running_s()
        server.process.terminate()
        assert server.process.wait(60) == 0
        assert running_s() - began < SILENCE_LIMIT_S - 2


def test_a_client_that_does_not_begin_with_tls_holds_up_nobody(tmp_path):
    made = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", "key.pem", "-out", "cert.pem"]
    subprocess.run([*made, "-days", "2", "-subj", "/CN=localhost"], cwd=tmp_path, check=True, capture_output=True)
    trusting = ssl.create_default_context(cafile=str(tmp_path / "cert.pem"))
    with contextlib.ExitStack() as silent:
        listener = silent.enter_context(socket.create_server(("127.0.0.1", 0), backlog=64))
        options = f"--bind fd://{listener.fileno()} --certfile {tmp_path}/cert.pem --keyfile {tmp_path}/key.pem -w 1"
        environ = {**os.environ, "SERVER_MODELS": MODELS, "GUNICORN_CMD_ARGS": options}
        command = [sys.executable, "-m", "gunicorn", "-c", "service/gunicorn_conf.py", "tests.http.stub_wsgi:app"]
        log = silent.enter_context((tmp_path / "log").open("wb"))
        started = subprocess.Popen(
            command, cwd=ROOT, env=environ, stdout=log, stderr=log, pass_fds=[listener.fileno()], start_new_session=True
        )
        silent.callback(started.wait)
        silent.callback(os.killpg, started.pid, signal.SIGKILL)
        port = listener.getsockname()[1]
        for _ in range(5):
            silent.enter_context(socket.create_connection(("127.0.0.1", port))).sendall(b"\x16\x03")

        def answers():
            connection = http.client.HTTPSConnection("localhost", port, timeout=20, context=trusting)
            with contextlib.suppress(OSError), contextlib.closing(connection):
                connection.request("GET", "/health/liveness")
                return connection.getresponse().status == 200

        wait_until(answers, "it answers over TLS", started, 60)


@pytest.mark.parametrize("framing", [b"Content-Length: 100000\r\n\r\n", b"Transfer-Encoding: chunked\r\n\r\n18000\r\n"])
@pytest.mark.parametrize("drips", [True, False])
def test_a_body_that_does_not_come_within_the_requests_limit_is_a_504(server, framing, drips):
    head = b"POST /echo HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\nX-Request-Timeout: 0.5\r\n"
    with socket.create_connection(("127.0.0.1", server.port), timeout=60) as connection:
        connection.sendall(head + framing + b"{")
        limit = running_s() + 20
        while drips and running_s() < limit and not select.select([connection], [], [], 0.05)[0]:
            with contextlib.suppress(OSError):
                connection.sendall(b" ")
        assert not drips or running_s() < limit, "answered while it drips"
        connection.settimeout(20)
        answer = b""
        while b"}}" not in answer:
            answer += connection.recv(65536) or pytest.fail(f"no whole answer: {answer!r}")
    assert answer.startswith(b"HTTP/1.1 504 ")
    assert b'"DEADLINE_EXCEEDED"' in answer


def test_what_is_no_fault_of_ours_is_told_why_and_what_is_ours_is_not():
    for status in STATUS.values():
        head, _, body = refusal(status, "the reason").partition(b"\r\n\r\n")
        error = json.loads(body)["error"]
        assert head.startswith(f"HTTP/1.1 {status.value} ".encode())
        assert ("the reason" in error["message"], error["code"]) == (
            (False, "INTERNAL") if status == 500 else (True, "BAD_REQUEST")
        )
    assert {status.value for status in STATUS.values()} == {400, 414, 417, 431, 500, 501}


def test_what_limited_the_reading_does_not_limit_the_answer():
    near, far = socket.socketpair()
    with near, far:
        source = Source(near)
        source.until = time.monotonic() + 5
        far.sendall(b"a")
        assert source.recv(1) == b"a"
        assert near.gettimeout() is None


def test_a_body_that_comes_in_pieces_is_read_and_its_connection_kept():
    with serving(WEB_CONCURRENCY="1", SERVER_REQUEST_LIMIT_S="9") as server:
        head = b"POST /echo HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\nContent-Length: 13\r\n\r\n"
        with socket.create_connection(("127.0.0.1", server.port), timeout=60) as connection:
            for _ in range(2):
                connection.sendall(head + b'{"text"')
                wait_until(lambda: in_progress(server) == 1, "its body is awaited")
                connection.sendall(b': "a"}')
                answer = b""
                while b'"pid":1}' not in answer:
                    answer += connection.recv(65536) or pytest.fail(f"no whole answer: {answer!r}")
                assert answer.startswith(b"HTTP/1.1 200 ")


def test_clients_that_do_not_hang_up_keep_nobody_waiting():
    with serving(WEB_CONCURRENCY="1") as server, contextlib.ExitStack() as lingering:
        for _ in range(10):
            connection = lingering.enter_context(socket.create_connection(("127.0.0.1", server.port)))
            connection.sendall(b"GET /health/liveness HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
            assert connection.recv(100).startswith(b"HTTP/1.1 200")
        started = running_s()
        assert server.ask("GET", "/health/liveness")[0] == 200
        assert running_s() - started < 5


def test_sigterm_lets_a_request_finish():
    with serving(STUB_SLOW="1", WEB_CONCURRENCY="1") as server:
        connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)
        connection.request("POST", "/echo", b'{"text": "last", "delay_ms": 4000}', JSON)
        wait_until(lambda: in_progress(server) == 1, "it is in progress")
        server.process.terminate()
        assert connection.getresponse().read().startswith(b'{"results":"last"')
        connection.close()
        assert server.process.wait(60) == 0
