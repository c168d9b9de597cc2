"""Both halves as containers, built from the work tree and run by docker compose, nginx with TLS in front.

Every test begins with everything ready, whatever the test before it did.
"""

import itertools
import json
import ssl
import subprocess
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.deploy.compose_stack import SECRET, Stack, make_certificate, patiently
from tests.deploy.engine import CommandFailed, Engine
from tests.deploy.vm import clone
from tests.integration.harness import Load

QUESTION = {"context": "My name is Clara and I live in Berkeley.", "question": "Where do I live?"}
#: Most that the service image may weigh above its base, bytes.
SERVICE_BYTES = 200_000_000
SERVICES = ("service", "supervisor", "nginx")


@pytest.fixture(scope="module")
def composed(
    engine: Engine, tmp_path_factory: pytest.TempPathFactory, measured: Callable[[str], None]
) -> Iterator[Stack]:
    """The containers of a copy of the work tree, up as a user brings them up; afterwards nothing of them is left."""
    folder = tmp_path_factory.mktemp("stack")
    stack = Stack(engine, clone(tmp_path_factory.mktemp("tree")), folder)
    try:
        began = time.monotonic()
        stack.compose("build")
        built = time.monotonic()
        stack.compose("up", "--detach", "--wait")
        stack.ready_after_up = stack.ready()
        measured(f"compose: build {built - began:.1f} s, up --wait {time.monotonic() - built:.1f} s")
        yield stack
    finally:
        stack.remove()
    assert stack.left() == {}


@pytest.fixture
def stack(composed: Stack) -> Stack:
    """The same, ready, whatever an earlier test has left."""
    if not composed.ready():
        composed.compose("up", "--detach")
    patiently(composed.ready, "everything is ready")
    return composed


def ask(stack: Stack, text: str) -> str:
    """Ask both models through nginx and return what echo said; raise what was not an answer."""
    for path, body in (("/qa", {**QUESTION, "context": f"{text}. {QUESTION['context']}"}), ("/echo", {"text": text})):
        status, answer = stack.request(path, body, limit_s=330, X_Request_Timeout="300")
        if status != 200:
            raise RuntimeError(f"{path}: {status} {answer}")
    return str(answer["results"])


# ---- answers ---------------------------------------------------------------------------------------------------------


def test_a_question_is_answered_through_nginx_with_tls(stack):
    status, answer = stack.request("/qa", QUESTION)
    assert (status, answer["results"]) == (200, "Berkeley")


def test_up_waits_until_every_model_can_be_asked(stack):
    assert stack.ready_after_up


def test_what_nginx_refuses_has_the_shape_of_every_error(stack):
    status, answer = stack.request("/qa", {**QUESTION, "context": "x" * 1_100_000})
    assert (status, answer["error"]["code"]) == (413, "BODY_TOO_LARGE")
    assert set(answer["error"]) == {"code", "message", "request_id"}


def test_a_body_for_which_nginx_has_no_room_is_refused_and_nothing_else_is_lost(stack):
    body, container = {**QUESTION, "context": "x" * 500_000}, stack.inspect("nginx", "{{.Id}} {{.State.StartedAt}}")
    stack.execute("nginx", "sh", "-c", "! dd if=/dev/zero of=/tmp/full bs=1M 2>/dev/null")
    try:
        status, answer = stack.request("/qa", body)
        assert (status, answer["error"]["code"]) == (429, "OVERLOADED")
        assert stack.request("/qa", QUESTION)[0] == 200
    finally:
        stack.execute("nginx", "rm", "/tmp/full")
    assert stack.request("/qa", body)[0] == 422
    assert stack.inspect("nginx", "{{.Id}} {{.State.StartedAt}}") == container


# ---- who the client is -----------------------------------------------------------------------------------------------


def test_what_a_client_says_of_itself_is_not_believed(stack):
    name = f"spoof-{time.monotonic_ns()}"
    stack.request("/health/startup", X_Request_ID=name, X_Forwarded_For="6.6.6.6", X_Forwarded_Host="evil.example")
    (line,) = [line for line in stack.logs("service") if name in line]
    assert json.loads(line)["client"] == stack.inspect(
        "nginx", "{{range .NetworkSettings.Networks}}{{.Gateway}}{{end}}"
    )


def test_the_web_half_behind_nginx_has_no_port_of_its_own(stack):
    assert stack.inspect("service", "{{json .NetworkSettings.Ports}}") == '{"8100/tcp":null}'


# ---- deaths and stops ------------------------------------------------------------------------------------------------


def test_a_killed_supervisor_costs_its_clients_time_and_no_error(stack, measured):
    before = stack.restarts("supervisor")
    with Load(4, lambda text: ask(stack, text)) as load:
        load.go_on(patiently)
        stack.kill("supervisor")
        patiently(lambda: stack.restarts("supervisor") == before + 1, "it is restarted")
        load.go_on(patiently)
    assert (load.errors, load.wrong()) == ({}, {})
    asked, slowest_s = len(load.asked), load.slowest_s
    measured(f"compose: supervisor killed under 4 clients: {asked} requests, no error, slowest {slowest_s:.1f} s")


@pytest.mark.parametrize("service", ["service", "nginx"])
def test_a_killed_container_is_back_and_the_models_do_not_notice(stack, service, measured):
    before, models = stack.restarts(service), lives(stack)
    stack.kill(service)
    began = time.monotonic()
    patiently(lambda: stack.restarts(service) == before + 1, "it is restarted")
    patiently(stack.ready, "it is ready again")
    measured(f"compose: {service} killed, ready again after {time.monotonic() - began:.1f} s")
    assert stack.request("/qa", QUESTION)[0] == 200
    assert lives(stack) == models


def test_every_container_stops_when_it_is_told_to(stack):
    stack.compose("stop")
    assert {service: stack.inspect(service, "{{.State.ExitCode}}") for service in SERVICES} == dict.fromkeys(
        SERVICES, "0"
    )
    stack.compose("start")


def test_a_change_of_the_web_half_touches_no_model(stack, measured):
    models, old = lives(stack), stack.inspect("service", "{{.Id}}")
    change(stack)
    began = time.monotonic()
    answered = [began]
    with ThreadPoolExecutor(1) as pool:
        deployed = pool.submit(stack.compose, "up", "--detach", "--build", "--wait")
        while not deployed.done():
            answered += [time.monotonic()] if stack.status("/health/startup") == 200 else []
    deployed.result()
    gap_s = max(after - before for before, after in itertools.pairwise(answered))
    measured(f"compose: a changed web half: {answered[-1] - began:.1f} s in all, {gap_s:.1f} s without an answer")
    assert stack.inspect("service", "{{.Id}}") != old
    assert lives(stack) == models


def test_the_web_half_is_replaced_behind_nginx_without_losing_a_request(stack, measured):
    models, old = lives(stack), stack.inspect("service", "{{.Id}}")
    change(stack)
    with Load(4, lambda text: ask(stack, text)) as load:
        load.go_on(patiently)
        stack.run("deploy/docker/roll.sh")
        load.go_on(patiently)
    assert (load.errors, load.wrong()) == ({}, {}), stack.logs("nginx")[-20:]
    measured(f"compose: web half replaced under 4 clients: {len(load.asked)} requests, no error")
    assert stack.inspect("service", "{{.Id}}") != old
    assert lives(stack) == models


def test_a_new_web_half_that_does_not_start_is_taken_away_and_the_old_one_serves_on(stack):
    models, old, file = lives(stack), stack.inspect("service", "{{.Id}}"), stack.tree / "service/wsgi.py"
    text = file.read_text(encoding="utf-8")
    file.write_text(f"raise RuntimeError('no web half')\n{text}", encoding="utf-8")
    try:
        with Load(4, lambda text: ask(stack, text)) as load:
            load.go_on(patiently)
            with pytest.raises(subprocess.CalledProcessError) as failed:
                stack.run("deploy/docker/roll.sh")
            load.go_on(patiently)
    finally:
        file.write_text(text, encoding="utf-8")
        stack.compose("build", "service")
    assert b"no web half" in failed.value.stderr
    assert (load.errors, load.wrong()) == ({}, {}), stack.logs("nginx")[-20:]
    assert (stack.inspect("service", "{{.Id}}"), lives(stack)) == (old, models)


def test_the_previous_web_half_comes_back_without_a_build(stack):
    image, name = stack.inspect("service", "{{.Image}}"), f"{stack.project}-service"
    stack.engine.docker("tag", name, f"{name}:previous")
    change(stack)
    stack.compose("up", "--detach", "--build", "--wait")
    assert stack.inspect("service", "{{.Image}}") != image
    stack.engine.docker("tag", f"{name}:previous", name)
    stack.compose("up", "--detach", "--no-build", "--wait")
    assert stack.inspect("service", "{{.Image}}") == image
    stack.engine.docker("image", "rm", f"{name}:previous")


def test_a_new_certificate_is_taken_without_a_restart(stack):
    def served():
        return ssl.get_server_certificate(("localhost", stack.port))

    folder, container = stack.folder / "tls", stack.inspect("nginx", "{{.Id}} {{.State.StartedAt}}")
    old = served()
    make_certificate(folder)
    stack.execute("nginx", "nginx", "-c", "/tmp/nginx.conf", "-s", "reload")
    patiently(lambda: served() != old, "the new certificate is served")
    assert served() == (folder / "fullchain.pem").read_text(encoding="ascii")
    assert stack.inspect("nginx", "{{.Id}} {{.State.StartedAt}}") == container


def test_down_leaves_nothing_behind(engine, composed, tmp_path):
    another = Stack(engine, composed.tree, tmp_path, SERVER_MODELS='[{"model": "echo"}]')
    another.compose("up", "--detach", "--wait")
    assert set(another.left()) == {"container", "network", "volume", "image"}
    another.compose("down", "--volumes")
    assert set(another.left()) == {"image"}
    another.remove()
    assert another.left() == {}


def change(stack: Stack) -> None:
    """Change the web half in the tree."""
    with (stack.tree / "service/wsgi.py").open("a", encoding="utf-8") as file:
        file.write(f"# {time.monotonic_ns()}\n")


def lives(stack: Stack) -> list[str]:
    """Return what changes when the supervisor, or a replica, begins anew."""
    models = stack.request("/models")[1]["models"]
    replicas = [f"{replica['replica']} {replica['pid']}" for model in models for replica in model["replicas"]]
    return [stack.inspect("supervisor", "{{.Id}} {{.State.StartedAt}}"), *replicas]


# ---- what is in the images, and what a container may do -------------------------------------------------------------


def test_the_service_image_is_small(stack, measured):
    sizes = {
        name: int(stack.engine.docker("image", "inspect", "--format", "{{.Size}}", image))
        for name, image in {
            "base": stack.environ["PYTHON_IMAGE"],
            "service": f"{stack.project}-service",
            "supervisor": f"{stack.project}-supervisor",
        }.items()
    }
    measured(
        "images: "
        + ", ".join(f"{name} {(size - sizes['base']) / 1e6:.0f} MB above its base" for name, size in sizes.items())
    )
    assert sizes["service"] - sizes["base"] < SERVICE_BYTES


@pytest.mark.parametrize("module", ["torch", "numpy", "tokenizers", "transformers", "pip", "ipu_supervisor.engines"])
def test_the_service_image_holds_nothing_that_computes_or_builds(stack, module):
    with pytest.raises(CommandFailed, match="ModuleNotFoundError"):
        stack.execute("service", "python", "-c", f"import {module}")


def test_an_image_holds_what_the_allow_list_names_and_no_more(stack):
    files = {service: set(stack.execute(service, "ls", "-A", "/app").split()) for service in ("service", "supervisor")}
    assert files == {
        "service": {"__pycache__", "ipu_supervisor", "ready.py", "service"},
        "supervisor": {"ipu_supervisor"},
    }


@pytest.mark.parametrize("service", ["service", "supervisor"])
def test_what_the_builder_knows_is_in_no_layer(stack, service, tmp_path):
    image, ours = f"{stack.project}-{service}", "app/ipu_supervisor/config.py"
    assert stack.held(image, SECRET, ours) == {ours}
    assert SECRET not in stack.engine.docker("history", "--no-trunc", image)
    assert SECRET not in stack.engine.docker("image", "inspect", image)
    with pytest.raises(CommandFailed, match="No such file"):
        stack.execute(service, "cat", "/etc/pip.conf")


@pytest.mark.parametrize(("service", "user"), [("service", "10002"), ("supervisor", "10001"), ("nginx", "10003")])
def test_a_container_has_no_privilege_and_cannot_write(stack, service, user):
    assert stack.execute(service, "id", "-u").strip() == user
    state = dict(line.split(":\t", 1) for line in stack.execute(service, "cat", "/proc/self/status").splitlines())
    assert (state["CapEff"], state["CapBnd"], state["NoNewPrivs"], state["Seccomp"]) == ("0" * 16, "0" * 16, "1", "2")
    for place in ("/x", "/usr/x", "/app/x"):
        with pytest.raises(CommandFailed, match=r"Read-only file system|No such file"):
            stack.execute(service, "touch", place)
    stack.execute(service, "touch", "/tmp/x")
