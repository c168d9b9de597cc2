"""The composed containers of a copy of the work tree, behind nginx with TLS, built without a network."""

import http.client
import json
import os
import pathlib
import shutil
import signal
import socket
import ssl
import subprocess
from collections.abc import Callable
from typing import Any

from tests.conftest import wait_until
from tests.deploy.base import base_image, image
from tests.deploy.engine import Engine
from tests.deploy.engine_programs import install_if_absent
from tests.deploy.vm import wheelhouse

#: What compose 2.26 puts before every line of a log, also where nobody watches.
CLEAR_LINE = "\x1b[2K"
#: What of the official nginx image is used.
NGINX = ("nginx-light", "curl")
#: The group that may read the certificate's key.
NGINX_GROUP = 10003
#: Wheels take the place of the package index, so that a build needs no network.
OVERRIDE = """\
services:
  service:
    build: {{network: none, additional_contexts: {{wheels: "{wheels}"}}}}
  supervisor:
    build: {{network: none, additional_contexts: {{wheels: "{wheels}"}}}}
"""
#: What the builder knows and no image may hold.
SECRET = "of-the-builder-only-4711"
PIP_CONFIG = f"[global]\nno-index = true\n# {SECRET}\n"
#: How much of an image is searched at a time, bytes.
CHUNK_BYTES = 1 << 22
#: Longest wait for everything to be ready, seconds (loading takes 5 s on an idle machine).
READY_LIMIT_S = 120
#: One small model and one that costs nothing.
MODELS = [{"model": "question_answering"}, {"model": "echo"}]


class Stack:
    """One project of docker compose; `tree` is a copy of the work tree, `folder` a place for everything else."""

    def __init__(self, engine: Engine, tree: pathlib.Path, folder: pathlib.Path, **environ: str) -> None:
        """Store how it will be started; `environ` are settings of the server."""
        self.engine, self.tree, self.folder = engine, tree, folder
        self.project = f"compose-{os.getpid()}-{folder.name}".lower()
        self.port = free_port()
        self.ready_after_up = False
        make_certificate(folder / "tls")
        (folder / "pip.conf").write_text(PIP_CONFIG, encoding="utf-8")
        (folder / "override.yaml").write_text(OVERRIDE.format(wheels=wheelhouse(engine.folder)), encoding="utf-8")
        self.environ = {
            "COMPOSE_PROJECT_NAME": self.project,
            "COMPOSE_FILE": f"compose.yaml:deploy/compose.tls.yaml:{folder}/override.yaml",
            "COMPOSE_PROGRESS": "plain",
            "CHECKPOINTS": "demo",
            "SERVER_MODELS": json.dumps(MODELS),
            "SERVER_WAIT_TIMEOUT": str(READY_LIMIT_S),
            "PYTHON_IMAGE": base_image(engine),
            "NGINX_IMAGE": image(engine, "nginx", NGINX),
            "PIP_CONFIG_FILE": str(folder / "pip.conf"),
            "TLS_CERTIFICATES": str(folder / "tls"),
            "TLS_PORT": str(self.port),
            "TLS_PUBLISH": "127.0.0.1",
            **environ,
        }

    def compose(self, *arguments: str) -> str:
        """Run one command of docker compose in the root of the tree."""
        return self.engine.docker("compose", *arguments, environ=self.environ, cwd=self.tree)

    def run(self, script: str) -> None:
        """Run a script of the tree as an operator would."""
        environ = {**os.environ, **self.engine.environ, **self.environ}
        subprocess.run([self.tree / script], cwd=self.tree, env=environ, check=True, capture_output=True)

    def inspect(self, service: str, template: str) -> str:
        """Return what Docker knows of a service's container."""
        container = self.compose("ps", "--all", "--quiet", service).strip()
        return self.engine.docker("inspect", "--format", template, container).strip()

    def held(self, image: str, *texts: str) -> set[str]:
        """Return which of the texts are in a layer of an image, also in one that a later layer hides."""
        command = [str(self.engine.folder / "bin/docker"), "save", image]
        found, rest = set(), b""
        with subprocess.Popen(command, env={**os.environ, **self.engine.environ}, stdout=subprocess.PIPE) as saved:
            assert saved.stdout is not None
            while chunk := saved.stdout.read(CHUNK_BYTES):
                found |= {text for text in texts if text.encode() in rest + chunk}
                rest = chunk[-max(map(len, texts)) :]
        assert saved.returncode == 0
        return found

    def logs(self, service: str) -> list[str]:
        """Return the lines that a service's container has written."""
        lines = self.compose("logs", "--no-log-prefix", "--no-color", service).splitlines()
        return [line.removeprefix(CLEAR_LINE) for line in lines]

    def execute(self, service: str, *command: str) -> str:
        """Run a command in a service's container."""
        return self.compose("exec", "--no-TTY", service, *command)

    def kill(self, service: str) -> None:
        """Kill the process that the container is there for: the child of its init."""
        init = self.inspect(service, "{{.State.Pid}}")
        children = pathlib.Path(f"/proc/{init}/task/{init}/children").read_text(encoding="ascii").split()
        os.kill(int(children[0]), signal.SIGKILL)

    def restarts(self, service: str) -> int:
        """Return how often Docker restarted a service's container."""
        return int(self.inspect(service, "{{.RestartCount}}"))

    def request(self, path: str, body: object = None, limit_s: float = 60.0, **headers: str) -> tuple[int, Any]:
        """Send one request through nginx on a connection of its own; return status and JSON."""
        trusted = ssl.create_default_context(cafile=str(self.folder / "tls/fullchain.pem"))
        connection = http.client.HTTPSConnection("localhost", self.port, timeout=limit_s, context=trusted)
        sent = {name.replace("_", "-"): value for name, value in headers.items()}
        data = None if body is None else json.dumps(body)
        try:
            connection.request(
                "GET" if data is None else "POST", path, data, {"Content-Type": "application/json", **sent}
            )
            answer = connection.getresponse()
            return answer.status, json.loads(answer.read())
        finally:
            connection.close()

    def status(self, path: str) -> int:
        """Return the status of a GET, 0 when nobody answers."""
        try:
            return self.request(path)[0]
        except OSError:
            return 0

    def ready(self) -> bool:
        """Say whether every model can be asked."""
        return self.status("/health/readiness") == http.client.OK

    def left(self) -> dict[str, str]:
        """Return what there is of this project: containers, networks, volumes, images."""
        kinds = {"container": ("ls", "--all"), "network": ("ls",), "volume": ("ls",), "image": ("ls", "--all")}
        found = {
            kind: self.engine.docker(kind, *command, "--quiet", *self._ours).strip() for kind, command in kinds.items()
        }
        return {kind: names for kind, names in found.items() if names}

    def remove(self) -> None:
        """Take away whatever there is of this project, its images too, also those that newer ones replaced."""
        self.compose("down", "--volumes", "--remove-orphans", "--rmi", "local")
        self.engine.docker("image", "prune", "--force", *self._ours)

    @property
    def _ours(self) -> tuple[str, str]:
        """Return the filter for what belongs to this project."""
        return ("--filter", f"label=com.docker.compose.project={self.project}")


def patiently(predicate: Callable[[], object], what: str) -> None:
    """Wait as long as everything together may take to get ready."""
    wait_until(predicate, READY_LIMIT_S, what)


def free_port() -> int:
    """Return a port that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def make_certificate(folder: pathlib.Path) -> None:
    """Make a certificate for localhost that its user must trust by name, and a key that nginx's group may read."""
    install_if_absent("openssl")
    folder.mkdir(exist_ok=True)
    command = "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj /CN=localhost -addext".split()
    names = ["subjectAltName=DNS:localhost", "-keyout", "privkey.pem", "-out", "fullchain.pem"]
    subprocess.run(["openssl", *command, *names], cwd=folder, check=True, capture_output=True)
    folder.chmod(0o755)
    shutil.chown(folder / "privkey.pem", group=NGINX_GROUP)
    (folder / "privkey.pem").chmod(0o640)
