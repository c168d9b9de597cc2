"""Performs the steps of docs/adding-a-model.md as they stand there."""

import json
import re
import shlex
import signal

import gunicorn  # noqa: F401  # this file needs the web half
import pytest

from tests.integration.harness import ROOT, kill
from tests.integration.stack import Stack
from tests.models import tiny

#: A marked block of the page: what it is, and its text.
BLOCK = re.compile(r"<!-- (file: (?P<path>\S+)|env|curl) -->\n```\w+\n(?P<text>.*?)```", re.DOTALL)


def blocks(kind):
    """Return the page's blocks of one kind: (path or empty, text)."""
    page = (ROOT / "docs" / "adding-a-model.md").read_text(encoding="utf-8")
    return [(match["path"] or "", match["text"]) for match in BLOCK.finditer(page) if match[1].startswith(kind)]


def curl(stack, text):
    """Send what a curl command says."""
    words = shlex.split(text.replace("\\\n", " "))
    url = next(word for word in words if word.startswith("http://localhost:8100"))
    body = json.loads(words[words.index("-d") + 1])
    return stack.request("POST", url[len("http://localhost:8100") :], body)


@pytest.mark.torch
@pytest.mark.slow
def test_the_page_s_own_model_serves_by_its_own_steps(spawn, short_dir, wait_until):
    for path, text in blocks("file"):
        target = short_dir / path
        target.parent.mkdir(exist_ok=True)
        target.write_text(text, encoding="utf-8")
    env = dict(line.split("=", 1) for line in shlex.split(blocks("env")[0][1]))
    models = [*json.loads(env["SERVER_MODELS"]), {"model": "shout"}]
    stack = Stack(spawn, short_dir, models, MODELS_PATH=str(short_dir / env["MODELS_PATH"]), CHECKPOINTS="demo").start()
    wait_until(stack.ready, limit_s=90)
    similar, shouted = [curl(stack, text) for _, text in blocks("curl")]
    assert similar.status == 200
    assert 0.3 < similar.body["score"] < 1
    assert shouted.body == {"results": "HELLO"}
    paths = stack.request("GET", "/openapi.json").body["paths"]
    assert {"/similarity", "/similarity/batch", "/shout"} <= set(paths)
    refused = stack.request("POST", "/similarity", {"first": "only one"})
    assert (refused.status, "second" in json.dumps(refused.body)) == (422, True)


@pytest.mark.torch
@pytest.mark.slow
def test_a_change_to_the_page_s_own_model_serves_after_a_reload_and_a_hangup(spawn, short_dir, wait_until):
    path = short_dir / "similarity.py"
    text = dict(blocks("file"))["my_models/similarity.py"]
    first, second = [tiny.encoder(short_dir / name) for name in ("first", "second")]
    path.write_text(text.replace("sentence-transformers/all-MiniLM-L6-v2", first), encoding="utf-8")
    stack = Stack(spawn, short_dir, [{"model": "similarity"}], MODELS_PATH=str(short_dir)).start()
    wait_until(stack.ready, limit_s=90)
    changed = text.replace("sentence-transformers/all-MiniLM-L6-v2", second).replace("/similarity", "/alike")
    scaled = changed.replace("Integer(load_default=4", "Integer(load_default=0").replace("digits", "places")
    path.write_text(scaled, encoding="utf-8")
    assert stack.daemon.command("reload", "similarity").returncode == 0
    wait_until(lambda: stack.request("GET", "/models/similarity").body["checkpoint"] == second, limit_s=90)
    wait_until(lambda: "different versions" in str(stack.request("GET", "/health/readiness").body))
    kill(stack.web.pid, signal.SIGHUP)
    texts = {"first": "the tower of bristol", "second": "the name of rob"}
    # The old workers know no such route, and no such option. It rounds to no places.
    wait_until(lambda: stack.request("POST", "/alike", texts).body.get("score") in (-1, 0, 1), limit_s=90)
    wait_until(stack.ready)
