"""What the compose files and nginx's say, as compose and nginx themselves read them."""

import json
import pathlib
import re

import pytest

from ipu_supervisor.schemas import EnvironmentSchema
from service.settings import WebEnvironmentSchema
from service.wire import MAX_LIMIT_S
from tests.conftest import wait_until
from tests.deploy.base import base_image
from tests.deploy.compose_stack import Stack
from tests.deploy.vm import ROOT, clone, git

#: Settings that the containers fix otherwise, and those that only the supervisor reads.
NOT_IN_CONTAINERS = {"SUPERVISOR_RUN_DIR", "SUPERVISOR_CURVE_KEYS"}
ONLY_SUPERVISOR = {"SUPERVISOR_IPUS", "POPTORCH_CACHE_DIR", "POPTORCH_LOG_LEVEL"}
PLAIN, IPU, TLS = (
    ("compose.yaml",),
    ("compose.yaml", "deploy/compose.ipu.yaml"),
    ("compose.yaml", "deploy/compose.tls.yaml"),
)
#: What holds for every container.
CONTAINER = {
    **{"init": True, "restart": "unless-stopped", "read_only": True, "cap_drop": ["ALL"]},
    "security_opt": ["no-new-privileges:true"],
    "logging": {"driver": "local", "options": {"max-file": "5", "max-size": "50m"}},
}
SOCKETS = "/run/model-server"
CHECKPOINTS, EXECUTABLES = "/var/cache/model-server/huggingface", "/var/cache/model-server/executables"
SERVICE = {"stop_grace_period": "40s", "mem_limit": str(1 << 30), "pids_limit": 4096, "volumes": [SOCKETS]}
SUPERVISOR = {"stop_grace_period": "45s", "pids_limit": 4096, "volumes": [SOCKETS, CHECKPOINTS]}
NGINX = {
    **{"stop_grace_period": "40s", "stop_signal": "SIGQUIT", "mem_limit": str(768 << 20), "pids_limit": 256},
    # What it writes counts into its memory.
    "tmpfs": ["/tmp:mode=1777,size=256m"],
    **{"user": "10003:10003", "volumes": ["/etc/model-server", "/etc/model-server-tls"]},
}
ON_IPUS = {
    **{"pids_limit": 65536, "mem_limit": None, "network_mode": "host", "ipc": "host", "cap_add": ["IPC_LOCK"]},
    **{"ulimits": {"memlock": -1}, "tmpfs": ["/tmp:exec"], "volumes": [SOCKETS, CHECKPOINTS, EXECUTABLES]},
    "devices": [{"source": "/dev/infiniband", "target": "/dev/infiniband", "permissions": "rwm"}],
}
WITHOUT_IPUS = {**dict.fromkeys(ON_IPUS), **SUPERVISOR, "tmpfs": ["/tmp"], "mem_limit": str(8 << 30)}
#: Answers every request with its headers.
ECHO = """
import http.server, json
class Echo(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
        self.wfile.write(json.dumps(dict(self.headers)).encode())
http.server.ThreadingHTTPServer(("", 8100), Echo).serve_forever()
"""


@pytest.fixture
def told(engine):
    """Return `told(files)`: the services that they describe, as compose reads them."""

    def read(files):
        options = [part for file in files for part in ("-f", file)]
        said = engine.docker(
            "compose", *options, "config", "--format", "json", cwd=ROOT, environ={"TLS_CERTIFICATES": "/tls"}
        )
        return json.loads(said)["services"]

    return read


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        (PLAIN, {"service": SERVICE, "supervisor": WITHOUT_IPUS}),
        (IPU, {"service": SERVICE, "supervisor": {**SUPERVISOR, **ON_IPUS}}),
        (TLS, {"service": SERVICE, "supervisor": WITHOUT_IPUS, "nginx": NGINX}),
    ],
    ids=["plain", "ipu", "tls"],
)
def test_containers_are_limited_stop_in_time_and_keep_what_they_must(told, files, expected):
    services = told(files)
    assert set(services) == set(expected)
    for name, own in expected.items():
        about = {**services[name], "volumes": [volume["target"] for volume in services[name]["volumes"]]}
        wanted = {**CONTAINER, **own}
        assert {key: about.get(key) for key in wanted} == wanted


def test_the_root_has_the_compose_file_of_the_deployment():
    assert (ROOT / "compose.yaml").readlink() == pathlib.Path("deploy/compose.yaml")


def test_a_builder_sees_what_the_images_are_made_of_and_nothing_else(engine, tmp_path):
    """Settings, keys and environments that lie about in the tree can get into no image by mistake."""
    tree, seen = clone(tmp_path / "tree"), tmp_path / "seen"
    ours = git(tree, "ls-files", "requirements/*.txt", "service", "ipu_supervisor", "deploy/docker").splitlines()
    for name in ("tls/privkey.pem", ".venv/pyvenv.cfg", "requirements/pip.conf", "service/__pycache__/wsgi.pyc"):
        (tree / name).parent.mkdir(parents=True, exist_ok=True)
        (tree / name).write_text("of the builder only", encoding="ascii")
    (tmp_path / "Dockerfile").write_text("FROM scratch\nCOPY . /\n", encoding="ascii")
    engine.docker("build", "--file", str(tmp_path / "Dockerfile"), "--output", f"type=local,dest={seen}", str(tree))
    assert sorted(str(path.relative_to(seen)) for path in seen.rglob("*") if path.is_file()) == sorted(ours)


def test_no_certificate_is_in_the_repository():
    assert not [path for ending in ("pem", "key", "crt") for path in (ROOT / "deploy").rglob(f"*.{ending}")]


def test_every_setting_reaches_the_containers_that_read_it(told):
    services = told(IPU)
    shared, web = (set(schema().fields) - NOT_IN_CONTAINERS for schema in (EnvironmentSchema, WebEnvironmentSchema))
    assert shared <= set(services["supervisor"]["environment"])
    assert (shared | web) - ONLY_SUPERVISOR <= set(services["service"]["environment"])


def test_without_nginx_the_port_is_open_to_this_machine_only(told):
    ports = told(PLAIN)["service"]["ports"]
    assert [(port["host_ip"], port["published"]) for port in ports] == [("127.0.0.1", "8100")]


def test_nginx_speaks_new_tls_with_forward_secrecy_only_and_never_gives_up_before_the_web_half():
    text = "".join((ROOT / "deploy/nginx" / name).read_text(encoding="utf-8") for name in ("tls.conf", "proxy.conf"))
    said = {name: value.split() for name, value in re.findall(r"^ *(\w+) (.*);$", text, re.MULTILINE)}
    assert said["ssl_protocols"] == ["TLSv1.2", "TLSv1.3"]
    assert all(re.match(r"ECDHE-.*(GCM|POLY1305)", cipher) for cipher in said["ssl_ciphers"][0].split(":"))
    assert said["ssl_session_tickets"] == ["off"]
    assert float(said["proxy_read_timeout"][0].removesuffix("s")) > MAX_LIMIT_S


def test_what_nginx_holds_does_not_grow_with_the_machine():
    text = (ROOT / "deploy/nginx/nginx.conf").read_text(encoding="utf-8")
    assert re.findall(r"^worker_processes (\w+);$", text, re.MULTILINE) == ["2"]


def test_nothing_that_a_client_says_of_itself_reaches_the_web_half(engine, tmp_path):
    stack = Stack(engine, ROOT, tmp_path)
    echo = f"{stack.project}-echo"
    try:
        stack.compose("up", "--detach", "--no-deps", "nginx")
        place = ("--network", f"{stack.project}_default", "--network-alias", "service", "--pull", "never")
        engine.docker("run", "--detach", "--name", echo, *place, base_image(engine), "python3", "-c", ECHO)
        wait_until(lambda: stack.status("/") == 200, 60, "nginx has found the web half")
        told = stack.request(
            "/",
            X_Forwarded_For="6.6.6.6",
            X_Forwarded_Proto="http",
            X_Forwarded_Host="evil.example",
            X_Forwarded_Port="1",
            X_Forwarded_Prefix="/evil",
            X_Real_IP="6.6.6.6",
            Forwarded="for=6.6.6.6;proto=http",
        )[1]
        client = stack.inspect("nginx", "{{range .NetworkSettings.Networks}}{{.Gateway}}{{end}}")
    finally:
        engine.docker("rm", "--force", echo)
        stack.remove()
    assert {name: value for name, value in told.items() if re.match("X-|Host|Forwarded", name)} == {
        "Host": "localhost",
        "X-Forwarded-For": client,
        "X-Forwarded-Proto": "https",
        "X-Forwarded-Host": "localhost",
    }
