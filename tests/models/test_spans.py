"""Decoding spans by hand-made scores, and whole characters."""

import numpy
import pytest

from ipu_supervisor.models import spans

pytestmark = pytest.mark.torch


class Words:
    """An encoding of whole words: token `n` of the context is word `n`, `[CLS] q [SEP]` comes first."""

    def __init__(self, context):
        self.offsets = [(0, 0)] * 3
        for word in context.split():
            start = context.index(word, self.offsets[-1][1])
            self.offsets.append((start, start + len(word)))

    def token_to_word(self, token):
        return token - 3 if token >= 3 else None

    def word_to_chars(self, word, sequence_index):
        assert sequence_index == 1
        return self.offsets[word + 3]


def window(context):
    encoding = Words(context)
    allowed = numpy.array([True, False, False] + [True] * (len(encoding.offsets) - 3))
    return spans.Window({}, allowed, encoding)


def scores(length, start, end, strength=20.0):
    logits = numpy.zeros((2, length), dtype=numpy.float32)
    logits[0, start] = logits[1, end] = strength
    return {"start_logits": logits[0], "end_logits": logits[1]}


def best(context, outputs, max_answer_len=15):
    return spans.best(context, outputs, max_answer_len)


def test_the_likeliest_span_is_the_answer():
    context = "Rob lives in Bristol now"
    answer = best(context, [(window(context), scores(8, 5, 6))])
    assert (answer.text, answer.start, answer.end) == ("in Bristol", 4 + 6, 20)
    assert answer.score == pytest.approx(1.0, abs=1e-6)


def test_the_score_is_the_product_of_two_softmaxes_over_the_allowed_tokens():
    context = "a b"
    logits = {"start_logits": numpy.log([9, 9, 9, 1, 2]), "end_logits": numpy.log([9, 9, 9, 1, 3])}
    answer = best(context, [(window(context), logits)])
    assert answer.text == "b"
    assert answer.score == pytest.approx((2 / 12) * (3 / 13), rel=1e-5)


def test_scores_of_one_text_in_two_windows_add_up_whatever_its_case():
    first, second = window("Bristol is"), window("bristol is")
    outputs = [(first, scores(5, 3, 3)), (second, scores(5, 3, 3))]
    answer = best("Bristol is", outputs)
    assert answer.text == "Bristol"
    assert answer.score == pytest.approx(2.0, abs=1e-4)


def test_an_answer_is_no_longer_than_asked():
    context = "a b c d"
    answer = best(context, [(window(context), scores(7, 3, 6, strength=3.0))], max_answer_len=2)
    assert len(answer.text.split()) <= 2


def test_an_answer_never_ends_before_it_starts():
    context = "a b c"
    answer = best(context, [(window(context), scores(6, 5, 3, strength=3.0))])
    assert answer.text


def test_a_question_token_is_never_an_answer():
    context = "a b"
    answer = best(context, [(window(context), scores(5, 1, 2, strength=50.0))])
    assert answer.text in ("a", "b", "a b")


def test_a_context_without_tokens_has_an_empty_answer():
    empty = spans.Window({}, numpy.array([True, False, False, False]), Words(""))
    answer = best("\u200b", [(empty, scores(4, 0, 0))])
    assert (answer.text, answer.score) == ("", 0.0)


def test_no_window_has_an_empty_answer():
    assert best("", []).text == ""


@pytest.mark.parametrize(
    ("text", "start", "end", "whole"),
    [
        ("a *\ufe0f\u20e3 b", 2, 3, "*\ufe0f\u20e3"),
        ("a *\ufe0f\u20e3 b", 3, 5, "*\ufe0f\u20e3"),
        ("!\u0301x", 1, 3, "!\u0301x"),
        ("👩\u200d👩\u200d👧 x", 2, 3, "👩\u200d👩\u200d👧"),
        ("🇫🇷🇩🇪", 1, 2, "🇫🇷"),
        ("👍🏽", 0, 1, "👍🏽"),
        ("ב\u05bcר", 0, 1, "ב\u05bc"),
        ("plain text", 0, 5, "plain"),
        ("", 0, 0, ""),
    ],
)
def test_a_span_is_widened_to_whole_characters(text, start, end, whole):
    start, end = spans.whole_characters(text, start, end)
    assert text[start:end] == whole
