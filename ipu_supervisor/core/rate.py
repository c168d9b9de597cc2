"""How fast one replica of a model works, as measured, and how long a given amount of work will take."""

from typing import Optional

#: Weight of the newest batch in the moving average (chosen: about the last ten batches count).
WEIGHT = 0.2


class ServiceRate:
    """A moving average of seconds per unit of cost of one replica."""

    def __init__(self) -> None:
        """Begin without a measurement."""
        self._s_per_unit: Optional[float] = None

    def measured(self, seconds: float, cost: float) -> None:
        """Note one batch, and what it should have cost."""
        if cost <= 0:
            return
        sample = seconds / cost
        old = self._s_per_unit
        self._s_per_unit = sample if old is None else old + WEIGHT * (sample - old)

    def seconds(self, cost: float) -> float:
        """Return the estimated seconds for an amount of work on one replica; 0 while nothing is measured."""
        return (self._s_per_unit or 0.0) * cost
