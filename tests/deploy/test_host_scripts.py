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
#: Programs of which a scenario sees only that they went well.
NOTED = ("systemctl", "systemd-sysusers", "visudo", "userdel", "groupdel")
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
    for name in NOTED:
        (tmp_path / "bin" / name).symlink_to("/bin/true")
    environ = {
        "PATH": f"{tmp_path}/bin:{os.environ['PATH']}",
        "SCRATCH": str(tmp_path / "scratch"),
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
