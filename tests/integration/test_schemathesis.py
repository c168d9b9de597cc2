"""Generated requests, valid and invalid, to both halves with real models: only answers that the document promises."""

import pytest
import schemathesis  # noqa: F401  # this file needs the web half

from tests.http.schemathesis_run import run
from tests.integration.stack import Stack

pytestmark = [pytest.mark.service, pytest.mark.torch, pytest.mark.slow, pytest.mark.timeout(900)]

#: Generated requests per operation and kind.
EXAMPLES = 300
MODELS = [{"model": name} for name in ("question_answering", "summarization", "embeddings", "echo")]


def test_no_violation_is_found(spawn, short_dir, wait_until):
    stack = Stack(spawn, short_dir, MODELS, CHECKPOINTS="demo", LOG_LEVEL="WARNING").start()
    wait_until(stack.ready, limit_s=90)
    done = run("http://127.0.0.1:{}".format(stack.port), EXAMPLES, [])
    print(done.stdout[-1500:])
    assert done.returncode == 0, done.stdout[-8000:] + done.stderr[-2000:]
    assert "Tested: " in done.stdout
    assert stack.ready()
    assert [replica.last_exit for model in stack.daemon.status().models for replica in model.replicas] == [""] * 4
