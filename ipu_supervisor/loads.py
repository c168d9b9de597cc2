"""How long each model took to load, kept in the run folder for the next supervisor."""

import json
import os
import pathlib
from typing import Dict

from ipu_supervisor import log


class Loads:
    """Measured load times, seconds, by model."""

    def __init__(self, run_dir: pathlib.Path) -> None:
        """Store where the file lies."""
        self._path = run_dir / "load_s.json"

    def read(self) -> Dict[str, float]:
        """Return what earlier supervisors measured; a file that is damaged counts as none."""
        try:
            loads = json.loads(self._path.read_text(encoding="utf-8"))
            return {str(model): float(seconds) for model, seconds in loads.items()}
        except (OSError, ValueError, AttributeError, TypeError):
            return {}

    def keep(self, model: str, load_s: float) -> None:
        """Note a measurement; the file is replaced whole, or left as it is where it cannot be written."""
        fresh = self._path.with_suffix(".new")
        try:
            with open(str(fresh), "w", encoding="utf-8", opener=_private) as file:
                file.write(json.dumps({**self.read(), model: round(load_s, 3)}))
            fresh.replace(self._path)
        except OSError as error:
            log.event("load_not_kept", 30, model=model, error=str(error))


def _private(path: str, flags: int) -> int:
    """Open a file that nobody but this user may open: the run folder's group is also the web side's."""
    return os.open(path, flags, 0o600)
