"""The replicas of one model and their lives: how many there should be, when each starts, is overdue, stopped, given up.

Knows nothing of requests. Every method takes `now` (monotonic seconds) and returns what the loop is to do.
"""

import itertools
import logging
from dataclasses import dataclass
from typing import Any, Dict, List, Optional, Tuple

from ipu_supervisor.core.actions import Action, CompileOver, Kill, Note, Send, Spawn, Terminate
from ipu_supervisor.core.batching import SINGLY, Cost
from ipu_supervisor.core.replica import ON_ITS_WAY, USABLE, WITHOUT_PROCESS, Event, Replica, State
from ipu_supervisor.protocol.messages import Probe

#: An idle replica is probed when it was silent for this long, seconds (chosen).
PROBE_INTERVAL_S = 2.0
#: A probed replica must answer from its serving thread within this, seconds (chosen: many scheduler hiccups).
PROBE_LIMIT_S = 5.0
#: When silent for longer than this, a replica is probed together with its next batch, seconds.
STALE_S = 0.5
#: From spawn to the first word of the process (interpreter start and imports), seconds.
START_LIMIT_S = 120.0
#: From SIGTERM, or a replica's word that it ends, to SIGKILL, and from one SIGKILL to the next, seconds.
GRACE_S = 5.0


@dataclass(frozen=True)
class PoolSettings:
    """What the pool of one model needs to know."""

    model: str
    replicas: int = 1
    max_backlog: int = 256
    deterministic: bool = True
    batch_limit_s: float = 30.0
    load_limit_s: float = 1800.0
    #: Its compiles take turns with those of other models.
    in_turn: bool = True
    #: The devices hold one replica more than `replicas` for the time of a rolling change.
    room_for_both: bool = True
    #: The last measured load of this model, seconds.
    load_s: Optional[float] = None
    cost: Cost = SINGLY

    def limit_s(self, state: State) -> Optional[float]:
        """Return how long a replica may stay in a state, seconds; `None` where it may rest.

        One that waits to compile has no limit: each that compiles before it has.
        """
        return {
            State.STARTING: START_LIMIT_S,
            State.LOADING: self.load_limit_s,
            State.COMPILING: self.load_limit_s,
            State.BUSY: self.batch_limit_s,
            State.DRAINING: self.batch_limit_s,
            State.STOPPING: GRACE_S,
        }.get(state)


class Crew:
    """The places of one pool, each with its replica."""

    def __init__(self, settings: PoolSettings, now: float) -> None:
        """Begin with as many places as wanted, each due to be started."""
        self.settings = settings
        self.wanted = settings.replicas
        self.generation = 0
        self.last_error = ""
        self.load_s = settings.load_s
        self.restarts = 0
        self.room_for_both = settings.room_for_both
        self.places: Dict[str, Replica] = {}
        self._numbers = itertools.count(1)
        self._probes = itertools.count(1)
        self._fill(now)

    # ---- looking -----------------------------------------------------------------------------------------------------

    def all(self) -> List[Replica]:
        """Return the replicas, oldest place first."""
        return list(self.places.values())

    def named(self, name: str) -> Optional[Replica]:
        """Return the replica that lives under this name now."""
        return next((replica for replica in self.places.values() if replica.name == name), None)

    def usable(self) -> int:
        """Return how many replicas compute or could at once."""
        return sum(replica.state in USABLE for replica in self.places.values())

    def hopeful(self) -> bool:
        """Say whether any replica computes or may come to; also one that is not there yet."""
        current, older = self._members(True), self._members(False)
        alive = any(replica.state is not State.FAILED for replica in [*current, *older])
        return alive or self._lacks_one(len(current) + len(older))

    def idle(self) -> Optional[Replica]:
        """Return a replica that can take a batch now: one that owes no answer, the newest, the one heard last."""
        ready = [replica for replica in self.places.values() if replica.state is State.READY]
        rank = [(replica.probe_sent_at is None, replica.generation, replica.heard_at) for replica in ready]
        return ready[rank.index(max(rank))] if ready else None

    def ready_in_s(self, now: float) -> float:
        """Return the estimated seconds until a replica is usable; 0 when one is, or nothing is known."""
        if self.usable():
            return 0.0
        coming = [replica for replica in self.places.values() if replica.state in ON_ITS_WAY]
        starts = [replica.not_before if replica.state is State.BACKOFF else replica.spawned_at for replica in coming]
        return max(0.0, min(starts, default=now) + (self.load_s or 0.0) - now)

    def why_not_ready(self) -> str:
        """Say in one sentence why no replica is usable; empty when one is."""
        if self.usable():
            return ""
        states = ", ".join(sorted({replica.state.value for replica in self.places.values()})) or "none wanted"
        why = ": " + ". ".join(text for text in (self.last_error, self.advice()) if text) if self.last_error else ""
        return "no usable replica ({}){}".format(states, why)

    def advice(self) -> str:
        """Return what an operator can do about the replicas that have no process; empty when nothing is known."""
        without = (replica for replica in self.places.values() if replica.state in WITHOUT_PROCESS)
        return next((replica.advice for replica in without if replica.advice), "")

    def alarms(self) -> int:
        """Return how many replicas only an operator can bring back."""
        return sum(replica.alarm and replica.state is State.FAILED for replica in self.places.values())

    def wake_at(self) -> Optional[float]:
        """Return the next moment at which `watch` or `reconcile` has something to do."""
        return min((at for replica in self.places.values() for at in self._moments(replica)), default=None)

    def _moments(self, replica: Replica) -> List[float]:
        """Return when a replica must be looked at again."""
        limit_s = self.settings.limit_s(replica.state)
        moments = [replica.since + limit_s] if limit_s is not None else []
        if replica.state is State.BACKOFF:
            moments.append(replica.not_before)
        elif replica.probe_sent_at is not None:
            moments.append(replica.probe_sent_at + PROBE_LIMIT_S)
        elif replica.state is State.READY:
            moments.append(replica.heard_at + PROBE_INTERVAL_S)
        return moments

    # ---- limits ------------------------------------------------------------------------------------------------------

    def watch(self, now: float) -> Tuple[List[Action], List[Replica]]:
        """Probe the silent; return also the replicas that are overdue and must be stopped."""
        actions: List[Action] = []
        overdue: List[Replica] = []
        for replica in self.places.values():
            if replica.state in WITHOUT_PROCESS:
                continue
            if replica.state is State.STOPPING:
                actions += self._kill_overdue(replica, now)
            elif self._is_overdue(replica, now):
                overdue.append(replica)
            elif replica.state is State.READY and now >= replica.heard_at + PROBE_INTERVAL_S:
                actions += self.probe(replica, now)
        return actions, overdue

    def probe(self, replica: Replica, now: float) -> List[Action]:
        """Ask a replica to answer from its serving thread, unless it has been asked."""
        if replica.probe_sent_at is not None:
            return []
        replica.probe_sent_at = now
        return [Send(replica.name, Probe(next(self._probes)))]

    def _is_overdue(self, replica: Replica, now: float) -> bool:
        """Say whether a replica stayed too long in its state, or owes an answer to a probe."""
        limit_s = self.settings.limit_s(replica.state)
        too_long = limit_s is not None and now >= replica.since + limit_s
        return too_long or (replica.probe_sent_at is not None and now >= replica.probe_sent_at + PROBE_LIMIT_S)

    def why_overdue(self, replica: Replica) -> str:
        """Say in one sentence what a replica that is overdue did not do, and which limit that broke."""
        setting = {State.LOADING: "load_limit_s", State.COMPILING: "load_limit_s"}.get(replica.state, "batch_limit_s")
        limit_s = self.settings.limit_s(replica.state)
        if replica.probe_sent_at is not None:
            setting, limit_s = "its serving thread answered nothing for", PROBE_LIMIT_S
        elif replica.state is State.STARTING:
            setting = "it said nothing for"
        else:
            setting += " is"
        return "{}: overdue in {} ({} {:g} s)".format(replica.name, replica.state.value, setting, limit_s or 0.0)

    def _kill_overdue(self, replica: Replica, now: float) -> List[Action]:
        """Kill a replica that outlived its grace; again and again, for a process can be slow to die."""
        if now < replica.since + GRACE_S:
            return []
        replica.since = now
        note = Note("replica_killed", {**self._fields(replica), "level": logging.WARNING})
        # Whose process does not go even now keeps no other from compiling.
        return [note, Kill(replica.name), CompileOver(replica.name)]

    # ---- stopping and dying ------------------------------------------------------------------------------------------

    def stop(self, replica: Replica, now: float, why: str, level: int = logging.INFO) -> List[Action]:
        """Terminate a replica's process, or give up its place when there is none; `level`: how bad that is."""
        if replica.state in WITHOUT_PROCESS:
            self.places.pop(replica.place, None)
            return []
        if replica.state is State.STOPPING:
            return []
        note = Note("replica_stopping", {**self._fields(replica), "reason": why, "level": level})
        self.ending(replica, now)
        return [note, Terminate(replica.name)]

    def ending(self, replica: Replica, now: float) -> None:
        """Await the end of a replica: its process is killed when it outlives its grace.

        One that compiled keeps its turn until then, for its process still holds the memory.
        """
        replica.happened(Event.STOP, now)
        replica.probe_sent_at = None

    def forgive(self) -> None:
        """Hold the first death of an input that is now found guilty against no replica."""
        for replica in self.places.values():
            replica.backoff.forgive()

    def leave(self, replica: Replica, now: float) -> List[Action]:
        """Let a replica finish what is aboard, then stop it for good."""
        replica.leaving = True
        if replica.state is State.BUSY:
            since = replica.since
            replica.happened(Event.DRAIN, now)
            # What is aboard keeps its limit.
            replica.since = since
        return [] if replica.state is State.DRAINING else self.stop(replica, now, "leaving")

    def exited(self, replica: Replica, how: str, now: float) -> List[Action]:
        """Note the end of a process; decide whether and when it is started again."""
        replica.happened(Event.EXITED, now)
        replica.last_exit = how
        replica.probe_sent_at = None
        fields = {
            "exit": how,
            "leaving": replica.leaving,
            "level": logging.INFO if replica.leaving else logging.WARNING,
        }
        exited = Note("replica_exited", {**self._fields(replica), **fields})
        actions: List[Action] = [exited, CompileOver(replica.name)]
        if replica.leaving:
            del self.places[replica.place]
            return actions
        self.restarts += 1
        self.last_error = replica.reason or "{}: {}".format(replica.name, how)
        replica.not_before = now + replica.backoff.died(replica.strike)
        if not replica.backoff.hopeless():
            replica.happened(Event.BACK_OFF, now)
            return actions
        replica.happened(Event.GIVE_UP, now)
        fields = {**self._fields(replica), "reason": self.last_error, "advice": replica.advice, "level": logging.ERROR}
        alarm = [Note("operator_alarm", {**fields, "level": logging.CRITICAL})] if replica.alarm else []
        return [*actions, Note("replica_failed", fields), *alarm]

    def unleased(self, replica: Replica, why: str, now: float) -> List[Action]:
        """Have a replica for which there is no device try again later; no process began, so none ended."""
        replica.happened(Event.EXITED, now)
        self.last_error = replica.reason = why
        replica.not_before = now + replica.backoff.died(counts=False)
        replica.happened(Event.BACK_OFF, now)
        return [Note("replica_waits", {**self._fields(replica), "reason": why})]

    def _fields(self, replica: Replica) -> Dict[str, Any]:
        """Return what every line of the log about a replica has."""
        return {"model": self.settings.model, "replica": replica.name}

    # ---- how many there should be ------------------------------------------------------------------------------------

    def scale(self, wanted: int, now: float) -> List[Action]:
        """Want another number of replicas."""
        self.wanted = wanted
        return self.reconcile(now)

    def make_room(self, for_both: bool) -> None:
        """Note whether a new replica may be there beside the old; where not, one that only waits gives way to the old.

        Else the old would keep the devices that the new one waits for.
        """
        if not for_both and self._members(False):
            for replica in self._members(True):
                if replica.state is State.BACKOFF:
                    del self.places[replica.place]
        self.room_for_both = for_both

    def reload(self, now: float) -> List[Action]:
        """Replace every replica by one of a new generation; what had failed is tried again."""
        self.generation += 1
        for replica in self.all():
            if replica.state in WITHOUT_PROCESS:
                del self.places[replica.place]
        return self.reconcile(now)

    def reconcile(self, now: float) -> List[Action]:
        """Bring what is and what should be one step nearer: let go of surplus replicas, start those that are due."""
        actions: List[Action] = []
        for replica in self._surplus():
            actions += self.leave(replica, now)
        self._fill(now)
        for replica in self.places.values():
            if replica.state is State.BACKOFF and now >= replica.not_before:
                replica.spawn(now)
                actions.append(Spawn(replica.name))
        return actions

    def _members(self, current: bool) -> List[Replica]:
        """Return the replicas that stay, of the newest generation or of older ones."""
        return [
            replica
            for replica in self.places.values()
            if not replica.leaving and (replica.generation == self.generation) is current
        ]

    def _surplus(self) -> List[Replica]:
        """Return the replicas to let go now: older ones as newer ones are usable, and those beyond the wanted."""
        current, older = self._members(True), self._members(False)
        usable = sum(replica.state in USABLE for replica in current)
        kept = max(0, self.wanted - usable)
        if not self.room_for_both and older and len(current) + len(older) >= self.wanted and usable == len(current):
            kept = min(kept, self.wanted - len(current) - 1)
        for members in (current, older):
            members.sort(key=lambda replica: (replica.state is State.FAILED, replica.state not in USABLE))
        return older[max(0, kept) :] + current[self.wanted :]

    def _lacks_one(self, places: int) -> bool:
        """Say whether one more of the newest generation is wanted and fits in beside so many."""
        most = self.wanted + (1 if self.room_for_both and self._members(False) else 0)
        return len(self._members(True)) < self.wanted and places < most

    def _fill(self, now: float) -> None:
        """Make places until there are as many of the newest generation as wanted and the devices have room."""
        while self._lacks_one(len(self.places)):
            place = "{}-{}".format(self.settings.model, next(self._numbers))
            self.places[place] = Replica(place, self.generation, now)
