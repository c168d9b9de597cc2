"""Each architecture that `device: ipu` takes, beside those of `test_parity`: its answers are the CPU engine's.

On the stand-in, in float32, with random weights. DeBERTa is not here: it needs an operation of PopTorch's own that the
stand-in has not.
"""

import json
import pathlib

import pytest
import torch
import transformers

from ipu_supervisor.models import embeddings, question_answering, summarization
from tests.models import tiny

pytestmark = pytest.mark.torch

TEXTS = ["The tower is 324 tall. " * times for times in (1, 4, 20)]
QUESTIONS = [{"context": text, "question": "What is 324 tall?"} for text in TEXTS]
SMALL = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
T5 = {"d_model": 32, "d_kv": 8, "d_ff": 64, "num_layers": 2, "num_heads": 4, "decoder_start_token_id": 0}
SPECIAL = {"unk_token": "[UNK]", "sep_token": "[SEP]", "pad_token": "[PAD]", "cls_token": "[CLS]"}


@pytest.fixture
def checkpoint(tmp_path):
    """Return a function that makes a checkpoint with random weights and tiny BERT's words."""

    def make(name, **config):
        folder = pathlib.Path(tiny.bert(tmp_path / name))
        words = json.loads((folder / "config.json").read_text(encoding="utf-8"))["vocab_size"]
        torch.manual_seed(0)
        kind = getattr(transformers, name)
        made = kind(kind.config_class(vocab_size=words, pad_token_id=0, **config))
        made.save_pretrained(str(folder), safe_serialization=True)
        told = {"tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": 128, **SPECIAL}
        (folder / "tokenizer_config.json").write_text(json.dumps(told), encoding="utf-8")
        return str(folder)

    return make


def test_roberta_answers_as_on_the_cpu(checkpoint, pipeline_on):
    folder = checkpoint("RobertaForQuestionAnswering", max_position_embeddings=130, **SMALL)
    on_cpu, on_ipu = (pipeline_on(question_answering, folder, device)(QUESTIONS) for device in ("cpu", "ipu"))
    for expected, found in zip(on_cpu, on_ipu):
        assert found == {"results": expected["results"], "score": pytest.approx(expected["score"], rel=1e-4)}


def test_mpnet_embeds_as_on_the_cpu(checkpoint, pipeline_on):
    folder = checkpoint("MPNetModel", max_position_embeddings=130, **SMALL)
    inputs = [{"text": text} for text in TEXTS]
    on_cpu, on_ipu = (pipeline_on(embeddings, folder, device)(inputs) for device in ("cpu", "ipu"))
    for expected, found in zip(on_cpu, on_ipu):
        assert found["results"] == pytest.approx(expected["results"], abs=1e-5)


@pytest.mark.parametrize("ipu", [{}, {"batch_size": 2, "inference_parallelize_kwargs": {"use_cache": False}}], ids=str)
def test_t5_summarizes_as_on_the_cpu(checkpoint, pipeline_on, ipu):
    folder = checkpoint("T5ForConditionalGeneration", eos_token_id=3, **T5)
    inputs = [{"documents": text} for text in TEXTS]
    options = {"max_new_tokens": 12, "num_beams": 2, "max_input_tokens": 64}
    on_cpu = pipeline_on(summarization, folder, "cpu", **options)(inputs)
    assert pipeline_on(summarization, folder, "ipu", ipu, **options)(inputs) == on_cpu
    assert any(answer["results"][0]["summary_text"] for answer in on_cpu)
