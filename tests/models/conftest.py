"""The tiny checkpoints, built once, and engines on them."""

import pytest

from ipu_supervisor.engines import load
from tests.models import tiny


@pytest.fixture(scope="session")
def checkpoints(tmp_path_factory):
    root = tmp_path_factory.mktemp("checkpoints")
    makers = (tiny.distilbert, tiny.bert, tiny.encoder, tiny.bart)
    return {maker.__name__: maker(root / maker.__name__) for maker in makers}


@pytest.fixture(scope="session")
def engine_for(checkpoints):
    made = {}

    def engine(task, name):
        if name not in made:
            made[name] = load.load(task, checkpoints[name], device="cpu", threads=1)
        return made[name]

    return engine
