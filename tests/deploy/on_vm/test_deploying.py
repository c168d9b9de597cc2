"""What a deployment does: the workflows' own steps, over ssh, to a machine that boots systemd.

Every test begins with the good release serving, whatever the test before it did.
"""

import http.client
import json
import os
import signal

from tests.deploy.compose_stack import patiently
from tests.deploy.on_vm.site import DEPLOY, PORT, WEB, finished
from tests.integration.harness import Load


def test_an_empty_host_serves_after_one_run_of_the_workflow(site):
    assert not site.first.failed, site.first.output
    assert "installed; settings are in /etc/model-server/env" in site.first.output
    assert [action.partition("@")[0] for action in site.first.used] == ["actions/checkout"]


def test_a_deployment_prints_no_secret_and_leaves_no_key_behind(site):
    assert site.vm.secrets()["SSH_KEY"].splitlines()[1] not in site.first.raw
    assert "left behind" not in site.first.raw


def test_a_release_that_changes_only_the_web_half_loses_no_request_and_restarts_no_replica(served):
    before, web = served.pids(), served.vm.pid(WEB)

    def ask(text):
        status, answer = served.request("/echo", {"text": text, "delay_ms": 20})
        return json.loads(answer)["results"] if status == 200 else f"{status} {answer}"

    with served.page("newer") as newer:
        with Load(8, ask) as load:
            load.go_on(patiently)
            outcome = served.run("deploy")
            load.go_on(patiently)
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
    with served.page("kept"):
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


def test_a_deployment_goes_to_its_end_when_its_caller_is_killed(served, wait_until, tmp_path):
    with served.page("alone") as newer:
        # Killed, it leaves its folder with the key behind.
        with served.by_hand("deploy", TMPDIR=str(tmp_path)) as caller:
            for line in caller.stdout:
                if "model(s), listening on" in line:
                    break
            os.killpg(caller.pid, signal.SIGKILL)
        wait_until(lambda: f"serving {newer}" in served.vm.root("journalctl --no-pager -t model-server -n 5"), 120)
    assert "alone" in served.request("/playground")[1]


def test_old_releases_go_and_the_one_that_the_supervisor_runs_from_stays(served, wait_until):
    before = served.pids()
    for number in range(4):
        with served.page(str(number)):
            assert not served.run("deploy").failed
    kept = set(served.vm.root("ls /opt/model-server/releases").split())
    assert len(kept) <= 4
    assert served.vm.root(f"readlink /proc/{before['supervisor']}/cwd").split("/")[4] in kept
    served.vm.root(f"kill -9 {before['echo-1.1']}" if "echo-1.1" in before else "pkill -9 -f ipu_supervisor.replica")
    wait_until(
        lambda: served.pids() != before and served.ready(), 120, "the replica is started again from its own release"
    )


def test_a_rollback_by_hand_serves_the_release_before(served):
    with served.page("newer") as newer:
        assert not served.run("deploy").failed
        assert served.serving() == newer
        code, said = finished(served.by_hand("rollback"))
    assert code == 0, said
    assert served.serving() == served.good
    assert "newer" not in served.request("/playground")[1]


def test_what_a_deployment_may_not_change_on_the_host_is_told(served):
    with served.changed("deploy/systemd/model-server.target", "Description=Model server", "Description=Models"):
        outcome = served.run("deploy")
    assert not outcome.failed, outcome.output
    assert "not as in this release: /etc/systemd/system/model-server.target" in outcome.output
