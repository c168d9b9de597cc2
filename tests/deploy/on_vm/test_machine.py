"""What runs on the machine: units, users, the watchdog, reboots, and what is left when it is taken away.

Every test begins with the good release serving, whatever the test before it did.
"""

import json
import signal

import pytest

from tests.deploy.on_vm.site import QUESTION, SUPERVISOR, WEB, finished
from tests.deploy.vm import ROOT, Vm


def test_the_model_answers(served):
    status, answer = served.request("/qa", QUESTION)
    assert (status, json.loads(answer)["results"]) == (200, "Berkeley")


def test_systemd_shows_what_the_models_do(served, wait_until):
    show = f"systemctl show --property=StatusText --value {SUPERVISOR}"
    wait_until(
        lambda: served.vm.root(show).strip() == "question_answering READY; echo READY", 120, "the status follows"
    )


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
    # Whoever may open a lock can hold it: then no supervisor would start again.
    closed += [f"-r /run/model-server/{name}" for name in ("supervisor.lock", "supervisor.sock.lock", "load_s.json")]
    for forbidden in [*closed, "-w /opt/model-server/current/app/service/app.py"]:
        served.vm.root(f"test -e {forbidden.split()[1]} && ! {allowed} {forbidden}")


def test_the_token_of_the_models_hub_is_the_supervisors_alone(served):
    holders = [
        unit
        for unit in (SUPERVISOR, WEB)
        if "a-token-of-the-hub" in served.vm.root(f"cat /proc/{served.vm.pid(unit)}/environ")
    ]
    assert holders == [SUPERVISOR]


def test_root_owns_nothing_that_came_with_a_release(served):
    """So a key that may deploy cannot become root: what it sends is unpacked, installed and run by other users."""
    places = "/opt/model-server/releases/*/app /opt/model-server/venvs/*/env"
    assert served.vm.root(f"find {places} ! -user model-server-build | head") == ""


def test_the_operators_commands_reach_the_supervisor(served, wait_until):
    before = served.pids()
    served.vm.root("model-server ctl scale echo 2")
    wait_until(lambda: len(served.pids()) == len(before) + 1, 120, "a second replica")
    served.vm.root("model-server ctl scale echo 1")
    wait_until(lambda: len(served.pids()) == len(before), 120, "one replica again")
    assert "question_answering   ready" in served.vm.root("model-server ctl status")


def test_status_and_logs_say_what_is_served(served):
    code, said = finished(served.by_hand("status"))
    assert (code, f"release {served.good}" in said, "echo READY" in said) == (0, True, True)
    served.request("/qa", QUESTION)
    code, said = finished(served.by_hand("logs"))
    assert (code, '"path": "/qa"' in said) == (0, True)


@pytest.mark.parametrize("unit", [SUPERVISOR, WEB])
def test_a_half_that_is_killed_comes_back(served, unit, wait_until):
    before = served.vm.pid(unit)
    served.vm.root(f"kill -9 {before}")
    wait_until(lambda: served.vm.pid(unit) not in (0, before) and served.ready(), 120, f"{unit} is back")


def test_a_supervisor_that_hangs_is_replaced_by_the_watchdog(served, wait_until):
    before = served.vm.pid(SUPERVISOR)
    served.vm.root(f"kill -{signal.SIGSTOP.value} {before}")
    wait_until(
        lambda: served.vm.pid(SUPERVISOR) not in (0, before) and served.ready(), 120, "the supervisor is replaced"
    )
    assert "watchdog" in served.vm.root(f"journalctl --no-pager -u {SUPERVISOR} -n 200").lower()


def test_the_server_is_there_after_a_reboot(served, wait_until):
    served.vm.reboot()
    wait_until(served.ready, 120, "ready after the boot")
    assert served.request("/qa", QUESTION)[0] == 200


def test_a_stopped_server_stays_stopped_over_a_reboot_until_it_is_started(served, wait_until):
    outcome = served.run("stop")
    assert not outcome.failed, outcome.output
    for _ in range(2):
        assert [served.vm.state(unit) for unit in (SUPERVISOR, WEB, "model-server-http.socket")] == ["inactive"] * 3
        with pytest.raises(ConnectionRefusedError):
            served.request("/")
        served.vm.reboot()
    assert finished(served.by_hand("start"))[0] == 0
    wait_until(served.ready, 120, "ready again")


def test_install_twice_is_install_once_and_uninstall_leaves_nothing_of_it(engine, tmp_path):
    vm = Vm(engine, tmp_path, "vm-install")
    try:
        vm.boot()
        before = vm.files()
        vm.copy(ROOT / "deploy", "/srv/deploy")
        vm.root("/srv/deploy/systemd/install.sh --deploy-user debian --device cuda")
        installed = vm.files()
        vm.root("/srv/deploy/systemd/install.sh --deploy-user debian --device cuda")
        assert vm.files() == installed > before
        vm.root("systemd-analyze security --no-pager --threshold=20 model-server-supervisor.service")
        vm.root(
            "mkdir -p /opt/model-server/releases/old; touch /opt/model-server/mine; echo A=1 >/etc/model-server/env"
        )
        vm.root("/usr/local/lib/model-server/uninstall.sh")
        kept = {"/etc/model-server", "/etc/model-server/env", "/opt/model-server", "/opt/model-server/mine"}
        assert vm.files() - before == kept
        vm.root("rm /opt/model-server/mine; /srv/deploy/systemd/install.sh; /srv/deploy/systemd/uninstall.sh --purge")
        assert vm.files() == before
        vm.root("! getent passwd model-server model-server-web; ! getent group model-server")
        vm.root("useradd --system --user-group model-server-build; mkdir -p /var/cache/model-server")
        found = vm.files()
        vm.root("/srv/deploy/systemd/install.sh; /srv/deploy/systemd/uninstall.sh --purge")
        assert vm.files() == found
        vm.root("getent passwd model-server-build && getent group model-server-build && ! getent group model-server")
    finally:
        vm.remove()
