"""Finds a model's file, tells its shape from its syntax tree, and imports it where that is allowed.

A file of the newer shape (`class Pipeline(BasePipeline)`) is imported by both halves for its schemas. A file of the
older shape may import anything at its top, so it is never imported outside a replica.
"""

import ast
import enum
import hashlib
import importlib.abc
import importlib.util
import pathlib
import re
import sys
import types
from typing import Any, Callable, Dict, List, Mapping, NamedTuple, Optional, Sequence, Set, Type

from marshmallow import Schema

from ipu_supervisor.models.base import BasePipeline

#: The folder of the model files that come with the project.
BUILT_IN = pathlib.Path(__file__).parent
#: Files in that folder that are not models.
NOT_MODELS = frozenset({"__init__", "base", "catalog", "extract", "forward", "older", "spans", "vectors"})
#: A model's name: the name of its file.
NAME = re.compile(r"[a-z][a-z0-9_]{0,63}\Z")


def _is_schema(value: Any) -> bool:
    """Say whether a value is a class of marshmallow schemas."""
    return isinstance(value, type) and issubclass(value, Schema)


#: What a `Pipeline` has, and how each of it is recognised.
ATTRIBUTES: Dict[str, Callable[[Any], bool]] = {
    **dict.fromkeys(("route", "task", "checkpoint", "revision", "summary"), lambda value: isinstance(value, str)),
    **dict.fromkeys(("Input", "Output", "Options"), _is_schema),
    "example": lambda value: isinstance(value, Mapping),
    "deterministic": lambda value: isinstance(value, bool),
}
#: What a file of the newer shape must not import at its top: the web side imports it.
HEAVY = frozenset({"torch", "transformers", "numpy", "tokenizers", "poptorch", "optimum"})


class ModelFileError(ValueError):
    """A model file is missing or has not the right shape; the message says what to do."""


class Shape(enum.Enum):
    """The three shapes of a model file."""

    PIPELINE = "class Pipeline(BasePipeline)"
    BARE_CLASS = "bare class Pipeline"
    BARE_PIPE = "module-level pipe and compile(pipe)"


class _Loader(importlib.abc.InspectLoader):
    """Loads a module from what was read of its file."""

    def __init__(self, file: "ModelFile") -> None:
        """Store the file."""
        self._file = file

    def get_code(self, fullname: str) -> types.CodeType:
        """Return the compiled file."""
        return self.source_to_code(self._file.source, str(self._file.path))

    def get_source(self, fullname: str) -> str:
        """Return the file's text."""
        return importlib.util.decode_source(self._file.source)


class ModelFile(NamedTuple):
    """One model file: where it is, what shape it has, and what it held when it was read."""

    name: str
    path: pathlib.Path
    shape: Shape
    source: bytes

    @property
    def sha256(self) -> str:
        """Return the SHA-256 of the file."""
        return hashlib.sha256(self.source).hexdigest()

    def load(self) -> Type[BasePipeline]:
        """Import the file and return its `Pipeline`. Raises `ModelFileError`; only for the newer shape."""
        pipeline = getattr(self.module(), "Pipeline", None)
        if not (isinstance(pipeline, type) and issubclass(pipeline, BasePipeline)):
            raise ModelFileError("{}: Pipeline is not a BasePipeline".format(self.path))
        wrong = [name for name, holds in ATTRIBUTES.items() if not holds(getattr(pipeline, name, None))]
        if wrong:
            text = "{}: Pipeline lacks, or has of the wrong type: {}; docs/adding-a-model.md says what each is"
            raise ModelFileError(text.format(self.path, ", ".join(wrong)))
        return pipeline

    def module(self) -> Any:
        """Execute what was read of the file as a module, whatever it holds now. Raises `ModelFileError`."""
        loader = _Loader(self)
        spec = importlib.util.spec_from_file_location(
            "ipu_supervisor_model_" + self.name, str(self.path), loader=loader
        )
        if spec is None:
            raise ModelFileError("{}: cannot be imported".format(self.path))
        module = importlib.util.module_from_spec(spec)
        sys.modules[spec.name] = module  # where dataclasses and pickle look for the module of a class
        try:
            loader.exec_module(module)
        except (Exception, SystemExit) as error:
            raise ModelFileError("{}: {}: {}".format(self.path, type(error).__name__, error)) from error
        return module


def find(name: str, folders: Sequence[pathlib.Path] = ()) -> ModelFile:
    """Return the file of the model `name`: the first of `folders` that has it, else the built-in one.

    Raises `ModelFileError`.
    """
    if not NAME.match(name) or name in NOT_MODELS:
        raise ModelFileError("{!r} is not a model's name: use lower-case letters, digits and _".format(name))
    for folder in [*folders, BUILT_IN]:
        path = folder / (name + ".py")
        try:
            if path.is_file():
                return parse(name, path, path.read_bytes())
        except OSError as error:
            raise ModelFileError("{}: cannot be read: {}".format(path, error.strerror)) from None
    raise ModelFileError("no model {!r}; there are: {}".format(name, ", ".join(names(folders))))


def names(folders: Sequence[pathlib.Path] = ()) -> List[str]:
    """Return the names of all model files, sorted."""
    found: Set[str] = {path.stem for folder in [*folders, BUILT_IN] for path in folder.glob("*.py")}
    return sorted(name for name in found - NOT_MODELS if NAME.match(name))


def parse(name: str, path: pathlib.Path, source: bytes) -> ModelFile:
    """Return the file that holds `source`, with its shape. Raises `ModelFileError`."""
    try:
        tree = ast.parse(source, filename=str(path))
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:  # the last two: nested too deep
        raise ModelFileError("{}: not Python: {}".format(path, str(error) or type(error).__name__)) from None
    return ModelFile(name, path, _shape(tree, path), source)


def _shape(tree: ast.Module, path: pathlib.Path) -> Shape:
    """Tell the shape of a model file from its top level."""
    pipeline = next((node for node in tree.body if isinstance(node, ast.ClassDef) and node.name == "Pipeline"), None)
    if pipeline is not None and "BasePipeline" in {_last_name(base) for base in pipeline.bases}:
        heavy = sorted(_imported(tree) & HEAVY)
        if heavy:
            raise ModelFileError("{}: imports {} at its top; import it where it is used".format(path, ", ".join(heavy)))
        return Shape.PIPELINE
    # A file that has both made its model itself, perhaps with arguments.
    if {"pipe", "compile"} <= _defined(tree):
        return Shape.BARE_PIPE
    if pipeline is not None:
        return Shape.BARE_CLASS
    raise ModelFileError("{}: has neither a class Pipeline nor a pipe and a function compile(pipe)".format(path))


def _last_name(node: ast.expr) -> Optional[str]:
    """Return `B` for the expressions `B` and `a.B`."""
    return node.id if isinstance(node, ast.Name) else getattr(node, "attr", None)


def _imported(tree: ast.Module) -> Set[str]:
    """Return the top-level packages that a module imports at its top level."""
    modules = [alias.name for node in tree.body if isinstance(node, ast.Import) for alias in node.names]
    modules += [node.module for node in tree.body if isinstance(node, ast.ImportFrom) and node.module]
    return {module.split(".")[0] for module in modules}


def _defined(tree: ast.Module) -> Set[str]:
    """Return the names that a module assigns or defines as functions at its top level."""
    defined = {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}
    targets = [target for node in tree.body if isinstance(node, ast.Assign) for target in node.targets]
    targets += [node.target for node in tree.body if isinstance(node, ast.AnnAssign)]
    return defined | {target.id for target in targets if isinstance(target, ast.Name)}
