"""install.sh and uninstall.sh on this machine's own files, in a mount namespace that keeps every change to itself.

What they do to systemd and to users is noted, not done; on_vm/ does it.
"""

import os
import pathlib
import shutil
import subprocess

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
#: Where the scripts write; after the first failure nothing of a scenario runs.
HOST = """\
set -eu
for folder in "$SCRATCH" /opt /run /usr/local /var/cache; do mount -t tmpfs none "$folder"; done
mkdir -p "$SCRATCH/upper" "$SCRATCH/work" /usr/local/lib /usr/local/sbin /run/systemd/system
mount -t overlay none -o "lowerdir=/etc,upperdir=$SCRATCH/upper,workdir=$SCRATCH/work" /etc
mkdir -p /etc/sudoers.d /etc/systemd/system
for folder in /etc/sudoers.d /etc/systemd/system; do mount -t tmpfs none "$folder"; done
cd "$SYSTEMD"
"""
#: Programs that are only noted, with their arguments, in the file NOTED; the one that FAILS names goes wrong.
PROGRAMS = ("systemctl", "systemd-sysusers", "visudo", "userdel", "groupdel")
NOTING = '#!/bin/sh\necho "${0##*/} $*" >>"$NOTED"\n[ "${0##*/}" != "${FAILS:-}" ]\n'
RULE = "ALL=(root) NOPASSWD: /usr/local/sbin/model-server"


@pytest.fixture
def host(tmp_path):
    """Return `host(scenario)`: runs shell lines as root of a host of its own, returns exit code and output."""
    tried = subprocess.run(["unshare", "--mount", "true"], capture_output=True, text=True, check=False)
    if tried.returncode:
        pytest.skip(f"no mount namespace here: {tried.stderr.strip()}")
    shutil.copytree(ROOT / "deploy", tmp_path / "deploy")
    for name in ("scratch", "bin"):
        (tmp_path / name).mkdir()
    for name in PROGRAMS:
        (tmp_path / "bin" / name).write_text(NOTING, encoding="ascii")
        (tmp_path / "bin" / name).chmod(0o755)
    environ = {
        "PATH": f"{tmp_path}/bin:{os.environ['PATH']}",
        "SCRATCH": str(tmp_path / "scratch"),
        "NOTED": str(tmp_path / "noted"),
        "SYSTEMD": str(tmp_path / "deploy/systemd"),
    }

    def run(scenario):
        done = subprocess.run(
            ["unshare", "--mount", "--propagation", "private", "bash", "-c", HOST + scenario],
            env=environ,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        return done.returncode, done.stdout

    return run


def test_each_user_who_may_deploy_keeps_the_rule_when_another_one_gets_it(host):
    users = ("root", "daemon", "root")
    install = "\n".join(f"./install.sh --deploy-user {user} >/dev/null" for user in users)
    code, said = host(
        f"{install}\n./install.sh >/dev/null\ncat /etc/sudoers.d/model-server\nstat -c %a /etc/sudoers.d/*"
    )
    assert code == 0, said
    assert sorted(said.splitlines()) == ["440", f"daemon {RULE}", f"root {RULE}"]


def test_nothing_is_installed_while_a_deployment_goes_on(host):
    code, said = host(
        "mkdir /opt/model-server\n"
        "flock /opt/model-server/lock ./install.sh || echo ended with $?\n"
        "find /etc/systemd/system /usr/local -type f\n"
        "./install.sh"
    )
    assert code == 0, said
    assert said.splitlines() == [
        "install.sh: another deployment is going on",
        "ended with 75",
        "installed; settings are in /etc/model-server/env, the next step is a deployment",
    ]


def test_purge_takes_the_settings_and_leaves_what_an_administrator_put_beside_them(host):
    code, said = host(
        "./install.sh >/dev/null; echo A=1 >/etc/model-server/host.conf\n"
        "mkdir /etc/model-server/tls; touch /etc/model-server/tls/privkey.pem\n"
        "./uninstall.sh --purge; find /etc/model-server"
    )
    assert code == 0, said
    assert said.splitlines()[-3:] == ["/etc/model-server", "/etc/model-server/tls", "/etc/model-server/tls/privkey.pem"]


def test_purge_leaves_nothing_where_nothing_else_lies(host):
    code, said = host(
        "before=$(find /etc /opt /usr/local /var/cache); ./install.sh --deploy-user root --device ipu >/dev/null\n"
        "for link in current previous pending current.new; do ln -s releases/x /opt/model-server/$link; done\n"
        'touch /etc/model-server/host.conf; ./uninstall.sh --purge; diff <(echo "$before") '
        "<(find /etc /opt /usr/local /var/cache)"
    )
    assert code == 0, said


def test_what_is_not_understood_is_refused_and_changes_nothing(host):
    code, said = host(
        "find /etc/systemd /usr/local /opt >$SCRATCH/before\n"
        'try() { "$@" 2>&1 && echo taken; }\n'
        "try ./install.sh --devise cuda || try ./install.sh --device || try ./install.sh --device gpu ||\n"
        "    try ./install.sh --deploy-user nobody-of-that-name || try ./uninstall.sh --all ||\n"
        "    try ./uninstall.sh --purge now || echo\n"
        "(id() { echo 1000; }; export -f id; try ./install.sh || try ./uninstall.sh || true)\n"
        "rmdir /run/systemd/system; try ./install.sh || true\n"
        "find /etc/systemd /usr/local /opt | diff $SCRATCH/before -"
    )
    assert code == 0, said
    assert [line for line in said.splitlines() if not line.startswith("id: ")] == [
        "install.sh: unknown argument --devise",
        "install.sh: --device needs a value",
        "install.sh: --device is cuda or ipu",
        "install.sh: there is no user nobody-of-that-name",
        *["usage: uninstall.sh [--purge]"] * 2,
        "",
        "install.sh: needs root",
        "uninstall.sh: needs root",
        "install.sh: this host does not run systemd",
    ]


def test_a_rule_that_sudo_would_not_take_is_not_installed(host):
    code, said = host("FAILS=visudo ./install.sh --deploy-user daemon || ls /etc/sudoers.d")
    assert (code, said) == (0, "install.sh: sudo would not take a rule for daemon\n")


def test_a_second_installation_keeps_the_settings_and_notes_no_file_twice_whatever_the_umask(host):
    code, said = host(
        "umask 077; ./install.sh >/dev/null; cat $NOTED; echo A=1 >/etc/model-server/env; ./install.sh >/dev/null\n"
        "cat /etc/model-server/env; cd /usr/local/lib/model-server; sort manifest | uniq -d\n"
        "stat -c '%a %n' /etc/model-server/env . manifest uninstall.sh deploy/host deploy/host/cli.py"
    )
    assert code == 0, said
    sysusers, reload, *rest = said.splitlines()
    assert (sysusers.split()[0], reload) == ("systemd-sysusers", "systemctl daemon-reload")
    modes = ["600 /etc/model-server/env", "755 .", "644 manifest", "755 uninstall.sh", "755 deploy/host"]
    assert rest == ["A=1", *modes, "644 deploy/host/cli.py"]


@pytest.mark.parametrize("device", ["cuda", "ipu"])
def test_an_installation_without_a_device_brings_the_one_that_was_chosen_up_to_date(host, device):
    code, said = host(
        "unit=/etc/systemd/system/model-server-supervisor.service.d/device.conf\n"
        "./install.sh >/dev/null; test ! -e $unit\n"
        f"./install.sh --device {device} >/dev/null; diff $unit device-{device}.conf\n"
        f"echo '# newer' >>device-{device}.conf; ./install.sh >/dev/null; diff $unit device-{device}.conf"
    )
    assert (code, said) == (0, "")


def test_uninstall_stops_everything_first_and_leaves_what_is_not_ours(host):
    code, said = host(
        "ours=/etc/systemd/system/model-server; ./install.sh --device cuda >/dev/null; rm $NOTED\n"
        "mkdir $ours-http.socket.d /opt/model-server/releases; touch $ours-http.socket.d/listen.conf\n"
        "touch $ours-supervisor.service.d/mine.conf /usr/local/lib/model-server/mine /opt/model-server/mine\n"
        "./uninstall.sh >/dev/null; cat $NOTED\n"
        "find /etc/model-server $ours* /usr/local/lib/model-server /opt/model-server"
    )
    assert code == 0, said
    stopped = "model-server.target model-server-supervisor.service model-server-http.socket model-server-web@*"
    assert said.splitlines() == [
        "systemctl cat model-server.target",
        "systemctl disable --quiet model-server.target",
        f"systemctl stop {stopped}",
        "systemctl daemon-reload",
        "systemctl reset-failed model-server*",
        *("/etc/model-server", "/etc/model-server/env"),
        *(f"/etc/systemd/system/model-server-supervisor.service.d{file}" for file in ("", "/mine.conf")),
        *(
            "/usr/local/lib/model-server",
            "/usr/local/lib/model-server/mine",
            "/opt/model-server",
            "/opt/model-server/mine",
        ),
    ]
