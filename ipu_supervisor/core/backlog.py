"""The accepted, not yet dispatched computations of one model, in the order in which they run.

One computation may have many waiters (equal requests share it); the last waiter that leaves takes it along.
"""

import collections
from typing import Deque, Dict, Iterator, List, NamedTuple, Optional

import msgspec


class Waiter(NamedTuple):
    """One item of one call."""

    call_id: bytes
    position: int


class Computation:
    """One item to compute, and who waits for it."""

    __slots__ = ("key", "name", "item", "size", "arrived", "dispatched", "waiters", "alone", "in_flight")

    def __init__(self, key: bytes, name: bytes, item: msgspec.Raw, size: int, arrived: float) -> None:
        """Store what is to be computed; `key`: hash of the item, `size` in tokens, `arrived` monotonic seconds."""
        self.key = key
        #: Under what it is found: its key when equal items may share it, else its one waiter.
        self.name = name
        self.item = item
        self.size = size
        self.arrived = arrived
        self.dispatched = arrived
        self.waiters: Dict[Waiter, None] = {}
        #: Must run in a batch of its own: it was aboard a batch that raised or a replica that died.
        self.alone = False
        self.in_flight = False


class Backlog:
    """A queue with removal from the middle. Removed computations are skipped when they come up."""

    def __init__(self) -> None:
        """Begin empty."""
        self._queue: Deque[Computation] = collections.deque()
        self._live: Dict[int, Computation] = {}
        self.size = 0

    def __len__(self) -> int:
        """Return how many computations wait."""
        return len(self._live)

    def __iter__(self) -> Iterator[Computation]:
        """Yield what waits, first to run first."""
        return (item for item in self._queue if id(item) in self._live)

    def append(self, computation: Computation) -> None:
        """Put a new computation at the end."""
        self._add(computation)
        self._queue.append(computation)

    def put_back(self, computations: List[Computation]) -> None:
        """Put computations that must run again at the front, in their order."""
        for computation in reversed(computations):
            self._add(computation)
            self._queue.appendleft(computation)

    def remove(self, computation: Computation) -> None:
        """Take one out: it is dispatched, or nobody waits for it any more."""
        if self._live.pop(id(computation), None) is not None:
            self.size -= computation.size
        while self._queue and id(self._queue[0]) not in self._live:
            self._queue.popleft()
        if len(self._queue) > 2 * len(self._live) + 16:
            self._queue = collections.deque(self)

    def head(self, most: int) -> List[Computation]:
        """Return the first `most` computations."""
        first: List[Computation] = []
        for computation in self:
            if len(first) == most:
                break
            first.append(computation)
        return first

    def oldest(self) -> Optional[Computation]:
        """Return the computation that runs first."""
        return next(iter(self), None)

    def _add(self, computation: Computation) -> None:
        """Count a computation as waiting."""
        self._live[id(computation)] = computation
        self.size += computation.size
