"""Which requests make the next batch: the one seam between the backlog and a cost model."""

from typing import List, NamedTuple, Optional, Sequence

from ipu_supervisor.core.backlog import Computation

#: How many computations from the head of the backlog are looked at for one batch, times the largest batch (chosen).
WINDOW = 4


class Cost(NamedTuple):
    """Time as a function of a batch: `fixed + n * longest * per_token`, in arbitrary units.

    `per_token` 0: a batch costs the same however full it is (static shapes). `fixed` 0: a batch never pays (plain CPU).
    """

    fixed: float
    per_token: float
    max_batch: int = 1
    max_tokens: Optional[int] = None

    def of(self, count: int, longest: int) -> float:
        """Return the cost of `count` items, each padded to `longest` tokens."""
        return self.fixed + count * longest * self.per_token

    def work(self, count: int, tokens: int) -> float:
        """Return the cost of `count` items with `tokens` tokens in all, in full batches without padding."""
        return self.fixed * self.batches(count, tokens) + self.per_token * tokens

    def batches(self, count: int, tokens: int) -> int:
        """Return the least number of batches that hold `count` items with `tokens` tokens in all."""
        batches = -(-count // self.max_batch)
        return batches if self.max_tokens is None else max(batches, -(-tokens // self.max_tokens))

    def fits(self, count: int, longest: int) -> bool:
        """Say whether a batch obeys the limits."""
        return count <= self.max_batch and (self.max_tokens is None or count * longest <= self.max_tokens)


#: Batches of one.
SINGLY = Cost(fixed=0.0, per_token=1.0)


def filling(max_batch: int, max_tokens: Optional[int] = None) -> Cost:
    """Return the cost model of a device whose batches are worth filling."""
    return Cost(fixed=1.0, per_token=0.0, max_batch=max_batch, max_tokens=max_tokens)


def choose(backlog: Sequence[Computation], cost: Cost, now: float) -> List[Computation]:
    """Return the members of the next batch, in backlog order.

    Anchored on the first computation, so none is passed over for ever; filled with those nearest to it in size, as many
    as make most work per unit of cost. A suspect runs alone.
    """
    if not backlog:
        return []
    anchor = backlog[0]
    if anchor.alone or cost.max_batch == 1:
        return [anchor]
    company = [item for item in backlog[1:] if not item.alone]
    ranked = [anchor, *sorted(company, key=lambda item: abs(item.size - anchor.size))]
    members = {id(item) for item in ranked[: _best(ranked, cost)]}
    return [item for item in backlog if id(item) in members]


def _best(ranked: Sequence[Computation], cost: Cost) -> int:
    """Return how many of the first of these make most useful tokens per unit of cost; the fewest that do."""
    best, most, tokens, longest = 1, 0.0, 0, 0
    for count, item in enumerate(ranked[: cost.max_batch], 1):
        tokens, longest = tokens + item.size, max(longest, item.size)
        gain = tokens / max(cost.of(count, longest), 1e-9)
        if gain > most and (count == 1 or cost.fits(count, longest)):
            best, most = count, gain
    return best
