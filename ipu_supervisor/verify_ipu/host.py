"""What the machine is: its IPUs, as `gc-info` and as PopTorch see them, and the versions of what runs on them.

PopTorch is asked in a process of its own: no supervisor may import it.
"""

import json
import os
import pathlib
import platform
import shutil
import subprocess
import sys
from typing import Any, Dict, List, Mapping, Optional, Tuple

from ipu_supervisor import devices, layout, status
from ipu_supervisor.config import Config

#: Longest that the libraries may take to be imported, seconds (chosen).
IMPORT_LIMIT_S = 300.0
#: Prints what the libraries are and see, as one line of JSON; no process gets more than `layout.MOST_IPUS`.
PROBE = """
import importlib.metadata, json
import poptorch, torch, transformers, optimum.graphcore
sizes = [2 ** power for power in range(7) if poptorch.ipuHardwareIsAvailable(2 ** power)]
print(json.dumps({
    "PopTorch": poptorch.__version__, "torch": torch.__version__, "Transformers": transformers.__version__,
    "optimum-graphcore": importlib.metadata.version("optimum-graphcore"),
    "largest": max(sizes, default=0), "hardware": poptorch.ipuHardwareVersion() if sizes else 0,
}))
"""


class Host:
    """What was found. `counted`: by gc-info; `usable`: as far as SUPERVISOR_IPUS lets us; `largest`: by PopTorch."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        """Count the IPUs."""
        self.counted: Optional[int] = devices.ipu_count(Config(models=()), environ)
        given = environ.get("SUPERVISOR_IPUS", "")
        self.usable = int(given) if given.isdigit() else self.counted or 0
        self.named = sorted(name for name in environ if name.startswith("IPUOF_"))
        self.libraries: Dict[str, Any] = {}
        self.fault = ""

    @property
    def largest(self) -> int:
        """Return the largest group of IPUs that PopTorch sees."""
        return int(self.libraries.get("largest", 0))

    def probe(self, environ: Mapping[str, str]) -> None:
        """Import the libraries once; what goes wrong is kept in `fault`."""
        try:
            done = subprocess.run(
                [sys.executable, "-c", PROBE],
                env=dict(environ),
                capture_output=True,
                timeout=IMPORT_LIMIT_S,
                check=False,
            )
        except subprocess.TimeoutExpired:
            self.fault = "the libraries were not imported within {:.0f} s".format(IMPORT_LIMIT_S)
            return
        lines = [line for line in done.stdout.decode("utf-8", "replace").splitlines() if line.startswith("{")]
        if done.returncode or not lines:
            self.fault = (done.stderr.decode("utf-8", "replace").strip().splitlines() or ["no output"])[-1]
        else:
            self.libraries = json.loads(lines[-1])

    def monitor(self) -> Optional[str]:
        """Return what `gc-monitor` prints, or None where it is not on the PATH."""
        if shutil.which("gc-monitor") is None:
            return None
        return subprocess.run(["gc-monitor"], stdout=subprocess.PIPE, text=True, timeout=60, check=True).stdout

    def facts(self) -> List[Tuple[str, str]]:
        """Return what the report begins with; of the environment only names, no values."""
        versions = [(name, str(value)) for name, value in self.libraries.items() if name not in ("largest", "hardware")]
        hardware = layout.HARDWARE.get(self.libraries.get("hardware", 0), "unknown")
        ipus = "{} counted, {} usable, groups of up to {}; {}".format(self.counted, self.usable, self.largest, hardware)
        return [
            ("this supervisor", status.VERSION),
            ("Python", platform.python_version()),
            *versions,
            ("IPUs", ipus),
            ("named by", ", ".join(self.named) or "no IPUOF_*"),
            ("machine", "{} cores, {:.0f} GB, {}{}".format(os.cpu_count(), _memory_gb(), platform.release(), _where())),
        ]


def _memory_gb() -> float:
    """Return the machine's memory."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9


def _where() -> str:
    """Say whether this is a container, as Docker and Podman mark theirs."""
    marks = (pathlib.Path("/.dockerenv"), pathlib.Path("/run/.containerenv"))
    return ", in a container" if any(mark.exists() for mark in marks) else ""
