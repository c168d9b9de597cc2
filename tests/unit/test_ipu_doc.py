"""docs/ipu.md says what the code says: its settings are taken, its messages and its advice are the real ones."""

import json
import pathlib
import re
from typing import List, Tuple

import pytest

from ipu_supervisor import cli, config, devices
from ipu_supervisor.engines.faults import TABLE
from ipu_supervisor.layout import IpuSchema
from ipu_supervisor.verify_ipu.report import CHECKS

ROOT = pathlib.Path(__file__).parents[2]
DOCUMENT = (ROOT / "docs" / "ipu.md").read_text(encoding="utf-8")
#: What the hub says of the two checkpoints, as far as their layout needs it.
CHECKPOINTS = {
    "facebook/bart-large-cnn": {"model_type": "bart", "encoder_layers": 12, "decoder_layers": 12},
    "distilbert-base-cased-distilled-squad": {"model_type": "distilbert", "n_layers": 6, "vocab_size": 28996},
}


@pytest.fixture(autouse=True)
def machine(tmp_path, monkeypatch):
    """Pretend four IPUs and a hub's cache that has both checkpoints; no `.env` is near."""
    monkeypatch.chdir(tmp_path)
    for name in ("SERVER_MODELS", "CHECKPOINTS", "MODELS_PATH", "SUPERVISOR_ENDPOINT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("SUPERVISOR_IPUS", "4")
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    for name, found in CHECKPOINTS.items():
        snapshot = tmp_path / "models--{}".format(name.replace("/", "--")) / "snapshots" / "main"
        snapshot.mkdir(parents=True)
        (snapshot / "config.json").write_text(json.dumps(found), encoding="utf-8")


def tables(heading: str) -> List[Tuple[str, ...]]:
    """Return the rows of the tables whose first column has this heading, without the line below it."""
    found = re.findall(r"^\| {} \|.*\n\|[ |-]+\|\n((?:\|.*\|\n)+)".format(re.escape(heading)), DOCUMENT, re.MULTILINE)
    assert found, heading
    return [tuple(cell.strip() for cell in row.strip("|").split(" | ")) for row in "".join(found).splitlines()]


@pytest.mark.parametrize("number", [0, 1])
def test_the_smallest_setups_are_taken_and_are_the_same(number, monkeypatch, capsys):
    settings = re.findall(r"<!-- serves: (\d) IPUs -->\n```sh\n.*?SERVER_MODELS='(.*?)'\n```", DOCUMENT, re.DOTALL)
    assert len(settings) == 2
    ipus, models = settings[number]
    monkeypatch.setenv("SERVER_MODELS", models)
    assert cli.main(["check-config"]) == 0
    environ = config.environment()
    assert sum(devices.ipu_needs(config.from_env(environ)).values()) == int(ipus)
    first = config.from_env({**environ, "SERVER_MODELS": settings[0][1]})
    for one, other in zip(config.from_env(environ).models, first.models):
        assert (one.checkpoint, one.options, one.shapes) == (other.checkpoint, other.options, other.shapes)
        # What is spelled out of the layout comes to the same plan, which for BART is twelve layers on each IPU.
        assert {**one.ipu, "layers_per_ipu": None} == other.ipu


@pytest.mark.parametrize(("model", "setting", "message"), tables("model"))
def test_a_broken_rule_is_told_in_the_words_of_the_document(model, setting, message, monkeypatch, capsys):
    entry = {"model": model, "device": "ipu", **json.loads("{" + setting.strip("`") + "}")}
    monkeypatch.setenv("SERVER_MODELS", json.dumps([entry]))
    assert cli.main(["check-config"]) == config.EXIT_CONFIG
    assert capsys.readouterr().err == "error: {}\n".format(message[1:-1])


def test_too_few_ipus_are_told_in_the_words_of_the_document(monkeypatch, capsys):
    models = (
        '[{"model": "question_answering", "device": "ipu", "replicas": 2}, {"model": "summarization", "device": "ipu"}]'
    )
    monkeypatch.setenv("SERVER_MODELS", models)
    monkeypatch.setenv("SUPERVISOR_IPUS", "2")
    assert cli.main(["check-config"]) == config.EXIT_DEVICES
    assert "`{}`".format(capsys.readouterr().err.strip()) in DOCUMENT


def test_broken_rules_and_too_few_ipus_are_named_at_once(monkeypatch, capsys):
    layout = {"layers_per_ipu": [7], "embedding_serialization_factor": 3}
    entry = {"model": "question_answering", "device": "ipu", "replicas": 5, "ipu": layout}
    monkeypatch.setenv("SERVER_MODELS", json.dumps([entry]))
    assert cli.main(["check-config"]) == config.EXIT_CONFIG
    told = capsys.readouterr().err
    assert "[7] adds up to 7, but the checkpoint has 6 layers" in told
    assert "3 does not divide the vocabulary of 28996" in told
    assert "this machine has 4 IPUs, but question_answering needs 5" in told


def test_every_setting_of_a_layout_is_explained():
    named = re.findall(r"`(\w+)`", " ".join(row[0] for row in tables("setting")))
    assert sorted(named) == sorted(IpuSchema().fields)


def test_every_kind_of_error_has_its_advice():
    assert {row[0].strip("`"): row[3] for row in tables("kind")} == {
        kind: remedy.advice for kind, remedy in TABLE.items()
    }


def test_every_kind_of_error_that_raises_the_alarm_says_so():
    alarming = {row[0].strip("`") for row in tables("kind") if "raises the alarm" in row[2]}
    assert alarming == {kind for kind, remedy in TABLE.items() if remedy.alarm}


def test_what_needs_hardware_is_what_the_checks_try():
    assert {row[0].strip("`"): row[1] for row in tables("check")} == CHECKS


def test_files_and_sources_that_are_named_are_there():
    places = re.findall(r"`((?:tests|deploy)/[\w./-]+)`", DOCUMENT)
    assert len(places) > 6
    assert [place for place in places if not (ROOT / place).exists()] == []
    legend = {row.split("|")[1].strip() for row in DOCUMENT.partition("## Sources")[2].splitlines() if "|" in row}
    cited = re.findall(r"\b(?:OG|PT)-[A-Z]\b|\b(?:SSF|VIPU|CLT|SO)\b", DOCUMENT.partition("## Sources")[0])
    assert set(cited) == {name for name in legend if name.strip("-")}
