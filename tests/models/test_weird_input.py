"""Whatever text comes, an answer or an `InvalidInput` comes back, and no character is cut."""

import itertools
import math

import pytest
import regex
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ipu_supervisor.models import embeddings, question_answering, summarization
from ipu_supervisor.models.base import InvalidInput

pytestmark = pytest.mark.torch

WEIRD = [
    "\0",
    "a\0b",
    "!?...---***",
    "\u200b\u200d\ufeff",
    "\u0301\u0301",
    "😀",
    "👩\u200d👩\u200d👧\u200d👦 *\ufe0f\u20e3 🇫🇷🇩🇪 👍🏽",
    "שלום עולם ב\u05bcר",
    "السلام عليكم",
    "e\u0301 nai\u0308ve",
    "[CLS] [SEP] [MASK] [PAD] <s> </s> <pad>",
    "<script>alert(1)</script>",
    "\t x \r\n y",
    "x" * 1500,
    "東" * 1500,
    "\U0010ffff\ud7ff",
]
TEXT = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=60)
SETTINGS = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def ascii_start(text):
    return ascii(text[:12])


def make(module, engine, **options):
    return module.Pipeline(engine, module.Pipeline.Options().load(options))


def check_answer(context, answer):
    assert set(answer) == {"results", "score"}
    assert answer["results"] in context
    assert math.isfinite(answer["score"])
    clusters = regex.findall(r"\X", context)
    borders = set(itertools.accumulate(map(len, clusters), initial=0))
    length = len(answer["results"])
    assert any(context.startswith(answer["results"], start) and start + length in borders for start in borders)


@pytest.mark.parametrize("name", ["distilbert", "bert"])
@pytest.mark.parametrize("context", WEIRD, ids=ascii_start)
@pytest.mark.parametrize("question", ["What?", "\0", "😀", "\u200b"], ids=ascii_start)
def test_weird_context_is_answered(engine_for, name, context, question):
    [answer] = make(question_answering, engine_for("question-answering", name))(
        [{"context": context, "question": question}]
    )
    check_answer(context, answer)


@SETTINGS
@given(context=TEXT, question=TEXT)
def test_any_context_is_answered_with_a_part_of_it_that_cuts_no_character(engine_for, context, question):
    pipeline = make(question_answering, engine_for("question-answering", "distilbert"))
    [answer] = pipeline([{"context": context, "question": question}])
    if not isinstance(answer, InvalidInput):
        check_answer(context, answer)


def test_a_question_that_fills_the_window_fails_alone_and_is_told_the_limit(engine_for):
    pipeline = make(question_answering, engine_for("question-answering", "distilbert"))
    good = {"context": "Rob lives in Bristol.", "question": "Where?"}
    first, refused, last = pipeline([good, {"context": "Rob.", "question": "where " * 200}, good])
    assert first == last
    assert isinstance(refused, InvalidInput)
    assert "at most 60" in str(refused)


def test_a_question_at_the_limit_is_answered(engine_for):
    pipeline = make(question_answering, engine_for("question-answering", "distilbert"))
    [answer] = pipeline([{"context": "Rob lives in Bristol. " * 6, "question": "? " * 60}])
    assert answer["results"]


@pytest.mark.parametrize("name", ["distilbert", "bert"])
def test_the_shortest_windows_take_the_example_and_a_long_context(engine_for, name):
    schema = question_answering.Pipeline.Options()
    shortest = next(length for length in range(1, 385) if not schema.validate({"max_seq_len": length}))
    pipeline = make(question_answering, engine_for("question-answering", name), max_seq_len=shortest)
    pipeline.compile()
    context = "Rob lives in Bristol. " * 100
    [answer] = pipeline([{"context": context, "question": pipeline.example["question"]}])
    check_answer(context, answer)


def test_a_context_with_too_many_windows_is_refused(engine_for):
    pipeline = make(question_answering, engine_for("question-answering", "distilbert"), max_windows=3)
    [refused] = pipeline([{"context": "Rob lives in Bristol. " * 200, "question": "Where?"}])
    assert isinstance(refused, InvalidInput)
    assert "until 3 suffice" in str(refused)


def test_a_hundred_thousand_characters_are_refused_or_answered(engine_for):
    pipeline = make(question_answering, engine_for("question-answering", "bert"), max_windows=10_000)
    context = "the tower was in bristol " * 4000
    [answer] = pipeline([{"context": context, "question": "where?"}])
    assert answer["results"] in context


def test_an_empty_batch_is_an_empty_answer(engine_for):
    assert make(question_answering, engine_for("question-answering", "bert"))([]) == []


@pytest.mark.parametrize("text", WEIRD, ids=ascii_start)
def test_weird_text_is_summarized_and_embedded(engine_for, text):
    for name, task in (("bart", "summarization"), ("encoder", "sentence-embedding")):
        pipeline = make(summarization, engine_for(task, name), max_new_tokens=8)
        [answer] = pipeline([{"documents": text}])
        assert isinstance(answer["results"][0]["summary_text"], str)
    [answer] = make(embeddings, engine_for("sentence-embedding", "encoder"))([{"text": text}])
    assert sum(value * value for value in answer["results"]) == pytest.approx(1.0, abs=1e-5)
