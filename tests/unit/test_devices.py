"""How many IPUs there are, what models need, and what is known of a checkpoint before any replica starts."""

import json

import pytest

from ipu_supervisor import config, devices
from ipu_supervisor.core.batching import SINGLY


def settings(*models, **environ):
    return config.from_env({"SERVER_MODELS": json.dumps(models), **environ})


def on_ipu(**entry):
    return {"model": "question_answering", "device": "ipu", **entry}


def tool(folder, text):
    """Put a gc-info on the path that prints `text`."""
    folder.mkdir()
    (folder / "gc-info").write_text("#!/bin/sh\n" + text, encoding="utf-8")
    (folder / "gc-info").chmod(0o755)
    return {"PATH": "{}:/usr/bin:/bin".format(folder)}


def test_the_vendors_tool_counts_what_the_replicas_will_see(tmp_path):
    environ = tool(tmp_path / "bin", 'test "$1" = --ipu-count && echo "$IPUOF_VIPU_API_PARTITION_ID"')
    assert devices.ipu_count(settings(on_ipu()), {**environ, "IPUOF_VIPU_API_PARTITION_ID": "16"}) == 16


@pytest.mark.parametrize("text", ["exit 1", "echo none", "exec sleep 60"])
def test_a_tool_that_gives_no_number_counts_nothing_and_that_is_told(tmp_path, monkeypatch, text):
    monkeypatch.setattr(devices, "COUNT_LIMIT_S", 0.2)
    with pytest.raises(config.ConfigError, match="gc-info counts no IPUs here; enable the Poplar SDK") as raised:
        devices.check(settings(on_ipu()), tool(tmp_path / "bin", text))
    assert raised.value.exit_code == config.EXIT_DEVICES


def test_what_was_counted_at_the_check_is_what_there_is(tmp_path):
    once = tool(tmp_path / "bin", 'test ! -e "$0.ran" && touch "$0.ran" && echo 4')
    checked = devices.check(settings(on_ipu()), once)
    assert (checked.ipus, devices.check(checked, once).ipus) == (4, 4)


def test_nothing_is_counted_where_no_model_wants_an_ipu(tmp_path):
    environ = tool(tmp_path / "bin", 'touch "$0.ran"')
    assert devices.check(settings({"model": "echo"}), environ).ipus == 0
    assert not (tmp_path / "bin" / "gc-info.ran").exists()


def test_a_configured_number_wins(tmp_path):
    assert devices.ipu_count(settings(on_ipu(), SUPERVISOR_IPUS="0"), tool(tmp_path / "bin", "echo 8")) == 0


def test_every_models_need_is_named():
    models = [on_ipu(replicas=2, ipu={"ipus": 2}), {"model": "summarization", "device": "ipu"}]
    with pytest.raises(config.ConfigError) as raised:
        devices.check(settings(*models, SUPERVISOR_IPUS="5"), {})
    assert raised.value.exit_code == config.EXIT_DEVICES
    assert raised.value.faults == [
        "this machine has 5 IPUs, but question_answering needs 4 (2 replica(s) x 2), summarization needs 2 (1 "
        "replica(s) x 2)"
    ]
    devices.check(settings(*models, SUPERVISOR_IPUS="6"), {})


def test_the_demo_has_no_layout():
    with pytest.raises(config.ConfigError, match="set CHECKPOINTS=hub"):
        devices.check(settings(on_ipu(), CHECKPOINTS="demo", SUPERVISOR_IPUS="4"), {})


def test_a_cached_checkpoint_is_checked_before_a_replica_starts(tmp_path):
    snapshot = tmp_path / "hub" / "models--some--checkpoint" / "snapshots" / "0123abc"
    snapshot.mkdir(parents=True)
    (snapshot / "config.json").write_text('{"model_type": "distilbert", "n_layers": 6}', encoding="utf-8")
    refs = tmp_path / "hub" / "models--some--checkpoint" / "refs"
    refs.mkdir()
    (refs / "main").write_text("0123abc", encoding="ascii")
    for revision in ("main", "0123abc"):
        entry = on_ipu(checkpoint="some/checkpoint", revision=revision, ipu={"layers_per_ipu": [3, 2]})
        with pytest.raises(config.ConfigError, match=r"adds up to 5, but the checkpoint has 6 layers"):
            devices.check(settings(entry, SUPERVISOR_IPUS="4"), {"HF_HOME": str(tmp_path)})


def test_a_configuration_that_leaves_numbers_at_their_defaults_is_left_to_the_replica(tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "distilbert"}', encoding="utf-8")
    devices.check(settings(on_ipu(checkpoint=str(tmp_path)), SUPERVISOR_IPUS="4"), {})


def test_a_checkpoint_that_is_not_at_hand_is_left_to_the_replica(tmp_path):
    devices.check(settings(on_ipu(ipu={"layers_per_ipu": [3, 2]}), SUPERVISOR_IPUS="4"), {"HF_HOME": str(tmp_path)})


def test_only_models_on_ipus_compile_in_turn():
    models = settings(on_ipu(), {"model": "echo"})
    assert [devices.pool_settings(model, models, None).in_turn for model in models.models] == [True, False]


def test_an_older_model_file_takes_one_request_at_a_time_on_an_ipu(tmp_path):
    (tmp_path / "mine.py").write_text(
        "class Pipeline:\n    def __call__(self, inputs):\n        return inputs\n", encoding="utf-8"
    )
    entry = {"model": "mine", "device": "ipu", "ipu": {"ipus": 4}}
    assert devices.cost(settings(entry, MODELS_PATH=str(tmp_path)).models[0]) == SINGLY


def test_batches_on_an_ipu_are_as_large_as_its_program():
    model = settings(on_ipu(ipu={"batch_size": 2, "replication": 4})).models[0]
    assert devices.cost(model).max_batch == 8
    assert devices.cost(settings(on_ipu()).models[0]) == SINGLY
