"""What to do about an error of the IPU's library: one table. Imports neither torch nor poptorch.

PopTorch keeps the details of an error on the exception's class, where the next error overwrites them; so they are
copied to strings as soon as an error is caught.
"""

import sys
from typing import Dict, List, NamedTuple, Optional

#: Longest text of an error that is passed on, characters.
MAX_TEXT = 400


class Remedy(NamedTuple):
    """What the supervisor does, and what it advises.

    `final`: the replica is not started again. `alarm`: an operator must act. `waits`: starting again later may help,
    for as long as it takes. `blames_input`: what was aboard may have caused it.
    """

    advice: str
    final: bool = False
    alarm: bool = False
    waits: bool = False
    blames_input: bool = False


class DeviceFault(RuntimeError):
    """A device can compute no more in this process; the process must end."""

    def __init__(self, kind: str, text: str) -> None:
        """Store what happened; `kind` is a key of `TABLE`."""
        super().__init__("{}: {}".format(kind, text[:MAX_TEXT]))
        self.kind = kind
        self.remedy = TABLE[kind]

    @property
    def final(self) -> bool:
        """Say whether starting again cannot help."""
        return self.remedy.final


#: Every kind of error, and the remedy. Which message is which kind is for `kind_of` to say.
TABLE: Dict[str, Remedy] = {
    "BUSY": Remedy(
        "Another process holds the IPUs (`gc-monitor` tells which), there are fewer than SUPERVISOR_IPUS says, or "
        "those that are free are no such group: then `python -m ipu_supervisor reload` has every model take its own "
        "anew.",
        waits=True,
    ),
    "NO_SUCH_DEVICE": Remedy(
        "There are no such IPUs here; see `gc-info -l`, and lower ipu.ipus or ipu.replication.", final=True
    ),
    "UNSUPPORTED_DEVICE": Remedy(
        "optimum-graphcore runs on Mk2 and Bow IPUs and on the C600; serve the model on such a machine.", final=True
    ),
    "OUT_OF_MEMORY": Remedy(
        "The model does not fit; spread it over more IPUs (ipu.ipus), or lower ipu.batch_size, the lengths in options, "
        "or ipu.matmul_proportion.",
        final=True,
    ),
    "IPU_RESET": Remedy(
        "The IPUs are reset by starting the replica again; if it was given up, reset them (`gc-reset`), then "
        "`python -m ipu_supervisor reload`.",
        blames_input=True,
    ),
    "LINK_RESET": Remedy(
        "Reset the IPU links (retrain the partition), then `python -m ipu_supervisor reload`.", final=True, alarm=True
    ),
    "PARTITION_RESET": Remedy(
        "Reset the partition with V-IPU, then `python -m ipu_supervisor reload`.", final=True, alarm=True
    ),
    "FULL_RESET": Remedy("Power-cycle the IPU system, then `python -m ipu_supervisor reload`.", final=True, alarm=True),
    "UNRECOVERABLE": Remedy("Take the IPU system out of operation; its vendor must repair it.", final=True, alarm=True),
    "OTHER": Remedy(
        "The replica is started again; if it was given up, see its log, mend what that tells, then "
        "`python -m ipu_supervisor reload`.",
        blames_input=True,
    ),
}
#: Kinds that `recovery_action` names.
RECOVERY = ("IPU_RESET", "LINK_RESET", "PARTITION_RESET", "FULL_RESET")
#: What comes before the library's own call stack in a message.
TRACE = "Error raised in:"
#: Where the library writes messages of more than eighty lines (PopTorch), in the folder of the process.
LONG_MESSAGES = "poptorch_error.log"
#: What the library says of inputs that the compiled program was not made for: a fault of this program, not the device.
MISMATCH = "inputs used to compile"


def of(error: BaseException) -> Optional[DeviceFault]:
    """Return what an exception means for its process; None where the device and the process are well."""
    poptorch = sys.modules.get("poptorch")
    if isinstance(error, DeviceFault) or poptorch is None:
        return error if isinstance(error, DeviceFault) else None
    for cause in _chain(error):
        if isinstance(cause, poptorch.Error):
            text = " ".join((str(cause).partition(TRACE)[0] + _logged(cause)).split())
            kind = _kind(cause, text, poptorch)
            return DeviceFault(kind, text) if kind else None
    return None


def _logged(error: BaseException) -> str:
    """Return the beginning of what the library wrote to its file in place of a long message."""
    if LONG_MESSAGES not in str(error):
        return ""
    try:
        with open(LONG_MESSAGES, encoding="utf-8", errors="replace") as lines:
            return ": " + lines.read(MAX_TEXT)
    except OSError:
        return ""


def _chain(error: BaseException) -> List[BaseException]:
    """Return an exception and those it came from."""
    chain: List[BaseException] = []
    following: Optional[BaseException] = error
    while following is not None and following not in chain:
        chain.append(following)
        following = following.__cause__ or following.__context__
    return chain


def _kind(error: BaseException, text: str, poptorch: object) -> str:
    """Return the kind of an error of the library; empty for one that harmed nothing."""
    if isinstance(error, getattr(poptorch, "UnrecoverableError")):  # noqa: B009  # the module is not known to the types
        return "UNRECOVERABLE"
    if isinstance(error, getattr(poptorch, "RecoverableError")):  # noqa: B009
        action = str(getattr(error, "recovery_action", ""))
        return action if action in RECOVERY else "OTHER"
    return kind_of(text, str(getattr(error, "type", "")))


def kind_of(text: str, origin: str) -> str:
    """Return the kind of a plain error by its message and `type`; empty for inputs of other shapes."""
    if "Failed to acquire" in text:
        missing = "No device found on the system" in text or "No IPU detected" in text
        return "NO_SUCH_DEVICE" if missing else "BUSY"
    if "memory_allocation" in origin or "out of memory" in text.lower():
        return "OUT_OF_MEMORY"
    return "" if MISMATCH in text else "OTHER"
