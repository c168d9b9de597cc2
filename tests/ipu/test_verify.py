"""`python -m ipu_supervisor.verify_ipu` as an owner of IPUs runs it, on pretended ones: what is there, what is broken.

All runs start together, for each spends most of its time on one core with one replica's imports.
"""

import contextlib
import os
import pathlib
import re
import stat
import sys
import threading

import pytest

from ipu_supervisor.verify_ipu.machine import TOO_MANY_ROWS
from ipu_supervisor.verify_ipu.report import CHECKS
from tests.integration.harness import ROOT
from tests.ipu.conftest import STANDIN, Machine
from tests.models import tiny

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

#: Longest that a run takes here while others work too, seconds.
RUN_LIMIT_S = 240.0
#: What `gc-monitor` would print of processes, from the stand-in's locks.
GC_MONITOR = """#!{python}
import os
from tests.ipu.standin import standin_machine
for ipu, pid in standin_machine.holders(os.environ["STANDIN_FOLDER"]).items():
    print("| {{:>6}} | python | {{}} |".format(pid, ipu))
"""
#: A checkpoint whose rows hold 64 tokens writes no 100.
SUMMARIZATION = '{{"model": "summarization", "checkpoint": "{}", "ipu": {{"batch_size": 2}}, "options": {}}}'
OPTIONS = '{"num_beams": 3, "max_new_tokens": 12}'
#: What is judged by measured times too: on a machine that does other things only the figures count, and
#: tests/unit/test_verify_ipu.py has what becomes of them.
TIMED = ("traffic", "batches", "cache", "replicas")


class Verification:
    """One run, on a machine of its own."""

    def __init__(self, spawn, folder, name, arguments, **env):
        machine, self.tmp = folder / name, folder / ("tmp-" + name)
        for made in (machine, self.tmp):
            made.mkdir()
        self.machine = Machine(machine)
        settings = {
            "STANDIN_FOLDER": str(machine),
            "STANDIN_IPUS": "2",
            "STANDIN_COMPILE_S": "1",
            "OMP_NUM_THREADS": "1",
            "PYTHONPATH": os.pathsep.join([str(STANDIN), str(ROOT)]),
            "PATH": os.pathsep.join([str(folder), str(STANDIN / "bin"), os.environ["PATH"]]),
            "TMPDIR": str(self.tmp),
            "POPTORCH_WAIT_FOR_IPU": "1",
            **env,
        }
        args = [sys.executable, "-m", "ipu_supervisor.verify_ipu", "--requests", "12", *arguments]
        self.child = spawn(args, env=settings, cwd=str(ROOT))

    def end(self):
        """Wait for the end; return the exit code and what was found, by check and model."""
        code = self.child.wait(RUN_LIMIT_S)
        rows = re.findall(r"^\| (\w+): .* \| (\w*) \| ([\w ]+?): (.*) \|$", self.child.log_text(), re.MULTILINE)
        return code, {(check, model): (verdict, figures) for check, model, verdict, figures in rows}

    def left_behind(self):
        """Return what a run that has ended must not leave: files, IPUs, processes."""
        mark = "STANDIN_FOLDER={}\0".format(self.machine.folder)
        return [*self.tmp.iterdir(), *self.machine.holders(), *(pid for pid in pids() if mark in environment(pid))]


def untimed(found):
    """Return the verdicts that no pause of the machine can change, by check."""
    return {check: verdict for (check, _), (verdict, _) in found.items() if check not in TIMED}


def pids():
    return [int(path.name) for path in pathlib.Path("/proc").iterdir() if path.name.isdigit()]


def environment(pid):
    try:
        return pathlib.Path("/proc/{}/environ".format(pid)).read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


@pytest.fixture(scope="module")
def folder(short_dir_for_module):
    """Return a folder with tiny checkpoints, and with a gc-monitor in it."""
    tiny.distilbert(short_dir_for_module / "distilbert")
    tiny.bart(short_dir_for_module / "bart")
    tool = short_dir_for_module / "gc-monitor"
    tool.write_text(GC_MONITOR.format(python=sys.executable), encoding="utf-8")
    tool.chmod(tool.stat().st_mode | stat.S_IXUSR)
    return short_dir_for_module


@pytest.fixture(scope="module")
def runs(spawn_for_module, folder):
    """Return the runs, all started."""
    qa, bart = "question_answering={}".format(folder / "distilbert"), SUMMARIZATION.format(folder / "bart", OPTIONS)
    started = {
        "all": Verification(spawn_for_module, folder, "all", [qa]),
        "summarization": Verification(
            spawn_for_module,
            folder,
            "summarization",
            [bart, "--only", "compile,precision,traffic,batches,cache,no_such_device"],
        ),
        "broken": Verification(
            spawn_for_module, folder, "broken", [qa, bart, "--only", "compile,cache", "--replicas", "1"]
        ),
    }
    started["all"].machine.inject(when="compile", kind="out_of_memory", times=-1, rows=TOO_MANY_ROWS)
    started["broken"].machine.inject(when="compile", kind="out_of_memory", times=-1, model="Bart")
    with forgetting(started["broken"]):
        yield started


@contextlib.contextmanager
def forgetting(run):
    """Remove every compiled program of a run as soon as it is there."""
    over = threading.Event()

    def forget():
        while not over.wait(0.01):
            for program in run.tmp.glob("verify-ipu-*/executables/*.popef"):
                program.unlink()

    thread = threading.Thread(target=forget)
    thread.start()
    yield
    over.set()
    thread.join()


def test_on_ipus_that_do_as_documented_everything_is_seen(runs):
    run = runs["all"]
    code, found = run.end()
    assert {check for check, _ in found} == set(CHECKS)
    assert set(untimed(found).values()) == {"seen"}
    assert code == int("NOT seen" in {verdict for verdict, _ in found.values()})
    assert "1 compiled, 0 from the cache" in found["compile", "question_answering"][1]
    assert "| not run |" not in run.child.log_text()
    assert found["cache", "question_answering"][1].startswith("0 compiled, 2 from the cache by 2 replica(s), in ")
    assert found["cache", "question_answering"][1].endswith("files in the cache: 1 before, 1 after")
    assert re.match(r"single: p50 .*; 4 at once: p50 .*/s$", found["batches", "question_answering"][1])
    assert re.match(r"12 requests; .*: 1 before, 1 after; .*; restarts: 0$", found["traffic", "question_answering"][1])
    assert re.match(r".* for one client, .* for 2, as many as replicas; .*", found["replicas", "question_answering"][1])
    assert run.left_behind() == []


def test_a_sequence_model_has_two_programs(runs):
    code, found = runs["summarization"].end()
    assert untimed(found) == dict.fromkeys(("compile", "precision", "no_such_device"), "seen")
    assert code == int("NOT seen" in {verdict for verdict, _ in found.values()})
    assert "| not run | libraries, count, replicas, " in runs["summarization"].child.log_text()
    assert "2 compiled, 0 from the cache" in found["compile", "summarization"][1]
    assert found["cache", "summarization"][1].startswith("0 compiled, 2 from the cache by 1 replica(s), in ")
    assert re.match(r"single: p50 .*; 2 at once: p50 .*/s$", found["batches", "summarization"][1])
    assert re.match(r"2 requests; .*: 2 before, 2 after; .*; restarts: 0$", found["traffic", "summarization"][1])
    assert runs["summarization"].left_behind() == []


def test_a_cache_that_forgets_is_not_seen_to_work(runs):
    code, found = runs["broken"].end()
    verdict, figures = found["cache", "question_answering"]
    assert (code, verdict) == (1, "NOT seen")
    assert "files in the cache: 0 before" in figures
    assert runs["broken"].left_behind() == []


def test_a_model_that_does_not_compile_is_told_with_its_reason_and_the_rest_is_not_tried(runs):
    code, found = runs["broken"].end()
    verdict, figures = found["compile", "summarization"]
    assert (code, verdict, figures.startswith("FAILED. OUT_OF_MEMORY: ")) == (1, "NOT seen", True)
    assert found["cache", "summarization"] == ("could not try", "no replica became READY")


@pytest.mark.parametrize(
    ("arguments", "env", "code", "told"),
    [
        ([], {"STANDIN_IPUS": "0"}, 69, "There is no IPU here"),
        ([], {"SUPERVISOR_IPUS": "0"}, 69, "There is no IPU here"),
        (['{"model": "question_answering", "ipu": {"ipus": 3}}'], {}, 78, "ipu: ipus: Must be a power of two"),
        (["embeddings"], {}, 2, "only these can be verified"),
        (['{"model": ["question_answering"]}'], {}, 2, "is no entry: "),
        (["--replicas", "0"], {}, 2, "must be a whole number from 1 on"),
        (["--only", "speed"], {}, 2, "speed: there are: libraries"),
    ],
)
def test_without_an_ipu_or_with_a_wrong_entry_it_ends_at_once(spawn, short_dir, arguments, env, code, told):
    run = Verification(spawn, short_dir, "none", arguments, **env)
    assert run.end() == (code, {})
    assert told in run.child.log_text()
    assert run.left_behind() == []
