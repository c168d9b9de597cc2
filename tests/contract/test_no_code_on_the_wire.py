"""Nothing that arrives over a socket or lies in a file is run as code: read from the syntax trees of both halves."""

import ast
import pathlib
from typing import List

import pytest

ROOT = pathlib.Path(__file__).parents[2]
FILES = sorted(path for half in ("service", "ipu_supervisor") for path in (ROOT / half).rglob("*.py"))
#: Modules whose loaders run code, or that exist to do so.
MODULES = {"pickle", "_pickle", "cPickle", "cloudpickle", "dill", "joblib", "marshal", "shelve", "multiprocessing"}
#: Calls that unpickle or evaluate, whatever they hang on.
ATTRIBUTES = {"recv_pyobj", "send_pyobj", "recv_serialized", "unsafe_load", "full_load", "load_all", "Unpickler"}
#: Functions of the language that run text.
BUILTINS = {"eval", "exec", "compile", "__import__"}
#: `owner.name` that read code from a file.
QUALIFIED = {
    ("torch", "load"),
    ("yaml", "load"),
    ("numpy", "load"),
    ("np", "load"),
    ("torch.jit", "load"),
    ("os", "system"),
}


def faults(source: str) -> List[str]:
    """Name what in a file could run what it reads."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            names = [alias.name for alias in node.names]
            names = names if isinstance(node, ast.Import) else [node.module or "", *names]
            found += [name for name in names if name.split(".")[0] in MODULES]
        elif isinstance(node, ast.Attribute):
            owner = _dotted(node.value)
            found += [node.attr] if node.attr in ATTRIBUTES or (owner, node.attr) in QUALIFIED else []
        elif isinstance(node, ast.Call):
            found += [node.func.id] if isinstance(node.func, ast.Name) and node.func.id in BUILTINS else []
            found += ["shell=True" for word in node.keywords if word.arg == "shell" and not _is_false(word.value)]
    return found


def _dotted(node: ast.AST) -> str:
    """Return `a.b` for the name or attribute that it is."""
    if isinstance(node, ast.Attribute):
        return "{}.{}".format(_dotted(node.value), node.attr)
    return node.id if isinstance(node, ast.Name) else ""


def _is_false(node: ast.AST) -> bool:
    return isinstance(node, ast.Constant) and node.value is False


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_nothing_unpickles_or_evaluates(path):
    assert faults(path.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize(
    "planted",
    [
        "import pickle",
        "from pickle import loads",
        "import multiprocessing.connection",
        "socket.recv_pyobj()",
        "self.socket.send_pyobj(thing)",
        "torch.load(path, weights_only=True)",
        "yaml.load(text)",
        "eval(text)",
        "exec(text)",
        "__import__(name)",
        "subprocess.run(text, shell=True)",
    ],
)
def test_planted_danger_is_found(planted):
    assert len(faults("def planted():\n    " + planted)) == 1


def test_there_is_something_to_scan():
    assert len(FILES) > 40
