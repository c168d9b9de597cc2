"""The accepted, not yet dispatched computations of one model, in the order in which they run.

One computation may have many waiters (equal requests share it); the last waiter that leaves takes it along.
"""

import collections
import itertools
from typing import Dict, Iterator, List, NamedTuple

import msgspec


class Waiter(NamedTuple):
    """One item of one call."""

    call_id: bytes
    position: int


class Computation:
    """One item to compute, and who waits for it."""

    __slots__ = (
        *("key", "name", "item", "size", "dispatched", "waiters"),
        *("alone", "orphaned", "in_flight", "request_id"),
    )

    def __init__(self, key: bytes, name: bytes, item: msgspec.Raw, size: int, now: float) -> None:
        """Store what is to be computed; `key`: hash of the item, `size` in tokens, `now` monotonic seconds."""
        self.key = key
        #: Under what it is found: its key when equal items may share it, else its one waiter.
        self.name = name
        self.item = item
        self.size = size
        self.dispatched = now
        #: When each began to wait, monotonic seconds.
        self.waiters: Dict[Waiter, float] = {}
        #: Must run in a batch of its own: it was aboard a batch that raised or a replica that died.
        self.alone = False
        #: A replica ended with it aboard.
        self.orphaned = False
        self.in_flight = False
        #: The request that asked first, for logs; never an identity.
        self.request_id = ""


class Backlog:
    """A queue with removal from the middle."""

    def __init__(self) -> None:
        """Begin empty."""
        self._queue: collections.OrderedDict[Computation, None] = collections.OrderedDict()
        self.size = 0

    def __len__(self) -> int:
        """Return how many computations wait."""
        return len(self._queue)

    def __iter__(self) -> Iterator[Computation]:
        """Yield what waits, first to run first."""
        return iter(self._queue)

    def append(self, computation: Computation) -> None:
        """Put a new computation at the end."""
        self._queue[computation] = None
        self.size += computation.size

    def put_back(self, computations: List[Computation]) -> None:
        """Put computations that must run again at the front, in their order."""
        for computation in reversed(computations):
            self.append(computation)
            self._queue.move_to_end(computation, last=False)

    def remove(self, computation: Computation) -> None:
        """Take one out, if it is there: it is dispatched, or nobody waits for it any more."""
        if computation in self._queue:
            del self._queue[computation]
            self.size -= computation.size

    def head(self, most: int) -> List[Computation]:
        """Return the first `most` computations."""
        return list(itertools.islice(self._queue, most))
