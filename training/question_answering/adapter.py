"""The trainable part: low-rank deltas on the linear layers, normalisations, biases, and the answer head."""

from typing import Dict

import torch
from torch import nn

#: Parameters that are trained and shipped whole, by the end of their name.
WHOLE = ("bias", "LayerNorm.weight", "token_type_embeddings.weight", "qa_outputs.weight")


class LowRank(nn.Module):
    """A frozen linear layer plus a trained product of two thin matrices; starts as the frozen layer alone."""

    def __init__(self, linear: nn.Linear, rank: int) -> None:
        super().__init__()
        self.linear = linear
        self.down = nn.Parameter(torch.randn(rank, linear.in_features) / linear.in_features**0.5)
        self.up = nn.Parameter(torch.zeros(linear.out_features, rank))

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """The layer's output; float (..., out_features)."""
        return self.linear(inputs) + inputs @ self.down.T @ self.up.T


def attach(model: nn.Module, rank: int) -> None:
    """Wrap every linear layer of the encoder and leave only the trained parameters requiring gradients.

    Dropout is turned off: it took more than half of the time, and no text is seen twice.
    """
    for name, module in list(model.bert.named_modules()):
        if isinstance(module, nn.Linear):
            parent, _, child = name.rpartition(".")
            setattr(model.bert.get_submodule(parent), child, LowRank(module, rank))
        elif isinstance(module, nn.Dropout):
            module.p = 0.0
    for name, parameter in model.named_parameters():
        parameter.requires_grad = name.endswith(WHOLE) or name.endswith((".down", ".up"))


def export(model: nn.Module) -> Dict[str, torch.Tensor]:
    """What was trained, float16, under the plain model's parameter names plus `.down` and `.up`."""
    tensors = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            tensors[name.replace(".linear.", ".")] = parameter.detach().to(torch.float16).contiguous()
    return tensors
