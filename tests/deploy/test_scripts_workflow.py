"""The scripts that start, wait for and stop the containers, under the names of old."""

import json
import os
import socket
import subprocess
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.deploy.compose_stack import Stack, patiently
from tests.deploy.vm import clone, git

#: A model that costs nothing.
ECHO = '[{"model": "echo"}]'


@pytest.fixture(scope="module")
def project(engine, tmp_path_factory):
    """A project of its own, of a copy of the work tree."""
    stack = Stack(engine, clone(tmp_path_factory.mktemp("tree")), tmp_path_factory.mktemp("scripts"))
    yield stack
    stack.remove()


@pytest.fixture
def stack(project):
    """The same without a container, and as it is committed, before and after."""
    yield project
    project.compose("down", "--volumes", "--remove-orphans")
    git(project.tree, "reset", "--quiet", "--hard")


def script(stack, name, **environ):
    """Run one of the scripts in .github/scripts as a user would, with nothing of Python's in the way."""
    values = {**os.environ, **stack.engine.environ, **stack.environ, **environ}
    command = [str(stack.tree / ".github/scripts" / name)]
    done = subprocess.run(
        command, env=values, cwd="/", stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
    )
    return done.returncode, done.stdout


def test_start_wait_and_stop(stack):
    code, said = script(stack, "run_server_docker_start.sh")
    assert code == 0, said
    assert "ready after" in said
    assert stack.ready()
    code, said = script(stack, "check_wait_server.sh")
    assert code == 0, said
    code, said = script(stack, "run_server_docker_stop.sh", COMPOSE_FILE="compose.yaml")
    assert code == 0, said
    assert set(stack.left()) == {"volume", "image"}


def test_a_model_that_fails_ends_the_start_with_its_reason(stack):
    broken = stack.tree / "ipu_supervisor/models/echo.py"
    text = broken.read_text(encoding="utf-8")
    broken.write_text(
        text.replace("time.sleep(options", "raise RuntimeError('no echo')\n        (options"), encoding="utf-8"
    )
    code, said = script(stack, "run_server_docker_start.sh", SERVER_MODELS=ECHO)
    assert code == 1
    assert "NOT READY: echo FAILED: " in said
    assert "no echo" in said


def test_a_key_that_nginx_cannot_read_ends_the_start_with_its_reason(stack):
    key = stack.folder / "tls/privkey.pem"
    key.chmod(0o600)
    try:
        code, said = script(stack, "run_server_docker_start.sh", SERVER_MODELS=ECHO)
    finally:
        key.chmod(0o640)
    assert code == 1
    assert "ready after" in said
    assert "cannot load certificate key" in said


def test_a_second_start_has_nginx_read_its_files_again_without_restarting_it(stack):
    code, said = script(stack, "run_server_docker_start.sh", SERVER_MODELS=ECHO)
    assert code == 0, said
    container = stack.inspect("nginx", "{{.Id}} {{.State.StartedAt}}")
    rules = stack.tree / "deploy/nginx/proxy.conf"
    text = rules.read_text(encoding="utf-8")
    rules.write_text(text.replace("than the server takes", "than the new server takes"), encoding="utf-8")
    code, said = script(stack, "run_server_docker_start.sh", SERVER_MODELS=ECHO)
    assert code == 0, said

    def refusal():
        return stack.request("/echo", {"text": "x" * 1_100_000})[1]["error"]["message"]

    patiently(lambda: "than the new server takes" in refusal(), "nginx goes by its new rules")
    assert stack.inspect("nginx", "{{.Id}} {{.State.StartedAt}}") == container


def test_wrong_settings_are_named_before_anything_is_started(stack):
    code, said = script(stack, "run_server_docker_start.sh", SERVER_THREADS="many", CHECKPOINTS="none")
    assert code == 78
    assert "CHECKPOINTS: " in said
    assert "container" not in stack.left()


def test_a_port_that_another_program_has_is_told_before_anything_is_started(stack):
    with socket.create_server(("127.0.0.1", stack.port)):
        code, said = script(stack, "run_server_docker_start.sh", SERVER_MODELS=ECHO)
    assert code == 1
    assert "address already in use" in said
    assert "nginx cannot be started; see above, and SERVER_PUBLISH, SERVER_PORT, TLS_PUBLISH, TLS_PORT" in said
    assert "container" not in stack.left()


def test_a_wait_goes_on_when_the_web_half_that_it_asks_is_killed(stack, monkeypatch):
    """What asks runs in the container, and ends with it."""
    monkeypatch.setitem(stack.environ, "SERVER_MODELS", '[{"model": "echo", "options": {"load_delay_s": 20}}]')
    stack.compose("up", "--detach", "--build")
    with ThreadPoolExecutor(1) as pool:
        waits = pool.submit(script, stack, "check_wait_server.sh")
        patiently(lambda: "--waited" in stack.compose("top", "service"), "it asks")
        stack.kill("service")
    code, said = waits.result()
    assert code == 0, said
    assert "(exit code 137); trying again" in said
    assert "ready after" in said


def test_the_web_half_is_up_and_tells_progress_while_models_load_and_the_wait_ends_after_its_limit(stack, monkeypatch):
    monkeypatch.setitem(stack.environ, "SERVER_MODELS", '[{"model": "echo", "options": {"load_delay_s": 600}}]')
    stack.compose("up", "--detach", "--build")

    def loading():
        return stack.status("/models") == 200 and "LOADING" in json.dumps(stack.request("/models")[1])

    patiently(loading, "the model loads")
    assert (stack.status("/health/startup"), stack.status("/health/readiness")) == (200, 503)
    code, said = script(stack, "check_wait_server.sh", SERVER_WAIT_TIMEOUT="3")
    assert code == 1
    assert "NOT READY: not ready within 3 s: " in said
    assert "echo: LOADING" in said
    stack.compose("stop", "supervisor")
    assert (stack.status("/health/startup"), stack.status("/health/readiness")) == (200, 503)
