"""deploy/remote.sh before and around ssh: what is packed, what is sent, what is said. `ssh` is a stand-in that notes.

The real one is in tests/deploy/on_vm.
"""

import hashlib
import os
import pathlib
import shutil
import subprocess

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
#: Ends as a program does on a full disk; tar would take the empty archive that is left for a whole one.
BROKEN = "#!/bin/sh\nexit 1\n"


class Laptop:
    """A repository with a commit, and programs of ours first in PATH."""

    def __init__(self, folder):
        self.repo, self.bin, self.notes = (folder / name for name in ("repo", "bin", "notes"))
        for place in (self.repo / "deploy", self.bin, self.notes):
            place.mkdir(parents=True)
        shutil.copy2(str(ROOT / "deploy/remote.sh"), str(self.repo / "deploy"))
        for name in set(PACKED) - {"deploy"}:
            (self.repo / name).write_text(name, encoding="ascii")
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


@pytest.mark.parametrize("command", ["deploy", "status"])
def test_the_key_is_not_left_behind(laptop, command):
    code, said = laptop.run(command)
    assert code == 0, said
    assert "a key" not in said
    assert sorted(path.name for path in laptop.notes.iterdir()) == ["commands", "sent"]
