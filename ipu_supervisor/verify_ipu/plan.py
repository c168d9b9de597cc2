"""Which check runs when, and what becomes of the others when a start fails."""

import json
import pathlib
from datetime import datetime, timezone
from typing import List, Sequence, Tuple

from ipu_supervisor.config import ModelConfig
from ipu_supervisor.verify_ipu.host import Host
from ipu_supervisor.verify_ipu.machine import MachineChecks, check_host
from ipu_supervisor.verify_ipu.models import ModelChecks
from ipu_supervisor.verify_ipu.run import Run
from ipu_supervisor.verify_ipu.serving import Entry

HOST = ("libraries", "count")
FIRST = (*ModelChecks.SERVING, "cache")
ALONGSIDE = (*MachineChecks.ALONGSIDE, *MachineChecks.ALL_HELD)
ERRORS = ("no_such_device", "out_of_memory")


def verify(run: Run, host: Host, served: Sequence[Tuple[Entry, ModelConfig]], replicas: int) -> None:
    """Run all checks that are wanted; those of the machine with the first model, on at most so many replicas."""
    host.probe(run.place.environ)
    now = datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M UTC")
    run.report.facts += [("when", now), *host.facts(), *[("serves", json.dumps(entry)) for entry, _ in served]]
    check_host(run, host)
    for number, (entry, config) in enumerate(served):
        names = [*FIRST, *(() if number else (*ALONGSIDE, *ERRORS))]
        if host.fault:
            run.all_not_tried(names, config.name, "the libraries are not there")
        else:
            _verify_model(run, host, ModelChecks(run, entry, config), names, replicas)
    run.report.facts += [
        ("compiled programs", _size(run.place.executables)),
        ("temporary files of replicas", _size(run.place.folder / "tmp")),
    ]


def _verify_model(run: Run, host: Host, model: ModelChecks, names: List[str], most: int) -> None:
    """Run the checks of one model, and those of the machine if they are among `names`."""
    machine = MachineChecks(run, host, model, most if ALONGSIDE[0] in names else 1)
    if not machine.replicas:
        text = "it needs {} IPUs, and {} may be used"
        run.all_not_tried(names, model.model, text.format(model.need, host.usable))
        return
    left = [name for name in names if name not in FIRST]
    if run.wanted & set(FIRST) and not model.first_start():
        run.all_not_tried(left, model.model, "no replica became READY")
        return
    alongside = [name for name in ALONGSIDE if name in left]
    if run.wanted & {"cache", *alongside}:
        done = model.second_start(machine.replicas, machine.alongside if alongside else lambda served: None)
        run.all_not_tried([] if done else alongside, model.model, "the replicas did not become READY")
    if left:
        machine.errors()


def _size(folder: pathlib.Path) -> str:
    """Return how many files a folder holds, and how large they are."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    return "{} files, {:.1f} MB".format(len(files), sum(path.stat().st_size for path in files) / 1e6)
