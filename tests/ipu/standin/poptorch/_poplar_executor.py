"""The executor: compiles on the first call, holds IPUs, refuses inputs unlike those it was compiled for."""

import inspect
import time
import weakref
from typing import Any, List, Optional, Tuple

import standin_machine as machine
import torch

from poptorch import _args_parser, _program, ops, poptorch_core
from poptorch._impl import NotModelled, not_modelled
from poptorch.enums import ConnectionType
from poptorch.options import Options

#: Real methods that the stand-in does not model; any other unknown name is the model's.
ABSENT = frozenset(
    "compileAndExport copyWeightsToHost cycleCount getAnchoredTensor getPerfCounters getTensorNames loadExecutable "
    "rng_state save setOptimizer".split()
)


class PoplarExecutor:
    """A model and the IPUs that run it."""

    def __init__(self, model: torch.nn.Module, options: Optional[Options], training: bool) -> None:
        """Store the model; nothing is compiled yet."""
        if training:
            raise NotModelled("training")
        self._user_model = model
        self._options = options or Options()
        self._signature = inspect.signature(model.forward)
        self._executable: Optional[str] = None
        self._executable_inputs: Optional[_args_parser.Inputs] = None
        #: Gives the IPUs back when called, when this object is collected, or when the process ends normally.
        self._held: Any = None
        self._loaded: Any = None
        self._compile_s = self._execute_s = 0.0

    model = property(lambda self: self._user_model)
    options = property(lambda self: self._options)

    def __getattr__(self, name: str) -> Any:
        """Return the model's attribute."""
        if name in ABSENT or name.startswith("__"):
            raise not_modelled("PoplarExecutor", name)
        return getattr(self._user_model, name)

    def __deepcopy__(self, memo: Any) -> "PoplarExecutor":
        """Stay one: what holds IPUs is not copied with a model that refers to it."""
        return self

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run the model; compile and attach first if that is not done."""
        if self._options.connection_type == ConnectionType.Never:
            raise AssertionError("ConnectionType.Never: the model can be compiled, but not run")
        inputs = _args_parser.parse(self._signature, args, kwargs)
        if not self.isCompiled():
            self._compile(inputs)
        if not self.isAttachedToDevice():
            self.attachToDevice()
        _args_parser.validate(self._executable_inputs, inputs)
        machine.count_execution()
        began = time.monotonic()
        poptorch_core.strike("execute", self._name())
        outputs = self._loaded.run(inputs)
        self._execute_s = time.monotonic() - began
        return outputs

    def compile(self, *args: Any, **kwargs: Any) -> None:
        """Compile for inputs like these, unless it is done."""
        if not self.isCompiled():
            self._compile(_args_parser.parse(self._signature, args, kwargs))

    def isCompiled(self) -> bool:
        """Say whether there is a program."""
        return self._executable is not None

    def isAttachedToDevice(self) -> bool:
        """Say whether IPUs are held."""
        return self._held is not None and self._held.alive

    def attachToDevice(self) -> None:
        """Take the IPUs and load them."""
        self._needs(attached=False)
        if self._options.connection_type == ConnectionType.Never:
            raise AssertionError("ConnectionType.Never: there is nothing to attach to")
        self._acquire()
        self.copyWeightsToDevice()

    def detachFromDevice(self) -> None:
        """Give the IPUs back; the program stays."""
        self._needs(attached=True)
        poptorch_core.strike("detach", self._name())
        self._release()

    def destroy(self) -> None:
        """Give the IPUs and the program back."""
        self._release()
        self._executable = self._executable_inputs = None

    def copyWeightsToDevice(self) -> None:
        """Load the IPUs with the model's weights and buffers as they are now."""
        self._needs(attached=True)
        self._loaded = _program.Loaded(self._user_model, self._options)

    def copyNamedBuffersToDevice(self) -> None:
        """Load the IPUs with the buffers named by `updatableNamedBuffers`."""
        self._needs(attached=True)
        self._loaded.update(self._user_model)

    def load_state_dict(self, state_dict: Any, strict: bool = True) -> Any:
        """Load weights into the model, and into the IPUs that it holds."""
        result = self._user_model.load_state_dict(state_dict, strict)
        if self.isAttachedToDevice():
            self.copyWeightsToDevice()
        return result

    def compilationTime(self) -> float:
        """Return what the compile took, seconds; whether the real one is a method could not be found out."""
        return self._compile_s

    def getLatency(self) -> Tuple[float, float, float]:
        """Return minimum, maximum and mean time of the last run, seconds."""
        return (self._execute_s,) * 3

    def getComputeLatency(self) -> Tuple[float, float, float]:
        """Return the same: all of a run counts as computing."""
        return self.getLatency()

    def _needs(self, attached: bool) -> None:
        """Refuse a call that comes too early or too late."""
        if not self.isCompiled():
            raise poptorch_core.create_error("Model has not been compiled or has been destroyed.")
        if attached != self.isAttachedToDevice():
            raise poptorch_core.create_error("Device is {} attached".format("not" if attached else "already"))

    def _name(self) -> str:
        """Return the model's class, for the journal and for faults."""
        return type(self._user_model).__name__

    def _acquire(self) -> List[int]:
        """Take as many IPUs as the blocks and the replication say."""
        options = self._options
        ipus = (1 + max((ipu for _, ipu in ops.placement(self._user_model)), default=0)) * options.replication_factor
        device = poptorch_core.attach(ipus, options.auto_round_num_ipus, options.ipu_id, self._name())
        self._held = weakref.finalize(self, poptorch_core.detach, device, self._name())
        return device.ipus

    def _release(self) -> None:
        """Give the IPUs back if any are held."""
        if self._held is not None:
            self._held()
        self._loaded = None

    def _compile(self, inputs: _args_parser.Inputs) -> None:
        """Make the program or find it in the cache, and load it; `ConnectionType.Always` holds IPUs meanwhile."""
        began = time.monotonic()
        ipus = self._acquire() if self._options.connection_type == ConnectionType.Always else []
        try:
            self._executable, hit = _program.build(self._user_model, self._options, inputs)
        except BaseException:
            self._release()
            raise
        self._executable_inputs = inputs
        self._compile_s = time.monotonic() - began
        what = {"model": self._name(), "shapes": _args_parser.shapes(inputs), "took_s": self._compile_s}
        machine.record("cache_hit" if hit else "compile", ipus=ipus, **what)
        if ipus:
            self.copyWeightsToDevice()
        elif self._options.connection_type == ConnectionType.OnDemand:
            self.attachToDevice()
