"""Loading: the right weights, or a sentence that says why not; and what the engine promises."""

import json
import pathlib
import shutil
import subprocess
import sys

import numpy
import pytest
import torch
from safetensors.numpy import load_file, save_file

from ipu_supervisor.engines import load, torch_engine
from ipu_supervisor.engines.hub import CheckpointError
from ipu_supervisor.models import embeddings

pytestmark = pytest.mark.torch

NO_CUDA = pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a CUDA device")


@pytest.fixture
def copy(checkpoints, tmp_path):
    def copy(name):
        return pathlib.Path(shutil.copytree(checkpoints[name], tmp_path / name))

    return copy


def change(path, **values):
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


def test_a_model_without_a_task_needs_no_engine_and_no_torch():
    code = "import sys; from ipu_supervisor.engines.load import load; print(load('', ''), 'torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.split() == ["None", "False"]


def test_the_engine_says_what_it_loaded(engine_for, checkpoints):
    engine = engine_for("question-answering", "bert")
    assert (engine.checkpoint, engine.revision, engine.demo) == (checkpoints["bert"], "local", False)
    assert (engine.task, engine.device, engine.dtype) == ("question-answering", "cpu", "float32")


@pytest.mark.parametrize(
    ("task", "name", "fault"),
    [
        ("question-answering", "encoder", "was not made for question-answering: it lacks the weights qa_outputs"),
        ("summarization", "bert", "cannot be loaded for summarization"),
        ("translation", "bart", "No engine has the task 'translation'"),
    ],
)
def test_a_checkpoint_made_for_something_else_is_refused(checkpoints, task, name, fault):
    with pytest.raises(CheckpointError, match=fault):
        load.load(task, checkpoints[name], device="cpu")


def test_weights_that_can_run_code_are_never_loaded(copy):
    folder = copy("encoder")
    weights = {name: torch.from_numpy(array) for name, array in load_file(folder / "model.safetensors").items()}
    torch.save(weights, folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    with pytest.raises(CheckpointError, match="no safetensors"):
        load.load("sentence-embedding", str(folder), device="cpu")


def test_code_in_a_checkpoint_never_runs(copy, tmp_path):
    folder = copy("encoder")
    (folder / "evil.py").write_text("import pathlib\npathlib.Path({!r}).touch()\n".format(str(tmp_path / "ran")))
    change(folder / "config.json", auto_map={"AutoModel": "evil.M", "AutoConfig": "evil.C"}, model_type="evil")
    with pytest.raises(CheckpointError, match="cannot be loaded"):
        load.load("sentence-embedding", str(folder), device="cpu")
    assert not (tmp_path / "ran").exists()


def test_broken_weights_are_refused(copy):
    folder = copy("encoder")
    (folder / "model.safetensors").write_bytes(b"broken")
    with pytest.raises(CheckpointError, match="cannot be loaded"):
        load.load("sentence-embedding", str(folder), device="cpu")


def test_a_checkpoint_without_a_tokenizer_is_refused(copy):
    folder = copy("encoder")
    for name in ("tokenizer.json", "tokenizer_config.json", "vocab.txt"):
        (folder / name).unlink()
    with pytest.raises(CheckpointError, match="tokenizer"):
        load.load("sentence-embedding", str(folder), device="cpu")


@pytest.mark.parametrize("text", ["", "[]", '{"added_tokens": []}'])
def test_a_broken_tokenizer_is_refused_for_good(copy, text):
    folder = copy("encoder")
    (folder / "tokenizer.json").write_text(text)
    with pytest.raises(CheckpointError, match=r"The tokenizer of .* cannot be loaded: ") as raised:
        load.load("sentence-embedding", str(folder), device="cpu")
    assert raised.value.final


@NO_CUDA
def test_a_device_that_is_not_there_is_refused(checkpoints):
    with pytest.raises(CheckpointError, match="no CUDA device"):
        load.load("sentence-embedding", checkpoints["encoder"], device="cuda")


@NO_CUDA
def test_auto_takes_the_cpu_where_there_is_nothing_else(checkpoints):
    engine = load.load("sentence-embedding", checkpoints["encoder"], device="auto")
    assert engine is not None
    assert engine.device == "cpu"


def test_a_device_without_an_engine_is_refused(checkpoints):
    with pytest.raises(CheckpointError, match="no engine for the device 'tpu'"):
        load.load("sentence-embedding", checkpoints["encoder"], device="tpu")


def test_an_ipu_needs_its_libraries(checkpoints):
    with pytest.raises(CheckpointError, match="needs poptorch and optimum-graphcore"):
        load.load("sentence-embedding", checkpoints["encoder"], device="ipu")


def test_the_demo_is_refused_on_an_ipu():
    with pytest.raises(CheckpointError, match="set CHECKPOINTS=hub"):
        load.load("sentence-embedding", "", mode="demo", device="ipu")


def test_bfloat16_gives_nearly_the_same_vectors(engine_for, checkpoints):
    texts = [{"text": "The tower is in Bristol."}]
    options = embeddings.Pipeline.Options().load({"max_tokens": 64})
    half = load.load("sentence-embedding", checkpoints["encoder"], device="cpu", dtype="bfloat16")
    assert half is not None
    assert half.dtype == "bfloat16"
    vectors = [
        embeddings.Pipeline(e, options)(texts)[0]["results"]
        for e in (half, engine_for("sentence-embedding", "encoder"))
    ]
    assert numpy.dot(*vectors) > 0.999


def test_scores_that_are_no_numbers_are_an_error(copy):
    folder = copy("encoder")
    weights = load_file(folder / "model.safetensors")
    weights["embeddings.LayerNorm.bias"] = weights["embeddings.LayerNorm.bias"] * numpy.float32("nan")
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    engine = load.load("sentence-embedding", str(folder), device="cpu")
    with pytest.raises(FloatingPointError, match="not finite"):
        embeddings.Pipeline(engine, {"max_tokens": 64})([{"text": "x"}])


def test_rows_are_no_longer_than_the_weights_have_positions(copy):
    folder = copy("encoder")
    change(folder / "tokenizer_config.json", model_max_length=10**30)
    engine = load.load("sentence-embedding", str(folder), device="cpu")
    assert embeddings.Pipeline(engine, {"max_tokens": 500})([{"text": "the tower " * 400}])


def test_a_checkpoints_own_settings_for_the_task_apply(copy):
    folder = copy("bart")
    settings = {"summarization": {"prefix": "summarize: ", "no_repeat_ngram_size": 2}}
    change(folder / "config.json", task_specific_params=settings)
    engine = load.load("summarization", str(folder), device="cpu")
    assert isinstance(engine, torch_engine.TorchEngine)
    assert engine.prefix == "summarize: "
    assert engine.model.generation_config.no_repeat_ngram_size == 2


def test_threads_are_as_many_as_asked(checkpoints):
    before = torch.get_num_threads()
    load.load("sentence-embedding", checkpoints["encoder"], device="cpu", threads=2)
    assert torch.get_num_threads() == 2
    torch.set_num_threads(before)
