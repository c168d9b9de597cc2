"""deploy/remote.sh before and around ssh: what is packed, what is sent, what is said. `ssh` is a stand-in that notes.

The real one is in tests/deploy/on_vm.
"""

import hashlib
import os
import pathlib
import shutil
import subprocess
import tarfile

import pytest

pytestmark = pytest.mark.skipif(shutil.which("git") is None, reason="there is no git here")

ROOT = pathlib.Path(__file__).resolve().parents[2]
PACKED = (".env", "LICENSE", "deploy", "ipu_supervisor", "requirements", "service")
#: Notes the command and what was sent with it; says of the host what HOST_SAYS holds, or ends as a broken connection.
SSH = """\
#!/bin/sh
for command; do :; done
echo "$command" >>"$NOTES/commands"
[ -z "${SSH_BREAKS:-}" ] || { echo "ssh: connect to host: Connection refused" >&2; exit 255; }
case $command in
    *"sudo -n true"*) echo "$HOST_SAYS" ;;
    *install.sh*) cat >"$NOTES/sent"; exit "${SETUP_ENDS:-0}" ;;
    *) cat >"$NOTES/sent" ;;
esac
"""
#: Tells what it was started with, and keeps the key.
TELLING = """\
#!/bin/sh
printf '%s\\n' "$@"
echo "in the environment: ${SSH_KEY-no key}"
while [ "$1" != -i ]; do shift; done
cp -p "$2" "$NOTES/key"
cat "$(dirname "$2")/known_hosts"
"""
#: What ssh is told beside the key: nothing but the pinned key is trusted, and nobody is asked for anything.
TRUSTING = """\
BatchMode=yes
IdentitiesOnly=yes
StrictHostKeyChecking=yes
UserKnownHostsFile={}/known_hosts
GlobalKnownHostsFile=/dev/null
ConnectTimeout=15
ServerAliveInterval=15
ServerAliveCountMax=8
"""
#: Is the host: runs what it is asked to, with what is sent, or with an archive of nothing.
HOST = """\
#!/bin/sh
for command; do :; done
[ -z "${SPOILED:-}" ] || { tar -cz -T /dev/null | bash -c "$command"; exit; }
bash -c "$command"
"""
#: Ends as a program does on a full disk; tar would take the empty archive that is left for a whole one.
BROKEN = "#!/bin/sh\nexit 1\n"


class Laptop:
    """A repository with a commit, and programs of ours first in PATH."""

    def __init__(self, folder):
        self.repo, self.bin, self.notes = (folder / name for name in ("repo", "bin", "notes"))
        for place in (self.repo / "deploy", self.bin, self.notes):
            place.mkdir(parents=True)
        shutil.copy2(str(ROOT / "deploy/remote.sh"), str(self.repo / "deploy"))
        for name in {*PACKED, "tests"} - {"deploy"}:
            (self.repo / name).write_text(name + "\n", encoding="ascii")
        self.git("init", "--quiet")
        self.git("add", "--all")
        self.git("-c", "user.name=test", "-c", "user.email=test@localhost", "commit", "--quiet", "-m", "a commit")
        self.program("ssh", SSH)

    def git(self, *arguments):
        done = subprocess.run(["git", *arguments], cwd=str(self.repo), stdout=subprocess.PIPE, check=True)
        return done.stdout.decode().strip()

    def program(self, name, text):
        (self.bin / name).write_text(text, encoding="ascii")
        (self.bin / name).chmod(0o755)

    def run(self, *arguments, **environ):
        values = {
            "PATH": "{}:{}".format(self.bin, os.environ["PATH"]),
            "HOME": str(self.notes),
            "TMPDIR": str(self.notes),
            "NOTES": str(self.notes),
            "HOST_IP": "192.0.2.10",
            "DEPLOY_USER": "clara",
            "SSH_KEY": "a key",
            "SSH_KNOWN_HOSTS": "192.0.2.10 ssh-ed25519 AAAA",
            "HOST_SAYS": "all",
        }
        values.update(environ)
        done = subprocess.run(
            [str(self.repo / "deploy/remote.sh"), *arguments],
            env=values,
            cwd=str(self.notes),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            check=False,
        )
        return done.returncode, done.stdout.decode()

    def asked(self):
        """Return everything that the host was asked to do."""
        commands = self.notes / "commands"
        return commands.read_text(encoding="utf-8") if commands.exists() else ""


@pytest.fixture
def laptop(tmp_path):
    return Laptop(tmp_path)


def test_a_deployment_sends_the_archive_that_its_checksum_is_of(laptop):
    code, said = laptop.run("deploy", HOST_SAYS="deploy")
    assert code == 0, said
    checksum = hashlib.sha256((laptop.notes / "sent").read_bytes()).hexdigest()
    commit = laptop.git("rev-parse", "HEAD")
    assert laptop.asked().splitlines()[-1] == "sudo -n /usr/local/sbin/model-server deploy {} {}".format(
        commit, checksum
    )
    assert "install.sh" not in laptop.asked()


@pytest.mark.parametrize("command", ["setup", "deploy"])
@pytest.mark.parametrize("broken", ["gzip", "git", "sha256sum"])
def test_an_archive_that_is_not_whole_is_not_sent(laptop, command, broken):
    laptop.program(broken, BROKEN)
    code, _ = laptop.run(command)
    assert code != 0
    assert laptop.asked() == ""


def test_a_git_archive_that_breaks_off_is_not_sent(laptop):
    git = shutil.which("git")
    laptop.program("git", '#!/bin/sh\ncase $* in *archive*) exit 1 ;; *) exec {} "$@" ;; esac\n'.format(git))
    code, _ = laptop.run("deploy")
    assert code != 0
    assert laptop.asked() == ""


def test_whoever_may_do_everything_prepares_the_host_first(laptop):
    code, said = laptop.run("deploy")
    assert code == 0, said
    setup, deploy = laptop.asked().index("install.sh '--deploy-user' 'clara'"), laptop.asked().index(" deploy ")
    assert setup < deploy


def test_a_preparation_that_fails_ends_the_deployment_with_its_exit_code(laptop):
    code, _ = laptop.run("deploy", SETUP_ENDS="75")
    assert code == 75
    assert "model-server deploy" not in laptop.asked()


def test_a_connection_that_fails_is_told_as_such_and_nothing_is_sent(laptop):
    code, said = laptop.run("deploy", SSH_BREAKS="1")
    assert code != 0
    assert "Connection refused" in said
    assert "could not ask 192.0.2.10 as clara" in said
    assert "not prepared" not in said
    assert not (laptop.notes / "sent").exists()


def test_a_host_that_is_not_prepared_is_told_with_the_whole_command_that_prepares_it(laptop):
    code, said = laptop.run("deploy", HOST_SAYS="none")
    assert code == 1
    assert "remote.sh setup --deploy-user clara" in said
    assert "model-server deploy" not in laptop.asked()


def test_ssh_trusts_the_pinned_key_alone_and_the_private_one_is_in_a_file_of_ours_alone(laptop):
    laptop.program("ssh", TELLING)
    code, said = laptop.run("status", SSH_KEY="a\r\nkey", SSH_PORT="2222")
    assert code == 0, said
    lines = said.splitlines()
    private = lines[lines.index("-i") + 1].rpartition("/")[0]
    options = [part for line in TRUSTING.format(private).splitlines() for part in ("-o", line)]
    assert lines == [
        *("-F", "/dev/null", "-T", "-p", "2222", "-i", private + "/key", *options),
        *("clara@192.0.2.10", "sudo -n /usr/local/sbin/model-server status"),
        *("in the environment: no key", "192.0.2.10 ssh-ed25519 AAAA"),
    ]
    key = laptop.notes / "key"
    assert (key.read_bytes(), key.stat().st_mode & 0o777) == (b"a\nkey\n", 0o600)


def test_files_are_named_from_where_the_caller_stands(laptop):
    (laptop.notes / "my key").write_text("a key", encoding="ascii")
    (laptop.notes / "known").write_text("192.0.2.10 ssh-ed25519 BBBB", encoding="ascii")
    laptop.program("ssh", TELLING)
    files = {"SSH_KEY_FILE": "my key", "SSH_KNOWN_HOSTS_FILE": "./known"}
    code, said = laptop.run("status", SSH_KEY="", SSH_KNOWN_HOSTS="", **files)
    assert (code, said.splitlines()[-1]) == (0, "192.0.2.10 ssh-ed25519 BBBB"), said
    assert (laptop.notes / "key").read_bytes() == b"a key"


@pytest.mark.parametrize("spoiled", ["", "yes"])
def test_the_preparation_runs_what_was_packed_and_leaves_nothing_else_behind(laptop, spoiled):
    laptop.program("ssh", HOST)
    laptop.program("sudo", "#!/bin/sh\nprintf '%s\\n' \"$@\"\n")
    code, said = laptop.run("setup", "--deploy-user", "a b; id", SPOILED=spoiled)
    assert (code == 0, "install.sh" in said) == (not spoiled, not spoiled), said
    if not spoiled:
        *_, no_questions, bash, install, option, user = said.splitlines()
        assert (no_questions, bash, option, user) == ("-n", "bash", "--deploy-user", "a b; id")
        assert install.endswith("/deploy/systemd/install.sh")
    assert list(laptop.notes.iterdir()) == []


def test_a_commit_is_packed_to_the_same_bytes_everywhere_and_what_is_not_committed_is_told(laptop):
    packed = []
    (laptop.repo / ".git/info/attributes").write_text("* text=auto\n", encoding="ascii")
    for name, value in (("tar.umask", "0022"), ("tar.umask", "0077"), ("core.eol", "crlf"), ("core.autocrlf", "true")):
        laptop.git("config", name, value)
        (laptop.repo / "service").write_text(name + value, encoding="ascii")
        (laptop.repo / "notes").touch()
        code, said = laptop.run("deploy", HOST_SAYS="a greeting\ndeploy")
        assert (code, "uncommitted changes are not part" in said) == (0, True), said
        packed.append((laptop.notes / "sent").read_bytes())
    assert packed == packed[:1] * 4
    with tarfile.open(str(laptop.notes / "sent")) as tar:
        assert {member.name for member in tar} == {*PACKED, "deploy/remote.sh"}


@pytest.mark.parametrize(
    ("arguments", "environ", "reason"),
    [
        (["reboot"], {}, "usage: "),
        ([], {}, "usage: "),
        (["status"], {"SSH_KEY": ""}, "SSH_KEY or SSH_KEY_FILE must be set"),
        (["status"], {"HOST_IP": "-oProxyCommand=id"}, "HOST_IP must be"),
        (["status"], {"DEPLOY_USER": "-a b"}, "DEPLOY_USER must be"),
        (["status"], {"SSH_PORT": "22 -v"}, "SSH_PORT must be"),
    ],
)
def test_what_is_no_command_or_no_address_is_refused(laptop, arguments, environ, reason):
    code, said = laptop.run(*arguments, **environ)
    assert (code, said.startswith("remote.sh: " + reason), laptop.asked()) == (1, True, "")


def test_the_hosts_key_is_shown_so_that_it_can_be_read_where_the_address_is_masked(laptop):
    laptop.program("ssh-keyscan", '#!/bin/sh\nfor host; do :; done\necho "[$host]:2222 ssh-ed25519 AAAA"\n')
    laptop.program("ssh-keygen", "#!/bin/sh\n")
    code, said = laptop.run("status", SSH_KNOWN_HOSTS="", SSH_PORT="2222")
    assert (code, laptop.asked()) == (1, "")
    assert "[<HOST_IP>]:2222 ssh-ed25519 AAAA" in said.splitlines()
    assert "save the key's line, with the address in the place of <HOST_IP>" in said


@pytest.mark.parametrize("command", ["deploy", "status"])
def test_the_key_is_not_left_behind(laptop, command):
    code, said = laptop.run(command)
    assert code == 0, said
    assert "a key" not in said
    assert sorted(path.name for path in laptop.notes.iterdir()) == ["commands", "sent"]
