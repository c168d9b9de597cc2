"""A state machine drives a pool through all that can happen to it, in any order; some things must always hold."""

import collections
from typing import Any, Counter, Dict, List, Set

import msgspec
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from ipu_supervisor.core import actions
from ipu_supervisor.core.admission import Load
from ipu_supervisor.core.batching import Cost
from ipu_supervisor.core.crew import PROBE_LIMIT_S, STALE_S
from ipu_supervisor.core.replica import WITHOUT_PROCESS, State
from ipu_supervisor.protocol import messages
from ipu_supervisor.protocol.errors import ErrorCode
from ipu_supervisor.protocol.messages import BatchDone, Identity, Outcome, Unable
from tests.unit.histories import History

#: Budgets, seconds: from one that is hardly enough to one that outlives every machine's troubles.
BUDGETS = [0.0, 0.3, 2.0, 30.0, 100_000.0]
#: How long it may take until the dust has settled, seconds: some backoffs of at most 30 s.
SETTLED_AFTER_S = 300
TOO_LATE = {ErrorCode.DEADLINE_EXCEEDED, ErrorCode.REPLICA_DIED}


class Watched(History):
    """A history that checks every answer and every batch as it comes."""

    def __init__(self, **options: Any) -> None:
        """Begin without calls."""
        self.deadlines: Dict[bytes, float] = {}
        self.cancelled: Set[bytes] = set()
        #: How many replicas died, or were given up, with a text aboard.
        self.deaths: Counter[str] = collections.Counter()
        #: Who owes an answer to a probe, and so has not begun what was sent after it.
        self.owing: Set[str] = set()
        self.old_runs: List[Any] = []
        super().__init__(**options)

    def _answer(self, action: actions.Answer) -> None:
        super()._answer(action)
        reply = action.reply
        assert reply.call_id not in self.cancelled
        for item, outcome in zip(self.calls[reply.call_id].items, reply.outcomes):
            code = outcome.failure.code if outcome.failure else None
            assert code or bytes(outcome.result) == bytes(item), "somebody else's answer"
            assert code is not ErrorCode.POISON or self.deaths[msgspec.msgpack.decode(item)] >= 2
            assert code not in TOO_LATE or self.now >= self.deadlines[reply.call_id]

    def _send(self, action: actions.Send) -> None:
        super()._send(action)
        if isinstance(action.message, messages.Run):
            for computation in self.replica(action.replica).aboard:
                waiters = self.pool.requests.calls
                assert any(waiters.deadline(waiter.call_id) > self.now for waiter in computation.waiters)
            self.old_runs.append((action.replica, action.message))
        elif isinstance(action.message, messages.Probe):
            self.owing.add(action.replica)

    def _terminate(self, action: actions.Terminate) -> None:
        if action.replica not in self.owing:
            self.lost(action.replica)

    def says(self, name: str, message: messages.FromReplica) -> None:
        self.owing.discard(name)
        super().says(name, message)

    def lost(self, name: str) -> None:
        """Note that a replica will not answer what it has aboard."""
        self.deaths.update(set(self.aboard().get(name, [])))

    def call(self, *texts: str, budget_s: float = 30.0, sizes: Any = None) -> bytes:
        self.deadlines[len(self.calls).to_bytes(16, "big")] = self.now + budget_s
        return super().call(*texts, budget_s=budget_s, sizes=sizes)

    def dies(self, name: str = "", how: str = "killed by SIGSEGV") -> None:
        if self.state(name) is not State.STOPPING:
            self.lost(name)
        super().dies(name, how)


class PoolMachine(RuleBasedStateMachine):
    """Everything that can happen to a pool."""

    @initialize(
        replicas=st.integers(1, 3),
        max_batch=st.sampled_from([1, 3]),
        deterministic=st.booleans(),
        room=st.booleans(),
        max_backlog=st.sampled_from([4, 50]),
    )
    def begin(self, replicas, max_batch, deterministic, room, max_backlog):
        self.most = max_backlog + 4 * max_batch
        self.history = Watched(
            replicas=replicas,
            max_backlog=max_backlog,
            deterministic=deterministic,
            batch_limit_s=5.0,
            load_limit_s=50.0,
            room_for_both=room,
            cost=Cost(1.0, 0.0 if max_batch > 1 else 1.0, max_batch, 12 if max_batch > 1 else None),
        )

    def pick(self, data: Any, names: List[Any]) -> Any:
        return data.draw(st.sampled_from(names))

    def in_state(self, *states: State) -> List[str]:
        return [name for name in self.history.alive if self.history.state(name) in states]

    # ---- calls -------------------------------------------------------------------------------------------------------

    @rule(texts=st.lists(st.sampled_from("abcdefgh"), min_size=1, max_size=4), budget_s=st.sampled_from(BUDGETS))
    def call(self, texts, budget_s):
        self.history.call(*texts, budget_s=budget_s, sizes=[ord(text) - 96 for text in texts])

    @precondition(lambda self: self.history.calls)
    @rule(data=st.data())
    def cancel(self, data):
        call_id = self.pick(data, sorted(self.history.calls))
        if call_id not in self.history.replies:
            self.history.cancelled.add(call_id)
        self.history.cancel(call_id)

    # ---- replicas ----------------------------------------------------------------------------------------------------

    @precondition(lambda self: self.in_state(State.STARTING, State.LOADING, State.COMPILING))
    @rule(data=st.data())
    def takes_a_step(self, data):
        name = self.pick(data, self.in_state(State.STARTING, State.LOADING, State.COMPILING))
        steps: Dict[State, Any] = {
            State.STARTING: messages.Hello(1),
            State.LOADING: messages.Loaded(Identity("m")),
            State.COMPILING: messages.Ready(0.0),
        }
        self.history.says(name, steps[self.history.state(name)])

    @rule()
    def all_boot(self):
        boot_all(self.history)

    @precondition(lambda self: self.history.running)
    @rule(data=st.data(), how=st.sampled_from(["answer", "answer", "answer", "raises", "bad length"]))
    def batch_ends(self, data, how):
        name = self.pick(data, sorted(self.history.running))
        if how == "bad length":
            self.history.says(name, BatchDone(self.history.running[name].batch_id, [], 1.0))
        else:
            getattr(self.history, "raises" if how == "raises" else "answer")(name)

    @precondition(lambda self: self.history.alive)
    @rule(data=st.data())
    def dies(self, data):
        self.history.dies(self.pick(data, self.history.alive))

    @precondition(lambda self: self.history.alive)
    @rule(data=st.data(), final=st.booleans())
    def says_nonsense(self, data, final):
        name = self.pick(data, self.history.alive)
        said = self.pick(data, [messages.Hello(1), messages.Ready(0.0), messages.ProbeAnswer(7), Unable("no", final)])
        if isinstance(said, Unable) and self.history.state(name) is not State.STOPPING:
            self.history.lost(name)
        self.history.says(name, said)

    @precondition(lambda self: self.history.alive)
    @rule(data=st.data())
    def falls_silent(self, data):
        self.history.deaf.add(self.pick(data, self.history.alive))

    @rule(text=st.sampled_from("ab"))
    def all_fall_silent_and_work_comes(self, text):
        self.history.deaf |= set(self.history.alive)
        self.history.pass_time(STALE_S)
        self.history.call(text, budget_s=BUDGETS[-1])
        self.history.pass_time(PROBE_LIMIT_S)

    @precondition(lambda self: self.history.old_runs)
    @rule(data=st.data())
    def answers_again(self, data):
        name, run = self.pick(data, self.history.old_runs)
        if self.history.running.get(name) is not run:
            late = BatchDone(run.batch_id, [Outcome(item) for item in run.items], 1.0)
            self.history.owing.discard(name)
            self.history.perform(self.history.pool.said(name, late, self.history.now))

    # ---- time and the operator ---------------------------------------------------------------------------------------

    @rule(seconds=st.sampled_from([0.1, 0.5, 2.0, 7.0, 60.0, 601.0]))
    def time_passes(self, seconds):
        self.history.pass_time(seconds)

    @rule(seconds=st.sampled_from([0.5, 7.0, 60.0]))
    def loop_is_late(self, seconds):
        self.history.now += seconds
        self.history.tick()

    @rule(changed=st.booleans())
    def reload(self, changed):
        self.history.perform(self.history.pool.reload(self.history.now, changed))

    @rule(wanted=st.integers(1, 3))
    def scale(self, wanted):
        self.history.perform(self.history.pool.scale(wanted, self.history.now))

    @rule()
    def drain(self):
        self.history.perform(self.history.pool.drain())

    # ---- what always holds -------------------------------------------------------------------------------------------

    @invariant()
    def nobody_waits_beside_an_idle_replica(self):
        pool = self.history.pool
        assert pool.crew.idle() is None or not len(pool.requests.backlog)

    @invariant()
    def nobody_waits_for_a_model_that_failed(self):
        states = [replica.state for replica in self.history.pool.crew.all()]
        some = any(state is not State.FAILED for state in states) or not states
        assert (some and self.history.pool.crew.hopeful()) or not len(self.history.pool.requests.backlog)

    @invariant()
    def the_books_are_right(self):
        pool, requests = self.history.pool, self.history.pool.requests
        waiting = list(requests.backlog)
        aboard = [computation for replica in pool.crew.all() for computation in replica.aboard]
        assert len(waiting) <= self.most
        assert requests.backlog.size == sum(computation.size for computation in waiting)
        assert requests.flying == Load().plus([computation.size for computation in aboard])
        assert all(computation.waiters for computation in waiting)
        everywhere = {id(computation) for computation in waiting + aboard}
        assert len(everywhere) == len(waiting) + len(aboard), "one computation in two places"
        waiters = {waiter for computation in waiting + aboard for waiter in computation.waiters}
        pending = {waiter for call_id in requests.calls.ids() for waiter, _ in requests.calls.open_items(call_id)}
        assert waiters == pending, "somebody waits for nothing, or nobody for something"

    @invariant()
    def the_crew_is_right(self):
        history = self.history
        replicas = history.pool.crew.all()
        assert sum(replica.state is State.COMPILING for replica in replicas) <= 1
        assert {replica.name for replica in replicas if replica.state not in WITHOUT_PROCESS} == set(history.alive)
        for replica in replicas:
            assert bool(replica.aboard) is (replica.state in (State.BUSY, State.DRAINING))

    def teardown(self):
        """Let the dust settle: then everybody has an answer, and nothing is left."""
        if not hasattr(self, "history"):
            return
        history, calm_at = self.history, self.history.now
        history.deaf.clear()
        while len(history.pool.requests.calls) and history.now < calm_at + SETTLED_AFTER_S:
            for name in self.in_state(State.STOPPING):
                history.dies(name)
            boot_all(history)
            history.answer_all()
            history.pass_time(1)
        history.answer_all()
        assert history.calls.keys() == history.replies.keys() | history.cancelled
        assert history.pool.requests.flying == Load()
        assert (len(history.pool.requests.backlog), history.pool.requests.backlog.size) == (0, 0)
        assert history.pool.requests._shared == {}


def boot_all(history: History) -> None:
    """Bring every replica that is on its way to READY."""
    steps: Dict[State, Any] = {
        State.STARTING: messages.Hello(1),
        State.LOADING: messages.Loaded(Identity("m")),
        State.COMPILING: messages.Ready(0.0),
    }
    while True:
        ways = [name for name in history.alive if history.state(name) in steps]
        if not ways:
            return
        history.says(ways[0], steps[history.state(ways[0])])


PoolMachine.TestCase.settings = settings(
    max_examples=150,
    stateful_step_count=40,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)
TestPool = PoolMachine.TestCase
