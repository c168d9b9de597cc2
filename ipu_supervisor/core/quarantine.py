"""Which inputs killed replicas: suspects run alone, and an input that kills twice is poison."""

import collections
from typing import Dict, Tuple

#: Deaths after which an input is poison.
POISON_DEATHS = 2
#: How long a death is held against an input, and poison refused at the door, seconds.
MEMORY_S = 600.0
#: Most inputs remembered; the oldest is forgotten first (chosen: a megabyte).
MOST = 10_000


class Quarantine:
    """Counts deaths per input (by its hash), whoever sent it."""

    def __init__(self) -> None:
        """Begin with nobody accused."""
        self._deaths: collections.OrderedDict[bytes, Tuple[int, float]] = collections.OrderedDict()

    def died(self, key: bytes, now: float) -> bool:
        """Note that a replica died with this input aboard; say whether the input is poison now."""
        deaths = self.deaths(key, now) + 1
        self._deaths[key] = (deaths, now + MEMORY_S)
        self._deaths.move_to_end(key)
        while len(self._deaths) > MOST or next(iter(self._deaths.values()))[1] <= now:
            self._deaths.popitem(last=False)
        return deaths >= POISON_DEATHS

    def deaths(self, key: bytes, now: float) -> int:
        """Return how many replicas this input has killed lately."""
        if not self._deaths:
            return 0
        deaths, until = self._deaths.get(key, (0, now))
        if deaths and until <= now:
            del self._deaths[key]
            return 0
        return deaths

    def is_poison(self, key: bytes, now: float) -> bool:
        """Say whether the input is refused at the door."""
        return self.deaths(key, now) >= POISON_DEATHS

    def acquit(self, key: bytes) -> None:
        """Forget an input that was answered."""
        self._deaths.pop(key, None)

    def clear(self) -> None:
        """Forget every input: what they killed is served no more."""
        self._deaths.clear()

    def counts(self, now: float) -> Dict[str, float]:
        """Return figures for the status."""
        refused = [until for deaths, until in self._deaths.values() if deaths >= POISON_DEATHS and until > now]
        return {"quarantined": float(len(refused))}
