"""The units' settings that keep their promises only where they fail: limits, ends and restarts."""

import configparser
import pathlib

import pytest

from ipu_supervisor.config import EXIT_CONFIG, EXIT_DEVICES, EXIT_MODEL_FILE
from ipu_supervisor.loop import DRAIN_LIMIT_S

FOLDER = pathlib.Path(__file__).resolve().parents[2] / "deploy/systemd"
#: Both halves: another start ends as the first one did after these codes, and five starts in five minutes are enough.
BOTH = {
    "Unit": {"StartLimitIntervalSec": "300", "StartLimitBurst": "5", "PartOf": "model-server.target"},
    "Service": {
        "RestartPreventExitStatus": " ".join(map(str, sorted({EXIT_CONFIG, EXIT_DEVICES, EXIT_MODEL_FILE}))),
        **{"Type": "notify", "NotifyAccess": "main", "Restart": "on-failure", "RestartSec": "2", "KillMode": "mixed"},
        **{"LimitNOFILE": "65536", "LimitCORE": "0", "TasksMax": "4096", "NoNewPrivileges": "yes"},
        **{"Group": "model-server", "CapabilityBoundingSet": "", "EnvironmentFile": "-/etc/model-server/env"},
    },
}
SUPERVISOR = {
    **{"User": "model-server", "UMask": "0027", "WatchdogSec": "20", "TimeoutAbortSec": "5", "TimeoutStopSec": "45"},
    **{"OOMPolicy": "continue", "RuntimeDirectoryPreserve": "restart", "ExecReload": "/bin/kill -HUP $MAINPID"},
    **{"RuntimeDirectory": "model-server", "RuntimeDirectoryMode": "0750", "CacheDirectoryMode": "0700"},
}
WEB = {"User": "model-server-web", "UMask": "0077", "TimeoutStopSec": "120", "MemoryDenyWriteExecute": "yes"}
PORT = {"Backlog": "4096", "FreeBind": "yes", "Service": "model-server-web@main.service"}
PRIVATE = {"SocketUser": "model-server-web", "SocketMode": "0660", "RemoveOnStop": "yes"}
EXPECTED = {
    "model-server-supervisor.service": {**BOTH, "Service": {**BOTH["Service"], **SUPERVISOR}},
    "model-server-web@.service": {**BOTH, "Service": {**BOTH["Service"], **WEB}},
    "model-server-http.socket": {"Unit": {"PartOf": "model-server.target"}, "Socket": PORT},
    "model-server-web@.socket": {"Unit": {"PartOf": "model-server.target"}, "Socket": PRIVATE},
}
#: All that a drop-in of `--device` takes back of the supervisor's sandbox, line by line: several have one name.
CLOSED = ["PrivateDevices=no", "DevicePolicy=closed"]
DEVICES = {
    "cuda": [*CLOSED, "DeviceAllow=char-nvidia* rw"],
    "ipu": [
        "Environment=POPTORCH_CACHE_DIR=/var/cache/model-server/executables",
        *CLOSED,
        *(f"DeviceAllow=char-{name} rw" for name in ("ipu*", "infiniband*", "misc")),
        "LimitMEMLOCK=infinity",
    ],
}


@pytest.mark.parametrize("name", EXPECTED)
def test_a_unit_says_what_holds_where_something_fails(name):
    parser = configparser.RawConfigParser(strict=False)
    parser.optionxform = str  # type: ignore[assignment,method-assign]
    parser.read(str(FOLDER / name), encoding="utf-8")
    found = {section: {key: parser[section].get(key) for key in keys} for section, keys in EXPECTED[name].items()}
    assert found == EXPECTED[name]


def test_a_stop_leaves_the_supervisor_the_time_to_drain_and_to_end_its_replicas():
    assert float(SUPERVISOR["TimeoutStopSec"]) > DRAIN_LIMIT_S + 6


@pytest.mark.parametrize("device", DEVICES)
def test_a_drop_in_opens_its_devices_and_nothing_else(device):
    lines = (FOLDER / f"device-{device}.conf").read_text(encoding="utf-8").splitlines()
    assert [line for line in lines if line and not line.startswith("#")] == ["[Service]", *DEVICES[device]]
