"""The scripts of docker compose, with a docker that writes down what it was asked for and answers what a test says."""

import pathlib
import re
import shutil
import subprocess

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
#: Answers with the first rule that fits what it was asked for: a file with an exit code, what must be part of the
#: question, and what to print. One that ends with `.once` holds once. Nothing fits: nothing is said, and all is well.
DOCKER = """\
#!/bin/bash
here=$(dirname "$0")
echo "$PWD$ $*" >>"$here/asked"
for rule in "$here"/rules/*; do
    [[ -e $rule ]] || continue
    { read -r code; read -r part; said=$(cat); } <"$rule"
    [[ "$*" == *"$part"* ]] || continue
    [[ $rule != *.once ]] || rm "$rule"
    echo "$said"
    exit "$code"
done
"""
FILES = ("deploy/scripts", "deploy/docker")
RUNS = (0, "compose ps --all --format", "running")
#: What asks in the container of the web half.
ASKS = "compose exec --no-TTY service python3 - --limit"


class Shell:
    """A copy of the scripts in `tree`, and a docker beside it. Pauses take no time."""

    def __init__(self, folder):
        self.tree, self.bin = folder / "tree", folder / "bin"
        for name in FILES:
            shutil.copytree(str(ROOT / name), str(self.tree / name))
        (self.bin / "rules").mkdir(parents=True)
        for name, text in (("docker", DOCKER), ("sleep", "#!/bin/sh\n")):
            (self.bin / name).write_text(text, encoding="ascii")
            (self.bin / name).chmod(0o755)

    def answers(self, *rules):
        """Have docker answer by these: (exit code, part of the question, answer), with True at the end for once."""
        for number, (code, part, said, *once) in enumerate(rules):
            name = "{:02d}{}".format(number, ".once" if once else "")
            (self.bin / "rules" / name).write_text("{}\n{}\n{}\n".format(code, part, said), encoding="ascii")

    def run(self, script, *arguments, **environ):
        """Run a script from elsewhere; return its exit code and what it said."""
        done = subprocess.run(
            [str(self.tree / script), *arguments],
            cwd="/",
            env={"PATH": "{}:/usr/bin:/bin".format(self.bin), **environ},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        return done.returncode, done.stdout

    def asked(self, part=""):
        """Return what docker was asked for, as far as `part` is in it."""
        file = self.bin / "asked"
        lines = file.read_text(encoding="utf-8").splitlines() if file.exists() else []
        return [line.partition("$ ")[2] for line in lines if part in line]


@pytest.fixture
def shell(tmp_path):
    return Shell(tmp_path)


# ---- waiting ---------------------------------------------------------------------------------------------------------


def test_a_wait_that_a_restart_cut_off_goes_on_with_what_is_left_of_its_limit(shell):
    """What asks lives in the container of the web half and ends with it. bash counts on from a SECONDS that it has."""
    down = (0, "compose ps --all --format", "restarting", True)
    shell.answers((137, ASKS, "", True), (*RUNS, True), down, RUNS)
    code, said = shell.run("deploy/scripts/wait_ready.sh", "--limit", "600", SECONDS="100")
    assert (code, "could not be asked to the end (exit code 137)" in said) == (0, True)
    asked = [re.fullmatch(ASKS + r" 600 --waited (\d+) --limit 600", line) for line in shell.asked(ASKS)]
    assert [100 <= int(match[1]) < 600 for match in asked if match] == [True, True]


@pytest.mark.parametrize(("ends", "code"), [(0, 0), (3, 1), (2, 2)])
def test_a_wait_that_came_to_its_end_is_not_begun_again(shell, ends, code):
    shell.answers(RUNS, (ends, ASKS, ""))
    assert shell.run("deploy/scripts/wait_ready.sh")[0] == code
    assert len(shell.asked(ASKS)) == 1


@pytest.mark.parametrize("state", ["running", "exited", "restarting"])
def test_a_web_half_that_cannot_be_asked_is_told_when_the_limit_has_gone(shell, state):
    shell.answers((0, "compose ps --all --format", state), (137, ASKS, ""))
    code, said = shell.run("deploy/scripts/wait_ready.sh", SERVER_WAIT_TIMEOUT="0.5")
    last = "NOT READY: not ready within 0.5 s: the container of the web half, which is asked, is " + state
    assert (code, said.splitlines()[-1]) == (1, last)


def test_without_a_web_half_nothing_is_waited_for(shell):
    code, said = shell.run("deploy/scripts/wait_ready.sh")
    assert (code, "NOT READY: there is no container of the web half" in said) == (1, True)


# ---- settings --------------------------------------------------------------------------------------------------------

WRONG = [
    *[("SERVER_WAIT_TIMEOUT", value, "seconds, a number above 0") for value in ("30m", "0", "0.0", "-1", "inf", "5#x")],
    ("SERVER_REQUEST_LIMIT_S", "abc", "seconds, a number above 0"),
    *[("SERVER_PORT", value, "a port, from 1 to 65535") for value in ("http", "0", "65536")],
]


@pytest.mark.parametrize("by_file", [False, True], ids=["environment", "file"])
@pytest.mark.parametrize(("name", "value", "expected"), WRONG)
def test_a_wrong_setting_is_named_before_anything_is_built_or_started(shell, name, value, expected, by_file):
    (shell.tree / ".env").write_text("{}={}\n".format(name, value) if by_file else "", encoding="utf-8")
    code, said = shell.run("deploy/scripts/start.sh", **({} if by_file else {name: value}))
    assert (code, said) == (78, "{}: expected is {}, not '{}'\n".format(name, expected, value))
    assert shell.asked() == []


@pytest.mark.parametrize("options", [{"SERVER_WAIT_TIMEOUT": "30m"}, {}])
def test_a_wait_whose_limit_is_none_says_what_is_expected(shell, options):
    code, said = shell.run("deploy/scripts/wait_ready.sh", *([] if options else ["--limit", "30m"]), **options)
    assert (code, said) == (78, "SERVER_WAIT_TIMEOUT: expected is seconds, a number above 0, not '30m'\n")


# ---- starting and stopping -------------------------------------------------------------------------------------------

SERVICES = (0, "compose config --services", "supervisor\nservice\nnginx")
TRIES = "compose run --rm --no-deps --no-TTY --service-ports --entrypoint true "


def test_a_start_tries_the_ports_then_starts_waits_and_has_nginx_read_its_files(shell):
    shell.answers(SERVICES, RUNS, (0, "compose ps --services", "nginx"))
    assert shell.run("deploy/scripts/start.sh")[0] == 0
    asked = shell.asked()
    assert [line for line in asked if line.startswith(TRIES)] == [TRIES + "service", TRIES + "nginx"]
    assert asked.index(TRIES + "nginx") < asked.index("compose up --detach") < asked.index(shell.asked(ASKS)[0])
    assert asked[-1] == "compose exec --no-TTY nginx sh /etc/model-server/start.sh reload"


@pytest.mark.parametrize("name", ["service", "nginx"])
def test_a_port_that_another_program_has_is_told_before_anything_is_started(shell, name):
    shell.answers(SERVICES, (125, TRIES + name, "address already in use"))
    code, said = shell.run("deploy/scripts/start.sh")
    assert code == 1
    assert "address already in use" in said
    assert said.splitlines()[-1].startswith(name + " cannot be started; see above, and SERVER_PUBLISH, SERVER_PORT")
    assert shell.asked("compose up") == []


def test_what_runs_already_has_its_port(shell):
    shell.answers(SERVICES, RUNS, (0, "compose ps --quiet", "4711"))
    assert shell.run("deploy/scripts/start.sh")[0] == 0
    assert shell.asked(TRIES) == []


def test_a_stop_ends_what_the_compose_files_of_this_shell_do_not_name(shell):
    assert shell.run("deploy/scripts/stop.sh", "--timeout", "5")[0] == 0
    assert shell.asked() == ["compose down --remove-orphans --timeout 5"]


@pytest.mark.parametrize("script", ["scripts/start.sh", "scripts/wait_ready.sh", "scripts/stop.sh", "docker/roll.sh"])
def test_every_script_works_in_the_root_wherever_it_is_called(shell, script):
    shell.run("deploy/" + script)
    asked = (shell.bin / "asked").read_text(encoding="utf-8").splitlines()
    assert {line.partition("$ ")[0] for line in asked} == {str(shell.tree)}
