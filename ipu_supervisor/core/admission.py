"""The door of one model: whether a call can be taken in, told from what waits, what computes and how fast."""

from typing import NamedTuple, Optional, Sequence

from ipu_supervisor.core.batching import Cost
from ipu_supervisor.core.rate import ServiceRate
from ipu_supervisor.protocol.errors import ErrorCode
from ipu_supervisor.protocol.messages import Failure


class Capacity(NamedTuple):
    """What there is to compute with."""

    #: Replicas that compute, or could at once.
    usable: int = 0
    #: One of them has nothing to do.
    idle: bool = False
    #: Estimated seconds until the first is usable, when none is.
    ready_in_s: float = 0.0


class Load(NamedTuple):
    """An amount of work: how many computations, and their tokens."""

    items: int = 0
    tokens: int = 0

    def plus(self, sizes: Sequence[int]) -> "Load":
        """Return the load with these computations more."""
        return Load(self.items + len(sizes), self.tokens + sum(sizes))


class Admission:
    """Refuses, whole, what would only wait to die."""

    def __init__(self, cost: Cost, max_backlog: int) -> None:
        """Store the bound, and the cost model in whose units the rate is measured."""
        self._cost = cost
        self._rate = ServiceRate()
        self._max_backlog = max_backlog

    def measured(self, seconds: float, count: int, longest: int) -> None:
        """Note how long one batch took."""
        self._rate.measured(seconds, self._cost.of(count, longest))

    def seconds(self, flying: Load, waiting: Load, usable: int) -> float:
        """Return the estimated seconds until all of it is done; 0 while nothing was measured."""
        batches = self._cost.batches(*flying) + self._cost.batches(*waiting)
        work = self._cost.work(*flying) + self._cost.work(*waiting)
        return self._rate.seconds(batches, work) / max(usable, 1)

    def refusal(
        self, budget_s: float, fresh: Sequence[int], flying: Load, waiting: Load, capacity: Capacity
    ) -> Optional[Failure]:
        """Say why a call cannot be taken in, if it cannot; `fresh`: the sizes of what it adds to the backlog."""
        usable, idle, ready_in_s = capacity
        excess = waiting.items + len(fresh) - self._max_backlog
        if excess > 0:
            per_item_s = self.seconds(flying, waiting, usable) / max(1, waiting.items)
            free_in_s = ready_in_s + excess * per_item_s
            return Failure(ErrorCode.OVERLOADED, "Too many requests wait; come back later.", free_in_s)
        if not usable and ready_in_s > budget_s:
            return Failure(ErrorCode.NOT_READY, "The model is still being prepared.", ready_in_s - budget_s)
        late_s = ready_in_s + self.seconds(flying, waiting.plus(fresh), usable) - budget_s
        # With nothing before it a call is tried, whatever it takes: an estimate is no reason to leave a replica idle.
        if late_s > 0 and not idle and flying.items + waiting.items:
            return Failure(ErrorCode.OVERLOADED, "The time limit cannot be met with what waits already.", late_s)
        return None
