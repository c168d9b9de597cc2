"""What the routes of one web worker share."""

from dataclasses import dataclass, field

from service.backend import Client, Standing
from service.contracts import Contract, contract
from service.metrics import Metrics
from service.permits import Permits
from service.settings import Settings


@dataclass
class Face:
    """Settings, the way to the supervisor, what this worker counts. Gunicorn's configuration replaces `permits`."""

    settings: Settings
    client: Client
    permits: Permits = field(init=False)
    standing: Standing = field(init=False)
    metrics: Metrics = field(init=False)
    contracts: tuple[Contract, ...] = field(init=False)

    def __post_init__(self) -> None:
        """Derive the rest from the settings."""
        self.permits = Permits(self.settings.threads)
        self.standing = Standing(self.client)
        self.contracts = tuple(contract(model) for model in self.settings.config.models)
        self.metrics = Metrics(contract.model.name for contract in self.contracts)
