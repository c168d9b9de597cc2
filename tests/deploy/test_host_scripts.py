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
        "mkdir /opt/model-server/{releases,venvs,incoming-1}; touch /opt/model-server/{stopping,supervisor.started}\n"
        'touch /etc/model-server/host.conf; ./uninstall.sh --purge; diff <(echo "$before") '
        "<(find /etc /opt /usr/local /var/cache)"
    )
    assert code == 0, said


@pytest.mark.parametrize(
    "mine",
    [
        *("/usr/local/sbin/model-server", "/etc/systemd/system/model-server.target", "/etc/sudoers.d/model-server"),
        *("/usr/local/lib/model-server/uninstall.sh", "/opt/model-server/releases", "/opt/model-server/current"),
    ],
)
def test_a_file_that_no_installation_made_is_not_overwritten(host, mine):
    code, said = host(
        f"mkdir -p {os.path.dirname(mine)}; echo mine >{mine}; everything='find /etc /usr/local /opt /var/cache'\n"
        "touch /opt/lock; mkdir -p /opt/model-server; touch /opt/model-server/lock; $everything >$SCRATCH/before\n"
        "./install.sh --deploy-user daemon && exit 9; $everything | diff $SCRATCH/before -\n"
        f"cat {mine}; rm {mine}; ./install.sh --deploy-user daemon"
    )
    assert (code, said.splitlines()[:2]) == (
        0,
        [
            f"install.sh: {mine} is there already, and not from an installation: move it away; nothing was installed",
            "mine",
        ],
    )


def test_a_link_of_an_administrator_is_not_overwritten_and_a_file_like_ours_is_taken(host):
    code, said = host(
        "cp model-server.target /etc/systemd/system; ln -s /nonexistent /usr/local/sbin/model-server\n"
        "./install.sh && exit 9; rm /usr/local/sbin/model-server; ./install.sh"
    )
    assert (code, said.splitlines()[0].split()[1]) == (0, "/usr/local/sbin/model-server")


def test_a_drop_in_of_an_administrator_chooses_no_device(host):
    code, said = host(
        "drop_in=/etc/systemd/system/model-server-supervisor.service.d/device.conf\n"
        "mkdir ${drop_in%/*}; echo mine >$drop_in; ./install.sh >/dev/null; ./uninstall.sh >/dev/null; cat $drop_in"
    )
    assert (code, said) == (0, "mine\n")


ACCOUNT = "echo 'model-server{0}:x:99{1}:99{1}:{2}:/:/bin/false' >>/etc/passwd\n"


def test_purge_leaves_the_users_and_caches_that_were_there_before(host):
    code, said = host(
        ACCOUNT.format("", 0, "Clara") + "echo 'model-server-build:x:992:' >>/etc/group\n"
        "mkdir -p /var/cache/model-server{,-build}; touch /var/cache/model-server/mine\n"
        "./install.sh >/dev/null; ./uninstall.sh >/dev/null; chown 990 /var/cache/model-server\n"
        # As systemd-sysusers and a deployment leave them, in the group that was there.
         + ACCOUNT.format("-build", 2, "Model server, deployments") + "chown 992 /var/cache/model-server-build\n"
        "./install.sh >/dev/null; ./uninstall.sh --purge; grep -E '^(user|group)del ' $NOTED\n"
        "find /var/cache/model-server /etc/model-server"
    )
    assert code == 1
    *_, gone, stay, user, group, cache, mine, _ = said.splitlines()
    assert gone == "removed, with settings, caches and users: model-server-web"
    caches = "/var/cache/model-server /var/cache/model-server-build"
    assert stay == f"there before the installation, so they stay: {caches} model-server model-server-build"
    assert (user, group) == ("userdel model-server-web", "groupdel model-server-web")
    assert (cache, mine) == ("/var/cache/model-server", "/var/cache/model-server/mine")


def test_purge_takes_the_users_and_caches_that_an_earlier_installation_made(host):
    code, said = host(
        "./install.sh >/dev/null; ./uninstall.sh >/dev/null\n"
        + ACCOUNT.format("", 0, "Model server, supervisor")
        + ACCOUNT.format("-build", 2, "Model server, deployments")
        + "mkdir /var/cache/model-server{,-build}; chown 990 /var/cache/model-server\n"
        "chown 992 /var/cache/model-server-build; ./install.sh >/dev/null; ./uninstall.sh --purge\n"
        "grep userdel $NOTED\n"
        "find /var/cache /etc/model-server -name 'model-server*'"
    )
    assert code == 1
    *_, gone, supervisor, web, build, _ = said.splitlines()
    everything = (
        "/var/cache/model-server /var/cache/model-server-build model-server model-server-web model-server-build"
    )
    assert gone == f"removed, with settings, caches and users: {everything}"
    assert (supervisor, web, build) == tuple(f"userdel model-server{half}" for half in ("", "-web", "-build"))


def test_what_a_newer_release_has_no_more_goes_and_nothing_else(host):
    code, said = host(
        "library=/usr/local/lib/model-server\n"
        "installed() { find /etc/sudoers.d /etc/systemd/system $library -type f; }\n"
        "cp ../host/venvs.py ../host/old.py; cp model-server.target model-server-old.target\n"
        "./install.sh --deploy-user daemon --device cuda >/dev/null; touch $library/deploy/host/mine.py\n"
        "installed | sort >$SCRATCH/before; rm ../host/old.py model-server-old.target; ./install.sh >/dev/null\n"
        "installed | sort | diff $SCRATCH/before - | grep '[<>]'\n"
        "grep old $library/manifest || ./uninstall.sh; installed"
    )
    assert code == 0, said
    old = ("/etc/systemd/system/model-server-old.target", "/usr/local/lib/model-server/deploy/host/old.py")
    *gone, removed, mine = said.splitlines()
    assert sorted(gone) == [f"< {path}" for path in old]
    assert (removed.split(";")[0], mine) == ("removed", "/usr/local/lib/model-server/deploy/host/mine.py")


#: A deployment that holds the lock until it is asked to end, 20 s at most.
DEPLOYMENT = """./install.sh >/dev/null
exec 8>/opt/model-server/lock
flock 8
asked() { [ -e /opt/model-server/stopping ]; }
(SECONDS=0; until asked || [ $SECONDS -gt 20 ]; do :; done; ! asked || echo it was asked) &
exec 8>&-
"""


def test_uninstall_asks_a_deployment_that_waits_to_end(host):
    code, said = host(DEPLOYMENT + "./uninstall.sh; ls -A /opt")
    assert code == 0, said
    assert [line.partition(";")[0] for line in said.splitlines()] == [
        "a deployment is going on, and is asked to end",
        "it was asked",
        "removed",
    ]


def test_uninstall_removes_nothing_while_a_deployment_does_not_heed_it(host):
    code, said = host(
        "./install.sh >/dev/null; exec 8>/opt/model-server/lock; flock 8; sleep() { :; }; export -f sleep\n"
        "files='find /etc /usr/local /opt -type f'; $files >$SCRATCH/before; rm $NOTED\n"
        "./uninstall.sh 8>&- || echo ended with $?; $files | diff $SCRATCH/before -; ls $NOTED"
    )
    assert code == 2, said
    assert said.splitlines()[:3] == [
        "a deployment is going on, and is asked to end",
        "uninstall.sh: a deployment goes on; nothing was removed",
        "ended with 75",
    ]


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
