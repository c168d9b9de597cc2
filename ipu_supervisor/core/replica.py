"""The life of one replica: its state table, the limit of each state, and what it has aboard."""

import enum
from typing import Dict, List, Optional

from ipu_supervisor.core.backlog import Computation
from ipu_supervisor.core.backoff import Backoff
from ipu_supervisor.protocol.messages import Identity


class State(str, enum.Enum):
    """Where a replica is in its life."""

    STARTING = "STARTING"
    LOADING = "LOADING"
    WAITING_TO_COMPILE = "WAITING_TO_COMPILE"
    COMPILING = "COMPILING"
    READY = "READY"
    BUSY = "BUSY"
    DRAINING = "DRAINING"
    #: SIGTERM was sent, or it said that it ends; the process may still hold its devices.
    STOPPING = "STOPPING"
    STOPPED = "STOPPED"
    #: Waits to be started again.
    BACKOFF = "BACKOFF"
    #: Given up.
    FAILED = "FAILED"


class Event(str, enum.Enum):
    """What happens to a replica."""

    HELLO = "HELLO"
    LOADED = "LOADED"
    GRANTED = "GRANTED"
    WARM = "WARM"
    DISPATCHED = "DISPATCHED"
    ANSWERED = "ANSWERED"
    DRAIN = "DRAIN"
    STOP = "STOP"
    EXITED = "EXITED"
    BACK_OFF = "BACK_OFF"
    GIVE_UP = "GIVE_UP"
    SPAWN = "SPAWN"


S, E = State, Event
#: The whole life. A pair that is not here raises `WrongTransition`.
TRANSITIONS: Dict[State, Dict[Event, State]] = {
    S.STARTING: {E.HELLO: S.LOADING, E.STOP: S.STOPPING, E.EXITED: S.STOPPED},
    S.LOADING: {E.LOADED: S.WAITING_TO_COMPILE, E.STOP: S.STOPPING, E.EXITED: S.STOPPED},
    S.WAITING_TO_COMPILE: {E.GRANTED: S.COMPILING, E.STOP: S.STOPPING, E.EXITED: S.STOPPED},
    S.COMPILING: {E.WARM: S.READY, E.STOP: S.STOPPING, E.EXITED: S.STOPPED},
    S.READY: {E.DISPATCHED: S.BUSY, E.STOP: S.STOPPING, E.EXITED: S.STOPPED},
    S.BUSY: {E.ANSWERED: S.READY, E.DRAIN: S.DRAINING, E.STOP: S.STOPPING, E.EXITED: S.STOPPED},
    S.DRAINING: {E.STOP: S.STOPPING, E.EXITED: S.STOPPED},
    S.STOPPING: {E.EXITED: S.STOPPED},
    S.STOPPED: {E.BACK_OFF: S.BACKOFF, E.GIVE_UP: S.FAILED},
    S.BACKOFF: {E.SPAWN: S.STARTING},
    S.FAILED: {},
}
#: A replica in one of these computes, or is about to.
USABLE = frozenset({S.READY, S.BUSY})
#: A replica in one of these may become usable by itself.
ON_ITS_WAY = frozenset({S.STARTING, S.LOADING, S.WAITING_TO_COMPILE, S.COMPILING, S.BACKOFF})
#: A replica in one of these has no process.
WITHOUT_PROCESS = frozenset({S.STOPPED, S.BACKOFF, S.FAILED})


class WrongTransition(RuntimeError):
    """An event came in a state that does not know it: a fault in this program."""


class Replica:
    """One place in a pool: process after process, each with a name of its own."""

    def __init__(self, place: str, generation: int, now: float) -> None:
        """Begin in BACKOFF, due at once: the pool's next look starts the process."""
        self.place = place
        self.generation = generation
        self.state = State.BACKOFF
        self.since = now
        self.not_before = now
        self.life = 0
        self.name = place
        self.backoff = Backoff()
        self.spawned_at = now
        self.identity: Optional[Identity] = None
        self.aboard: List[Computation] = []
        self.batch_id = 0
        self.heard_at = now
        self.probe_sent_at: Optional[float] = None
        #: This life's end counts towards giving up: it never was READY, or died with innocent work aboard.
        self.strike = True
        #: Do not start again once it has stopped: drained, scaled away or replaced by a newer generation.
        self.leaving = False
        self.last_exit = ""
        #: Why this life ends, where that is known better than by how the process exits.
        self.reason = ""
        #: What an operator can do about that reason, and whether one must.
        self.advice = ""
        self.alarm = False
        #: Programs that the last warm-up compiled, and those that it found compiled.
        self.compiled = self.from_cache = 0

    def happened(self, event: Event, now: float) -> None:
        """Go to the next state. Raises `WrongTransition`."""
        try:
            self.state = TRANSITIONS[self.state][event]
        except KeyError:
            raise WrongTransition("{}: {} in {}".format(self.name, event.value, self.state.value)) from None
        self.since = now

    def warm(self, now: float) -> None:
        """Become READY; from here on only a death with work aboard counts against it."""
        self.happened(Event.WARM, now)
        self.backoff.started()
        self.strike = False

    def spawn(self, now: float) -> None:
        """Begin a new life under a new name."""
        self.happened(Event.SPAWN, now)
        self.life += 1
        self.name = "{}.{}".format(self.place, self.life)
        self.spawned_at = self.heard_at = now
        self.strike = True
        self.probe_sent_at = None
        self.reason = self.advice = ""
        self.alarm = False
