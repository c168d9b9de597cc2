"""What a new replica process is told."""

import json

from ipu_supervisor import births, config
from ipu_supervisor.models import catalog


def settings(**entry):
    models = json.dumps([{"model": "question_answering", **entry}])
    return config.from_env({"SERVER_MODELS": models, "POPTORCH_CACHE_DIR": "programs", "MODELS_PATH": "."})


def test_a_replica_gets_the_environment_without_what_is_the_supervisors_own():
    given = {"HF_TOKEN": "secret", "POPTORCH_WAIT_FOR_IPU": "1", "NOTIFY_SOCKET": "/run/x", "WATCHDOG_USEC": "1"}
    found = settings()
    assert births.environ(found.models[0], found, given) == {"HF_TOKEN": "secret"}


def test_a_replica_on_ipus_gets_the_cache_and_a_folder_of_its_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "checkpoint").mkdir()
    found = settings(device="ipu", checkpoint="checkpoint")
    spec = births.spec("question_answering-1.2", found.models[0], found, "ipc://x", 1)
    assert spec["folder"] == str(tmp_path / ".run" / "replicas" / "question_answering-1")
    assert births.environ(found.models[0], found, {}) == {"POPTORCH_CACHE_DIR": str(tmp_path / "programs")}
    # It works in another folder than the supervisor, so what it is told names places in full.
    assert spec["checkpoint"] == str(tmp_path / "checkpoint")
    assert spec["path"] == str(catalog.BUILT_IN / "question_answering.py")


def test_a_replica_on_ipus_finds_the_hubs_cache_where_the_supervisor_does(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    found = settings(device="ipu")
    told = births.environ(found.models[0], found, {"HF_HOME": "hub", "HF_HUB_CACHE": ""})
    assert (told["HF_HOME"], told["HF_HUB_CACHE"]) == (str(tmp_path / "hub"), "")


def test_a_replica_on_ipus_is_in_the_partition_that_the_supervisor_counted(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    found = settings(device="ipu")
    told = births.environ(found.models[0], found, {"IPUOF_CONFIG_PATH": "partition.conf"})
    assert told["IPUOF_CONFIG_PATH"] == str(tmp_path / "partition.conf")


def test_a_replica_on_another_device_stays_where_the_supervisor_is():
    found = settings()
    spec = births.spec("question_answering-1.1", found.models[0], found, "ipc://x", 1)
    assert (spec["folder"], spec["checkpoint"]) == ("", "distilbert-base-cased-distilled-squad")
