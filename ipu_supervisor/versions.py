"""Which entry of `SERVER_MODELS`, with which version of the model file, each generation of a model's replicas runs."""

from typing import Optional

from ipu_supervisor.config import ModelConfig
from ipu_supervisor.core.crew import Crew
from ipu_supervisor.core.replica import Replica


class Versions:
    """The entries of one model. An older one stays as long as it has a replica, which may die and be started again."""

    def __init__(self, model: ModelConfig) -> None:
        """Begin with what the first generation runs."""
        self._entries = {0: model}

    def of(self, replica: Optional[Replica]) -> ModelConfig:
        """Return what a replica runs; without one, the newest."""
        return self._entries[max(self._entries) if replica is None else replica.generation]

    def add(self, model: ModelConfig, crew: Crew) -> None:
        """Note what the newest generation of a crew runs, and forget what no replica runs any more."""
        there = {replica.generation for replica in crew.all()}
        self._entries = {number: entry for number, entry in self._entries.items() if number in there}
        self._entries[crew.generation] = model
