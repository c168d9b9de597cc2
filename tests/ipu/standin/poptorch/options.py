"""PopTorch's options for inference: a closed list of setters, so that a misspelt one fails.

Faithful: names, chaining, what POPTORCH_CACHE_DIR does. Not: most are stored and have no effect here.
"""

import os
from typing import Any, Callable, Dict

from poptorch._impl import not_modelled
from poptorch.enums import AutoStage, ConnectionType, OutputMode

#: Setters and the attribute that each sets.
GENERAL = {
    "autoRoundNumIPUs": "auto_round_num_ipus",
    "broadcastBuffers": "broadcast_buffers",
    "connectionType": "connection_type",
    "deviceIterations": "device_iterations",
    "enableExecutableCaching": "cache_path",
    "logDir": "log_dir",
    "maxRepeatLogs": "max_repeat_logs",
    "modelName": "model_name",
    "outputMode": "output_mode",
    "randomSeed": "random_seed",
    "replicationFactor": "replication_factor",
    "setAvailableMemoryProportion": "available_memory_proportion",
    "setExecutionStrategy": "execution_strategy",
    "showCompilationProgressBar": "progress_bar",
    "updatableNamedBuffers": "updatable_named_buffers",
    "useIpuId": "ipu_id",
}
PRECISION = {
    "enableFloatingPointExceptions": "floating_point_exceptions",
    "enableStochasticRounding": "stochastic_rounding",
    "setPartialsType": "partials_type",
}
LOCATION = {"useOnChipStorage": "on_chip", "useReplicatedTensorSharding": "sharded"}
#: PopART's options that optimum-graphcore sets.
POPART = frozenset(
    "accumulateOuterFragmentSettings.excludedVirtualGraphs accumulateOuterFragmentSettings.schedule "
    "disableGradAccumulationTensorStreams enableExplicitIR engineOptions outlineThreshold saveInitializersToFile "
    "scheduleNonWeightUpdateGradientConsumersEarly subgraphCopyingStrategy".split()
)


class Setters:
    """Setters with known names that store their argument and return the options."""

    def __init__(self, owner: str, setters: Dict[str, str]) -> None:
        self._owner, self._setters = owner, setters

    def __getattr__(self, name: str) -> Callable[..., Any]:
        attribute = self.__dict__.get("_setters", {}).get(name)
        if attribute is None:
            raise not_modelled(self.__dict__.get("_owner", "poptorch.Options"), name)

        def set_it(value: Any = True) -> "Setters":
            setattr(self, attribute, value)
            return self

        return set_it


class Popart:
    """Options passed through to PopART."""

    def __init__(self) -> None:
        self.options: Dict[str, Any] = {}

    def set(self, key: str, value: Any) -> "Popart":
        """Store an option that PopART is known to have."""
        if key not in POPART:
            raise not_modelled("popart.SessionOptions", key)
        self.options[key] = value
        return self

    def setPatterns(self, patterns: Dict[str, bool], level: int = 2) -> "Popart":
        """Store which patterns are on."""
        self.options["patterns"] = patterns
        return self


class PipelinedExecution:
    """A strategy; on a CPU every strategy runs alike."""

    def __init__(self, stage: AutoStage = AutoStage.SameAsIpu) -> None:
        self.stage = AutoStage(stage)


class ShardedExecution(PipelinedExecution):
    """Another."""


def TensorLocationSettings() -> Setters:
    """Return settings that say where tensors live."""
    return Setters("TensorLocationSettings", LOCATION)


class Options(Setters):
    """How a model is compiled and executed."""

    def __init__(self) -> None:
        super().__init__("poptorch.Options", GENERAL)
        if os.environ.get("POPTORCH_DEFAULT_OPTIONS"):
            raise not_modelled("environment", "POPTORCH_DEFAULT_OPTIONS")
        self.replication_factor = self.device_iterations = 1
        self.auto_round_num_ipus = False
        self.output_mode = OutputMode.Default
        self.connection_type = ConnectionType.Always
        self.execution_strategy = PipelinedExecution()
        self.available_memory_proportion: Dict[str, float] = {}
        self.updatable_named_buffers: Any = ()
        self.cache_path = os.environ.get("POPTORCH_CACHE_DIR") or None
        self.ipu_id = None
        self.Precision = Setters("Options.Precision", PRECISION)
        self.TensorLocations = Setters("Options.TensorLocations", {"setOptimizerLocation": "optimizer"})
        self._popart = self._Popart = Popart()

    def useOfflineIpuTarget(self, ipu_version: int = 2) -> "Options":
        """Compile for an IPU that need not be there."""
        self.connection_type = ConnectionType.Never
        return self
