"""The calls that wait for their outcomes: which items are still open, and when the call's budget ends."""

import heapq
from typing import Dict, Iterator, List, Optional, Tuple

from ipu_supervisor.core.backlog import Waiter
from ipu_supervisor.protocol.messages import Identity, Outcome, Reply, Timing

#: Deadlines of answered calls that are kept at most, beyond as many as calls wait (chosen: clearing them costs little).
SLACK = 64


class Pending:
    """One call: its outcomes so far, `None` where an item is still open."""

    __slots__ = ("call_id", "deadline", "outcomes", "keys", "open", "timing")

    def __init__(self, call_id: bytes, deadline: float, keys: List[bytes]) -> None:
        """Store the call; `deadline` is monotonic seconds, `keys` the hashes of its items."""
        self.call_id = call_id
        self.deadline = deadline
        self.keys = keys
        self.outcomes: List[Optional[Outcome]] = [None] * len(keys)
        self.open = len(keys)
        self.timing = Timing()


class Calls:
    """The table of pending calls of one model."""

    def __init__(self) -> None:
        """Begin empty."""
        self._pending: Dict[bytes, Pending] = {}
        self._deadlines: List[Tuple[float, bytes]] = []

    def __len__(self) -> int:
        """Return how many calls wait."""
        return len(self._pending)

    def __contains__(self, call_id: object) -> bool:
        """Say whether a call waits."""
        return call_id in self._pending

    def add(self, pending: Pending) -> None:
        """Take a call into the table."""
        self._pending[pending.call_id] = pending
        heapq.heappush(self._deadlines, (pending.deadline, pending.call_id))
        if len(self._deadlines) > 2 * len(self._pending) + SLACK:
            self._deadlines = [(waiting.deadline, waiting.call_id) for waiting in self._pending.values()]
            heapq.heapify(self._deadlines)

    def settle(self, waiter: Waiter, outcome: Outcome, timing: Timing, identity: Identity) -> Optional[Reply]:
        """Note one outcome; return the reply when it was the last one open."""
        pending = self._pending.get(waiter.call_id)
        if pending is None or pending.outcomes[waiter.position] is not None:
            return None
        pending.outcomes[waiter.position] = outcome
        pending.open -= 1
        if _total(timing) >= _total(pending.timing):
            pending.timing = timing
        if pending.open:
            return None
        del self._pending[waiter.call_id]
        outcomes = [outcome for outcome in pending.outcomes if outcome is not None]
        return Reply(waiter.call_id, outcomes, pending.timing, identity)

    def open_items(self, call_id: bytes) -> Iterator[Tuple[Waiter, bytes]]:
        """Yield the waiter and the key of each item of a call that is still open."""
        pending = self._pending.get(call_id)
        if pending is not None:
            for index, key in enumerate(pending.keys):
                if pending.outcomes[index] is None:
                    yield Waiter(call_id, index), key

    def deadline(self, call_id: bytes) -> float:
        """Return the deadline of a pending call."""
        return self._pending[call_id].deadline

    def forget(self, call_id: bytes) -> None:
        """Drop a call without an answer."""
        self._pending.pop(call_id, None)

    def overdue(self, now: float) -> List[bytes]:
        """Return the calls whose budget is over; they stay until they are settled."""
        late: List[bytes] = []
        while self._deadlines and self._deadlines[0][0] <= now:
            moment, call_id = heapq.heappop(self._deadlines)
            if self._is_due(moment, call_id):
                late.append(call_id)
        return late

    def next_deadline(self) -> Optional[float]:
        """Return the earliest deadline of a pending call."""
        while self._deadlines and not self._is_due(*self._deadlines[0]):
            heapq.heappop(self._deadlines)
        return self._deadlines[0][0] if self._deadlines else None

    def _is_due(self, moment: float, call_id: bytes) -> bool:
        """Say whether a pending call ends at this moment: one sent again after its answer has another."""
        pending = self._pending.get(call_id)
        return pending is not None and pending.deadline == moment

    def ids(self) -> List[bytes]:
        """Return the ids of all pending calls."""
        return list(self._pending)


def _total(timing: Timing) -> float:
    """Return the milliseconds of all stages."""
    return timing.queue_ms + timing.batch_ms + timing.inference_ms
