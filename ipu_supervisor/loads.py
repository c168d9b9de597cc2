"""How long each model took to load, kept in the run folder for the next supervisor."""

import json
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
            fresh.write_text(json.dumps({**self.read(), model: round(load_s, 3)}), encoding="utf-8")
            fresh.replace(self._path)
        except OSError as error:
            log.event("load_not_kept", 30, model=model, error=str(error))
