"""What changed settings do on a machine that serves.

Every test begins with the good release serving, whatever the test before it did.
"""

import json
import socket

import pytest

from tests.deploy.on_vm.site import DEPLOY, PORT, QUESTION, SUPERVISOR, WEB, finished

#: A model that needs something of its host.
NEEDY = """
class Pipeline:
    def __init__(self):
        open("/srv/models/weights").close()
    def __call__(self, inputs):
        return {}
"""


def test_wrong_settings_are_all_named_before_anything_is_touched(served):
    before, web = served.pids(), served.vm.pid(WEB)
    wrong = {"SERVER_PORT": "http", "LOG_LEVEL": "loud", "SERVER_BIND": "localhost", "SERVER_WAIT_TIMEOUT": "30m"}
    with served.settings("".join(f"{name}={value}\n" for name, value in wrong.items()), after=":"):
        said = served.vm.root("model-server apply", check=False)
    assert [name for name in wrong if f"\n{name}: " not in said] == []
    assert (served.pids(), served.vm.pid(WEB)) == (before, web)


def test_a_setting_of_the_web_half_is_applied_without_touching_the_models(served):
    before = served.pids()
    with served.settings("SERVER_MAX_REQUEST_BYTES=100\n"):
        served.vm.root("model-server apply")
        assert served.request("/echo", {"text": "x" * 200})[0] == 413
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


@pytest.mark.parametrize(
    ("line", "reason"), [("PYTHON=python2.7", "there is no python2.7 here"), ("SUPERVISOR_VENV=/srv/typo", "/srv/typo")]
)
def test_a_python_that_is_not_there_is_named_before_anything_is_touched(served, line, reason):
    shown = "readlink -f /opt/model-server/current/venv-*"
    before, venvs = served.pids(), served.vm.root(shown)
    served.vm.write("/etc/model-server/host.conf", line + "\n")
    said = served.vm.root("model-server apply", check=False)
    served.vm.root("rm /etc/model-server/host.conf")
    assert reason in said
    assert (served.pids(), served.vm.root(shown)) == (before, venvs)


def test_the_port_moves_with_its_setting_and_the_models_stay(served):
    before = served.pids()
    with served.settings(f"SERVER_PORT={PORT + 1}\n"):
        served.vm.root("model-server apply")
        socket.create_connection((served.vm.address, PORT + 1), timeout=5).close()
        with pytest.raises(ConnectionRefusedError):
            served.request("/")
    assert served.pids() == before


def test_a_port_that_another_program_has_is_named_before_anything_is_touched(served, wait_until):
    before, web = served.pids(), served.vm.pid(WEB)
    served.vm.root(f"systemd-run --quiet --unit=other python3 -m http.server {PORT + 1}")
    try:
        wait_until(lambda: f":{PORT + 1} " in served.vm.root("ss --listening --tcp --numeric"), 60, "it listens")
        with served.settings(f"SERVER_PORT={PORT + 1}\n", after=":"):
            said = served.vm.root("model-server apply", check=False)
    finally:
        served.vm.root("systemctl stop other")
    assert f"0.0.0.0:{PORT + 1} is taken by another program" in said
    assert (served.pids(), served.vm.pid(WEB)) == (before, web)


def test_an_address_that_systemd_has_not_read_yet_is_read_before_it_is_used(served):
    """As a deployment leaves it that was cut off between writing and reading."""
    with served.settings(f"SERVER_PORT={PORT + 1}\n"):
        served.vm.root(f"sed -i s/:{PORT}/:{PORT + 1}/ /etc/systemd/system/model-server-http.socket.d/listen.conf")
        served.vm.root("model-server apply")
        socket.create_connection((served.vm.address, PORT + 1), timeout=5).close()


def test_both_halves_speak_over_tcp_with_keys_of_which_the_web_halfs_user_reads_two(served):
    keys = "/etc/model-server/keys"
    made = f"sudo -u model-server ../venv-supervisor/bin/python -m ipu_supervisor keys {keys}"
    served.vm.root(
        f"install -d -o model-server -g model-server -m 750 {keys} && cd /opt/model-server/current/app && {made} && "
        f"chmod 640 {keys}/supervisor.key {keys}/service.key_secret"
    )
    with served.settings(f"SUPERVISOR_ENDPOINT=tcp://127.0.0.1:5555\nSUPERVISOR_CURVE_KEYS={keys}\n"):
        served.vm.root("model-server apply")
        assert "127.0.0.1:5555 " in served.vm.root("ss --listening --tcp --numeric")
        assert json.loads(served.request("/qa", QUESTION)[1])["results"] == "Berkeley"
        assert "question_answering   ready" in served.vm.root("model-server ctl status")
        assert "echo will have 1 replicas" in served.vm.root("model-server ctl scale echo 1")
        served.vm.root(f"! runuser -u model-server-web -- cat {keys}/supervisor.key_secret {keys}/clients/*")
    served.vm.root(f"rm -r {keys}")


def test_a_model_that_failed_for_something_on_the_host_is_tried_again_by_the_next_apply(served):
    models = '[{"model": "echo"}, {"model": "needy"}]'
    served.vm.write("/srv/models/needy.py", NEEDY)
    served.vm.root("chmod 644 /srv/models/needy.py")
    with served.settings(f"SERVER_MODELS='{models}'\nMODELS_PATH=/srv/models\n"):
        said = served.vm.root("model-server apply", check=False)
        assert "apply FAILED: needy FAILED: FileNotFoundError: " in said, said
        status = json.loads(served.vm.root("model-server ctl status --json"))["models"]
        (echo,) = (model["replicas"][0]["pid"] for model in status if model["model"] == "echo")
        served.vm.root("touch /srv/models/weights")
        assert "needy has failed, and is tried again" in served.vm.root("model-server apply")
        assert served.request("/needy", {"any": "thing"})[0] == 200
        assert served.pids()["echo-1.1"] == echo
    served.vm.root("rm -r /srv/models")


def test_a_stop_ends_a_deployment_that_waits_for_its_models(served):
    slow = '[{"model": "echo", "options": {"load_delay_s": 600}}]'
    with served.settings(f"SERVER_MODELS='{slow}'\n"):
        with served.by_hand("apply") as caller:
            for line in caller.stdout:
                if "echo: LOADING" in line:
                    break
            served.vm.root("model-server stop")
            code, said = finished(caller)
        assert (code, "apply FAILED: `model-server stop` ends it" in said) == (1, True), said
        assert served.vm.state(SUPERVISOR) == "inactive"
    assert served.ready()


def test_a_start_of_what_cannot_start_fails_with_its_last_words(served):
    served.vm.root("model-server stop")
    with served.settings("LOG_LEVEL=loud\n"):
        said = served.vm.root("model-server start", check=False)
    assert "start FAILED: " in said
    assert "error: LOG_LEVEL: " in said


def test_a_supervisor_that_cannot_start_is_not_started_again_and_again(served):
    with served.settings("LOG_LEVEL=loud\n", after=f"systemctl restart {SUPERVISOR}"):
        served.vm.root(f"systemctl restart {SUPERVISOR}", check=False)
        shown = served.vm.root(f"systemctl show --property=ActiveState,ExecMainStatus,NRestarts {SUPERVISOR}")
    assert sorted(shown.split()) == ["ActiveState=failed", "ExecMainStatus=78", "NRestarts=0"]


def test_a_setting_cannot_write_another_line_into_a_unit(served):
    with served.changed(
        "deploy/systemd/preflight.py", "settings.address()", '"0.0.0.0:1\\nExecStartPre=/bin/touch /bad"'
    ):
        outcome = served.run("deploy")
    assert outcome.failed == [DEPLOY]
    assert "is no address of a port" in outcome.output
    assert served.ready()
