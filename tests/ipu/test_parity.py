"""The IPU engine in float32 against the CPU engine, `optimum.graphcore.pipeline`, and Transformers 4.57.6's results.

On the stand-in, so every line but the chip's own arithmetic is the real one. Short and long inputs (several windows),
single and batched, on one IPU and on several.
"""

import json
import pathlib
from typing import Any, Dict, Sequence

import pytest
import torch
from safetensors.numpy import load_file, save_file

from ipu_supervisor.models import embeddings, question_answering, summarization
from tests.models import tiny

pytestmark = pytest.mark.torch

GOLDEN = json.loads((pathlib.Path(__file__).parents[1] / "golden" / "pipelines.json").read_text(encoding="utf-8"))
QUESTIONS, TEXTS = GOLDEN["questions"], [{"documents": text} for text in GOLDEN["texts"]]
#: The token with which the small BART ends a text.
EOS = 2
#: Ways to lay an encoder out, and a sequence model.
ENCODER_LAYOUTS: Sequence[Dict[str, Any]] = (
    {},
    {"ipus": 2},
    {"batch_size": 3},
    {"batch_size": 2, "replication": 2},
    {"layers_per_ipu": [0, 2]},
)
SEQUENCE_LAYOUTS: Sequence[Dict[str, Any]] = (
    {},
    {"batch_size": 3},
    {"ipus": 4},
    {"inference_parallelize_kwargs": {"use_encoder_output_buffer": True}},
    {"inference_parallelize_kwargs": {"use_cache": False}},
)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("parity")
    makers = (tiny.distilbert, tiny.bert, tiny.encoder, tiny.bart)
    return {maker.__name__: maker(root / maker.__name__) for maker in makers}


@pytest.fixture
def serve(folders, pipeline_on):
    """Return a function that makes a model file's pipeline on a device, warmed up."""
    return lambda module, name, device="ipu", **settings: pipeline_on(module, folders[name], device, **settings)


def compiles(standin):
    return len(standin.journal("compile"))


# ---- question answering ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ipu", ENCODER_LAYOUTS, ids=str)
@pytest.mark.parametrize("name", ["distilbert", "bert"])
def test_answers_are_those_of_the_cpu_and_of_the_old_pipeline(serve, standin, name, ipu):
    on_cpu, on_ipu = serve(question_answering, name, "cpu"), serve(question_answering, name, ipu=ipu)
    before = compiles(standin)
    together, alone = on_ipu(QUESTIONS), [on_ipu([question])[0] for question in QUESTIONS]
    for number, expected in enumerate(on_cpu(QUESTIONS)):
        for answer in (together[number], alone[number]):
            assert answer["results"] == expected["results"] == GOLDEN[name][number]["answer"]
            assert answer["score"] == pytest.approx(expected["score"], rel=1e-4)
    assert compiles(standin) == before == 1


@pytest.mark.parametrize(("name", "parts"), [("distilbert", 3), ("bert", 5)])
def test_answers_are_the_same_where_the_embedding_is_cut(serve, name, parts):
    on_ipu = serve(question_answering, name, ipu={"embedding_serialization_factor": parts})
    assert [answer["results"] for answer in on_ipu(QUESTIONS)] == [each["answer"] for each in GOLDEN[name]]


def test_answers_are_those_of_optimum_graphcores_pipeline(serve, folders):
    from optimum.graphcore import IPUConfig, pipeline

    reference = pipeline(
        "question-answering",
        model=folders["distilbert"],
        ipu_config=IPUConfig(layers_per_ipu=[2]),
        fp16=False,
        max_seq_len=128,
    )
    equal_scores = 0
    for question, answer in zip(QUESTIONS, serve(question_answering, "distilbert", max_seq_len=128)(QUESTIONS)):
        expected = reference(**question, doc_stride=64)
        assert answer["results"] == expected["answer"]
        # The older pipeline does not add up the scores of spans that are one and the same text.
        assert answer["score"] >= expected["score"] * (1 - 1e-4)
        equal_scores += answer["score"] == pytest.approx(expected["score"], rel=1e-4)
    assert equal_scores >= len(QUESTIONS) / 3


def test_half_precision_is_what_auto_means_and_gives_the_same_answers(serve):
    on_ipu = serve(question_answering, "distilbert", dtype="auto")
    assert on_ipu.engine.dtype == "float16"
    answers = [answer["results"] for answer in on_ipu(QUESTIONS)]
    same = [answer == expected["answer"] for answer, expected in zip(answers, GOLDEN["distilbert"])]
    assert sum(same) >= len(same) - 2


# ---- embeddings ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ipu", ENCODER_LAYOUTS, ids=str)
def test_vectors_are_those_of_the_cpu(serve, ipu):
    texts = [{"text": text} for text in GOLDEN["texts"]]
    on_cpu, on_ipu = serve(embeddings, "encoder", "cpu")(texts), serve(embeddings, "encoder", ipu=ipu)(texts)
    for expected, found in zip(on_cpu, on_ipu):
        assert found["results"] == pytest.approx(expected["results"], abs=1e-5)


# ---- summarization ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ipu", SEQUENCE_LAYOUTS, ids=str)
@pytest.mark.parametrize("beams", [1, 3])
def test_summaries_are_those_of_the_cpu_and_of_the_old_pipeline(serve, standin, beams, ipu):
    options = {"num_beams": beams, "max_new_tokens": 20}
    on_cpu, on_ipu = serve(summarization, "bart", "cpu", **options), serve(summarization, "bart", ipu=ipu, **options)
    before = compiles(standin)
    together, alone = on_ipu(TEXTS), [on_ipu([text])[0] for text in TEXTS]
    expected = [{"results": [{"summary_text": text}]} for text in GOLDEN["summaries"][str(beams)]]
    assert together == alone == on_cpu(TEXTS) == expected
    assert compiles(standin) == before == 2


def test_a_shortest_summary_is_kept_to_as_on_the_cpu(pipeline_on, tmp_path):
    # This one would rather end at once.
    folder = tiny.bart(tmp_path / "bart")
    weights = load_file(folder + "/model.safetensors")
    weights["final_logits_bias"][0, EOS] += 100
    save_file(weights, folder + "/model.safetensors", metadata={"format": "pt"})
    options = {"num_beams": 2, "max_new_tokens": 16, "min_new_tokens": 12}
    on_ipu, on_cpu = (pipeline_on(summarization, folder, device, **options) for device in ("ipu", "cpu"))
    assert on_ipu(TEXTS) == on_cpu(TEXTS)


def test_a_longest_summary_below_the_checkpoints_shortest_is_kept_to(serve, monkeypatch):
    # The checkpoint's own shortest is 6 tokens.
    pipeline, written = serve(summarization, "bart", max_new_tokens=4), []
    generate = pipeline.engine.generate

    def kept(*inputs, **settings):
        written.append(generate(*inputs, **settings))
        return written[-1]

    monkeypatch.setattr(pipeline.engine, "generate", kept)
    assert len(pipeline(TEXTS)) == len(TEXTS)
    assert {ids.shape[1] for ids in written} == {1 + 4}, "the start token, and the longest"


def test_summaries_are_those_of_optimum_graphcores_pipeline(serve, folders):
    from optimum.graphcore import IPUConfig, pipeline

    search = {"max_length": 21, "num_beams": 3}
    reference = pipeline(
        "summarization",
        model=folders["bart"],
        ipu_config=IPUConfig(
            layers_per_ipu=[2, 2],
            matmul_proportion=0.15,
            inference_parallelize_kwargs={**search, "batch_size": 1, "dtype": torch.float32},
        ),
        fp16=False,
        max_input_length=64,
        truncation=True,
        **search,
    )
    for text, answer in zip(TEXTS, serve(summarization, "bart", num_beams=3, max_new_tokens=20)(TEXTS)):
        [expected] = reference(text["documents"], clean_up_tokenization_spaces=False)
        assert answer["results"] == [expected]


# ---- shapes ----------------------------------------------------------------------------------------------------------


def test_rows_of_another_shape_are_refused_before_they_reach_the_device(serve, standin):
    engine = serve(question_answering, "distilbert").engine
    row = torch.zeros((1, 64), dtype=torch.int64).numpy()
    with pytest.raises(ValueError, match=r"compiled for \(1, 128\)"):
        engine.forward({"input_ids": row, "attention_mask": row})
    assert compiles(standin) == 1


def test_another_search_than_the_compiled_one_is_refused(serve):
    engine = serve(summarization, "bart", num_beams=3, max_new_tokens=20).engine
    with pytest.raises(ValueError, match=r"not for {'num_beams': 4}"):
        engine.generate({}, num_beams=4)


# ---- the cache -------------------------------------------------------------------------------------------------------


def test_programs_are_counted_in_the_cache(serve):
    assert serve(question_answering, "distilbert").engine.programs() == (1, 1)
    assert serve(summarization, "bart", max_new_tokens=20).engine.programs() == (2, 3)
