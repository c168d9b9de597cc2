"""A compiled model: making it or finding it in the cache, its copies on the IPUs, and how a batch runs on them.

Faithful: a program depends on classes, shapes, placement and options, not on the weights' values; weights and buffers
on the device are copies, one per replica; a batch is split over device iterations and replicas. Not: the program is
Python that runs at each call, half precision is float32 rounded at its edges, integers stay 64 bits wide.
"""

import copy
import hashlib
import json
import os
import pathlib
from typing import Any, Tuple

import torch

from poptorch import _factories, _impl, _native, ops, poptorch_core
from poptorch._args_parser import Inputs, concatenate, map_tensors, most_rows, shapes
from poptorch.enums import OutputMode
from poptorch.options import Options


class Loaded:
    """A model as the IPUs have it: its weights and buffers as they were when it was loaded."""

    def __init__(self, model: torch.nn.Module, options: Options) -> None:
        """Copy the model for each replica, in float32 if any of it is in half precision."""
        self._options = options
        self._half = any(tensor.dtype == torch.float16 for tensor in model.parameters())
        copies = [copy.deepcopy(model) for _ in range(options.replication_factor)]
        self._replicas = [each.float() for each in copies] if self._half else copies

    def update(self, model: torch.nn.Module) -> None:
        """Copy the buffers named by `updatableNamedBuffers` again."""
        for replica in self._replicas:
            for name in self._options.updatable_named_buffers:
                replica.get_buffer(name).copy_(model.get_buffer(name))

    def run(self, inputs: Inputs) -> Any:
        """Run each micro-batch on its replica, and join the results."""
        mode = self._options.output_mode
        if mode not in (OutputMode.All, OutputMode.Default, OutputMode.Final):
            raise _impl.not_modelled("OutputMode", str(mode))
        parts = self._options.device_iterations * len(self._replicas)
        outputs = []
        with torch.no_grad(), _impl.ipu_context():
            for index in range(parts):
                part = inputs.map(lambda tensor, index=index: _part(tensor, index, parts))
                outputs.append(self._replicas[index % len(self._replicas)](*part.args, **part.kwargs))
        joined = outputs[-1] if parts == 1 or mode == OutputMode.Final else concatenate(outputs)
        return map_tensors(_halved, joined) if self._half else joined


def build(model: torch.nn.Module, options: Options, inputs: Inputs) -> Tuple[str, bool]:
    """Trace a model, and compile it unless the cache has it; return the program's key, and whether the cache had it."""
    key = _key(model, options, inputs)
    cache = pathlib.Path(options.cache_path or os.devnull) / (key + ".popef")
    with _factories.patched():
        Loaded(model, options).run(inputs)
        if options.cache_path and cache.exists():
            return key, True
        _native.busy(float(os.environ.get("STANDIN_COMPILE_S", "0")))
        poptorch_core.strike("compile", type(model).__name__, rows=most_rows(inputs))
    if options.cache_path:
        cache.parent.mkdir(parents=True, exist_ok=True)
        cache.write_text(key)
    return key, False


def _key(model: torch.nn.Module, options: Options, inputs: Inputs) -> str:
    """Return what tells this program from others."""
    tensors = (*model.named_parameters(), *model.named_buffers())
    parts = [
        [(name, type(module).__qualname__) for name, module in model.named_modules()],
        [(name, list(tensor.shape), str(tensor.dtype)) for name, tensor in tensors],
        [ops.placement(model), type(options.execution_strategy).__name__],
        [options.replication_factor, options.device_iterations, options.output_mode],
        [str(vars(options.Precision)), sorted(options.available_memory_proportion.items())],
        shapes(inputs),
    ]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:32]


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
