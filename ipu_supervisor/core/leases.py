"""Who holds how many IPUs. A lease begins with a replica's process and ends with it, however the process ends.

PopTorch chooses which IPUs a process gets, so a lease is a number.
"""

import collections
from typing import Dict, Mapping, Tuple


class Leases:
    """The IPUs of this machine that this supervisor may use."""

    def __init__(self, total: int, needs: Mapping[str, int]) -> None:
        """Begin with all of them free; `needs`: IPUs that one replica of each model holds."""
        self.total = total
        self._needs = dict(needs)
        #: By replica: its model, and what it holds.
        self._held: Dict[str, Tuple[str, int]] = {}

    @property
    def held(self) -> int:
        """Return how many are held."""
        return sum(held for _, held in self._held.values())

    def take(self, replica: str, model: str, wanted: Mapping[str, int]) -> bool:
        """Lease a replica what its model needs; say whether there were enough.

        One beyond what is wanted of its model, in a rolling change, leaves to the others what those want.
        """
        need = self._needs.get(model, 0)
        if self.held + need + self._left_to_others(model, wanted) > self.total:
            return False
        self._held[replica] = (model, need)
        return True

    def _left_to_others(self, model: str, wanted: Mapping[str, int]) -> int:
        """Return what a further replica of a model must not take: what others want and do not hold just now."""
        counts = collections.Counter(holder for holder, _ in self._held.values())
        if counts[model] < wanted[model]:
            return 0
        return sum(
            need * max(0, wanted.get(other, 0) - counts[other]) for other, need in self._needs.items() if other != model
        )

    def give(self, replica: str) -> None:
        """Take back what a replica that has ended held."""
        self._held.pop(replica, None)

    def lacking(self, wanted: Mapping[str, int]) -> int:
        """Return how many IPUs are missing for so many replicas of each model; 0 or less when there are enough."""
        return sum(need * wanted.get(model, 0) for model, need in self._needs.items()) - self.total

    def room_for_both(self, model: str, wanted: Mapping[str, int]) -> bool:
        """Say whether, in a rolling change, a model has IPUs for one replica more than is wanted of it.

        Others may be changed meanwhile. They take turns with the IPUs that are spare, and none waits for ever: whoever
        has them gives as many back when its new replica is ready, or has failed, whatever becomes of the others.
        """
        return model not in self._needs or self.lacking({**wanted, model: wanted[model] + 1}) <= 0
