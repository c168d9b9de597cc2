"""What the IPU engine asks of the libraries, as their own objects show it, and what it refuses; on the stand-in."""

import contextlib
import json
import resource
from typing import List

import pytest
import torch
from safetensors.numpy import load_file, save_file

from ipu_supervisor import layout, replica
from ipu_supervisor.engines import load
from ipu_supervisor.engines.faults import DeviceFault
from ipu_supervisor.engines.hub import CheckpointError
from ipu_supervisor.models import question_answering, summarization
from ipu_supervisor.models.catalog import ModelFileError
from tests.models import tiny

pytestmark = pytest.mark.torch


@pytest.fixture
def qa(pipeline_on, checkpoints):
    """Return a function that returns the engine of a small DistilBERT."""
    return lambda **settings: pipeline_on(question_answering, checkpoints["distilbert"], **settings).engine


@pytest.fixture
def bart(pipeline_on, checkpoints):
    """Return a function that returns the engine of a small BART."""
    return lambda **ipu: pipeline_on(summarization, checkpoints["bart"], ipu=ipu, max_new_tokens=4).engine


@pytest.fixture
def unchecked(poptorch, checkpoints):
    """Return a function that loads the same DistilBERT by settings that nobody has checked."""

    def loaded(**ipu):
        settings = {**layout.complete(layout.IpuSchema().load({}), "question-answering"), **ipu}
        plan = {"ipu": settings, "shapes": {"length": 128}}
        return load.load("question-answering", checkpoints["distilbert"], device="ipu", threads=1, layout=plan)

    return loaded


# ---- what is asked for -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("dtype", "expected"), [("auto", torch.float16), ("float32", torch.float32)])
def test_weights_are_of_the_type_that_is_told(qa, dtype, expected):
    engine = qa(dtype=dtype)
    assert {weight.dtype for weight in engine._model.parameters()} == {expected}
    assert "torch." + engine.dtype == str(expected)


@pytest.mark.parametrize(
    ("dtype", "ipu", "partials"),
    [
        ("auto", {}, torch.float16),
        ("auto", {"enable_half_partials": False}, None),
        ("float32", {"enable_half_partials": True}, None),
    ],
)
def test_sums_are_in_half_precision_where_the_weights_are_and_it_is_not_turned_off(qa, dtype, ipu, partials):
    precision = qa(dtype=dtype, ipu=ipu)._executor.options.Precision
    assert vars(precision).get("partials_type") is partials


@pytest.mark.parametrize(
    ("ipu", "shares"),
    [
        ({}, {"IPU0": 0.2}),
        ({"matmul_proportion": 1}, {"IPU0": 1.0}),
        ({"ipus": 2, "matmul_proportion": [0.1, 0.3]}, {"IPU0": 0.1, "IPU1": 0.3}),
    ],
    ids=str,
)
def test_the_share_of_memory_is_that_of_the_settings(qa, ipu, shares):
    assert qa(ipu=ipu)._executor.options.available_memory_proportion == shares


def test_copies_in_one_program_hold_ipus_of_their_own(qa, standin):
    assert qa(ipu={"replication": 2, "batch_size": 2}).limits.batch == 4
    assert sorted(standin.holders()) == [0, 1]


@pytest.mark.parametrize(("ipu", "shares"), [({}, [0.15, 0.15]), ({"matmul_proportion": [0.1, 0.3]}, [0.1, 0.3])])
def test_encoder_and_decoder_have_each_its_share_of_memory(bart, ipu, shares):
    model = bart(**ipu)._model
    parts = [part.options.available_memory_proportion for part in (model.poptorch_encoder, model.poptorch_decoder)]
    assert parts == [{"IPU0": share} for share in shares]


def test_an_embedding_is_cut_into_as_many_parts_as_are_set(qa, bart):
    # The vocabularies are of 3 x 79 and of 271 entries.
    cut = qa(ipu={"embedding_serialization_factor": 3})._model.distilbert.embeddings.word_embeddings
    assert [part.num_embeddings for part in cut.split_embeddings] == [79] * 3
    assert bart(embedding_serialization_factor=271)._model.lm_head.factor == 271


@pytest.mark.parametrize(("env", "level"), [({}, "WARN"), ({"POPTORCH_LOG_LEVEL": "INFO"}, "INFO")])
def test_the_librarys_log_has_the_level_of_the_environment_and_not_optimums(qa, poptorch, monkeypatch, env, level):
    levels: List[str] = []
    monkeypatch.setattr(poptorch, "setLogLevel", levels.append)
    for name, value in env.items():
        monkeypatch.setenv(name, value)
    qa()
    assert levels[-1:] == [level]


# ---- what is refused -------------------------------------------------------------------------------------------------


def test_a_machine_without_ipus_is_told_as_such(qa, monkeypatch):
    monkeypatch.setenv("STANDIN_IPUS", "0")
    with pytest.raises(DeviceFault, match="PopTorch sees no IPU") as raised:
        qa()
    assert raised.value.kind == "NO_SUCH_DEVICE"


def test_ipus_that_optimum_graphcore_does_not_take_are_told_as_such(qa, monkeypatch):
    monkeypatch.setenv("STANDIN_IPU_VERSION", "1")
    with pytest.raises(DeviceFault, match="PopTorch sees IPUs of version 1") as raised:
        qa()
    assert (raised.value.kind, raised.value.final) == ("UNSUPPORTED_DEVICE", True)
    monkeypatch.setenv("STANDIN_IPU_VERSION", "21")
    assert qa().built() == 1


def test_settings_that_do_not_fit_the_checkpoint_are_refused_in_the_words_of_check_config(qa):
    with pytest.raises(CheckpointError, match=r"\[1, 2\] adds up to 3, but the checkpoint has 2 layers"):
        qa(ipu={"layers_per_ipu": [1, 2]})


def test_what_only_optimum_graphcore_refuses_is_told_in_its_words(unchecked, monkeypatch, tmp_path):
    monkeypatch.setenv("POPTORCH_CACHE_DIR", str(tmp_path))
    with pytest.raises(CheckpointError, match=r"distilbert cannot be laid out on IPUs: .*matmul_proportion.* >= 0"):
        unchecked(matmul_proportion=-1)


def paired_merges(folder):
    """Write the pairs of a tokenizer as tokenizers 0.20 and newer do."""
    path = folder / "tokenizer.json"
    words = json.loads(path.read_text(encoding="utf-8"))
    words["model"]["merges"] = [pair.split(" ") for pair in words["model"]["merges"]]
    path.write_text(json.dumps(words), encoding="utf-8")


def nameless_class(folder):
    """Name a tokenizer's class as Transformers 5 does where there is none of the model's own."""
    path = folder / "tokenizer_config.json"
    told = {**json.loads(path.read_text(encoding="utf-8")), "tokenizer_class": "TokenizersBackend"}
    path.write_text(json.dumps(told), encoding="utf-8")


@pytest.mark.parametrize("saved", [paired_merges, nameless_class])
def test_a_tokenizer_that_newer_libraries_saved_is_refused_for_good_with_what_to_do(pipeline_on, tmp_path, saved):
    folder = tiny.bart(tmp_path / "bart")
    saved(tmp_path / "bart")
    with pytest.raises(
        CheckpointError, match=r"by newer libraries than tokenizers 0\.13\.3 and .*save it again"
    ) as raised:
        pipeline_on(summarization, folder)
    assert raised.value.final


def test_scores_that_are_no_numbers_are_not_served(pipeline_on, tmp_path):
    folder = tiny.distilbert(tmp_path / "distilbert")
    weights = load_file(folder + "/model.safetensors")
    weights["qa_outputs.bias"] += float("nan")
    save_file(weights, folder + "/model.safetensors", metadata={"format": "pt"})
    with pytest.raises(FloatingPointError, match="not finite in float32; set another dtype"):
        pipeline_on(question_answering, folder)


# ---- the warm-up -----------------------------------------------------------------------------------------------------


class Unprepared(question_answering.Pipeline):
    """Leaves its program to the first request."""

    def compile(self):
        pass


def test_a_model_file_that_runs_no_program_before_it_serves_is_refused(unchecked, monkeypatch, tmp_path):
    monkeypatch.setenv("POPTORCH_CACHE_DIR", str(tmp_path))
    engine, options = unchecked(), question_answering.Pipeline.Options().load({"max_seq_len": 128})
    with pytest.raises(ModelFileError, match="ran 0 of the 1 programs that requests need"):
        replica.Model(Unprepared(engine, options), Unprepared.Output).compile()
    assert replica.Model(question_answering.Pipeline(engine, options), Unprepared.Output).compile() == (1, 0)
    engine.close()


def test_a_sequence_model_has_built_both_of_its_programs_when_it_has_written_something(bart):
    assert bart().built() == 2


# ---- the cache -------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def no_room():
    """Have this process create files, as on a full disk, and write nothing into them."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize(
    ("folder", "disk"),
    [("{}/file/programs", contextlib.nullcontext), ("/proc/self", contextlib.nullcontext), ("{}", no_room)],
    ids=["not to be made", "not writable", "full"],
)
def test_a_cache_that_keeps_nothing_is_told_and_has_no_programs(unchecked, monkeypatch, tmp_path, caplog, folder, disk):
    for name in ("file", "kept.popef"):
        (tmp_path / name).touch()
    monkeypatch.setenv("POPTORCH_CACHE_DIR", folder.format(tmp_path))
    engine = unchecked()
    with disk():
        assert engine.programs() == (1, 0)
    assert "executable_cache_not_writable folder={}".format(folder.format(tmp_path)) in caplog.text
