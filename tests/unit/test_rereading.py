"""Entries of `SERVER_MODELS` made anew from their model files as they are now."""

import json

import pytest

from ipu_supervisor import config

FILE = """
from marshmallow import fields
from ipu_supervisor.models.base import AnyObject, BasePipeline, OptionsSchema

class Options(OptionsSchema):
    length = fields.Integer(load_default={length})

class Pipeline(BasePipeline):
    route = "/{route}"
    task = "{task}"
    checkpoint = "{checkpoint}"
    Input, Output, Options = AnyObject, AnyObject, Options

    @classmethod
    def shapes(cls, options):
        return {{"length": options["length"]}}
"""
BEFORE = {"length": 128, "route": "old", "task": "question-answering", "checkpoint": "old/one"}
AFTER = {"length": 256, "route": "new", "task": "sentence-embedding", "checkpoint": "new/one"}


@pytest.fixture
def write(tmp_path):
    def write(name, **values):
        (tmp_path / (name + ".py")).write_text(FILE.format(**values), encoding="utf-8")

    return write


@pytest.fixture
def settings(write, tmp_path):
    """Return the settings of two models, `one` with a `max_chars` of its own."""
    for name in ("one", "two"):
        write(name, **{**BEFORE, "route": name})
    entries = [{"model": "one", "options": {"max_chars": 9}, "max_backlog": 4}, {"model": "two"}]
    return config.from_env({"SERVER_MODELS": json.dumps(entries), "MODELS_PATH": str(tmp_path)})


def test_all_that_an_entry_takes_from_its_file_is_taken_again(settings, write):
    write("one", **AFTER)
    again = config.reread(settings, ["one"])
    fresh, kept = again.models
    assert fresh.options == {"max_chars": 9, "length": 256}
    assert (fresh.route, fresh.task, fresh.checkpoint) == ("/new", "sentence-embedding", "new/one")
    assert (fresh.shapes, fresh.max_backlog, fresh.max_client_batch_size) == ({"length": 256}, 4, 4)
    assert fresh.file.sha256 != settings.models[0].file.sha256
    assert kept is settings.models[1]


def test_what_the_entry_sets_stays_also_the_second_time(settings, write):
    write("one", **AFTER)
    again = config.reread(config.reread(settings, ["one"]), ["one", "two"])
    assert again.models[0].options["max_chars"] == 9


def test_only_the_named_are_read_again(settings, write, tmp_path):
    (tmp_path / "two.py").write_text("def (", encoding="utf-8")
    assert config.reread(settings, ["one"]).models == settings.models


def test_every_fault_is_named_with_its_entry(settings, tmp_path):
    text = FILE.format(**BEFORE).replace("OptionsSchema", "Schema")  # so there is no `max_chars` any more
    (tmp_path / "one.py").write_text(text, encoding="utf-8")
    (tmp_path / "two.py").unlink()
    with pytest.raises(config.ConfigError) as refused:
        config.reread(settings, ["one", "two"])
    first, second = refused.value.faults
    assert first == "SERVER_MODELS[0].options.max_chars: Unknown field."
    assert second.startswith("SERVER_MODELS[1].model: no model 'two'")


def test_a_route_that_another_model_has_is_refused(settings, write):
    write("one", **{**AFTER, "route": "two"})
    with pytest.raises(config.ConfigError, match="the route '/two' is taken twice"):
        config.reread(settings, ["one"])
