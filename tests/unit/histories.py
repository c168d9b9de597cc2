"""Replays histories on a pool: events go in by hand, the clock moves by hand, what the pool wants is kept.

Stands for the loop (performs actions, keeps the gate), for the launcher (which processes live) and for healthy replicas
(answer probes at once). A replica that was told to be deaf answers none.
"""

from typing import Any, Dict, Iterable, List, NamedTuple, Set, Type

import msgspec

from ipu_supervisor.core import actions
from ipu_supervisor.core.compiles import CompileGate
from ipu_supervisor.core.crew import PoolSettings
from ipu_supervisor.core.pool import Pool
from ipu_supervisor.core.replica import Replica, State
from ipu_supervisor.protocol import messages
from ipu_supervisor.protocol.errors import ErrorCode
from ipu_supervisor.protocol.messages import Call, Failure, Identity, Outcome, Reply

#: More looks than this at one and the same span of time are a busy loop.
MOST_TICKS = 10_000


class Refused(NamedTuple):
    """What a reply with one and the same failure for every item says."""

    code: ErrorCode
    retry_after_s: Any


class History:
    """One pool and all that surrounds it."""

    def __init__(self, model: str = "m", **settings: Any) -> None:
        """Make the pool; every replica that is due is started, none has said a word."""
        self.now = 1000.0
        self.gate = CompileGate()
        self.pool = Pool(PoolSettings(model=model, **settings), self.now)
        self.alive: List[str] = []
        self.deaf: Set[str] = set()
        #: What each busy replica has aboard.
        self.running: Dict[str, messages.Run] = {}
        self.sent: List[actions.Send] = []
        self.done: List[actions.Action] = []
        self.replies: Dict[bytes, Reply] = {}
        self.calls: Dict[bytes, Call] = {}
        self.loads: List[float] = []
        self._inbox: List[Any] = []
        self.tick()

    # ---- what the loop does ------------------------------------------------------------------------------------------

    def perform(self, wanted: Iterable[actions.Action]) -> None:
        """Do what the pool decided, then hear what that made healthy replicas say."""
        for action in wanted:
            self.done.append(action)
            kind: Any = getattr(self, "_" + type(action).__name__.lower())
            kind(action)
        while self._inbox:
            name, message = self._inbox.pop(0)
            self.says(name, message)

    def _spawn(self, action: actions.Spawn) -> None:
        assert action.replica not in self.alive
        self.alive.append(action.replica)

    def _send(self, action: actions.Send) -> None:
        assert action.replica in self.alive, "sent to a process that is gone"
        self.sent.append(action)
        if isinstance(action.message, messages.Run):
            assert action.replica not in self.running, "two batches aboard one replica"
            self.running[action.replica] = action.message
        elif isinstance(action.message, messages.Probe) and action.replica not in self.deaf:
            self._inbox.append((action.replica, messages.ProbeAnswer(action.message.number)))

    def _answer(self, action: actions.Answer) -> None:
        assert action.reply.call_id not in self.replies, "answered twice"
        assert action.reply.call_id in self.calls, "an answer to nobody"
        assert len(action.reply.outcomes) == len(self.calls[action.reply.call_id].items)
        self.replies[action.reply.call_id] = action.reply

    def _wantcompile(self, action: actions.WantCompile) -> None:
        self.gate.asks(action.replica)
        self.grant()

    def _compileover(self, action: actions.CompileOver) -> None:
        self.gate.leaves(action.replica)
        self.grant()

    def _loadmeasured(self, action: actions.LoadMeasured) -> None:
        self.loads.append(action.load_s)

    def _terminate(self, action: actions.Terminate) -> None:
        """Only noted: when a process ends is for the history to say."""

    _kill = _note = _terminate

    def grant(self) -> None:
        """Let the next replica compile."""
        name = self.gate.next()
        if name is not None:
            self.perform(self.pool.granted(name, self.now))

    # ---- time --------------------------------------------------------------------------------------------------------

    def tick(self) -> None:
        """Let the pool look at the clock; it must not want to look again at once."""
        self.perform(self.pool.tick(self.now))
        wake_at = self.pool.wake_at()
        assert wake_at is None or wake_at > self.now, "the loop would spin"

    def pass_time(self, seconds: float) -> None:
        """Move the clock, with a look at every moment that the pool named."""
        target = self.now + seconds
        for _ in range(MOST_TICKS):
            wake_at = self.pool.wake_at()
            if wake_at is None or wake_at > target:
                self.now = target
                return
            self.now = max(self.now, wake_at)
            self.tick()
        raise AssertionError("the pool named {} moments in {} s".format(MOST_TICKS, seconds))

    # ---- what replicas do --------------------------------------------------------------------------------------------

    def says(self, name: str, message: messages.FromReplica) -> None:
        """Have a replica say something."""
        if isinstance(message, (messages.BatchDone, messages.BatchRaised)):
            self.running.pop(name, None)
        self.perform(self.pool.said(name, message, self.now))

    def boot(self, name: str, load_s: float = 0.0) -> None:
        """Bring one replica to READY, `load_s` from now."""
        self.says(name, messages.Hello(1))
        self.pass_time(load_s)
        self.says(name, messages.Loaded(Identity(self.pool.settings.model, "checkpoint", "", False, "cpu")))
        assert self.state(name) is State.COMPILING
        self.says(name, messages.Ready(0.0))

    def boot_all(self) -> "History":
        """Bring every replica that has not said a word to READY."""
        for name in list(self.alive):
            if self.state(name) is State.STARTING:
                self.boot(name)
        return self

    def answer(self, name: str = "") -> None:
        """Have a replica echo its batch."""
        name = name or next(iter(self.running))
        run = self.running[name]
        self.says(name, messages.BatchDone(run.batch_id, [Outcome(item) for item in run.items], 1.0))

    def answer_all(self) -> None:
        """Have the replicas echo until nothing is aboard any more."""
        while self.running:
            self.answer()

    def raises(self, name: str = "") -> None:
        """Have the model raise on a replica's batch."""
        name = name or next(iter(self.running))
        failure = Failure(ErrorCode.MODEL_ERROR, "raised")
        self.says(name, messages.BatchRaised(self.running[name].batch_id, failure, 1.0))

    def dies(self, name: str = "", how: str = "killed by SIGSEGV") -> None:
        """End a replica's process."""
        name = name or next(iter(self.running))
        self.alive.remove(name)
        self.deaf.discard(name)
        self.running.pop(name, None)
        self.perform(self.pool.exited(name, how, self.now))

    # ---- what the web side does --------------------------------------------------------------------------------------

    def call(self, *texts: str, budget_s: float = 30.0, sizes: Any = None) -> bytes:
        """Ask for some items; return the call's id."""
        call_id = len(self.calls).to_bytes(16, "big")
        items = [msgspec.Raw(messages.encode(text)) for text in texts]
        call = Call(call_id, self.pool.settings.model, items, sizes or [1] * len(texts), int(budget_s * 1000))
        self.calls[call_id] = call
        self.perform(self.pool.call(call, self.now))
        return call_id

    def cancel(self, call_id: bytes) -> None:
        """Hang up."""
        self.perform(self.pool.cancel(call_id))

    # ---- looking -----------------------------------------------------------------------------------------------------

    def replica(self, name: str) -> Replica:
        """Return the replica that lives under a name."""
        replica = self.pool.crew.named(name)
        assert replica is not None, "nobody lives under the name " + name
        return replica

    def state(self, name: str) -> State:
        """Return the state of a replica."""
        return self.replica(name).state

    def states(self) -> List[str]:
        """Return the states of all places, oldest first."""
        return [replica.state.value for replica in self.pool.crew.all()]

    def aboard(self) -> Dict[str, List[str]]:
        """Return the texts that each busy replica computes."""
        return {name: [msgspec.msgpack.decode(item) for item in run.items] for name, run in self.running.items()}

    def waiting(self) -> List[str]:
        """Return the texts in the backlog, first to run first."""
        return [msgspec.msgpack.decode(computation.item) for computation in self.pool.requests.backlog]

    def results(self, call_id: bytes) -> List[Any]:
        """Return a call's outcomes: the text, or the code of the failure; empty while it waits."""
        if call_id not in self.replies:
            return []
        return [
            outcome.failure.code if outcome.failure else msgspec.msgpack.decode(outcome.result)
            for outcome in self.replies[call_id].outcomes
        ]

    def refusal(self, call_id: bytes) -> Refused:
        """Return why a call was refused; every item must say the same."""
        failures = {outcome.failure for outcome in self.replies[call_id].outcomes}
        assert len({failure and (failure.code, failure.message) for failure in failures}) == 1
        failure = failures.pop()
        assert failure is not None
        return Refused(failure.code, failure.retry_after_s)

    def did(self, kind: Type[Any]) -> List[Any]:
        """Return the actions of one kind so far."""
        return [action for action in self.done if isinstance(action, kind)]

    def noted(self, event: str) -> int:
        """Return how often an event was logged."""
        return sum(note.event == event for note in self.did(actions.Note))
