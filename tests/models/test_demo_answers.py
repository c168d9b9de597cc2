"""What the demo is worth, measured: questions answered, topics found, off-topic sentences left out."""

import json
import pathlib
import re
import string

import pytest

from ipu_supervisor.engines import load
from ipu_supervisor.models import embeddings, question_answering, summarization

pytestmark = pytest.mark.torch

#: Least share of answers that are right word for word, and least mean F1, per cent: what was measured (63 of 81).
EXACT_FLOOR, F1_FLOOR = 77.7, 81.5
GOLDEN = json.loads((pathlib.Path(__file__).parents[1] / "golden" / "qa_paragraphs.json").read_text(encoding="utf-8"))
CASES = [
    (paragraph["context"], case["question"], case["answers"])
    for paragraph in GOLDEN["paragraphs"]
    for case in paragraph["questions"]
]
FOREIGN = "Emperor penguins huddle together in the dark to survive the cold of the polar night."


@pytest.fixture(scope="module")
def pipeline():
    def pipeline(module):
        engine = load.load(module.Pipeline.task, module.Pipeline.checkpoint, mode="demo", device="cpu", threads=2)
        assert engine is not None
        assert engine.demo
        assert engine.checkpoint.startswith("demo:")
        return module.Pipeline(engine, module.Pipeline.Options().load({}))

    return pipeline


def words(text):
    """Return the words that SQuAD's measure compares."""
    text = "".join(character for character in text.lower() if character not in string.punctuation)
    return re.sub(r"\b(a|an|the)\b", " ", text).split()


def f1(answer, truth):
    given, wanted = words(answer), words(truth)
    common = sum(min(given.count(word), wanted.count(word)) for word in set(given))
    return 2 * common / (len(given) + len(wanted)) if common else 0.0


def test_questions_about_unseen_paragraphs_are_answered(pipeline, record_property):
    answers = pipeline(question_answering)(
        [{"context": context, "question": question} for context, question, _ in CASES]
    )
    given = [answer["results"] for answer in answers]
    pairs = list(zip(given, (truths for _, _, truths in CASES), strict=True))
    exact = 100 * sum(any(words(answer) == words(truth) for truth in truths) for answer, truths in pairs) / len(CASES)
    mean_f1 = 100 * sum(max(f1(answer, truth) for truth in truths) for answer, truths in pairs) / len(CASES)
    record_property("exact", exact)
    record_property("f1", mean_f1)
    assert exact >= EXACT_FLOOR, "{:.1f} % exact, F1 {:.1f}".format(exact, mean_f1)
    assert mean_f1 >= F1_FLOOR, "{:.1f} % exact, F1 {:.1f}".format(exact, mean_f1)


def test_summaries_hold_no_foreign_sentence_and_only_sentences_of_the_text(pipeline):
    summarizer = pipeline(summarization)
    for context in dict.fromkeys(context for context, _, _ in CASES):
        first, _, rest = context.partition(". ")
        [answer] = summarizer([{"documents": "{}. {} {}".format(first, FOREIGN, rest)}])
        summary = answer["results"][0]["summary_text"]
        assert FOREIGN not in summary
        assert 0 < len(summary) < len(context)


def test_the_central_sentence_is_in_the_summary(pipeline):
    text = (
        "It rained on Tuesday. Bees are vital to farming, because they pollinate most of the crops we eat. "
        "Some people wear white. Honey bees, bumblebees and wild bees carry pollen between the flowers of fruit trees. "
        "My uncle once lost his keys. Without bees to pollinate them, the harvests of many crops would fall."
    )
    [answer] = pipeline(summarization)([{"documents": text}])
    summary = answer["results"][0]["summary_text"]
    assert "Bees are vital to farming" in summary
    assert "keys" not in summary
    assert "rained" not in summary


def test_a_short_text_comes_back_whole_and_summaries_are_the_same_each_time(pipeline):
    summarizer = pipeline(summarization)
    assert summarizer([{"documents": " One. Two.  Three.\n"}]) == [{"results": [{"summary_text": "One. Two.  Three."}]}]
    text = CASES[0][0]
    assert summarizer([{"documents": text}]) == summarizer([{"documents": text}])


def test_texts_that_mean_the_same_are_near(pipeline):
    texts = ["A man is playing a guitar.", "Somebody plays the guitar.", "The stock market fell sharply today."]
    first, second, other = [answer["results"] for answer in pipeline(embeddings)([{"text": text} for text in texts])]
    near, far = (sum(a * b for a, b in zip(first, vector, strict=True)) for vector in (second, other))
    assert near > 0.7
    assert far < 0.2
