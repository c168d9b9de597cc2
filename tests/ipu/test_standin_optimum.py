"""The real, unmodified optimum-graphcore runs on the stand-in, and in float32 its results are those of Transformers."""

import importlib
import importlib.util
from typing import Any

import pytest

if importlib.util.find_spec("optimum") is None:
    pytest.skip("needs the environment with optimum-graphcore", allow_module_level=True)

torch: Any = pytest.importorskip("torch")

CONTEXT = "the tower is 324 and was named by rob in bristol, who lived there in 1889."
QUESTION = "who named the tower?"


@pytest.fixture
def optimum(poptorch):
    return importlib.import_module("optimum.graphcore")


@pytest.fixture
def transformers(poptorch):
    return importlib.import_module("transformers")


def test_question_answering_is_bit_equal_to_plain_transformers(optimum, transformers, standin, checkpoints):
    model = checkpoints["distilbert"]
    settings = {"padding": "max_length", "max_seq_len": 64}
    config = optimum.IPUConfig(layers_per_ipu=[2])
    ours = optimum.pipeline("question-answering", model=model, ipu_config=config, fp16=False, **settings)
    plain = transformers.pipeline("question-answering", model=model, **settings)
    for context in (CONTEXT, CONTEXT * 6):
        asked = {"question": QUESTION, "context": context}
        assert ours(asked) == plain(asked)
    assert [len(line["ipus"]) for line in standin.journal("compile")] == [1]


SUMMARIES = {
    "greedy": {},
    "beams": {"num_beams": 3},
    "encoder buffer": {"use_encoder_output_buffer": True},
    "no cache": {"use_cache": False},
    "batch": {"batch_size": 2},
    "batch of beams": {"num_beams": 3, "batch_size": 2},
    "on device": {"use_encoder_output_buffer": True, "on_device_generation_steps": 6},
    "beams on device": {"num_beams": 3, "use_encoder_output_buffer": True, "on_device_generation_steps": 6},
}


@pytest.mark.parametrize("build", SUMMARIES.values(), ids=SUMMARIES)
def test_summaries_equal_those_of_plain_transformers(optimum, transformers, standin, checkpoints, build):
    search = {"max_length": 25, "num_beams": build.get("num_beams", 1)}
    config = optimum.IPUConfig(
        layers_per_ipu=[2, 2], inference_parallelize_kwargs={"dtype": torch.float32, **search, **build}
    )
    called = {**search, "no_repeat_ngram_size": 0, "min_length": 0, "use_cache": build.get("use_cache", True)}
    ours = optimum.pipeline(
        "summarization",
        model=checkpoints["bart"],
        ipu_config=config,
        fp16=False,
        batch_size=build.get("batch_size", 1),
        max_input_length=40,
        **called,
    )
    plain = transformers.pipeline("summarization", model=checkpoints["bart"], **called)
    # Optimum's loops on the device end rounds of steps before the longest, and without the last token that is forced.
    rounds = 1 if called["num_beams"] == 1 else 2
    steps = build.get("on_device_generation_steps")
    longest = 25 - rounds * steps + 1 if steps else 25
    texts = [CONTEXT, QUESTION, "rob " * 90, "in bristol"]
    expected = [plain(text, max_length=longest)[0] for text in cut(plain.tokenizer, texts)]
    assert ours(texts) == expected
    assert sorted(standin.holders()) == [0, 1]
    assert len(standin.journal("compile")) == 2


def cut(tokenizer, texts):
    return [tokenizer.decode(tokenizer(text, max_length=40, truncation=True).input_ids[1:-1]) for text in texts]


def test_text_classification_runs_in_half_precision(optimum, transformers, checkpoints):
    settings = transformers.AutoConfig.from_pretrained(checkpoints["distilbert"], num_labels=3)
    torch.manual_seed(0)
    model = transformers.DistilBertForSequenceClassification(settings).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(checkpoints["distilbert"])
    plain = transformers.pipeline("text-classification", model=model, tokenizer=tokenizer)(CONTEXT)
    config = optimum.IPUConfig(layers_per_ipu=[1, 1])
    ours = optimum.pipeline(
        "text-classification", model=model, tokenizer=tokenizer, ipu_config=config, padding="max_length", max_length=64
    )
    (answer,) = ours(CONTEXT)
    assert answer["label"] == plain[0]["label"]
    assert answer["score"] == pytest.approx(plain[0]["score"], abs=2e-3)


def test_an_executor_of_ones_own_serves_a_pipeline_with_replicas(optimum, transformers, poptorch, standin, checkpoints):
    model = transformers.AutoModelForQuestionAnswering.from_pretrained(checkpoints["distilbert"])
    tokenizer = transformers.AutoTokenizer.from_pretrained(checkpoints["distilbert"])
    config = optimum.IPUConfig(layers_per_ipu=[1, 1], inference_device_iterations=2, inference_replication_factor=2)
    piped = optimum.modeling_utils.to_pipelined(model, config.eval()).parallelize().half().eval()
    executor = poptorch.inferenceModel(piped, config.to_options(for_inference=True))
    ours = optimum.pipeline(
        "question-answering", model=executor, tokenizer=tokenizer, max_seq_len=64, padding="max_length"
    )
    asked = [{"question": QUESTION, "context": CONTEXT}] * 4
    answers = ours(asked, batch_size=4)
    assert len({answer["answer"] for answer in answers}) == 1
    assert set(standin.holders()) == {0, 1, 2, 3}
    executor.detachFromDevice()
    assert standin.holders() == {}
    assert ours(asked, batch_size=4) == answers
    assert executor.isAttachedToDevice()
    executor.destroy()
