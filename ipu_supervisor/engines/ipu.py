"""Computes on Graphcore IPUs: optimum-graphcore's layouts of Hugging Face models, run by PopTorch.

Imports poptorch, torch and transformers; replica processes only, and never before a fork. One thread for everything:
while PopTorch compiles, torch's functions are patched for the whole process.
"""

import copy
import inspect
import logging
import os
import pathlib
import tempfile
from typing import TYPE_CHECKING, Any, Dict, List, Mapping, NamedTuple, Tuple

import poptorch
import torch
from optimum.graphcore import IPUConfig
from optimum.graphcore.generation.utils import MODELS_SUPPORTING_KV_CACHE
from optimum.graphcore.modeling_utils import to_pipelined
from transformers import logging as transformers_logging

from ipu_supervisor import layout
from ipu_supervisor.engines import weights
from ipu_supervisor.engines.base import Engine, Limits
from ipu_supervisor.engines.checkpoints import Source
from ipu_supervisor.engines.faults import DeviceFault
from ipu_supervisor.engines.hub import CheckpointError

if TYPE_CHECKING:
    import numpy

log = logging.getLogger(__name__)

#: What a compiled program is called in the cache's folder.
PROGRAMS = "*.popef"
#: What is written to try whether the cache keeps anything: a block, for less may find room on a disk that is full.
TRIED = bytes(4096)


class Spec(NamedTuple):
    """How to lay a model out; `ipu` and `shapes` are those of its `ModelConfig`."""

    ipu: Mapping[str, Any]
    shapes: Mapping[str, int]
    dtype: str


class IpuEngine(Engine):
    """One checkpoint on the IPUs of one replica, compiled for one batch and one length."""

    device = "ipu"

    def __init__(self, task: str, source: Source, model: Any, tokenizer: Any, spec: Spec) -> None:
        """Lay the weights out; nothing is compiled and no IPU is taken yet."""
        self.task, self.tokenizer = task, tokenizer
        self.dtype = "float16" if spec.dtype == "auto" else spec.dtype
        self.checkpoint, self.revision = source.checkpoint, source.revision
        self.prefix = weights.prepare(task, model, tokenizer)
        length = min(spec.shapes["length"], tokenizer.model_max_length)
        self.limits = Limits(batch=layout.compiled_batch(spec.ipu), length=length)
        self._accepted = frozenset(inspect.signature(model.forward).parameters)
        config = ipu_config(spec.ipu, layout.layers(model.config.to_dict(), task), self.dtype)
        pipelined = to_pipelined(model, config)
        self._shapes = spec.shapes
        self._search = _frozen(pipelined, spec) if task in layout.GENERATION else None
        pipelined.parallelize(**(_generation_layout(pipelined, spec) if self._search else {}))
        self._model = (pipelined.half() if self.dtype == "float16" else pipelined).eval()
        self._executor: Any = None if self._search else poptorch.inferenceModel(self._model, config.to_options(True))

    def forward(self, inputs: "Dict[str, numpy.ndarray]") -> "Dict[str, numpy.ndarray]":
        """Run the encoder once.

        Raises `ValueError` for rows that are not of the compiled shape, `FloatingPointError` for scores that are no
        numbers.
        """
        outputs = self._executor(**self._tensors(inputs))
        names = ("start_logits", "end_logits") if self.task == "question-answering" else ("hidden",)
        found = {name: outputs[place].float() for place, name in enumerate(names)}
        if not all(bool(torch.isfinite(tensor).all()) for tensor in found.values()):
            raise FloatingPointError("the model's scores are not finite in {}; set another dtype".format(self.dtype))
        return {name: tensor.numpy() for name, tensor in found.items()}

    def generate(self, inputs: "Dict[str, numpy.ndarray]", **settings: Any) -> "numpy.ndarray":
        """Write sequences by the one search that was compiled. Raises `ValueError` for any other."""
        if any(self._shapes.get(name) != value for name, value in settings.items()):
            raise ValueError("the program was compiled for {}, not for {}".format(dict(self._shapes), settings))
        with torch.no_grad():
            ids = self._model.generate(**self._tensors(inputs), generation_config=self._search)
        found: numpy.ndarray = ids.numpy()
        return found

    def _tensors(self, inputs: "Dict[str, numpy.ndarray]") -> Dict[str, torch.Tensor]:
        """Return the inputs that the model takes; rows of another shape would have the program compiled anew."""
        if any(array.shape != tuple(self.limits) for array in inputs.values()):
            shapes = sorted({array.shape for array in inputs.values()})
            raise ValueError("the program was compiled for {}, not for {}".format(tuple(self.limits), shapes))
        return {name: torch.from_numpy(array) for name, array in inputs.items() if name in self._accepted}

    def programs(self) -> Tuple[int, int]:
        """Return how many programs the model needs, and how many lie in the cache, which other models share.

        None in one that keeps nothing: what is compiled now would look as if it had been found there.
        """
        return 2 if self._search else 1, len(list(_cache().glob(PROGRAMS))) if _cache_keeps() else 0

    def built(self) -> int:
        """Return how many of the programs that the model needs this process has."""
        return sum(executor.isCompiled() for executor in self._executors())

    def close(self) -> None:
        """Give the IPUs back."""
        for executor in self._executors():
            if executor.isCompiled() and executor.isAttachedToDevice():
                executor.detachFromDevice()

    def _executors(self) -> List[Any]:
        """Return what runs the programs; a sequence model has its two once it has written something."""
        parts = (getattr(self._model, name, None) for name in ("poptorch_encoder", "poptorch_decoder"))
        return [executor for executor in (self._executor, *parts) if executor is not None]


def _cache() -> pathlib.Path:
    """Return the folder of compiled programs; the supervisor always names one."""
    return pathlib.Path(os.environ["POPTORCH_CACHE_DIR"])


def _cache_keeps() -> bool:
    """Make the cache's folder and try it; tell, also the log, where nothing can be kept: every start compiles anew."""
    try:
        _cache().mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=str(_cache())) as file:
            file.write(TRIED)
    except OSError as error:
        log.warning("executable_cache_not_writable folder=%s error=%s", _cache(), error)
        return False
    return True


def load(task: str, source: Source, spec: Spec) -> IpuEngine:
    """Load a checkpoint. Raises `CheckpointError` where it cannot be laid out, `DeviceFault` where there is no IPU."""
    transformers_logging.disable_progress_bar()
    # optimum-graphcore sets a level of its own when it is imported.
    poptorch.setLogLevel(os.environ.get("POPTORCH_LOG_LEVEL") or "WARN")
    if not poptorch.ipuHardwareIsAvailable():
        raise DeviceFault("NO_SUCH_DEVICE", "PopTorch sees no IPU")
    if poptorch.ipuHardwareVersion() not in layout.HARDWARE:
        raise DeviceFault(
            "UNSUPPORTED_DEVICE", "PopTorch sees IPUs of version {}".format(poptorch.ipuHardwareVersion())
        )
    model, tokenizer = weights.model(task, source), weights.tokenizer(source)
    faults = layout.checkpoint_faults(spec.ipu, spec.shapes, model.config.to_dict(), task)
    if faults:
        raise CheckpointError("{}: {}".format(source.checkpoint, "; ".join(faults)))
    try:
        return IpuEngine(task, source, model, tokenizer, spec)
    except (ValueError, TypeError, KeyError) as error:
        text = "{} cannot be laid out on IPUs: {}"
        raise CheckpointError(text.format(source.checkpoint, str(error).strip().split("\n")[0])) from error


def ipu_config(ipu: Mapping[str, Any], found: layout.Layers, dtype: str) -> IPUConfig:
    """Return optimum-graphcore's configuration; it is always given, for what is left out would be fetched."""
    plan, proportion = layout.plan(ipu, found), ipu["matmul_proportion"]
    return IPUConfig(
        layers_per_ipu=plan,
        ipus_per_replica=len(plan),
        matmul_proportion=[float(one) for one in proportion] if isinstance(proportion, list) else float(proportion),
        inference_replication_factor=ipu["replication"],
        enable_half_partials=ipu["enable_half_partials"] and dtype == "float16",
        embedding_serialization_factor=ipu["embedding_serialization_factor"],
    ).eval()


def _frozen(model: Any, spec: Spec) -> Any:
    """Return the one generation configuration of a replica: the checkpoint's own, with the model file's options."""
    config = copy.deepcopy(model.generation_config)
    config.update(num_beams=spec.shapes["num_beams"], max_new_tokens=spec.shapes["max_new_tokens"])
    config.use_cache = _layout_kwargs(model, spec)["use_cache"]
    least = spec.shapes.get("min_new_tokens")
    # Counts the start token. The option comes in place of the checkpoint's own, as in newer versions of Transformers,
    # which also let a summary be shorter than the checkpoint's own least length.
    longest = spec.shapes["max_new_tokens"] + 1
    config.min_length = min(config.min_length or 0, longest) if least is None else least + 1
    return config


def _layout_kwargs(model: Any, spec: Spec) -> Dict[str, Any]:
    """Return what the settings say about the layout of a sequence model."""
    return {"use_cache": type(model) in MODELS_SUPPORTING_KV_CACHE, **spec.ipu["inference_parallelize_kwargs"]}


def _generation_layout(model: Any, spec: Spec) -> Dict[str, Any]:
    """Return the arguments of `parallelize` for a sequence model; its caches are as large as a batch and a summary."""
    return {
        **_layout_kwargs(model, spec),
        "for_generation": True,
        "batch_size": spec.ipu["batch_size"],
        "num_beams": spec.shapes["num_beams"],
        "max_length": spec.shapes["max_new_tokens"] + 1,
    }
