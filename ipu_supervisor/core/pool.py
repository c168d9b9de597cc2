"""One model: its replicas, its requests, and the in-flight table between them. Events in, actions out.

No socket, no clock: every method takes `now` (monotonic seconds) and returns what the loop is to do.
"""

import itertools
import logging
from typing import List, Optional, Union

from ipu_supervisor.core.actions import Action, CompileOver, LoadMeasured, Note, Send, WantCompile
from ipu_supervisor.core.admission import Capacity
from ipu_supervisor.core.backlog import Computation
from ipu_supervisor.core.crew import STALE_S, Crew, PoolSettings
from ipu_supervisor.core.replica import WITHOUT_PROCESS, Event, Replica, State, WrongTransition
from ipu_supervisor.core.requests import Requests
from ipu_supervisor.protocol.errors import ErrorCode
from ipu_supervisor.protocol.messages import (
    BatchDone,
    BatchRaised,
    Call,
    CompileGranted,
    Failure,
    FromReplica,
    Hello,
    Identity,
    Loaded,
    Ready,
    Run,
    Unable,
)

#: When to come back to a model that drains, and to one that failed, seconds (chosen).
DRAINING_RETRY_S, FAILED_RETRY_S = 5.0, 30.0
HOPELESS = Failure(ErrorCode.NOT_READY, "The model failed; its state is in /models.", FAILED_RETRY_S)


class Pool:
    """All replicas of one model, and all that waits for them."""

    def __init__(self, settings: PoolSettings, now: float) -> None:
        """Begin with as many replicas as wanted, each due to be started."""
        self.settings = settings
        self.crew = Crew(settings, now)
        self.requests = Requests(Identity(settings.model), settings.cost, settings.max_backlog, settings.deterministic)
        self.draining = False
        self._changed = False
        self._batch_ids = itertools.count(1)

    # ---- requests ----------------------------------------------------------------------------------------------------

    def call(self, call: Call, now: float) -> List[Action]:
        """Take a call in, or refuse it; an idle replica gets work at once."""
        failure = self.closed()
        if failure is not None:
            return [self.requests.refuse(call, failure)]
        capacity = Capacity(self.crew.usable(), self.crew.idle() is not None, self.crew.ready_in_s(now))
        return self.requests.admit(call, now, capacity) + self._dispatch(now)

    def cancel(self, call_id: bytes) -> List[Action]:
        """Forget a call that nobody waits for."""
        return self.requests.cancel(call_id)

    def closed(self) -> Optional[Failure]:
        """Say why no call is taken at all, if none is."""
        if self.draining:
            return Failure(ErrorCode.DRAINING, "The model takes no new requests.", DRAINING_RETRY_S)
        return None if self.crew.hopeful() else HOPELESS

    def expected_wait_s(self, now: float) -> float:
        """Return the estimated seconds until a new request would begin to run."""
        return self.crew.ready_in_s(now) + self.requests.expected_wait_s(self.crew.usable())

    def _dispatch(self, now: float) -> List[Action]:
        """Give every idle replica a batch while anything waits that somebody still waits for; nothing waits in vain."""
        actions = self.requests.expire(now)
        if len(self.requests.backlog) and not self.crew.hopeful():
            actions += self.requests.abandon(HOPELESS, aboard=False)
        while len(self.requests.backlog):
            replica = self.crew.idle()
            if replica is None:
                break
            batch = self.requests.next_batch(now)
            replica.aboard, replica.batch_id = batch, next(self._batch_ids)
            if now >= replica.heard_at + STALE_S:
                actions += self.crew.probe(replica, now)
            replica.happened(Event.DISPATCHED, now)
            actions.append(Send(replica.name, _run(replica.batch_id, batch)))
        return actions

    # ---- what replicas say -------------------------------------------------------------------------------------------

    def said(self, name: str, message: FromReplica, now: float) -> List[Action]:
        """Take in a message of a replica. What comes from a past life, or after its end was decided, is dropped."""
        replica = self.crew.named(name)
        if replica is None or replica.state in WITHOUT_PROCESS or replica.state is State.STOPPING:
            self.requests.counts["late_replies"] += isinstance(message, (BatchDone, BatchRaised))
            return []
        replica.heard_at = now
        replica.probe_sent_at = None
        try:
            actions = self._take(replica, message, now)
        except WrongTransition as error:
            actions = self.crew.stop(replica, now, str(error), logging.ERROR) + self._abandon(replica, now)
        return actions + self._dispatch(now)

    def _take(self, replica: Replica, message: FromReplica, now: float) -> List[Action]:
        """Do what one kind of message asks for."""
        if isinstance(message, (BatchDone, BatchRaised)):
            return self._batch_over(replica, message, now)
        if isinstance(message, Hello):
            replica.happened(Event.HELLO, now)
        elif isinstance(message, Loaded):
            replica.happened(Event.LOADED, now)
            replica.identity = self.requests.identity = message.identity
            return [WantCompile(replica.name)] if self.settings.in_turn else self.granted(replica.name, now)
        elif isinstance(message, Ready):
            return self._ready(replica, message, now)
        elif isinstance(message, Unable):
            return self._unable(replica, message, now)
        return []

    def granted(self, name: str, now: float) -> List[Action]:
        """Let a replica compile: it is its turn."""
        replica = self.crew.named(name)
        if replica is None or replica.state is not State.WAITING_TO_COMPILE:
            return [CompileOver(name)]
        replica.happened(Event.GRANTED, now)
        return [Send(name, CompileGranted())]

    def _ready(self, replica: Replica, message: Ready, now: float) -> List[Action]:
        """Put a warm replica to work."""
        replica.warm(now)
        replica.compiled, replica.from_cache = message.compiled, message.from_cache
        self.requests.counts["programs_compiled"] += message.compiled
        self.requests.counts["programs_from_cache"] += message.from_cache
        self.crew.load_s = load_s = now - replica.spawned_at
        self.crew.last_error = ""
        if self._changed and replica.generation == self.crew.generation:
            self._changed = False
            self.requests.quarantine.clear()
        fields = {"model": self.settings.model, "replica": replica.name, "load_s": round(load_s, 3)}
        if message.compiled or message.from_cache:
            fields.update(compiled=message.compiled, from_cache=message.from_cache)
        measured = LoadMeasured(self.settings.model, load_s)
        return [CompileOver(replica.name), measured, Note("replica_ready", fields), *self.crew.reconcile(now)]

    def _unable(self, replica: Replica, message: Unable, now: float) -> List[Action]:
        """Note why a replica can serve no more; its exit follows, and what it had aboard does not wait for that."""
        self.crew.last_error = replica.reason = message.reason
        replica.advice, replica.alarm = message.advice, message.alarm
        if message.final:
            replica.backoff.give_up()
        if message.waits:
            replica.strike = False
        if message.blameless:
            self._give_back(replica)
        fields = {"model": self.settings.model, "replica": replica.name, "reason": message.reason}
        self.crew.ending(replica, now)
        return [Note("replica_unable", fields), *self._abandon(replica, now)]

    def unleased(self, name: str, why: str, now: float) -> List[Action]:
        """Have a replica that could not be started for want of devices wait; nothing is held against it."""
        replica = self.crew.named(name)
        return [] if replica is None else self.crew.unleased(replica, why, now) + self.tick(now)

    def _batch_over(self, replica: Replica, message: Union[BatchDone, BatchRaised], now: float) -> List[Action]:
        """Hand the outcomes of a batch out; a reply to another batch than the one aboard is late."""
        if message.batch_id != replica.batch_id or not replica.aboard:
            self.requests.counts["late_replies"] += 1
            return []
        batch, replica.aboard = replica.aboard, []
        replica.backoff.progressed()
        actions = self._outcomes(replica, batch, message, now)
        if replica.leaving:
            return actions + self.crew.stop(replica, now, "drained")
        replica.happened(Event.ANSWERED, now)
        return actions

    def _outcomes(
        self, replica: Replica, batch: List[Computation], message: Union[BatchDone, BatchRaised], now: float
    ) -> List[Action]:
        """Pass a batch's result on to those who wait."""
        identity = replica.identity or self.requests.identity
        if isinstance(message, BatchDone) and len(message.outcomes) == len(batch):
            return self.requests.answered(batch, message.outcomes, message.inference_ms, identity, now)
        failure = Failure(ErrorCode.MODEL_ERROR, "The model gave another number of answers than it got inputs.")
        if isinstance(message, BatchRaised):
            failure = message.failure
        return self.requests.raised(batch, failure, message.inference_ms, identity, now)

    # ---- death and time ----------------------------------------------------------------------------------------------

    def exited(self, name: str, how: str, now: float) -> List[Action]:
        """Take in the end of a process: run again what was aboard, and start the replica again when it is due."""
        replica = self.crew.named(name)
        if replica is None or replica.state in WITHOUT_PROCESS:
            return []
        actions = self._abandon(replica, now) + self.crew.exited(replica, how, now)
        return actions + self.tick(now)

    def tick(self, now: float) -> List[Action]:
        """Do what time asks for: limits, probes, expiry, restarts."""
        actions, overdue = self.crew.watch(now)
        for replica in overdue:
            replica.reason = self.crew.why_overdue(replica)
            if replica.probe_sent_at is not None:
                # What is aboard lies behind the probe: it was not begun.
                replica.strike = bool(replica.aboard)
                self._give_back(replica)
            actions += self.crew.stop(replica, now, replica.reason, logging.WARNING) + self._abandon(replica, now)
        actions += self.crew.reconcile(now)
        return actions + self._dispatch(now)

    def wake_at(self) -> Optional[float]:
        """Return the next moment at which `tick` has something to do."""
        moments = [self.crew.wake_at(), self.requests.calls.next_deadline()]
        return min((moment for moment in moments if moment is not None), default=None)

    def _give_back(self, replica: Replica) -> None:
        """Take the computations off a replica that ends through no fault of theirs."""
        batch, replica.aboard = replica.aboard, []
        self.requests.returned(batch)

    def _abandon(self, replica: Replica, now: float) -> List[Action]:
        """Take the computations off a replica that will not answer; what a lone suspect did is not held against it."""
        batch, replica.aboard = replica.aboard, []
        if not batch:
            return []
        suspect = len(batch) == 1 and self.requests.quarantine.deaths(batch[0].key, now) > 0
        replica.strike = not suspect
        if suspect:
            self.crew.forgive()
        return self.requests.lost(batch, now)

    # ---- the operator ------------------------------------------------------------------------------------------------

    def drain(self) -> List[Action]:
        """Take no new requests; what was accepted is answered."""
        self.draining = True
        return []

    def reload(self, now: float, changed: bool = False) -> List[Action]:
        """Replace every replica, one after the other, without losing a request; ends a drain.

        `changed`: the model file is another one. What killed the old is held against no input once the new is READY.
        """
        self.draining = False
        self._changed = self._changed or changed
        return self.crew.reload(now)

    def scale(self, wanted: int, now: float) -> List[Action]:
        """Want another number of replicas."""
        return self.crew.scale(wanted, now)

    def drained(self) -> bool:
        """Say whether nobody waits for an answer."""
        return not len(self.requests.calls)

    def stop_all(self, now: float) -> List[Action]:
        """Stop every replica for good and answer whoever still waits."""
        self.draining = True
        self.crew.wanted = 0
        actions = self.requests.abandon(Failure(ErrorCode.DRAINING, "The supervisor stops.", DRAINING_RETRY_S))
        for replica in self.crew.all():
            replica.leaving = True
            actions += self.crew.stop(replica, now, "supervisor stops")
        return actions


def _run(batch_id: int, batch: List[Computation]) -> Run:
    """Return the message that has a replica compute a batch."""
    items = [computation.item for computation in batch]
    return Run(batch_id, items, [computation.request_id for computation in batch])
