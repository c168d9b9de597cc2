"""Over real sockets: whatever the peer does, each call gets one answer, its own, or a typed error in time."""

import pathlib
import shutil
import tempfile

import msgspec
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from ipu_supervisor.protocol import messages
from ipu_supervisor.protocol.client import SupervisorClient
from ipu_supervisor.protocol.deadline import Deadline
from ipu_supervisor.protocol.errors import ErrorCode, RequestError
from tests.conftest import running_s
from tests.contract.peer import Peer

#: How much later than its deadline an answer may come, seconds (chosen: scheduling on a busy machine).
SLACK_S = 2.0
#: Budget of a call that is never answered, and of one that is, seconds.
SHORT_S, LONG_S = 0.05, 60.0
#: What the peer may do before it comes to the point: the client then asks again.
DETOURS = ["die", "foreign", "status"]
#: How a call can be answered, and what the client must say then; `None`: the answer.
ENDS = {
    "echo": None,
    "twice": None,
    "answer and die": None,
    "garbage": ErrorCode.PROTOCOL,
    "empty": ErrorCode.PROTOCOL,
    "short": ErrorCode.PROTOCOL,
    "refuse": ErrorCode.PROTOCOL,
}
#: Ways not to answer.
SILENT = ["drop", "late"]
#: What a call says that was not answered in time, or did not even find anybody in that time.
NOT_IN_TIME = {ErrorCode.DEADLINE_EXCEEDED, ErrorCode.NOT_READY}


class ClientMachine(RuleBasedStateMachine):
    """Calls on one client, over one socket after the other."""

    @initialize()
    def begin(self):
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix="t", dir="/tmp"))
        self.peer = Peer(self.folder).__enter__()
        self.client = SupervisorClient(self.peer.endpoint, status_age_s=0.0)
        self.asked = 0
        assert self.ask(LONG_S) is None

    def ask(self, budget_s, *plan):
        """Make a call; return the code of its error, or nothing when the answer was its own."""
        self.asked += 1
        text = "call {}".format(self.asked)
        deadline = Deadline.after(budget_s)
        began = running_s()
        try:
            reply = self.client.call("echo", [text, [text]], [1, 1], deadline, request_id=",".join(plan))
        except RequestError as error:
            return error.code
        finally:
            assert running_s() - began < budget_s + SLACK_S
        assert [msgspec.msgpack.decode(outcome.result) for outcome in reply.outcomes] == [text, [text]]
        return None

    @rule(detours=st.lists(st.sampled_from(DETOURS), max_size=3), end=st.sampled_from(sorted(ENDS)))
    def call(self, detours, end):
        assert self.ask(LONG_S, *detours, end) is ENDS[end]
        text = messages.encode("call {}".format(self.asked))
        attempts = [call for call in self.peer.calls if bytes(call.items[0]) == text]
        assert len({attempt.call_id for attempt in attempts}) == 1
        assert len(attempts) >= len(detours) + 1

    @rule(detours=st.lists(st.sampled_from(DETOURS), max_size=3), end=st.sampled_from(SILENT))
    def call_that_is_not_answered(self, detours, end):
        assert self.ask(SHORT_S, *detours, end) in NOT_IN_TIME

    @rule(end=st.sampled_from(sorted(ENDS)), budget_s=st.sampled_from([0.0, 0.001, 0.01]))
    def call_with_hardly_any_budget(self, end, budget_s):
        assert self.ask(budget_s, end) in {ENDS[end], *NOT_IN_TIME}

    @rule()
    def status(self):
        assert self.client.status(Deadline.after(LONG_S)).version == "test"

    @rule(budget_s=st.sampled_from([0.0, 0.001]))
    def status_in_no_time(self, budget_s):
        try:
            assert self.client.status(Deadline.after(budget_s)).version == "test"
        except RequestError as error:
            assert error.code in NOT_IN_TIME  # noqa: PT017

    @invariant()
    def the_peer_lives(self):
        assert not hasattr(self, "peer") or self.peer._thread.is_alive()

    def teardown(self):
        """After all that, a call is still answered."""
        if hasattr(self, "peer"):
            assert self.ask(LONG_S) is None
            self.client.line.connection().close()
            self.peer.__exit__()
            shutil.rmtree(str(self.folder), ignore_errors=True)


ClientMachine.TestCase.settings = settings(
    max_examples=15,
    stateful_step_count=15,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)
TestClient = ClientMachine.TestCase
