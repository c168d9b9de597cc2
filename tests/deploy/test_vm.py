"""The systemd deployment, really done: the workflows' own steps, over ssh, to a "VM" that boots systemd.

Every test begins with the good release serving, whatever the test before it did.
"""

import contextlib
import dataclasses
import http.client
import json
import os
import pathlib
import signal
import socket
import subprocess
from collections.abc import Iterator

import pytest

from tests.deploy import workflow
from tests.deploy.vm import ROOT, Vm, clone, commit, git
from tests.integration.harness import Load

pytestmark = pytest.mark.timeout(600)

PORT = 8100
SUPERVISOR, WEB = "model-server-supervisor.service", "model-server-web@main.service"
SETTINGS = """\
SERVER_MODELS='[{"model": "question_answering"}, {"model": "echo", "options": {"faults": true}}]'
CHECKPOINTS=demo
SERVER_WAIT_TIMEOUT=120
"""
QUESTION = {"context": "My name is Clara and I live in Berkeley.", "question": "Where do I live?"}
DEPLOY = "Deploy this commit"


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

    def request(self, path: str, body: object = None, limit_s: float = 60.0) -> tuple[int, str]:
        """Send one request on a connection of its own."""
        connection = http.client.HTTPConnection(self.vm.address, PORT, timeout=limit_s)
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
            return self.request("/health/readiness", limit_s=5)[0] == 200
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


@pytest.fixture(scope="module")
def site(engine, tmp_path_factory):
    """A machine on which the first deployment was done; after it, its user may do nothing else with sudo."""
    folder = tmp_path_factory.mktemp("vm")
    (folder / "repo").mkdir()
    site = Site(Vm(engine, folder), clone(folder / "repo"))
    site.good = git(site.repo, "rev-parse", "HEAD").strip()
    try:
        site.vm.boot()
        site.vm.write("/etc/model-server/env", SETTINGS)
        site.first = site.run("deploy")
        site.vm.root("rm /etc/sudoers.d/cloud")
        yield site
    finally:
        print(site.vm.root("journalctl --no-pager -n 300 | grep -v '\"access\"'", check=False))
        site.vm.remove()


@pytest.fixture
def served(site):
    """The good release serves."""
    if site.serving() != site.good or not site.ready():
        again = site.run("deploy")
        assert not again.failed, again.output
    return site


def test_an_empty_host_serves_after_one_run_of_the_workflow(site):
    assert not site.first.failed, site.first.output
    assert "installed; settings are in /etc/model-server/env" in site.first.output
    assert site.first.used == ["actions/checkout@3d3c42e5aac5ba805825da76410c181273ba90b1"]


def test_a_deployment_prints_no_secret_and_leaves_no_key_behind(site):
    assert site.vm.secrets()["SSH_KEY"].splitlines()[1] not in site.first.output
    assert "left behind" not in site.first.output


def test_the_model_answers(served):
    status, answer = served.request("/qa", QUESTION)
    assert (status, json.loads(answer)["results"]) == (200, "Berkeley")


def test_systemd_shows_what_the_models_do(served):
    status = served.vm.root(f"systemctl show --property=StatusText --value {SUPERVISOR}").strip()
    assert status == "question_answering READY; echo READY"


@pytest.mark.parametrize("unit", [SUPERVISOR, WEB])
def test_the_units_are_closed_as_far_as_their_work_allows(served, unit):
    served.vm.root(f"systemd-analyze security --no-pager --threshold=20 {unit}")


def test_systemd_finds_nothing_wrong_with_the_units(served):
    units = "model-server.target model-server-http.socket model-server-web@main.service model-server-supervisor.service"
    said = served.vm.root(f"cd /etc/systemd/system && systemd-analyze verify --recursive-errors=no {units} 2>&1")
    assert [line for line in said.splitlines() if "model-server" in line] == []


def test_the_web_half_reaches_the_models_and_nothing_else_of_the_supervisor(served):
    allowed = "runuser -u model-server-web -- test"
    served.vm.root(f"{allowed} -w /run/model-server/supervisor.sock")
    closed = ["-w /run/model-server/operator.sock", "-r /var/cache/model-server", "-r /etc/model-server/env"]
    for forbidden in [*closed, "-w /opt/model-server/current/app/service/app.py"]:
        served.vm.root(f"! {allowed} {forbidden}")


def test_the_operators_commands_reach_the_supervisor(served, wait_until):
    before = served.pids()
    served.vm.root("model-server ctl scale echo 2")
    wait_until(lambda: len(served.pids()) == len(before) + 1, 30, "a second replica")
    served.vm.root("model-server ctl scale echo 1")
    wait_until(lambda: len(served.pids()) == len(before), 30, "one replica again")
    assert "question_answering   ready" in served.vm.root("model-server ctl status")


def test_status_and_logs_say_what_is_served(served):
    code, said = finished(by_hand(served, "status"))
    assert (code, f"release {served.good}" in said, "echo READY" in said) == (0, True, True)
    served.request("/qa", QUESTION)
    code, said = finished(by_hand(served, "logs"))
    assert (code, '"path": "/qa"' in said) == (0, True)


def test_root_owns_nothing_that_came_with_a_release(served):
    """So a key that may deploy cannot become root: what it sends is unpacked, installed and run by other users."""
    places = "/opt/model-server/releases/*/app /opt/model-server/venvs/*/env"
    assert served.vm.root(f"find {places} ! -user model-server-build | head") == ""


def test_a_release_that_changes_only_the_web_half_loses_no_request_and_restarts_no_replica(served, wait_until):
    before, web = served.pids(), served.vm.pid(WEB)

    def ask(text):
        status, answer = served.request("/echo", {"text": text, "delay_ms": 20})
        return json.loads(answer)["results"] if status == 200 else f"{status} {answer}"

    with served.changed(
        "service/templates/playground.html", "<!doctype html>", "<!-- newer --><!doctype html>"
    ) as newer:
        with Load(8, ask) as load:
            load.go_on(wait_until)
            outcome = served.run("deploy")
            load.go_on(wait_until)
        assert not outcome.failed, outcome.output
        assert served.serving() == newer
    assert not load.errors
    assert not load.wrong()
    assert served.pids() == before
    assert served.vm.pid(WEB) != web
    assert "newer" in served.request("/playground")[1]


def test_a_kept_connection_outlives_the_web_half_that_it_began_with(served):
    """A client that keeps its connection busy is told to come again on a new one, and loses nothing."""
    connection = http.client.HTTPConnection(served.vm.address, PORT, timeout=60)
    with served.changed("service/templates/playground.html", "<!doctype html>", "<!-- kept --><!doctype html>"):
        deploying = Load(1, lambda text: "; ".join(served.run("deploy").failed) or text)
        with deploying:
            closed = 0
            while not deploying.answered() and not deploying.errors:
                connection.request("GET", "/health/liveness")
                answer = connection.getresponse()
                assert (answer.status, answer.read()) == (200, b'{"status":"ok"}')
                closed += answer.getheader("Connection") == "close"
    connection.close()
    assert not deploying.wrong()
    assert closed


def test_a_release_whose_model_fails_is_rolled_back_and_the_job_is_red(served):
    with served.changed(
        "ipu_supervisor/models/echo.py", "time.sleep(options", "raise RuntimeError('no echo')\n        (options"
    ):
        outcome = served.run("deploy")
    assert outcome.failed == [DEPLOY]
    assert outcome.ran[-1] == "Show what the host says"
    assert "no echo" in outcome.output
    assert f"ROLLING BACK to {served.good}" in outcome.output
    assert served.serving() == served.good
    assert served.request("/echo", {"text": "again"})[0] == 200


def test_a_web_half_that_cannot_start_is_refused_before_anything_is_touched(served):
    before, web = served.pids(), served.vm.pid(WEB)
    with served.changed("service/app.py", "import json", "import json, no_such_module"):
        outcome = served.run("deploy")
    assert outcome.failed == [DEPLOY]
    assert "no_such_module" in outcome.output
    assert (served.pids(), served.vm.pid(WEB), served.serving()) == (before, web, served.good)


def test_wrong_settings_are_all_named_before_anything_is_touched(served):
    before, web = served.pids(), served.vm.pid(WEB)
    served.vm.write("/etc/model-server/env", SETTINGS + "SERVER_PORT=http\nLOG_LEVEL=loud\n")
    try:
        said = served.vm.root("model-server apply", check=False)
    finally:
        served.vm.write("/etc/model-server/env", SETTINGS)
    assert "SERVER_PORT: " in said
    assert "LOG_LEVEL: " in said
    assert (served.pids(), served.vm.pid(WEB)) == (before, web)


def test_a_setting_of_the_web_half_is_applied_without_touching_the_models(served):
    before = served.pids()
    served.vm.write("/etc/model-server/env", SETTINGS + "SERVER_MAX_REQUEST_BYTES=100\n")
    try:
        served.vm.root("model-server apply")
        assert served.request("/echo", {"text": "x" * 200})[0] == 413
    finally:
        served.vm.write("/etc/model-server/env", SETTINGS)
        served.vm.root("model-server apply")
    assert served.pids() == before


def test_an_environment_made_by_hand_is_used_for_the_models(served):
    served.vm.root("ln -sfn $(readlink -f /opt/model-server/current/venv-supervisor) /srv/sdk")
    served.vm.write("/etc/model-server/host.conf", "SUPERVISOR_VENV=/srv/sdk\nPYTHON=/usr/bin/python3.11\n")
    try:
        served.vm.root("model-server apply")
        assert served.vm.root("readlink /opt/model-server/current/venv-supervisor").strip().endswith("/srv/sdk")
    finally:
        served.vm.root("rm /etc/model-server/host.conf; model-server apply; rm /srv/sdk")
    assert served.ready()


def test_a_python_that_is_not_there_is_named_before_anything_is_touched(served):
    before = served.pids()
    served.vm.write("/etc/model-server/host.conf", "PYTHON=python2.7\n")
    said = served.vm.root("model-server apply", check=False)
    served.vm.root("rm /etc/model-server/host.conf")
    assert "there is no python2.7 here" in said
    assert served.pids() == before


def test_the_port_moves_with_its_setting_and_the_models_stay(served):
    before = served.pids()
    served.vm.write("/etc/model-server/env", SETTINGS + f"SERVER_PORT={PORT + 1}\n")
    try:
        served.vm.root("model-server apply")
        socket.create_connection((served.vm.address, PORT + 1), timeout=5).close()
        with pytest.raises(ConnectionRefusedError):
            served.request("/")
    finally:
        served.vm.write("/etc/model-server/env", SETTINGS)
        served.vm.root("model-server apply")
    assert served.pids() == before


def test_a_supervisor_that_cannot_start_is_not_started_again_and_again(served):
    served.vm.write("/etc/model-server/env", SETTINGS + "LOG_LEVEL=loud\n")
    try:
        served.vm.root(f"systemctl restart {SUPERVISOR}", check=False)
        shown = served.vm.root(f"systemctl show --property=ActiveState,ExecMainStatus,NRestarts {SUPERVISOR}")
    finally:
        served.vm.write("/etc/model-server/env", SETTINGS)
        served.vm.root(f"systemctl restart {SUPERVISOR}")
    assert sorted(shown.split()) == ["ActiveState=failed", "ExecMainStatus=78", "NRestarts=0"]


def test_what_a_deployment_may_not_change_on_the_host_is_told(served):
    with served.changed("deploy/systemd/model-server.target", "Description=Model server", "Description=Models"):
        outcome = served.run("deploy")
    assert not outcome.failed, outcome.output
    assert "not as in this release: /etc/systemd/system/model-server.target" in outcome.output


def test_a_deployment_goes_to_its_end_when_its_caller_is_killed(served, wait_until):
    with served.changed(
        "service/templates/playground.html", "<!doctype html>", "<!-- alone --><!doctype html>"
    ) as newer:
        with by_hand(served, "deploy") as caller:
            for line in caller.stdout:
                if "model(s), listening on" in line:
                    break
            os.killpg(caller.pid, signal.SIGKILL)
        wait_until(lambda: f"serving {newer}" in served.vm.root("journalctl --no-pager -t model-server -n 5"), 60)
    assert "alone" in served.request("/playground")[1]


def test_old_releases_go_and_the_one_that_the_supervisor_runs_from_stays(served, wait_until):
    before = served.pids()
    for number in range(4):
        with served.changed(
            "service/templates/playground.html", "<!doctype html>", f"<!-- {number} --><!doctype html>"
        ):
            assert not served.run("deploy").failed
    kept = set(served.vm.root("ls /opt/model-server/releases").split())
    assert len(kept) <= 4
    assert served.vm.root(f"readlink /proc/{before['supervisor']}/cwd").split("/")[4] in kept
    served.vm.root(f"kill -9 {before['echo-1.1']}" if "echo-1.1" in before else "pkill -9 -f ipu_supervisor.replica")
    wait_until(
        lambda: served.pids() != before and served.ready(), 60, "the replica is started again from its own release"
    )


def test_a_rollback_by_hand_serves_the_release_before(served):
    with served.changed(
        "service/templates/playground.html", "<!doctype html>", "<!-- newer --><!doctype html>"
    ) as newer:
        assert not served.run("deploy").failed
        assert served.serving() == newer
        code, said = finished(by_hand(served, "rollback"))
    assert code == 0, said
    assert served.serving() == served.good
    assert "newer" not in served.request("/playground")[1]


def by_hand(site, command, **environ):
    """Start deploy/remote.sh as from a laptop, with the key in a file."""
    values = {
        "PATH": os.environ["PATH"],
        "HOME": "/nonexistent",
        "HOST_IP": site.vm.address,
        "DEPLOY_USER": site.vm.secrets()["USER"],
        "SSH_KEY_FILE": str(site.vm.folder / "key"),
        "SSH_KNOWN_HOSTS": site.vm.secrets()["SSH_KNOWN_HOSTS"],
        **environ,
    }
    return subprocess.Popen(
        [str(site.repo / "deploy/remote.sh"), command],
        env=values,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def finished(process):
    """Wait for a process and return its exit code and what it said."""
    said = process.communicate()[0]
    return process.returncode, said


def test_a_host_with_another_key_than_the_pinned_one_is_refused(served):
    other = (served.vm.folder / "key.pub").read_text(encoding="ascii").split()
    outcome = served.run("deploy", SSH_KNOWN_HOSTS=" ".join([served.vm.address, *other[:2]]))
    assert DEPLOY in outcome.failed
    assert "Host key verification failed" in outcome.output
    assert "serving" not in outcome.output


def test_without_a_pinned_key_the_hosts_key_is_shown_and_nothing_is_sent(served):
    outcome = served.run("deploy", SSH_KNOWN_HOSTS="")
    print_of = ["ssh-keygen", "-l", "-f", str(served.vm.folder / "host_key.pub")]
    fingerprint = subprocess.run(print_of, capture_output=True, text=True, check=True).stdout.split()[1]
    assert DEPLOY in outcome.failed
    assert fingerprint in outcome.output
    assert "SSH_KNOWN_HOSTS" in outcome.output
    assert "release " not in outcome.output


@pytest.mark.parametrize(
    ("name", "value"), [("HOST_IP", "-oProxyCommand=id"), ("DEPLOY_USER", "a b"), ("SSH_PORT", "x")]
)
def test_an_address_that_is_none_is_refused(served, name, value):
    code, said = finished(by_hand(served, "status", **{name: value}))
    assert code == 1
    assert f"remote.sh: {name} must be" in said


def test_an_archive_that_is_not_the_announced_one_is_not_unpacked(served):
    said = served.vm.root(f"echo other | model-server deploy {'a' * 40} {'b' * 64}", check=False)
    assert "nothing was unpacked" in said
    assert "a" * 40 not in served.vm.root("ls /opt/model-server/releases")


def test_a_setting_cannot_write_another_line_into_a_unit(served):
    with served.changed(
        "deploy/systemd/preflight.py", "settings.address()", '"0.0.0.0:1\\nExecStartPre=/bin/touch /bad"'
    ):
        outcome = served.run("deploy")
    assert outcome.failed == [DEPLOY]
    assert "is no address of a port" in outcome.output
    assert served.ready()


def test_two_deployments_at_once_do_not_mix(served):
    said = served.vm.root("flock /opt/model-server/lock model-server apply", check=False)
    assert "another deployment is going on" in said


@pytest.mark.parametrize("unit", [SUPERVISOR, WEB])
def test_a_half_that_is_killed_comes_back(served, unit, wait_until):
    before = served.vm.pid(unit)
    served.vm.root(f"kill -9 {before}")
    wait_until(lambda: served.vm.pid(unit) not in (0, before) and served.ready(), 60, f"{unit} is back")


def test_a_supervisor_that_hangs_is_replaced_by_the_watchdog(served, wait_until):
    before = served.vm.pid(SUPERVISOR)
    served.vm.root(f"kill -{signal.SIGSTOP.value} {before}")
    wait_until(
        lambda: served.vm.pid(SUPERVISOR) not in (0, before) and served.ready(), 90, "the supervisor is replaced"
    )
    assert "watchdog" in served.vm.root(f"journalctl --no-pager -u {SUPERVISOR} -n 200").lower()


def test_the_server_is_there_after_a_reboot(served, wait_until):
    served.vm.reboot()
    wait_until(served.ready, 60, "ready after the boot")
    assert served.request("/qa", QUESTION)[0] == 200


def test_a_stopped_server_stays_stopped_over_a_reboot_until_it_is_started(served, wait_until):
    outcome = served.run("stop")
    assert not outcome.failed, outcome.output
    for _ in range(2):
        assert [served.vm.state(unit) for unit in (SUPERVISOR, WEB, "model-server-http.socket")] == ["inactive"] * 3
        with pytest.raises(ConnectionRefusedError):
            served.request("/")
        served.vm.reboot()
    assert finished(by_hand(served, "start"))[0] == 0
    wait_until(served.ready, 60, "ready again")


def test_install_twice_is_install_once_and_uninstall_leaves_nothing_of_it(engine, tmp_path):
    vm = Vm(engine, tmp_path, "vm-install")
    try:
        vm.boot()
        before = vm.files()
        vm.copy(ROOT / "deploy", "/root/deploy")
        vm.root("/root/deploy/systemd/install.sh --deploy-user debian --device cuda")
        installed = vm.files()
        vm.root("/root/deploy/systemd/install.sh --deploy-user debian --device cuda")
        assert vm.files() == installed > before
        vm.root("systemd-analyze security --no-pager --threshold=20 model-server-supervisor.service")
        vm.root(
            "mkdir -p /opt/model-server/releases/old; touch /opt/model-server/mine; echo A=1 >/etc/model-server/env"
        )
        vm.root("/usr/local/lib/model-server/uninstall.sh")
        kept = {"/etc/model-server", "/etc/model-server/env", "/opt/model-server", "/opt/model-server/mine"}
        assert vm.files() - before == kept
        vm.root("rm /opt/model-server/mine; /root/deploy/systemd/install.sh; /root/deploy/systemd/uninstall.sh --purge")
        assert vm.files() == before
        vm.root("! getent passwd model-server model-server-web; ! getent group model-server")
    finally:
        vm.remove()
