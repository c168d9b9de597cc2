"""A model's inputs: static once compiled.

Faithful: number, dtype, shape and every value that is no tensor are checked, and the message's end.
"""

import inspect
from typing import Any, Callable, Dict, List, Mapping, Sequence, Tuple

import torch

from poptorch.poptorch_core import create_error

#: How every complaint about an input ends.
END = (
    "\nThis error occurred because the inputs passed at runtime don't match the inputs used to compile the model.\n"
    "Call destroy() or make a new inferenceModel to compile for other inputs."
)


class Inputs:
    """One call's inputs: named parameters in the model's order, whatever else by name."""

    def __init__(self, args: Sequence[Any], arg_names: Sequence[str], kwargs: Mapping[str, Any]) -> None:
        """Store the inputs."""
        self.args = list(args)
        self.arg_names = list(arg_names)
        self.kwargs = dict(kwargs)

    def map(self, change: Callable[[torch.Tensor], torch.Tensor]) -> "Inputs":
        """Return these inputs with each tensor changed."""
        return Inputs(map_tensors(change, self.args), self.arg_names, map_tensors(change, self.kwargs))


def parse(signature: inspect.Signature, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Inputs:
    """Return a call's inputs, defaults filled in."""
    try:
        bound = signature.bind(*args, **kwargs)
    except TypeError as error:
        raise create_error(str(error)) from error
    bound.apply_defaults()
    inputs = Inputs(bound.args, [], bound.kwargs)
    named = [name for name, each in signature.parameters.items() if each.kind is each.POSITIONAL_OR_KEYWORD]
    inputs.arg_names = [*named, *("*args[{}]".format(index) for index in range(len(inputs.args) - len(named)))]
    return inputs


def validate(compiled: Inputs, given: Inputs) -> None:
    """Refuse inputs that are not like those that were compiled."""
    if len(compiled.args) != len(given.args):
        expected = "expected {} arguments but got {}.".format(len(compiled.args), len(given.args))
        raise create_error("Number of positional arguments mismatch: " + expected + END)
    for name, one, other in zip(compiled.arg_names, compiled.args, given.args):
        _same(name, one, other)
    _same("named arguments", compiled.kwargs, given.kwargs)


def _same(name: str, compiled: Any, given: Any) -> None:
    """Refuse one input that is not like the compiled one."""
    for what, one, other in _compared(compiled, given):
        if one != other:
            raise create_error("{} mismatch for {}: expected {} but got {}.{}".format(what, name, one, other, END))
    if isinstance(compiled, dict):
        for key, one in compiled.items():
            _same("{}[{}]".format(name, key), one, given[key])
    elif isinstance(compiled, (list, tuple)):
        for index, one in enumerate(compiled):
            _same("{}[{}]".format(name, index), one, given[index])


def _compared(compiled: Any, given: Any) -> List[Tuple[str, Any, Any]]:
    """Return what has to be equal, the type first."""
    if type(compiled) is not type(given):
        return [("Type", type(compiled), type(given))]
    if isinstance(compiled, torch.Tensor):
        return [("Data type", compiled.dtype, given.dtype), ("Shape", compiled.shape, given.shape)]
    if isinstance(compiled, dict):
        return [("Keys", sorted(compiled), sorted(given))]
    if isinstance(compiled, (list, tuple)):
        return [("Length", len(compiled), len(given))]
    return [("Value", compiled, given)]


def map_tensors(change: Callable[[torch.Tensor], Any], value: Any) -> Any:
    """Return a nested value with each tensor changed."""
    if isinstance(value, torch.Tensor):
        return change(value)
    if isinstance(value, dict):
        changed: Dict[str, Any] = {key: map_tensors(change, each) for key, each in value.items()}
        return changed if type(value) is dict else type(value)(**changed)
    if isinstance(value, (list, tuple)):
        return type(value)(map_tensors(change, each) for each in value)
    return value


def concatenate(outputs: Sequence[Any]) -> Any:
    """Join the micro-batches' results along the first dimension."""
    first = outputs[0]
    if isinstance(first, torch.Tensor):
        return torch.cat([output.reshape(1) if output.dim() == 0 else output for output in outputs])
    if isinstance(first, dict):
        joined: Dict[str, Any] = {key: concatenate([output[key] for output in outputs]) for key in first}
        return joined if type(first) is dict else type(first)(**joined)
    if isinstance(first, (list, tuple)):
        return type(first)(concatenate(column) for column in zip(*outputs))
    return first


def most_rows(inputs: Inputs) -> int:
    """Return the largest first dimension of any tensor."""
    rows = [0]

    def note(tensor: torch.Tensor) -> torch.Tensor:
        rows.extend(tensor.shape[:1])
        return tensor

    inputs.map(note)
    return max(rows)


def shapes(inputs: Inputs) -> List[Any]:
    """Return the shape and dtype of each tensor, and every other value as text: what a program depends on."""
    found: List[Any] = []
    for value in (*inputs.args, *(inputs.kwargs[name] for name in sorted(inputs.kwargs))):
        described = map_tensors(lambda tensor: [list(tensor.shape), str(tensor.dtype)], value)
        found.append(described if isinstance(value, torch.Tensor) else str(described))
    return found
