"""The machine that the stand-in pretends: its IPUs, a journal of what was done on them, and faults to inject.

Owns what processes share, all of it files in one folder, STANDIN_FOLDER; knows nothing of torch, so a test reads it
cheaply. Faithful: an IPU belongs to one process at a time, the kernel frees it when that process ends, and groups of
IPUs are aligned powers of two, numbered as `gc-info -l` numbers them.

Environment: STANDIN_FOLDER (needed), STANDIN_IPUS (default 4), STANDIN_IPU_VERSION (2 or 21, default 2) and
STANDIN_COMPILE_S (what a compile takes, seconds, default 0).

STANDIN_FOLDER/fault-WHEN is one JSON object. `when` and `kind` are needed; `times` says how many strikes over all
processes it lasts (1; -1: always), `model` is a part of the name of the model's class (any), `rows` are the fewest of a
program that it strikes (0; for "compile"), `type` and `message` replace the error's.
"""

import contextlib
import fcntl
import json
import os
import pathlib
import time
from typing import Any, Dict, Iterator, List, Optional, Sequence, Union

WHENS = ("attach", "compile", "execute", "detach")
RESETS = ("IPU_RESET", "LINK_RESET", "PARTITION_RESET", "FULL_RESET")
KINDS = (*RESETS, "unrecoverable", "out_of_memory", "acquire", "other", "hang", "long_message")

Folder = Union[str, "os.PathLike[str]"]


class Device:
    """IPUs held by this process until `release`, or until the process ends."""

    def __init__(self, ipus: Sequence[int], locks: List[int]) -> None:
        """Store what is held, and of which machine."""
        self.folder = folder()
        self.ipus = list(ipus)
        self._locks = locks

    def sign(self) -> None:
        """Write our pid into each lock; it counts only while the lock is held, see `holders`."""
        for lock in self._locks:
            os.ftruncate(lock, 0)
            os.write(lock, str(os.getpid()).encode())

    def release(self) -> None:
        """Free the IPUs."""
        while self._locks:
            os.close(self._locks.pop())


def folder() -> pathlib.Path:
    """Return the machine's folder."""
    return pathlib.Path(os.environ["STANDIN_FOLDER"])


def ipu_count() -> int:
    """Return how many IPUs the machine has."""
    return int(os.environ.get("STANDIN_IPUS", "4"))


def groups(size: int) -> List[range]:
    """Return the groups of `size` IPUs that exist, `size` being a power of two."""
    return [range(first, first + size) for first in range(0, ipu_count() - size + 1, size)]


def group(number: int) -> Optional[range]:
    """Return the group that has a number: first the single IPUs, then the pairs, and so on."""
    sizes = [2**power for power in range(ipu_count().bit_length())]
    numbered = [each for size in sizes for each in groups(size)]
    return numbered[number] if number < len(numbered) else None


def acquire(candidates: Sequence[range]) -> Optional[Device]:
    """Take the first group that is free, or none."""
    with _alone(folder()):
        for ipus in candidates:
            locks = [_lock(folder(), ipu) for ipu in ipus]
            device = Device(ipus, [lock for lock in locks if lock is not None])
            if None not in locks:
                device.sign()
                return device
            device.release()
    return None


def holders(where: Folder) -> Dict[int, int]:
    """Return the pid that holds each IPU that is not free."""
    held = {}
    with _alone(where):
        for path in sorted(pathlib.Path(where).glob("ipu*")):
            lock = _lock(where, int(path.name[3:]))
            if lock is None:
                held[int(path.name[3:])] = int(path.read_text())
            else:
                os.close(lock)
    return held


def record(event: str, where: Optional[Folder] = None, **fields: Any) -> None:
    """Append a line to the journal of this process's machine, or of another that is still there."""
    line = {"event": event, "pid": os.getpid(), "at": time.monotonic(), **fields}
    path = pathlib.Path(where or folder())
    if where is None or path.is_dir():
        _append(path / "journal", json.dumps(line).encode() + b"\n")


def journal(where: Folder, *events: str) -> List[Dict[str, Any]]:
    """Return the journal's lines, oldest first; those of some events if any are named."""
    path = pathlib.Path(where) / "journal"
    lines = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    return [line for line in lines if not events or line["event"] in events]


def count_execution() -> None:
    """Count one execution by this process, as one byte of a file."""
    _append(folder() / "executed-{}".format(os.getpid()), b".")


def executions(where: Folder) -> Dict[int, int]:
    """Return how many executions each process has begun."""
    return {int(path.name.split("-")[1]): path.stat().st_size for path in pathlib.Path(where).glob("executed-*")}


def set_fault(where: Folder, **fault: Any) -> None:
    """Inject a fault, in place of one for the same moment."""
    path = pathlib.Path(where) / "fault-{}".format(_checked(fault)["when"])
    new = path.with_name("new-fault-{}".format(os.getpid()))
    new.write_text(json.dumps(fault))
    new.replace(path)


def take_fault(when: str, model: str, rows: int = 0) -> Optional[Dict[str, Any]]:
    """Take the fault that strikes a model now, once for each of its times over all processes."""
    path = folder() / "fault-{}".format(when)
    if not path.exists():
        return None
    with _alone(folder()):
        fault = _checked(json.loads(path.read_text())) if path.exists() else None
        if fault is None or fault.get("model", "") not in model or fault.get("rows", 0) > rows:
            return None
        left = fault.get("times", 1)
        if left == 1:
            path.unlink()
        elif left > 1:
            set_fault(folder(), **{**fault, "times": left - 1})
        return fault


def _checked(fault: Dict[str, Any]) -> Dict[str, Any]:
    """Return a fault, or raise for one that would never strike."""
    unknown = set(fault) - {"when", "kind", "times", "model", "rows", "type", "message"}
    if unknown or fault.get("when") not in WHENS or fault.get("kind") not in KINDS:
        raise ValueError("no such fault: {}".format(fault))
    return fault


@contextlib.contextmanager
def _alone(where: Folder) -> Iterator[None]:
    """Keep every other process from looking at IPUs and faults meanwhile."""
    gate = os.open(str(where), os.O_RDONLY)
    try:
        fcntl.flock(gate, fcntl.LOCK_EX)
        yield
    finally:
        os.close(gate)


def _lock(where: Folder, ipu: int) -> Optional[int]:
    """Lock one IPU and return the lock, or None while another holds it."""
    lock = os.open(os.path.join(str(where), "ipu{}".format(ipu)), os.O_RDWR | os.O_CREAT, 0o666)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(lock)
        return None
    return lock


def _append(path: pathlib.Path, data: bytes) -> None:
    """Append to a file that others append to as well."""
    file = os.open(str(path), os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
    try:
        os.write(file, data)
    finally:
        os.close(file)
