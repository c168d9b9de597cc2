"""Settings: what is complete, what is refused, and that every fault is named at once."""

import json
import pathlib

import pytest

from ipu_supervisor import config, endpoints
from ipu_supervisor.config import ConfigError

#: A schema that takes nothing, not even its own defaults.
REFUSING = """
from marshmallow import ValidationError, validates_schema
from ipu_supervisor.models.base import OptionsSchema
class Refusing(OptionsSchema):
    @validates_schema
    def check(self, options, **_):
        raise ValidationError("never")
"""
#: The least that a model file of the newer shape holds.
MINE = """
from ipu_supervisor.models.base import AnyObject, BasePipeline
class Pipeline(BasePipeline):
    Input = Output = AnyObject
"""
#: One of the older shape.
OLDER = "class Pipeline:\n    def __call__(self, inputs): return inputs\n"


def settings(*entries, **env):
    return config.from_env({"SERVER_MODELS": json.dumps(entries), **env})


def faults(*entries, **env):
    with pytest.raises(ConfigError) as refused:
        settings(*entries, **env)
    return refused.value


def test_an_entry_needs_only_its_model_and_takes_the_rest_from_the_model_file():
    (model,) = settings({"model": "question_answering"}).models
    assert (model.route, model.checkpoint, model.replicas) == ("/qa", "distilbert-base-cased-distilled-squad", 1)
    assert model.options["max_answer_len"] == 15


def test_an_entry_overrides_the_model_file():
    entry = {"model": "summarization", "checkpoint": "me/mine", "revision": "v2", "options": {"num_beams": 5}}
    (model,) = settings(entry).models
    assert (model.checkpoint, model.revision, model.options["num_beams"]) == ("me/mine", "v2", 5)


def test_the_default_set_is_the_three_models():
    assert [model.name for model in config.from_env({}).models] == ["question_answering", "summarization", "embeddings"]


def test_empty_means_not_set():
    assert config.from_env({"CHECKPOINTS": "", "LOG_LEVEL": ""}).checkpoints == "hub"


def test_all_faults_are_named_at_once():
    found = faults(
        {"model": "echo", "replicas": 0, "options": {"colour": "red"}},
        {"model": "nobody"},
        {"replicas": 1},
        LOG_LEVEL="LOUD",
        CHECKPOINTS="mine",
        MODELS_PATH="/no/such/folder",
    )
    text = "\n".join(found.faults)
    for part in (
        "[0].replicas",
        "[0].options.colour",
        "nobody",
        "[2].model",
        "LOG_LEVEL",
        "CHECKPOINTS",
        "no such folder",
    ):
        assert part in text
    assert found.exit_code == config.EXIT_CONFIG


@pytest.mark.parametrize("text", ["{", "{}", "[1]", '"echo"'])
def test_what_is_no_list_of_objects_is_refused(text):
    with pytest.raises(ConfigError, match="SERVER_MODELS"):
        config.from_env({"SERVER_MODELS": text})


def test_the_same_model_twice_is_refused():
    assert "twice" in faults({"model": "echo"}, {"model": "echo"}).faults[0]


def test_two_models_on_one_route_are_refused(tmp_path):
    (tmp_path / "qa.py").write_text("class Pipeline:\n    pass\n", encoding="utf-8")
    found = faults({"model": "question_answering"}, {"model": "qa"}, MODELS_PATH=str(tmp_path))
    assert "the route '/qa' is taken twice" in found.faults[0]


@pytest.mark.parametrize(
    ("route", "why"),
    [
        *(
            (route, "must be /NAME")
            for route in ("mine", "/", "/mine/", "//mine", "/<name>", "/{name}", "/a b", "/a?b", "/..")
        ),
        *((route, "own paths") for route in ("/docs", "/models/mine", "/health/mine", "/openapi.json")),
        ("/qa/batch", "takes batches"),
    ],
)
def test_a_route_that_cannot_be_served_is_refused_with_the_rule(tmp_path, route, why):
    found = faults({"model": "question_answering"}, {"model": "mine"}, MODELS_PATH=str(routed(tmp_path, route)))
    assert len(found.faults) == 1
    assert repr(route) in found.faults[0]
    assert why in found.faults[0]


@pytest.mark.parametrize("route", ["/mine", "/v1/mine.large-2~b", "/über_uns", "/mine/batch", "/modelsx"])
def test_a_route_that_collides_with_nothing_is_taken(tmp_path, route):
    entries = {"model": "question_answering"}, {"model": "mine"}
    assert settings(*entries, MODELS_PATH=str(routed(tmp_path, route))).models[1].route == route


def routed(folder, route):
    """Put a model file with a route of its own into a folder, and return the folder."""
    (folder / "mine.py").write_text("{}    route = {!r}\n".format(MINE, route), encoding="utf-8")
    return folder


def test_a_client_batch_that_could_never_enter_the_backlog_is_refused():
    assert "max_backlog" in faults({"model": "echo", "max_backlog": 4, "max_client_batch_size": 5}).faults[0]


def test_a_shortest_summary_over_the_longest_is_refused_on_any_device():
    options = {"min_new_tokens": 60, "max_new_tokens": 40}
    found = faults({"model": "summarization", "options": options})
    assert "min_new_tokens: Must be at most max_new_tokens." in found.faults[0]
    assert settings({"model": "summarization", "options": {"min_new_tokens": 40, "max_new_tokens": 40}}).models


def test_a_small_backlog_takes_small_client_batches_by_default():
    assert settings({"model": "echo", "max_backlog": 4}).models[0].max_client_batch_size == 4


@pytest.mark.parametrize(
    ("file", "entry", "unread"),
    [
        (OLDER, {"checkpoint": "x", "revision": "v2", "dtype": "float16"}, ["checkpoint", "revision", "dtype"]),
        (OLDER, {"options": {"colour": "red"}}, ["options"]),
        (OLDER, {"device": "ipu", "ipu": {"ipus": 2, "batch_size": 4}}, ["ipu.batch_size"]),
        ("pipe = print\ndef compile(pipe): pass", {"checkpoint": "x"}, ["checkpoint"]),
        (MINE, {"checkpoint": "x", "dtype": "float16"}, ["checkpoint", "dtype"]),
    ],
)
def test_a_setting_that_nothing_reads_is_refused(tmp_path, file, entry, unread):
    (tmp_path / "mine.py").write_text(file, encoding="utf-8")
    told = faults({"model": "mine", **entry}, MODELS_PATH=str(tmp_path)).faults
    assert [fault.partition(": ")[0] for fault in told] == ["SERVER_MODELS[0]." + name for name in unread]


def test_what_an_older_file_leaves_to_its_entry_is_taken(tmp_path):
    (tmp_path / "mine.py").write_text(OLDER, encoding="utf-8")
    entry = {"model": "mine", "device": "ipu", "ipu": {"ipus": 2}, "checkpoint": "", "dtype": "auto", "options": {}}
    (model,) = settings(entry, MODELS_PATH=str(tmp_path)).models
    assert model.ipu["ipus"] == 2


def test_faults_of_model_files_alone_have_an_exit_code_of_their_own():
    assert faults({"model": "nobody"}).exit_code == config.EXIT_MODEL_FILE


@pytest.mark.parametrize(
    ("endpoint", "why"),
    [
        ("http://x", "ipc:// or tcp://"),
        ("tcp://0.0.0.0:5555", "name one address"),
        ("tcp://*:5555", "name one address"),
        ("tcp://192.0.2.7:5555", "SUPERVISOR_CURVE_KEYS"),
        ("ipc://" + "x" * 120, "at most 107 bytes"),
    ],
)
def test_an_endpoint_that_is_unsafe_or_impossible_is_refused(endpoint, why):
    assert why in "\n".join(faults({"model": "echo"}, SUPERVISOR_ENDPOINT=endpoint).faults)


def test_the_run_folder_is_that_of_the_endpoint():
    assert settings({"model": "echo"}, SUPERVISOR_ENDPOINT="ipc:///a/b.sock").run_dir == pathlib.Path("/a")
    tcp = settings({"model": "echo"}, SUPERVISOR_ENDPOINT="tcp://127.0.0.1:1", SUPERVISOR_RUN_DIR="/b")
    assert tcp.run_dir == pathlib.Path("/b")


@pytest.mark.parametrize(
    ("wrong", "why"),
    [
        ("Options = None", "wrong type: Options;"),
        ("Input = AnyObject()", "wrong type: Input;"),
        ("Output = None\n    deterministic = 'yes'", "wrong type: Output, deterministic;"),
        ("route = 7", "wrong type: route;"),
        ("task = checkpoint = revision = summary = None", "wrong type: task, checkpoint, revision, summary;"),
        ("example = ['no', 'mapping']", "wrong type: example;"),
        ("shapes = classmethod(lambda cls, options: {'length': options['lenght']})", "shapes(): KeyError: 'lenght'"),
        ("shapes = classmethod(lambda cls, options: None)", "shapes(): TypeError"),
        ("Options = Refusing", "Options or shapes(): ValidationError: {'_schema': ['never']}"),
    ],
)
def test_code_of_a_model_file_that_goes_wrong_is_a_fault_of_that_file(tmp_path, wrong, why):
    text = REFUSING + MINE + "    {}\n".format(wrong)
    (tmp_path / "mine.py").write_text(text, encoding="utf-8")
    found = faults({"model": "question_answering"}, {"model": "mine"}, MODELS_PATH=str(tmp_path))
    assert found.exit_code == config.EXIT_MODEL_FILE or "Refusing" in wrong
    assert "SERVER_MODELS[1].model: {}".format(tmp_path / "mine.py") in found.faults[-1]
    assert why in found.faults[-1]


def test_what_several_options_break_together_is_named_with_what_each_breaks():
    options = {"min_new_tokens": 500, "max_new_tokens": 20, "typo": 1}
    found = faults({"model": "summarization", "options": options, "replicas": 0})
    assert [fault.partition(":")[0] for fault in found.faults] == [
        "SERVER_MODELS[0].replicas",
        "SERVER_MODELS[0].options.typo",
        "SERVER_MODELS[0].options.min_new_tokens",
    ]


@pytest.mark.parametrize("endpoint", ["ipc://@name", "ipc://*"])
def test_a_socket_that_anybody_may_open_is_refused(endpoint):
    assert "name a file" in faults(SUPERVISOR_ENDPOINT=endpoint).faults[0]


def test_a_folder_whose_sockets_would_have_too_long_paths_is_refused(tmp_path, monkeypatch):
    deep = tmp_path / ("x" * 100)
    deep.mkdir()
    for folder, environ in ((tmp_path, {"SUPERVISOR_RUN_DIR": str(deep)}), (deep, {})):
        # Where we are in the deep one, the path of the endpoint is short; that of the replicas' socket cannot be.
        monkeypatch.chdir(folder)
        with pytest.raises(config.ConfigError, match=r"SUPERVISOR_RUN_DIR: .* is too long"):
            config.from_env(environ, endpoints.SUPERVISOR_KEYS)
        # Who only asks the supervisor binds nothing.
        config.from_env({**environ, "SUPERVISOR_ENDPOINT": "tcp://127.0.0.1:5555"})


@pytest.mark.parametrize(
    ("text", "why"),
    [
        (b"LOG_LEVEL=INFO\nSERVER_MODELS='[]\nCHECKPOINTS=demo\n", "what begins in line 2 is no NAME=value"),
        (b"LOG_LEVEL\nLOG LEVEL=INFO\n", "what begins in line 2 is no NAME=value"),
        (b"# Gr\xf6\xdfe\n", "cannot be read as UTF-8 text"),
    ],
)
def test_a_file_that_cannot_be_read_as_it_was_meant_stops_the_start(tmp_path, text, why):
    (tmp_path / ".env").write_bytes(text)
    with pytest.raises(config.ConfigError) as caught:
        config.environment(str(tmp_path / ".env"))
    assert why in caught.value.faults[0]
    assert ".env" in caught.value.faults[0]


def test_an_empty_value_hides_none_of_the_file(tmp_path, monkeypatch):
    (tmp_path / ".env").write_text("SERVER_PORT=8150\n", encoding="utf-8")
    monkeypatch.setenv("SERVER_PORT", "")
    assert config.environment(str(tmp_path / ".env"))["SERVER_PORT"] == "8150"


def test_the_environment_wins_over_the_file(tmp_path, monkeypatch):
    (tmp_path / ".env").write_text("LOG_LEVEL=ERROR\nLOG_FORMAT='text'\n", encoding="utf-8")
    monkeypatch.setenv("LOG_LEVEL", "DEBUG")
    monkeypatch.delenv("LOG_FORMAT", raising=False)
    environ = config.environment(str(tmp_path / ".env"))
    assert (environ["LOG_LEVEL"], environ["LOG_FORMAT"]) == ("DEBUG", "text")
