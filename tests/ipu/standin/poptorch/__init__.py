"""CPU stand-in for Graphcore's PopTorch 3.3: what optimum-graphcore 0.7.1 and a server touch, for inference.

Each module says what is faithful in it. Importing it has the real one's side effects: RDMAV_FORK_SAFE is set, and
faulthandler takes SIGTERM, so a handler installed before is lost. On Python 3.8 it insists, as the real one does, on
torch 2.0.1; elsewhere, where the real one cannot be installed, it takes any. A name that it lacks is refused with an
error that says so. A fork after the import is noted in the journal.
"""

# ruff: noqa: F401 (the names are here to be imported)
import copy
import faulthandler
import os
import signal
import sys
from typing import Any, Optional

import standin_machine as machine
import torch

from poptorch import _impl, optim
from poptorch._impl import isRunningOnIpu
from poptorch._poplar_executor import PoplarExecutor
from poptorch.enums import AutoStage, ConnectionType, DataLoaderMode, MatMulSerializationMode, OutputMode, ReductionType
from poptorch.ops import (
    Attribute,
    BeginBlock,
    cond,
    dynamic_slice,
    dynamic_update,
    identity_loss,
    recomputationCheckpoint,
    removeBlocks,
    serializedMatMul,
)
from poptorch.options import Options, PipelinedExecution, ShardedExecution, TensorLocationSettings
from poptorch.poptorch_core import Error, RecoverableError, UnrecoverableError

__version__ = "3.3.0+standin"

if sys.version_info[:2] == (3, 8):
    assert torch.__version__.startswith("2.0.1"), "This PopTorch works only with torch 2.0.1"
os.environ["RDMAV_FORK_SAFE"] = "1"
faulthandler.register(signal.SIGTERM)
os.register_at_fork(after_in_parent=lambda: "STANDIN_FOLDER" in os.environ and machine.record("fork"))


class DataLoader:
    """Named only."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        """Refuse."""
        raise _impl.NotModelled("poptorch.DataLoader")


def inferenceModel(model: Any, options: Optional[Options] = None) -> PoplarExecutor:
    """Return an executor for a model, or for the model of another executor."""
    user_model = model.model if isinstance(model, PoplarExecutor) else model
    return PoplarExecutor(copy.copy(user_model), options, training=False)


def ipuHardwareIsAvailable(num_ipus: int = 1) -> bool:
    """Say whether a device with that many IPUs exists; it may be busy."""
    return os.environ.get("POPTORCH_IPU_MODEL", "0") in ("", "0") and bool(machine.groups(num_ipus))


def ipuHardwareVersion() -> int:
    """Return 2 for a Mk2 or Bow IPU, 21 for a C600; an AssertionError where there is none."""
    assert ipuHardwareIsAvailable(), "No IPU hardware available on this system"
    return int(os.environ.get("STANDIN_IPU_VERSION", "2"))


def setLogLevel(level: str) -> None:
    """Check the level; the stand-in logs nothing."""
    if level not in ("TRACE_ALL", "TRACE", "DEBUG", "INFO", "WARN", "ERR", "OFF"):
        raise ValueError("no such log level: {}".format(level))


def __getattr__(name: str) -> Any:
    """Refuse a name that is not here."""
    raise _impl.not_modelled("poptorch", name)
