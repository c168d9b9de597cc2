"""Which rows share a call, and that padding goes on and comes off."""

import numpy
import pytest

from ipu_supervisor.engines.base import Engine, Limits
from ipu_supervisor.models import forward, vectors

pytestmark = pytest.mark.torch


class Tokenizer:
    """One token for each character: its code point."""

    model_input_names = ["input_ids", "attention_mask"]
    model_max_length = 512
    pad_token_id = 0
    pad_token_type_id = 0

    def __call__(self, text, truncation, max_length):
        ids = [ord(character) for character in text][:max_length]
        return {"input_ids": ids, "attention_mask": [1] * len(ids)}


class Recorder(Engine):
    """Gives each token's id and its double back, and keeps the shapes of its calls."""

    tokenizer = Tokenizer()

    def __init__(self, device="cpu", limits=None):
        self.device, self.limits, self.shapes = device, limits or Limits(), []

    def forward(self, inputs):
        ids = inputs["input_ids"]
        assert (inputs["attention_mask"] == (ids != 0)).all()
        self.shapes.append(ids.shape)
        return {"hidden": numpy.stack([ids, 2 * ids], axis=-1).astype(numpy.float32)}

    def generate(self, inputs, **settings):
        self.shapes.append(inputs["input_ids"].shape)
        return inputs["input_ids"][:, :1] + settings["add"]


def rows(*lengths):
    return [{"input_ids": [n + 1] * length, "attention_mask": [1] * length} for n, length in enumerate(lengths)]


@pytest.mark.parametrize(
    ("engine", "lengths", "shapes"),
    [
        (Recorder(), [384, 384, 90], [(1, 384), (1, 384), (1, 90)]),
        (Recorder(), [10, 300, 20, 22, 12], [(1, 300), (4, 22)]),
        (Recorder("cuda"), [384, 384, 350, 90], [(3, 384), (1, 90)]),
        (Recorder(limits=Limits(2, 384)), [100, 384, 7], [(2, 384), (2, 384)]),
        (Recorder(limits=Limits(None, 128)), [100, 7, 8, 9, 10], [(4, 128), (1, 128)]),
    ],
)
def test_rows_share_a_call_where_that_wastes_little(engine, lengths, shapes):
    results = dict(forward.forward(engine, rows(*lengths)))
    assert engine.shapes == shapes
    assert [len(results[n]["hidden"]) for n in range(len(lengths))] == lengths
    assert all((results[n]["hidden"][:, 0] == n + 1).all() for n in range(len(lengths)))


def test_sequences_come_back_to_their_rows():
    engine = Recorder(limits=Limits(2, 8))
    assert {n: ids.tolist() for n, ids in forward.generate(engine, rows(3, 8, 5), add=10)} == {
        0: [11],
        1: [12],
        2: [13],
    }


def test_no_rows_are_no_call():
    assert dict(forward.forward(Recorder(), [])) == {}


@pytest.mark.parametrize(("limits", "length"), [(Limits(), 384), (Limits(1, 128), 128), (Limits(1, 500), 384)])
def test_the_engine_may_shorten_rows(limits, length):
    assert forward.length_limit(Recorder(limits=limits), 384) == length


def test_a_vector_is_the_mean_over_the_tokens_at_length_one():
    [vector] = vectors.vectors(Recorder(), ["ab"], 8)
    assert vector.tolist() == pytest.approx([1 / 5**0.5, 2 / 5**0.5])


def test_a_text_is_cut_before_it_is_embedded():
    engine = Recorder()
    vectors.vectors(engine, ["a" * 100], 8)
    assert engine.shapes == [(1, 8)]
