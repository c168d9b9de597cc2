"""The model files against what the pipelines of Transformers 4.57.6 answered (`tests/golden/make_golden.py`)."""

import json
import pathlib

import pytest

from ipu_supervisor.models import question_answering, summarization

pytestmark = pytest.mark.torch

GOLDEN = json.loads((pathlib.Path(__file__).parents[1] / "golden" / "pipelines.json").read_text(encoding="utf-8"))


def qa(engine, **options):
    return question_answering.Pipeline(engine, question_answering.Pipeline.Options().load(options))


def summarizer(engine, **options):
    return summarization.Pipeline(engine, summarization.Pipeline.Options().load(options))


@pytest.mark.parametrize("name", ["distilbert", "bert"])
@pytest.mark.parametrize("number", range(len(GOLDEN["questions"])))
def test_answers_and_scores_are_those_of_the_old_pipeline(engine_for, name, number):
    [answer] = qa(engine_for("question-answering", name))([GOLDEN["questions"][number]])
    expected = GOLDEN[name][number]
    assert answer["results"] == expected["answer"]
    assert answer["score"] == pytest.approx(expected["score"], rel=1e-3)


@pytest.mark.parametrize("name", ["distilbert", "bert"])
def test_a_batch_is_answered_as_its_inputs_alone(engine_for, name):
    answers = qa(engine_for("question-answering", name))(GOLDEN["questions"])
    assert [answer["results"] for answer in answers] == [expected["answer"] for expected in GOLDEN[name]]


@pytest.mark.parametrize("beams", [1, 3])
@pytest.mark.parametrize("number", range(len(GOLDEN["texts"])))
def test_summaries_are_those_of_the_old_pipeline(engine_for, beams, number):
    pipeline = summarizer(engine_for("summarization", "bart"), num_beams=beams, max_new_tokens=20)
    [answer] = pipeline([{"documents": GOLDEN["texts"][number]}])
    assert answer == {"results": [{"summary_text": GOLDEN["summaries"][str(beams)][number]}]}


def test_a_batch_of_texts_is_summarized_as_each_alone(engine_for):
    pipeline = summarizer(engine_for("summarization", "bart"), max_new_tokens=20)
    answers = pipeline([{"documents": text} for text in GOLDEN["texts"]])
    assert [answer["results"][0]["summary_text"] for answer in answers] == GOLDEN["summaries"]["3"]
