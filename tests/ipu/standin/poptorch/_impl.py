"""What the other modules of the stand-in share: what is not modelled, and whether the code runs "on the IPU"."""

import contextlib
import threading
from typing import Any, Iterator

_running = threading.local()


class NotModelled(NotImplementedError, AttributeError):
    """The real PopTorch may have this; the stand-in does not. `hasattr` says False."""


def not_modelled(owner: str, name: str) -> NotModelled:
    """Return the error for a name that the stand-in lacks; to be raised from `__getattr__`."""
    if name.startswith("__"):
        return NotModelled(name)
    return NotModelled("the stand-in does not model {}.{}: a misspelt name, or one to add".format(owner, name))


@contextlib.contextmanager
def ipu_context() -> Iterator[None]:
    """Let `isRunningOnIpu` say True for this thread meanwhile."""
    _running.now = True
    try:
        yield
    finally:
        _running.now = False


def isRunningOnIpu() -> bool:
    """Say whether a model is being compiled or executed by this thread."""
    return getattr(_running, "now", False)


def rewrapModelIfNecessary(model: Any) -> None:
    """Do nothing: only training wraps models."""


def unwrapModelIfNecessary(model: Any) -> Any:
    """Return the model: only training wraps models."""
    return model
