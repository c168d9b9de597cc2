"""Operations for inside models.

Faithful: what they return. Not: placement is an attribute of a module, where PopTorch makes a subclass.
"""

from typing import Any, Callable, List, Optional, Sequence, Tuple

import torch

from poptorch._impl import NotModelled

#: Where a module remembers the IPU that `BeginBlock` gave it.
PLACE = "_standin_ipu_id"


def BeginBlock(layer_to_call: torch.nn.Module, user_id: Optional[str] = None, ipu_id: Optional[int] = None) -> Any:
    """Place a module, and all that runs after it, on an IPU."""
    if not isinstance(layer_to_call, torch.nn.Module):
        raise NotModelled("BeginBlock on something that is no module")
    setattr(layer_to_call, PLACE, ipu_id or 0)
    return layer_to_call


def removeBlocks(module: torch.nn.Module) -> None:
    """Forget the placement of a module and all within."""
    for each in module.modules():
        each.__dict__.pop(PLACE, None)


def placement(module: torch.nn.Module) -> List[Tuple[str, int]]:
    """Return the name and the IPU of each placed module."""
    return [(name, getattr(each, PLACE)) for name, each in module.named_modules() if hasattr(each, PLACE)]


class Attribute:
    """A hint to the compiler for what runs within; it has no effect."""

    def __init__(self, **attributes: Any) -> None:
        self.attributes = attributes

    def __enter__(self) -> None:
        pass

    def __exit__(self, *error: object) -> None:
        pass


def identity_loss(x: torch.Tensor, reduction: str) -> torch.Tensor:
    """Reduce a loss."""
    return {"mean": x.mean, "sum": x.sum, "none": lambda: x}[reduction]()


def dynamic_slice(tensor: torch.Tensor, dim: int, start: torch.Tensor, size: int, step: int) -> torch.Tensor:
    """Return `size` entries along `dim` from a start that is a tensor, every `step`-th."""
    return tensor.index_select(dim, torch.arange(int(start), int(start) + size, step))


def dynamic_update(input: Any, src: torch.Tensor, dim: int, start: torch.Tensor, size: int) -> Any:  # noqa: A002
    """Return a copy of `input` with `size` entries along `dim` replaced."""
    updated = input.clone()
    updated.narrow(dim, int(start), size).copy_(src)
    return updated


def cond(
    condition: torch.Tensor,
    then_body: Callable[..., Any],
    then_inps: Sequence[Any],
    else_body: Callable[..., Any],
    else_inps: Sequence[Any],
) -> List[Any]:
    """Run one of two bodies, and return its results as a list."""
    result = then_body(*then_inps) if bool(condition) else else_body(*else_inps)
    return [result] if isinstance(result, torch.Tensor) else list(result)


def serializedMatMul(lhs: Any, rhs: Any, mode: Any, factor: int = 0, keep_precision: bool = False) -> torch.Tensor:
    """Multiply two matrices, uncut."""
    return torch.matmul(lhs, rhs)


def recomputationCheckpoint(*tensors: Any) -> Any:
    """Return what was given: only training recomputes."""
    return tensors[0] if len(tensors) == 1 else tensors
