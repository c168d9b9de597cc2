"""Choosing among sentences by given vectors."""

import numpy
import pytest

from ipu_supervisor.models import extract

pytestmark = pytest.mark.torch


def choose(rows, count, text="A sentence of a fair length, number {}."):
    sentences = [extract.Sentence(text.format(number), True) for number in range(len(rows))]
    vectors = numpy.array(rows, dtype=numpy.float32)
    vectors /= numpy.linalg.norm(vectors, axis=1, keepdims=True)
    return extract.central(sentences, {sentence.text: vectors[n] for n, sentence in enumerate(sentences)}, count)


def test_the_most_central_sentences_are_chosen_in_their_order():
    assert choose([[0, 0, 1], [4, 3, 0], [1, 0, 0], [4, -3, 0]], 3) == [1, 2, 3]


def test_a_repeated_sentence_gives_way_to_a_new_one():
    assert choose([[3, 1, 0], [3, 1, 0], [1, 3, 0]], 2) == [0, 2]


def test_of_equal_sentences_the_first_is_chosen():
    assert choose([[1, 0], [1, 0], [1, 0]], 1) == [0]


def test_a_fragment_counts_less():
    sentences = [extract.Sentence("Ok.", True), extract.Sentence("This one says what the text is about.", True)]
    vector = numpy.array([1.0, 0.0])
    assert extract.central(sentences, {sentence.text: vector for sentence in sentences}, 1) == [1]
