"""How fast one replica of a model works, as measured, and how long a given amount of work will take."""

from typing import Tuple

#: Weight of the newest batch in the moving averages (chosen: about the last ten batches count).
WEIGHT = 0.1
#: Least spread of the costs, as a share of their mean, at which what a batch costs by itself can be told from what its
#: content does (chosen: well over the noise of sizes that are meant to be equal).
LEAST_SPREAD = 0.05


class ServiceRate:
    """A straight line through the latest batches of one replica: seconds as a function of cost, by moving averages."""

    def __init__(self) -> None:
        """Begin without a measurement."""
        self._batches = 0.0
        self._cost = self._seconds = 0.0
        self._variance = self._covariance = 0.0

    def measured(self, seconds: float, cost: float) -> None:
        """Note one batch, and what it should have cost."""
        self._batches += 1
        weight = max(WEIGHT, 1 / self._batches)
        off_cost, off_seconds = cost - self._cost, seconds - self._seconds
        self._cost += weight * off_cost
        self._seconds += weight * off_seconds
        self._variance = (1 - weight) * (self._variance + weight * off_cost * off_cost)
        self._covariance = (1 - weight) * (self._covariance + weight * off_cost * off_seconds)

    def seconds(self, batches: float, cost: float) -> float:
        """Return the estimated seconds of so many batches on one replica; 0 while nothing is measured."""
        per_batch, per_unit = self._line()
        return per_batch * batches + per_unit * cost

    def _line(self) -> Tuple[float, float]:
        """Return the seconds of a batch by itself, and those of a unit of cost; neither is negative."""
        if self._cost <= 0:
            return 0.0, 0.0
        proportional = self._seconds / self._cost
        if self._variance < (LEAST_SPREAD * self._cost) ** 2:
            return 0.0, proportional
        per_unit = min(max(0.0, self._covariance / self._variance), proportional)
        return self._seconds - per_unit * self._cost, per_unit
