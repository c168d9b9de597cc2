"""A model as the IPUs hold it: its key in the cache, its replicas, and how a batch runs on them.

Faithful: weights and buffers are copies, one per replica, until they are copied again; a batch is split over device
iterations and replicas. Not: compiled code is Python that runs at each call, half precision is float32 rounded at its
edges, integers stay 64 bits wide.
"""

import copy
import hashlib
import json
from typing import Any, List

import torch

from poptorch import _impl, ops
from poptorch._args_parser import Inputs, concatenate, map_tensors, shapes
from poptorch.enums import OutputMode
from poptorch.options import Options


def key(model: torch.nn.Module, options: Options, inputs: Inputs) -> str:
    """Return what tells this program from others: classes, shapes, placement and options, not the weights' values."""
    tensors = (*model.named_parameters(), *model.named_buffers())
    parts = [
        [(name, type(module).__qualname__) for name, module in model.named_modules()],
        [(name, list(tensor.shape), str(tensor.dtype)) for name, tensor in tensors],
        [ops.placement(model), type(options.execution_strategy).__name__],
        [options.replication_factor, options.device_iterations, options.output_mode],
        [str(options.Precision.__dict__), sorted(options.available_memory_proportion.items())],
        shapes(inputs),
    ]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:32]


def load(model: torch.nn.Module, options: Options) -> List[torch.nn.Module]:
    """Return the model as each replica gets it."""
    copies = [copy.deepcopy(model) for _ in range(options.replication_factor)]
    return [each.float() for each in copies] if is_half(model) else copies


def is_half(model: torch.nn.Module) -> bool:
    """Say whether any weight or buffer is in half precision."""
    return any(tensor.dtype == torch.float16 for tensor in (*model.parameters(), *model.buffers()))


def run(replicas: List[torch.nn.Module], options: Options, inputs: Inputs, half: bool) -> Any:
    """Run each micro-batch on its replica, and join the results."""
    if options.output_mode not in (OutputMode.All, OutputMode.Default, OutputMode.Final):
        raise _impl.not_modelled("OutputMode", str(options.output_mode))
    parts = options.device_iterations * len(replicas)
    outputs = []
    with torch.no_grad(), _impl.ipu_context():
        for index in range(parts):
            part = inputs.map(lambda tensor, index=index: _part(tensor, index, parts))
            outputs.append(replicas[index % len(replicas)](*part.args, **part.kwargs))
    final = parts == 1 or options.output_mode == OutputMode.Final
    joined = outputs[-1] if final else concatenate(outputs)
    return map_tensors(_halved, joined) if half else joined


def _part(tensor: torch.Tensor, index: int, parts: int) -> torch.Tensor:
    """Return one micro-batch of an input, in float32 where it was half."""
    tensor = tensor.float() if tensor.dtype == torch.float16 else tensor
    if parts == 1:
        return tensor
    rows = tensor.shape[0] if tensor.dim() else 1
    if rows % parts:
        message = "Invalid batch dimension: an input of shape {} does not divide into deviceIterations * "
        raise AssertionError((message + "replicationFactor = {}").format(tuple(tensor.shape), parts))
    return tensor.narrow(0, index * (rows // parts), rows // parts)


def _halved(tensor: torch.Tensor) -> torch.Tensor:
    """Return a result in half precision."""
    return tensor.half() if tensor.dtype == torch.float32 else tensor
