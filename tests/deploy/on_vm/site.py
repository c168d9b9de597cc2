"""What the tests of a VM share: the machine, the repository that is deployed to it, and how both are asked."""

import contextlib
import dataclasses
import http.client
import json
import os
import pathlib
import subprocess
from collections.abc import Iterator

from tests.deploy import workflow
from tests.deploy.vm import Vm, commit, git

PORT = 8100
SUPERVISOR, WEB = "model-server-supervisor.service", "model-server-web@main.service"
SETTINGS = """\
SERVER_MODELS='[{"model": "question_answering"}, {"model": "echo", "options": {"faults": true}}]'
CHECKPOINTS=demo
HF_TOKEN=a-token-of-the-hub
SERVER_WAIT_TIMEOUT=120
"""
QUESTION = {"context": "My name is Clara and I live in Berkeley.", "question": "Where do I live?"}
#: The step of deploy.yml that deploys.
DEPLOY = "Deploy this commit"
#: A file of the web half alone, and a text in it that may become another.
PAGE = ("service/templates/playground.html", "<!doctype html>")


@dataclasses.dataclass
class Site:
    """A machine, the repository that is deployed to it, and what its first deployment said."""

    vm: Vm
    repo: pathlib.Path
    good: str = ""
    first: workflow.Run = dataclasses.field(default_factory=workflow.Run)

    def run(self, name: str, **secrets: str) -> workflow.Run:
        """Run one of the repository's workflows against the machine."""
        file = self.repo / f".github/workflows/{name}.yml"
        return workflow.run(file, self.repo, {**self.vm.secrets(), **secrets}, {"environment": "staging"})

    def request(self, path: str, body: object = None) -> tuple[int, str]:
        """Send one request on a connection of its own."""
        connection = http.client.HTTPConnection(self.vm.address, PORT, timeout=60)
        headers = {"Content-Type": "application/json"} if body else {}
        try:
            connection.request("POST" if body else "GET", path, json.dumps(body) if body else None, headers)
            answer = connection.getresponse()
            return answer.status, answer.read().decode()
        finally:
            connection.close()

    def ready(self) -> bool:
        """Say whether every model is ready."""
        with contextlib.suppress(OSError):
            return self.request("/health/readiness")[0] == 200
        return False

    def serving(self) -> str:
        """Return the commit that the units start from."""
        return self.vm.root("readlink /opt/model-server/current").strip().rpartition("/")[2]

    def pids(self) -> dict[str, int]:
        """Return the processes of the supervisor and of every replica."""
        models = json.loads(self.request("/models")[1])["models"]
        replicas = {replica["replica"]: replica["pid"] for model in models for replica in model["replicas"]}
        return {"supervisor": self.vm.pid(SUPERVISOR), **replicas}

    @contextlib.contextmanager
    def changed(self, path: str, old: str, new: str) -> Iterator[str]:
        """Have another commit checked out, in which one text is replaced."""
        file = self.repo / path
        text = file.read_text(encoding="utf-8")
        assert old in text
        file.write_text(text.replace(old, new, 1), encoding="utf-8")
        try:
            yield commit(self.repo, f"another {path}")
        finally:
            git(self.repo, "reset", "--quiet", "--hard", self.good)

    def page(self, mark: str) -> contextlib.AbstractContextManager[str]:
        """Have a commit checked out that changes only the web half, by a mark that its page shows."""
        return self.changed(*PAGE, f"<!-- {mark} -->{PAGE[1]}")

    @contextlib.contextmanager
    def settings(self, added: str, after: str = "model-server apply") -> Iterator[None]:
        """Have more settings on the machine for a while; `after` is run with the usual ones again."""
        self.vm.write("/etc/model-server/env", SETTINGS + added)
        try:
            yield
        finally:
            self.vm.write("/etc/model-server/env", SETTINGS)
            self.vm.root(after)

    def by_hand(self, command: str, **environ: str) -> "subprocess.Popen[str]":
        """Start deploy/remote.sh as from a laptop, with the key in a file."""
        values = {
            "PATH": os.environ["PATH"],
            "HOME": "/nonexistent",
            "HOST_IP": self.vm.address,
            "DEPLOY_USER": self.vm.secrets()["USER"],
            "SSH_KEY_FILE": str(self.vm.folder / "key"),
            "SSH_KNOWN_HOSTS": self.vm.secrets()["SSH_KNOWN_HOSTS"],
            **environ,
        }
        return subprocess.Popen(
            [str(self.repo / "deploy/remote.sh"), command],
            env=values,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )


def finished(process: "subprocess.Popen[str]") -> tuple[int, str]:
    """Wait for a process and return its exit code and what it said."""
    said = process.communicate()[0]
    return process.returncode, said
