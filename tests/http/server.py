"""Starts a real Gunicorn with the stub behind it, on a port of the system's choice, in a process group of its own."""

import contextlib
import http.client
import os
import pathlib
import signal
import socket
import subprocess
import sys
import tempfile

from tests import conftest

ROOT = pathlib.Path(__file__).parents[2]
MODELS = '[{"model": "echo"}, {"model": "question_answering"}, {"model": "summarization"}, {"model": "embeddings"}]'


class Server:
    """One running Gunicorn."""

    def __init__(self, process: subprocess.Popen, port: int, log: pathlib.Path) -> None:
        self.process = process
        self.port = port
        self.url = f"http://127.0.0.1:{port}"
        self._log = log

    def log(self) -> str:
        return self._log.read_text(encoding="utf-8", errors="replace")

    def ask(self, method, path, body=None, headers=None, limit_s=60):
        """Return the status, headers and body of one answer, on a connection of its own."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=limit_s)
        try:
            connection.request(method, path, body, headers or {})
            response = connection.getresponse()
            return response.status, response.headers, response.read()
        finally:
            connection.close()

    def workers(self) -> list[int]:
        children = pathlib.Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text(
            encoding="ascii"
        )
        return [int(pid) for pid in children.split()]


@contextlib.contextmanager
def serving(arguments="", **environ):
    """Run the service until the block ends; its log is shown when the block fails."""
    with socket.create_server(("127.0.0.1", 0), backlog=4096) as listener, tempfile.TemporaryDirectory() as folder:
        log = pathlib.Path(folder, "log")
        values = {
            **os.environ,
            "SERVER_MODELS": MODELS,
            "GUNICORN_CMD_ARGS": f"--bind fd://{listener.fileno()} {arguments}",
            **environ,
        }
        command = [sys.executable, "-m", "gunicorn", "-c", "service/gunicorn_conf.py", "tests.http.stub_wsgi:app"]
        with log.open("wb") as output:
            process = subprocess.Popen(
                command,
                cwd=ROOT,
                env=values,
                stdout=output,
                stderr=output,
                pass_fds=[listener.fileno()],
                start_new_session=True,
            )
        server = Server(process, listener.getsockname()[1], log)
        try:
            wait_until(lambda: answers(server), "the service answers", process)
            yield server
        except BaseException:
            print(server.log())
            raise
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait(60)


def answers(server):
    """Say whether the service is up."""
    with contextlib.suppress(OSError, http.client.HTTPException):
        return server.ask("GET", "/health/liveness", limit_s=2)[0] == 200
    return False


def wait_until(predicate, what, process=None, limit_s=20):
    """Wait until `predicate` holds; fail when it does not within `limit_s`, or when the process ended."""

    def holds():
        assert process is None or process.poll() is None, (
            f"the process ended with {process.returncode}, waiting until {what}"
        )
        return predicate()

    conftest.wait_until(holds, limit_s, what)
