"""The global patch of torch's factory functions while a model compiles.

Faithful: it is global, so another thread that makes a tensor meanwhile is caught in it (here: a loud error), and
it ends with the compile, even one that fails.
"""

import contextlib
import functools
import threading
from typing import Any, Callable, Iterator

import torch

from poptorch._impl import NotModelled

FACTORIES = "tensor empty zeros ones full arange eye linspace logspace rand randn randint randperm".split()
_compiling = threading.Lock()


@contextlib.contextmanager
def patched() -> Iterator[None]:
    """Patch torch's factory functions for all threads meanwhile."""
    if not _compiling.acquire(blocking=False):
        raise NotModelled("two compiles at once in one process")
    originals = {name: getattr(torch, name) for name in FACTORIES}
    try:
        for name, original in originals.items():
            setattr(torch, name, _guarded(name, original, threading.get_ident()))
        yield
    finally:
        for name, original in originals.items():
            setattr(torch, name, original)
        _compiling.release()


def _guarded(name: str, original: Callable[..., Any], owner: int) -> Callable[..., Any]:
    """Return a factory that only the compiling thread may call."""

    @functools.wraps(original)
    def factory(*args: Any, **kwargs: Any) -> Any:
        if threading.get_ident() != owner:
            raise RuntimeError("torch.{} called by another thread while PopTorch compiles a model".format(name))
        return original(*args, **kwargs)

    return factory
