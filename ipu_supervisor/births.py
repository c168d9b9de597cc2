"""What a new replica process is told and what environment it gets. Decides nothing, starts nothing."""

import base64
import os
import pathlib
import zlib
from typing import Any, Dict, Mapping

from ipu_supervisor.config import Config, ModelConfig

#: The first would have PopTorch wait for an IPU for ever; the supervisor waits, and has limits. The others are between
#: systemd and the supervisor alone.
NEVER_PASSED_ON = frozenset({"POPTORCH_WAIT_FOR_IPU", "NOTIFY_SOCKET", "WATCHDOG_PID", "WATCHDOG_USEC"})
#: Where Hugging Face's libraries keep what they fetched, and which partition the IPUs are in.
PATHS = ("HF_HOME", "HF_HUB_CACHE", "XDG_CACHE_HOME", "IPUOF_CONFIG_PATH")


def spec(replica: str, model: ModelConfig, config: Config, endpoint: str, threads: int) -> Dict[str, Any]:
    """Return what a replica process must know; it may work in another folder, so paths are absolute.

    The model file goes along as it was read, so that a new life runs no other version. It is packed: the specification
    is written to a pipe, which holds 64 KB while nobody reads it.
    """
    return {
        "replica": replica,
        "parent": os.getpid(),
        "endpoint": endpoint,
        "folder": str(folder(replica, config)) if model.device == "ipu" else "",
        "model": model.name,
        "path": str(model.file.path.absolute()),
        "source": base64.b64encode(zlib.compress(model.file.source)).decode(),
        "task": model.task,
        "checkpoint": os.path.abspath(model.checkpoint) if os.path.isdir(model.checkpoint) else model.checkpoint,
        "revision": model.revision,
        "checkpoints": config.checkpoints,
        "device": model.device,
        "dtype": model.dtype,
        "threads": threads,
        "ipu": model.ipu,
        "shapes": model.shapes,
        "options": model.options,
        "log_level": config.log_level,
        "log_format": config.log_format,
    }


def folder(replica: str, config: Config) -> pathlib.Path:
    """Return where a replica on IPUs works: one folder for each place, so that the last life's logs can be read."""
    return config.run_dir.absolute() / "replicas" / replica.rpartition(".")[0]


def environ(model: ModelConfig, config: Config, given: Mapping[str, str]) -> Dict[str, str]:
    """Return the environment of a replica process."""
    passed_on = {name: value for name, value in given.items() if name not in NEVER_PASSED_ON}
    if model.device == "ipu":
        # Such a replica works in another folder.
        passed_on.update({name: os.path.abspath(os.path.expanduser(given[name])) for name in PATHS if given.get(name)})
        passed_on["POPTORCH_CACHE_DIR"] = str(config.executables)
    return passed_on
