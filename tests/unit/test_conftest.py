"""The fixtures that every other suite leans on."""

import os
import signal
import socket
import sys

import pytest


def alive(pid: int) -> bool:
    try:
        with open("/proc/{}/stat".format(pid)) as stat:
            return stat.read().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_wait_until_returns_as_soon_as_the_predicate_is_true(wait_until):
    answers = iter([False, False, True])
    wait_until(lambda: next(answers), limit_s=5)


def test_wait_until_fails_the_test_and_says_what_it_waited_for(wait_until):
    with pytest.raises(pytest.fail.Exception, match="the moon"):
        wait_until(lambda: False, limit_s=0.05, what="the moon")


def test_short_dir_takes_a_unix_socket(short_dir):
    path = str(short_dir / "supervisor-and-a-longer-name.sock")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        assert os.path.exists(path)


def test_spawn_keeps_the_log_and_adds_to_the_environment(spawn):
    child = spawn(
        [sys.executable, "-c", "import os; print(os.environ['WORD'], bool(os.environ['PATH']))"], {"WORD": "hm"}
    )
    assert child.wait() == 0
    assert child.log_text() == "hm True\n"


def test_terminate_leaves_no_grandchild(spawn, wait_until):
    code = "import subprocess; child = subprocess.Popen(['sleep', '600']); print(child.pid, flush=True); child.wait()"
    child = spawn([sys.executable, "-c", code])
    wait_until(lambda: child.log_text().endswith("\n"))
    assert child.terminate() == -signal.SIGTERM
    wait_until(lambda: not alive(int(child.log_text())))


def test_the_log_of_a_child_is_in_the_report_of_a_failed_test(pytester_run):
    report = pytester_run(
        "import sys\n"
        "def test_it(spawn):\n"
        "    spawn([sys.executable, '-c', 'print(6 * 7, \"is the word\")']).wait()\n"
        "    assert False\n"
    )
    assert "42 is the word" in report


@pytest.fixture
def pytester_run(spawn, short_dir):
    """Run one test file under the project's own conftest in a process of its own, and return what it printed."""

    def run(source: str) -> str:
        conftest = os.path.join(os.path.dirname(os.path.dirname(__file__)), "conftest.py")
        with open(conftest, encoding="utf-8") as text:
            (short_dir / "conftest.py").write_text(text.read(), encoding="utf-8")
        (short_dir / "test_it.py").write_text(source, encoding="utf-8")
        (short_dir / "pytest.ini").write_text("[pytest]\n", encoding="utf-8")
        child = spawn([sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "test_it.py"], cwd=str(short_dir))
        assert child.wait(60) == 1
        return str(child.log_text())

    return run
