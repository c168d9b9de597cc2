"""Embeddings against a BERT written out in NumPy, straight from the weights' file."""

import json
import math
import pathlib

import numpy
import pytest
import tokenizers
from safetensors.numpy import load_file

from ipu_supervisor.models import embeddings
from tests.models import tiny

pytestmark = pytest.mark.torch

TEXTS = ["The tower is in Bristol.", "who?", "naïve café 東京 👍🏽", "the tower " * 100]


def by_hand(folder, text, max_tokens):
    """Embed a text with nothing but the definition: BERT's layers, the mean over the tokens, length 1."""
    weights = load_file(str(pathlib.Path(folder) / "model.safetensors"))
    tokenizer = tokenizers.Tokenizer.from_file(str(pathlib.Path(folder) / "tokenizer.json"))
    tokenizer.enable_truncation(max_tokens)
    ids = tokenizer.encode(text).ids
    state = weights["embeddings.word_embeddings.weight"][ids] + weights["embeddings.token_type_embeddings.weight"][0]
    state = norm(weights, "embeddings.LayerNorm", state + weights["embeddings.position_embeddings.weight"][: len(ids)])
    for number in range(tiny.LAYERS):
        state = layer(weights, "encoder.layer.{}.".format(number), state)
    mean = state.mean(axis=0)
    return mean / math.sqrt((mean**2).sum())


def layer(weights, prefix, state):
    heads = []
    for name in ("query", "key", "value"):
        projected = dense(weights, prefix + "attention.self." + name, state)
        heads.append(projected.reshape(len(state), tiny.HEADS, -1).transpose(1, 0, 2))
    query, key, value = heads
    powers = numpy.exp(query @ key.transpose(0, 2, 1) / math.sqrt(tiny.WIDTH // tiny.HEADS))
    mixed = (powers / powers.sum(axis=-1, keepdims=True)) @ value
    mixed = dense(weights, prefix + "attention.output.dense", mixed.transpose(1, 0, 2).reshape(len(state), -1))
    state = norm(weights, prefix + "attention.output.LayerNorm", state + mixed)
    inner = dense(weights, prefix + "intermediate.dense", state)
    inner = inner * 0.5 * (1 + numpy.vectorize(math.erf)(inner / math.sqrt(2)))
    return norm(weights, prefix + "output.LayerNorm", state + dense(weights, prefix + "output.dense", inner))


def dense(weights, name, state):
    return state.astype(numpy.float64) @ weights[name + ".weight"].T + weights[name + ".bias"]


def norm(weights, name, state):
    centred = state - state.mean(axis=-1, keepdims=True)
    scaled = centred / numpy.sqrt((centred**2).mean(axis=-1, keepdims=True) + 1e-12)
    return scaled * weights[name + ".weight"] + weights[name + ".bias"]


@pytest.fixture
def pipeline(engine_for):
    options = embeddings.Pipeline.Options().load({"max_tokens": 64})
    return embeddings.Pipeline(engine_for("sentence-embedding", "encoder"), options)


def test_vectors_are_those_computed_by_hand(pipeline, checkpoints):
    for text, answer in zip(TEXTS, pipeline([{"text": text} for text in TEXTS]), strict=True):
        assert answer["results"] == pytest.approx(by_hand(checkpoints["encoder"], text, 64).tolist(), abs=2e-5)


def test_text_beyond_the_limit_does_not_count(pipeline):
    [short] = pipeline([{"text": "the tower " * 100}])
    [long] = pipeline([{"text": "the tower " * 5000}])
    assert short == long


def test_vectors_are_plain_numbers(pipeline):
    [answer] = pipeline([{"text": "x"}])
    assert json.loads(json.dumps(answer)) == answer
