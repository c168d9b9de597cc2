"""Model files: found by name, recognised by their syntax tree, imported only where that is allowed."""

import errno
import hashlib
import os
import pathlib
import sys

import pytest

from ipu_supervisor.models import catalog

NEWER = "from ipu_supervisor.models.base import BasePipeline\nclass Pipeline(BasePipeline):\n    pass\n"


@pytest.fixture
def write(tmp_path):
    def write(source, name="mine"):
        (tmp_path / (name + ".py")).write_text(source, encoding="utf-8")
        return [tmp_path]

    return write


def test_the_built_in_models_are_there():
    assert {"question_answering", "summarization", "embeddings", "echo"} <= set(catalog.names())


@pytest.mark.parametrize("name", ["question_answering", "summarization", "embeddings"])
def test_built_in_model_has_an_example_that_its_own_input_takes(name):
    pipeline = catalog.find(name).load()
    options = pipeline.Options().load({})
    assert pipeline.input_schema(options)().validate(pipeline.example) == {}
    assert pipeline.size(pipeline.example) > 0


@pytest.mark.parametrize(
    ("source", "shape"),
    [
        (NEWER, catalog.Shape.PIPELINE),
        (
            "from ipu_supervisor.models import base\nclass Pipeline(base.BasePipeline):\n    pass\n",
            catalog.Shape.PIPELINE,
        ),
        ("import torch\nclass Pipeline:\n    pass\n", catalog.Shape.BARE_CLASS),
        ("import torch\nclass P: pass\npipe = P()\ndef compile(pipe): pass\n", catalog.Shape.BARE_PIPE),
        ("pipe: object = 1\ndef compile(pipe): pass\n", catalog.Shape.BARE_PIPE),
    ],
)
def test_the_shape_is_told_from_the_syntax_tree(write, source, shape):
    file = catalog.find("mine", write(source))
    assert file.shape is shape
    assert file.sha256 == hashlib.sha256(source.encode()).hexdigest()


@pytest.mark.parametrize(
    ("source", "fault"),
    [
        ("x = 1\n", "has neither"),
        ("def (\n", "not Python"),
        ("x = '\0'\n", "not Python"),
        ("x = " + "-" * 20_000 + "1\n", "not Python"),
        ("x = " + "+1" * 50_000 + "\n", "not Python: maximum recursion|has neither"),
        ("import numpy.linalg\n" + NEWER, "imports numpy at its top"),
        ("from torch import nn\n" + NEWER, "imports torch at its top"),
    ],
)
def test_a_file_of_no_shape_is_refused(write, source, fault):
    with pytest.raises(catalog.ModelFileError, match=fault):
        catalog.find("mine", write(source))


def test_the_file_is_not_run_to_tell_its_shape(write):
    assert catalog.find("mine", write("raise SystemExit\nclass Pipeline: pass\n")).shape is catalog.Shape.BARE_CLASS


@pytest.mark.parametrize("name", ["", "../x", "Base", "base", "spans", "forward", "a" * 65, "a-b", "x\n"])
def test_a_name_that_is_none_is_refused(name):
    with pytest.raises(catalog.ModelFileError, match="not a model's name"):
        catalog.find(name)


def test_an_unknown_name_is_told_what_there_is():
    with pytest.raises(catalog.ModelFileError, match="question_answering"):
        catalog.find("nothing")


def test_an_extra_folder_comes_before_the_built_in_one(write):
    folders = write(NEWER, "echo")
    assert catalog.find("echo", folders).path.parent == folders[0]


def test_a_file_that_fails_on_import_says_why(write):
    with pytest.raises(catalog.ModelFileError, match="ZeroDivisionError"):
        catalog.find("mine", write(NEWER + "1 / 0\n")).load()


def test_a_file_is_loaded_as_it_is_now_also_after_an_edit_of_equal_size_in_the_same_second(write, monkeypatch):
    monkeypatch.setattr(sys, "dont_write_bytecode", False)
    (folder,) = write(NEWER + "ANSWER = 1\n")
    moment = (folder / "mine.py").stat().st_mtime
    assert catalog.find("mine", [folder]).module().ANSWER == 1
    write(NEWER + "ANSWER = 2\n")
    os.utime(str(folder / "mine.py"), (moment, moment))
    assert catalog.find("mine", [folder]).module().ANSWER == 2


def test_a_file_is_run_as_it_was_read_whatever_it_holds_now(write):
    found = catalog.find("mine", write(NEWER + "ANSWER = 1\n"))
    write(NEWER + "1 / 0\n")
    module = found.module()
    assert (module.ANSWER, module.__file__) == (1, str(found.path))


def test_a_file_that_cannot_be_read_is_refused(write, monkeypatch):
    folders = write(NEWER)

    def forbidden(path):
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    with monkeypatch.context() as patched:
        patched.setattr(pathlib.Path, "read_bytes", forbidden)
        with pytest.raises(catalog.ModelFileError, match=r"mine\.py: cannot be read: Permission denied"):
            catalog.find("mine", folders)


def test_a_file_that_would_end_the_process_is_refused(write):
    with pytest.raises(catalog.ModelFileError, match="SystemExit: 3"):
        catalog.find("mine", write("raise SystemExit(3)\n" + NEWER)).load()


def test_a_file_may_hold_dataclasses(write):
    source = "from __future__ import annotations\nimport dataclasses\n@dataclasses.dataclass\nclass A:\n    x: int\n"
    assert catalog.find("mine", write(source + NEWER.replace("from", "from", 1))).module().A(1).x == 1
