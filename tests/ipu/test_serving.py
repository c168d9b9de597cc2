"""The whole path with `device: ipu`: load, compile, READY, mixed traffic over HTTP, leases, the cache, a clean end."""

import pathlib
import random
from concurrent.futures import ThreadPoolExecutor
from typing import Set, Tuple

import pytest

from tests.ipu.serving import TOWER, IpuStack
from tests.models import tiny

#: Two replicas of one model on an IPU each, and a sequence model on two: a machine of four is full.
BATCHES = {"question_answering": 4, "summarization": 2}
SUMMARY = {"num_beams": 3, "max_new_tokens": 12}
#: How many requests the mixed traffic has, and how many clients send it.
REQUESTS, CLIENTS = 1000, 8


def models(folder):
    return [
        {
            "model": "question_answering",
            "device": "ipu",
            "replicas": 2,
            "checkpoint": tiny.distilbert(folder / "distilbert"),
            "ipu": {"batch_size": BATCHES["question_answering"]},
        },
        {
            "model": "summarization",
            "device": "ipu",
            "checkpoint": tiny.bart(folder / "bart"),
            "ipu": {"batch_size": BATCHES["summarization"]},
            "options": SUMMARY,
        },
    ]


@pytest.fixture
def stack(spawn, short_dir):
    return IpuStack(spawn, short_dir, models(short_dir), STANDIN_COMPILE_S="1.5")


def ask(stack, number):
    """Send the request with a number: mostly single questions of some length, some batches, some texts."""
    draw = random.Random(number)
    context = " ".join(
        "{} Room {} is {} m long.".format(TOWER, draw.random(), number) for _ in range(draw.randint(1, 6))
    )
    question = {"context": context, "question": "Who lives in Bristol, and how long is room {}?".format(number)}
    if number % 10 == 0:
        return stack.request("POST", "/summarization", {"documents": context})
    if number % 10 == 1:
        return stack.request("POST", "/qa/batch", {"inputs": [question] * draw.randint(1, 7)})
    return stack.request("POST", "/qa", question)


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_mixed_traffic_is_answered_and_nothing_is_ever_compiled_again(stack, wait_until):
    seen: Set[Tuple[str, str]] = set()

    def ready():
        seen.update((name, state) for name in BATCHES for state in states(stack, name))
        return stack.ready()

    stack.start()
    wait_until(stack.is_up, 30)
    wait_until(ready, 60, "every model is ready")
    # One compile at a time: while one compiles the others wait for their turn, and all of that is told.
    assert {state for _, state in seen} >= {"WAITING_TO_COMPILE", "COMPILING"}
    compiled = stack.machine.journal("compile")
    assert sorted(line["model"] for line in compiled) == sorted({line["model"] for line in compiled})
    # The web half's picture may be a second old.
    first = {"question_answering": [(0, 1), (1, 0)], "summarization": [(2, 0)]}
    wait_until(lambda: programs(stack) == first)

    before = stack.machine.journal("compile", "cache_hit", "attach")
    with ThreadPoolExecutor(CLIENTS) as clients:
        answers = list(clients.map(lambda number: ask(stack, number), range(REQUESTS)))
    assert {answer.status for answer in answers} == {200}
    assert stack.machine.journal("compile", "cache_hit", "attach") == before
    # Both replicas worked, each on IPUs of its own.
    pids = {replica["pid"] for name in BATCHES for replica in stack.model(name)["replicas"]}
    assert set(stack.machine.holders().values()) == pids
    assert all(stack.machine.executions()[pid] > 100 for pid in pids)


@pytest.mark.slow
@pytest.mark.timeout(180)
def test_a_full_machine_refuses_a_third_replica_and_a_second_start_compiles_nothing(stack, spawn, wait_until):
    stack.start()
    wait_until(stack.ready, 60)
    refused = stack.daemon.command("scale", "question_answering", "3")
    assert (refused.returncode, refused.stdout) == (1, b"3 replicas need 1 IPUs more than the 4 there are\n")
    assert stack.daemon.status().counters["ipus_leased"] == 4

    # Old before new, for the machine has no room for both; what comes meanwhile waits.
    assert stack.daemon.command("reload", "summarization").returncode == 0
    assert stack.request("POST", "/summarization", {"documents": TOWER}).status == 200
    wait_until(lambda: programs(stack)["summarization"] == [(0, 2)])

    assert stack.daemon.child.terminate() == 0
    assert stack.machine.holders() == {}
    assert len(stack.machine.journal("detach")) == len(stack.machine.journal("attach"))

    compiles = stack.machine.journal("compile")
    stack.daemon.start()
    wait_until(stack.ready, 60)
    assert stack.machine.journal("compile") == compiles
    wait_until(lambda: programs(stack) == {"question_answering": [(0, 1), (0, 1)], "summarization": [(0, 2)]})
    figure = 'model_server_supervisor_programs_from_cache_total{model="summarization"} 2.0'
    wait_until(lambda: figure in stack.request("GET", "/metrics").body)


def states(stack, name):
    answer = stack.request("GET", "/models/" + name)
    return [replica["state"] for replica in answer.body["replicas"]] if answer.status == 200 else []


def programs(stack):
    """Return how many programs each replica compiled, and found compiled."""
    return {
        name: sorted((replica["compiled"], replica["from_cache"]) for replica in stack.model(name)["replicas"])
        for name in BATCHES
    }


@pytest.mark.timeout(120)
def test_a_replica_works_in_a_folder_of_its_own_and_waits_for_no_ipu(spawn, short_dir, wait_until):
    (short_dir / "models").mkdir()
    text = "import os\nclass Pipeline:\n    def __call__(self, inputs):\n        return {}\n"
    told = '{"cwd": os.getcwd(), "waits": os.environ.get("POPTORCH_WAIT_FOR_IPU")}'
    (short_dir / "models" / "whereabouts.py").write_text(text.format(told), encoding="utf-8")
    models_path = str(short_dir / "models")
    stack = IpuStack(spawn, short_dir, [{"model": "whereabouts", "device": "ipu"}], MODELS_PATH=models_path).start()
    wait_until(stack.ready, 60)
    answer = stack.request("POST", "/whereabouts", {}).body
    assert answer == {"cwd": str(short_dir / "replicas" / "whereabouts-1"), "waits": None}


OLDER = """
from optimum.graphcore import IPUConfig, pipeline

pipe = pipeline("question-answering", model="{folder}", ipu_config=IPUConfig(layers_per_ipu=[2]), max_seq_len=128)


def compile(pipe):
    pipe(question="Who?", context="Rob.")
"""


@pytest.mark.timeout(120)
def test_an_older_model_file_that_calls_optimum_graphcore_itself_serves(spawn, short_dir, wait_until):
    (short_dir / "models").mkdir()
    text = OLDER.format(folder=tiny.distilbert(short_dir / "distilbert"))
    (short_dir / "models" / "older_qa.py").write_text(text, encoding="utf-8")
    models_path = str(short_dir / "models")
    stack = IpuStack(spawn, short_dir, [{"model": "older_qa", "device": "ipu"}], MODELS_PATH=models_path).start()
    wait_until(stack.ready, 60)
    answer = stack.request("POST", "/older_qa", {"question": "Who lives in Bristol?", "context": TOWER})
    assert (answer.status, answer.body["answer"] in TOWER) == (200, True)
    assert len(stack.machine.journal("compile")) == 1
    assert len(list(pathlib.Path(stack.daemon.env["POPTORCH_CACHE_DIR"]).glob("*.popef"))) == 1
