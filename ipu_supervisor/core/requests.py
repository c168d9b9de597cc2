"""The request side of one model: admission, coalescing, and who gets which outcome.

Knows calls, computations and the backlog; of replicas only that computations were answered, raised, or lost.
"""

import collections
import hashlib
import itertools
import logging
from typing import Counter, Dict, List, Sequence

from ipu_supervisor.core.actions import Action, Answer, Note
from ipu_supervisor.core.admission import Admission, Capacity, Load
from ipu_supervisor.core.backlog import Backlog, Computation, Waiter
from ipu_supervisor.core.batching import WINDOW, Cost, choose
from ipu_supervisor.core.calls import Calls, Pending
from ipu_supervisor.core.quarantine import Quarantine
from ipu_supervisor.protocol.errors import ErrorCode
from ipu_supervisor.protocol.messages import MAX_MESSAGE_BYTES, Call, Failure, Identity, Outcome, Reply, Timing

#: Most bytes of the items of a batch of more than one. A larger message would cut its replica off for good (chosen: a
#: half; the rest is for what a message holds beside its items).
MOST_BYTES = MAX_MESSAGE_BYTES // 2
POISON = Failure(
    ErrorCode.POISON,
    "This input ended the model process twice, which died or took too long over it; it is refused for ten minutes.",
)
EXPIRED = Failure(ErrorCode.DEADLINE_EXCEEDED, "No answer within the request's time limit.")
DIED = Failure(ErrorCode.REPLICA_DIED, "The model process died, and no time was left to run the request again.")


class Requests:
    """All that waits for one model."""

    def __init__(self, identity: Identity, cost: Cost, max_backlog: int, deterministic: bool) -> None:
        """Store the settings; `identity` answers for the model until a replica gives a better one."""
        self.identity = identity
        self.backlog = Backlog()
        self.calls = Calls()
        self.admission = Admission(cost, max_backlog)
        self.quarantine = Quarantine()
        self.counts: Counter[str] = collections.Counter()
        self.flying = Load()
        self._cost = cost
        self._deterministic = deterministic
        self._shared: Dict[bytes, Computation] = {}

    # ---- the door ----------------------------------------------------------------------------------------------------

    def admit(self, call: Call, now: float, capacity: Capacity) -> List[Action]:
        """Take a call in whole, or refuse it whole."""
        budget_s = call.budget_ms / 1000
        if budget_s <= 0:
            return [self.refuse(call, EXPIRED)]
        keys = [hashlib.blake2b(bytes(item), digest_size=16).digest() for item in call.items]
        fresh = self._fresh(call, keys, now)
        refusal = self.admission.refusal(budget_s, fresh, self.flying, self._waiting(), capacity) if fresh else None
        if refusal is not None:
            return [self.refuse(call, refusal)]
        self.calls.add(Pending(call.call_id, now + budget_s, keys))
        actions: List[Action] = []
        for index, key in enumerate(keys):
            actions += self._enter(call, index, key, now)
        return actions

    def refuse(self, call: Call, failure: Failure) -> Answer:
        """Return the reply that refuses every item of a call."""
        self.counts["refused_" + failure.code.value.lower()] += 1
        return Answer(Reply(call.call_id, [Outcome(failure=failure)] * len(call.items), Timing(), self.identity))

    def expected_wait_s(self, usable: int) -> float:
        """Return the estimated seconds that so many usable replicas need for all that waits and flies."""
        return self.admission.seconds(self.flying, self._waiting(), usable)

    def _waiting(self) -> Load:
        """Return how much waits."""
        return Load(len(self.backlog), self.backlog.size)

    def _fresh(self, call: Call, keys: List[bytes], now: float) -> List[int]:
        """Return the sizes of the items that would need a computation of their own."""
        seen = set()
        sizes = []
        for key, size in zip(keys, call.sizes):
            shared = self._deterministic and (key in self._shared or key in seen)
            if not shared and not self.quarantine.is_poison(key, now):
                sizes.append(size)
            seen.add(key)
        return sizes

    def _enter(self, call: Call, index: int, key: bytes, now: float) -> List[Action]:
        """Make one item wait: for a computation of its own, or for an equal one that is there already."""
        waiter = Waiter(call.call_id, index)
        if self.quarantine.is_poison(key, now):
            return self._settle([waiter], Outcome(failure=POISON), Timing(), self.identity)
        name = self._name(waiter, key)
        shared = self._shared.get(name)
        if shared is not None:
            shared.waiters[waiter] = now
            self.counts["coalesced"] += 1
            return []
        computation = Computation(key, name, call.items[index], max(1, call.sizes[index]), now)
        computation.waiters[waiter] = now
        computation.request_id = call.request_id
        computation.alone = self.quarantine.deaths(key, now) > 0
        self._shared[name] = computation
        self.backlog.append(computation)
        return []

    # ---- leaving before the answer -----------------------------------------------------------------------------------

    def cancel(self, call_id: bytes) -> List[Action]:
        """Forget a call that nobody waits for."""
        for waiter, key in list(self.calls.open_items(call_id)):
            self._leave(waiter, key)
        if call_id in self.calls:
            self.counts["cancelled"] += 1
            self.calls.forget(call_id)
        return []

    def expire(self, now: float) -> List[Action]:
        """Answer the calls whose budget is over."""
        actions: List[Action] = []
        for call_id in self.calls.overdue(now):
            self.counts["expired"] += 1
            for waiter, key in list(self.calls.open_items(call_id)):
                failure = DIED if self._leave(waiter, key) else EXPIRED
                actions += self._settle([waiter], Outcome(failure=failure), Timing(), self.identity)
        return actions

    def abandon(self, failure: Failure, aboard: bool = True) -> List[Action]:
        """Answer every open item with one failure: the model is gone.

        `aboard`: also what a replica that drains still computes.
        """
        actions: List[Action] = []
        for call_id in self.calls.ids():
            for waiter, key in list(self.calls.open_items(call_id)):
                computation = self._shared.get(self._name(waiter, key))
                if aboard or computation is None or not computation.in_flight:
                    self._leave(waiter, key)
                    actions += self._settle([waiter], Outcome(failure=failure), Timing(), self.identity)
        return actions

    def _leave(self, waiter: Waiter, key: bytes) -> bool:
        """Take a waiter off its computation; the last one takes a queued computation along.

        Say whether a replica ended with it aboard.
        """
        computation = self._shared.get(self._name(waiter, key))
        if computation is None:
            return False
        computation.waiters.pop(waiter, None)
        if not computation.waiters and not computation.in_flight:
            self._unindex(computation)
            self.backlog.remove(computation)
        return computation.orphaned

    # ---- batches -----------------------------------------------------------------------------------------------------

    def next_batch(self, now: float) -> List[Computation]:
        """Take the next batch out of the backlog."""
        window = 1 if self._cost.max_batch == 1 else WINDOW * self._cost.max_batch
        batch = _of_bytes(choose(self.backlog.head(window), self._cost, now))
        for computation in batch:
            self.backlog.remove(computation)
            computation.dispatched = now
            computation.in_flight = True
        self.flying = self.flying.plus([computation.size for computation in batch])
        return batch

    def answered(
        self, batch: List[Computation], outcomes: Sequence[Outcome], inference_ms: float, identity: Identity, now: float
    ) -> List[Action]:
        """Hand every computation's outcome to its waiters."""
        longest = max(computation.size for computation in batch)
        self.admission.measured(now - batch[0].dispatched, len(batch), longest)
        actions: List[Action] = []
        for computation, outcome in zip(batch, outcomes):
            self.counts["computed"] += 1
            self.quarantine.acquit(computation.key)
            self._land(computation)
            for waiter, joined in list(computation.waiters.items()):
                timing = _timing(joined, computation.dispatched, inference_ms, now)
                actions += self._settle([waiter], outcome, timing, identity)
        return actions

    def raised(
        self, batch: List[Computation], failure: Failure, inference_ms: float, identity: Identity, now: float
    ) -> List[Action]:
        """Run the members of a batch that raised singly; one that was alone gets the failure."""
        if len(batch) == 1:
            return self.answered(batch, [Outcome(failure=failure)], inference_ms, identity, now)
        self._again(batch)
        return []

    def lost(self, batch: List[Computation], now: float) -> List[Action]:
        """Run again, alone, what was aboard a replica that died; refuse what killed twice."""
        poison = {key for key in {computation.key for computation in batch} if self.quarantine.died(key, now)}
        self.returned([computation for computation in batch if computation.key not in poison])
        guilty = [computation for computation in batch if computation.key in poison]
        for computation in guilty:
            self._land(computation)
        # A model that is not deterministic has each equal item wait by itself.
        for computation in [computation for computation in self.backlog if computation.key in poison]:
            self.backlog.remove(computation)
            self._unindex(computation)
            guilty.append(computation)
        return [action for computation in guilty for action in self._refuse_poison(computation)]

    def _refuse_poison(self, computation: Computation) -> List[Action]:
        """Tell those who wait for a computation that killed twice, or equals one that did."""
        self.counts["poison"] += 1
        about = {"model": self.identity.model, "key": computation.key.hex(), "request_id": computation.request_id}
        fields = {**about, "level": logging.WARNING}
        waiters = list(computation.waiters)
        return [Note("poison", fields), *self._settle(waiters, Outcome(failure=POISON), Timing(), self.identity)]

    def returned(self, batch: List[Computation]) -> None:
        """Run again, alone, what was aboard a replica that ended; nothing is held against it."""
        for computation in batch:
            computation.orphaned = True
        self.counts["rerun"] += self._again(batch)

    def _again(self, batch: List[Computation]) -> int:
        """Put computations back at the front, each to run alone, and count them; those nobody waits for are dropped."""
        for computation in batch:
            self._land(computation)
        wanted = [computation for computation in batch if computation.waiters]
        for computation in wanted:
            computation.alone = True
            self._shared[computation.name] = computation
        self.backlog.put_back(wanted)
        return len(wanted)

    def _land(self, computation: Computation) -> None:
        """Note that a computation is no longer in flight."""
        computation.in_flight = False
        self.flying = Load(self.flying.items - 1, self.flying.tokens - computation.size)
        self._unindex(computation)

    def _settle(self, waiters: List[Waiter], outcome: Outcome, timing: Timing, identity: Identity) -> List[Action]:
        """Give one outcome to its waiters; return the replies that it completes."""
        replies = [self.calls.settle(waiter, outcome, timing, identity) for waiter in waiters]
        return [Answer(reply) for reply in replies if reply is not None]

    def _unindex(self, computation: Computation) -> None:
        """Make a computation unfindable: no equal item may join it any more."""
        if self._shared.get(computation.name) is computation:
            del self._shared[computation.name]

    def _name(self, waiter: Waiter, key: bytes) -> bytes:
        """Return under what the computation for an item is found; a model that is not deterministic shares none."""
        return key if self._deterministic else waiter.call_id + waiter.position.to_bytes(4, "big")


def _of_bytes(batch: List[Computation]) -> List[Computation]:
    """Return as much of the beginning of a batch as one message can carry, and one item at least."""
    totals = itertools.accumulate(len(memoryview(computation.item)) for computation in batch)
    return [computation for computation, total in zip(batch, totals) if total <= MOST_BYTES] or batch[:1]


def _timing(joined: float, dispatched: float, inference_ms: float, now: float) -> Timing:
    """Return where the time of one waiter went; one that joined a computation in flight did not wait for its begin."""
    aboard_ms = (now - max(joined, dispatched)) * 1000
    inference_ms = min(inference_ms, aboard_ms)
    return Timing(max(0.0, dispatched - joined) * 1000, aboard_ms - inference_ms, inference_ms)
