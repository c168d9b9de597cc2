"""The web side's client against a scripted peer on a real socket: one answer, its own, or a typed error in time."""

import socket
import sys
import threading
import time
from typing import Any

import msgspec
import pytest
import zmq

from ipu_supervisor.protocol import connection, messages
from ipu_supervisor.protocol.client import STATUS_AGE_S, SupervisorClient
from ipu_supervisor.protocol.connection import Connection
from ipu_supervisor.protocol.deadline import Deadline
from ipu_supervisor.protocol.errors import ClientGone, ErrorCode, RequestError
from ipu_supervisor.protocol.exchange import VERDICT_S, Exchange
from tests.conftest import running_s
from tests.contract.peer import Peer

#: How much later than its deadline an answer may come, seconds (chosen: scheduling on a busy machine).
SLACK_S = 2.0
#: Budget of a call whose time is not what is tested, seconds: it outlasts a pause of the machine.
LONG_S = 60.0


@pytest.fixture
def peer(short_dir):
    with Peer(short_dir) as running:
        yield running


@pytest.fixture
def client(peer):
    return SupervisorClient(peer.endpoint)


def ask(client, text, budget_s=LONG_S, **options):
    reply = client.call("echo", [text], [1], Deadline.after(budget_s), **options)
    return [msgspec.msgpack.decode(outcome.result) for outcome in reply.outcomes]


def code_of(client, text, budget_s):
    began = running_s()
    with pytest.raises(RequestError) as caught:
        ask(client, text, budget_s)
    assert running_s() - began < budget_s + SLACK_S
    return caught.value.code


# ---- answers ---------------------------------------------------------------------------------------------------------


def test_a_call_gets_its_answer_and_the_peer_its_fields(client, peer):
    deadline = Deadline.after(5, lambda: 100.0)
    reply = client.call("echo", ["a", {"b": [1]}], [3, 4], deadline, request_id="echo", traceparent="trace")
    assert [bytes(outcome.result) for outcome in reply.outcomes] == [messages.encode("a"), messages.encode({"b": [1]})]
    (call,) = peer.calls
    assert (call.model, call.sizes, call.request_id, call.traceparent) == ("echo", [3, 4], "echo", "trace")
    assert len(call.call_id) == messages.CALL_ID_BYTES
    assert call.budget_ms == 5000


def test_no_answer_is_an_error_at_the_deadline_and_a_cancellation(client, peer, wait_until):
    assert ask(client, "so that there is a connection") == ["so that there is a connection"]
    peer.plan.append("drop")
    assert code_of(client, "a", 0.2) is ErrorCode.DEADLINE_EXCEEDED
    wait_until(lambda: peer.cancels)
    assert peer.cancels[0].call_id == peer.calls[1].call_id


def test_a_late_answer_reaches_nobody_and_hangs_no_later_call(client, peer):
    assert ask(client, "so that there is a connection") == ["so that there is a connection"]
    peer.plan.extend(["late", "echo", "late", "drop", "echo"])
    assert code_of(client, "a", 0.1) is ErrorCode.DEADLINE_EXCEEDED
    assert ask(client, "b") == ["b"]
    assert code_of(client, "c", 0.1) is ErrorCode.DEADLINE_EXCEEDED
    assert code_of(client, "d", 0.1) is ErrorCode.DEADLINE_EXCEEDED
    assert ask(client, "e") == ["e"]


def test_a_second_answer_to_a_call_is_nobodys(client, peer):
    peer.plan.extend(["twice", "twice"])
    assert [ask(client, text) for text in "abc"] == [["a"], ["b"], ["c"]]


@pytest.mark.parametrize("word", ["foreign", "status"])
def test_an_answer_to_something_else_is_dropped_and_the_call_asks_again(client, peer, word):
    peer.plan.append(word)
    assert ask(client, "a") == ["a"]
    assert client.line.dropped == 1
    assert len({call.call_id for call in peer.calls}) == 1
    assert ask(client, "b") == ["b"]


def test_a_peer_that_only_knows_foreign_answers_is_given_up(client, peer):
    peer.plan.extend(["foreign"] * 100)
    with pytest.raises(RequestError):
        ask(client, "a", 5)
    peer.plan.clear()
    assert ask(client, "b") == ["b"]


@pytest.mark.parametrize("word", ["garbage", "empty", "refuse", "short"])
def test_garbage_and_refusals_are_protocol_errors(client, peer, word):
    peer.plan.append(word)
    assert code_of(client, "a", 5) is ErrorCode.PROTOCOL
    assert ask(client, "b") == ["b"]


# ---- broken connections ----------------------------------------------------------------------------------------------


def test_a_call_is_sent_again_when_the_connection_breaks_under_its_id_with_the_budget_that_is_left(client, peer):
    # On this clock every death takes a second, and nothing else takes any time.
    deadline = Deadline.after(10, lambda: float(peer.deaths))
    peer.plan.extend(["die", "die"])
    client.call("echo", ["a"], [1], deadline)
    assert len(peer.calls) == 3
    assert len({call.call_id for call in peer.calls}) == 1
    assert [call.budget_ms for call in peer.calls] == [10_000, 9_000, 8_000]
    assert client.line.resent == 2


def test_a_supervisor_that_dies_as_it_answers_costs_time_but_no_answer(client, peer):
    for number in range(10):
        peer.plan.append("answer and die")
        assert ask(client, str(number)) == [str(number)]


def test_nobody_there_is_an_error_within_the_budget(short_dir):
    client = SupervisorClient("ipc://{}/nobody".format(short_dir))
    assert code_of(client, "a", 0.2) is ErrorCode.NOT_READY


def test_a_call_waits_for_a_supervisor_that_is_about_to_come(short_dir):
    peer = Peer(short_dir)
    client = SupervisorClient(peer.endpoint)
    answers = []
    asking = threading.Thread(target=lambda: answers.append(ask(client, "a")))
    asking.start()
    with peer:
        asking.join(LONG_S)
    assert answers == [["a"]]


def test_who_hangs_up_before_the_handshake_is_tried_again_with_the_same_socket(short_dir, monkeypatch):
    made = []

    def make(*args):
        made.append(Connection(*args))
        return made[-1]

    monkeypatch.setattr(connection, "Connection", make)
    client = SupervisorClient("ipc://{}/s".format(short_dir))
    answers = []
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(str(short_dir / "s"))
        other.listen()
        asking = threading.Thread(target=lambda: answers.append(ask(client, "a")))
        asking.start()
        for _ in range(10):
            other.accept()[0].close()
    with Peer(short_dir):
        asking.join(LONG_S)
    assert answers == [["a"]]
    assert len(made) == 1


def test_many_threads_each_get_their_own_answers_while_the_supervisor_dies_again_and_again(client, peer):
    answers = {}

    def many(thread):
        for number in range(25):
            text = "{}-{}".format(thread, number)
            answers[text] = ask(client, text)

    for number in range(200):
        peer.plan.append("die" if number % 20 == 19 else "twice" if number % 3 == 0 else "echo")
    threads = [threading.Thread(target=many, args=(thread,)) for thread in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(LONG_S)
    assert answers == {text: [text] for text in answers}
    assert len(answers) == 200
    assert peer.deaths == 10


# ---- the HTTP client -------------------------------------------------------------------------------------------------


@pytest.fixture
def pair():
    ours, theirs = socket.socketpair()
    with ours, theirs:
        yield ours, theirs


@pytest.mark.parametrize("way", ["close", "half-close"])
def test_a_client_that_hangs_up_ends_the_call_and_cancels_it(client, peer, pair, wait_until, way):
    ours, theirs = pair
    peer.plan.append("drop")
    peer.on_call = lambda call: theirs.close() if way == "close" else theirs.shutdown(socket.SHUT_WR)
    began = running_s()
    with pytest.raises(ClientGone):
        ask(client, "a", client_socket=ours)
    assert running_s() - began < 5
    wait_until(lambda: peer.cancels)
    assert peer.cancels[0].call_id == peer.calls[0].call_id


def test_bytes_of_a_pipelined_request_only_end_the_watch(client, peer, pair):
    ours, theirs = pair

    def pipelines(call):
        peer.on_call = str
        theirs.sendall(b"GET / HTTP/1.1\r\n\r\n")
        theirs.shutdown(socket.SHUT_WR)

    peer.on_call = pipelines
    peer.plan.append("die")
    assert ask(client, "a", client_socket=ours) == ["a"]
    assert ours.recv(3) == b"GET"


def test_a_client_that_hung_up_before_is_seen_at_once_even_when_nobody_serves(short_dir, pair):
    ours, theirs = pair
    theirs.close()
    client = SupervisorClient("ipc://{}/nobody".format(short_dir))
    began = running_s()
    with pytest.raises(ClientGone):
        ask(client, "a", client_socket=ours)
    assert running_s() - began < 5


# ---- the end of a budget ---------------------------------------------------------------------------------------------


def test_what_the_supervisor_says_at_the_deadline_is_heard(client, peer):
    moment = [100.0]

    def passes(call):
        moment[0] += 5.0 + VERDICT_S / 2

    peer.on_call = passes
    deadline = Deadline.after(5.0, lambda: moment[0])
    assert client.call("echo", ["a"], [1], deadline).outcomes[0].failure is None


@pytest.mark.parametrize("late_s", [VERDICT_S / 2, VERDICT_S * 1.01])
def test_after_its_deadline_a_call_waits_so_long_and_no_longer(client, peer, late_s):
    moment = [100.0]
    exchange = Exchange(client.line, bytes, b"", Deadline.after(5.0, lambda: moment[0]), None)
    exchange._sent = True
    moment[0] += 5.0 + late_s
    if late_s < VERDICT_S:
        assert exchange._wait_s() == pytest.approx(VERDICT_S - late_s)
        return
    with pytest.raises(RequestError) as caught:
        exchange._wait_s()
    assert caught.value.code is ErrorCode.DEADLINE_EXCEEDED


def test_a_connection_that_could_not_be_made_anew_is_made_by_the_next_call(client, peer, monkeypatch):
    assert ask(client, "a") == ["a"]
    made = []

    def make(*where):
        made.append(where)
        if len(made) == 1:
            raise zmq.ZMQError(24)
        return Connection(*where)

    monkeypatch.setattr(connection, "Connection", make)
    peer.plan.append("die")
    with pytest.raises(zmq.ZMQError):
        ask(client, "b")
    assert ask(client, "c") == ["c"]


# ---- what is never sent ----------------------------------------------------------------------------------------------


def test_a_call_that_is_too_large_is_refused_before_it_is_sent(client, peer):
    with pytest.raises(RequestError) as caught:
        ask(client, "x" * messages.MAX_MESSAGE_BYTES)
    assert caught.value.code is ErrorCode.INVALID_INPUT
    assert ask(client, "b") == ["b"]
    assert len(peer.calls) == 1


def nested(depth):
    value: Any = []
    for _ in range(depth):
        value = [value]
    return value


@pytest.mark.parametrize("item", ["\ud800", {"\udfff": 1}, nested(100_000), {1, object()}, 2**70])
def test_what_cannot_be_encoded_is_invalid_input(client, peer, item):
    with pytest.raises(RequestError) as caught:
        client.call("echo", [item], [1], Deadline.after(LONG_S))
    assert caught.value.code is ErrorCode.INVALID_INPUT
    assert peer.calls == []


def test_a_request_id_that_cannot_be_encoded_is_invalid_input(client):
    with pytest.raises(RequestError) as caught:
        ask(client, "a", request_id="\ud800")
    assert caught.value.code is ErrorCode.INVALID_INPUT


# ---- refusals --------------------------------------------------------------------------------------------------------


def test_a_call_refused_as_a_whole_is_an_error_with_its_code_and_when_to_come_back(client, peer, monkeypatch):
    failure = messages.Failure(ErrorCode.OVERLOADED, "later", 2.5)
    monkeypatch.setitem(
        peer._words,
        "overloaded",
        lambda envelope, call: peer._send(
            envelope,
            messages.Reply(
                call.call_id, [messages.Outcome(failure=failure)], messages.Timing(), messages.Identity("echo")
            ),
        ),
    )
    peer.plan.append("overloaded")
    with pytest.raises(RequestError) as caught:
        ask(client, "a")
    assert (caught.value.code, caught.value.retry_after_s) == (ErrorCode.OVERLOADED, 2.5)


# ---- status ----------------------------------------------------------------------------------------------------------


def test_a_status_is_asked_for_once_within_its_age(client, peer):
    began = time.monotonic()
    assert {client.status(Deadline.after(LONG_S)).version for _ in range(5)} == {"test"}
    assert peer.queries <= 1 + (time.monotonic() - began) / STATUS_AGE_S


def test_an_old_status_is_asked_for_anew(peer):
    client = SupervisorClient(peer.endpoint, status_age_s=0.0)
    for _ in range(3):
        client.status(Deadline.after(LONG_S))
    assert peer.queries == 3


def test_a_status_of_now_is_asked_for_whatever_is_known(peer):
    client = SupervisorClient(peer.endpoint, status_age_s=LONG_S)
    for fresh in (False, True, False, True):
        client.status(Deadline.after(LONG_S), fresh=fresh)
    assert peer.queries == 3


@pytest.mark.parametrize("fresh", [False, True])
def test_a_status_that_nobody_gives_is_an_error_that_is_remembered_too(short_dir, fresh):
    client = SupervisorClient("ipc://{}/nobody".format(short_dir), status_age_s=LONG_S)
    with pytest.raises(RequestError):
        client.status(Deadline.after(0.2))
    began = running_s()
    with pytest.raises(RequestError) as caught:
        client.status(Deadline.after(LONG_S), fresh=fresh)
    assert caught.value.code is ErrorCode.NOT_READY
    assert running_s() - began < 5


# ---- forks and threads -----------------------------------------------------------------------------------------------

FORK = """
import os, sys
from ipu_supervisor.protocol.client import SupervisorClient
from ipu_supervisor.protocol.connection import Connection
from ipu_supervisor.protocol.deadline import Deadline

client = SupervisorClient(sys.argv[1])

def ask(text):
    reply = client.call("echo", [text], [1], Deadline.after(60))
    assert bytes(reply.outcomes[0].result).endswith(text.encode()), reply

ask("before")
for number in range(5):
    child = os.fork()
    if not child:
        ask("child")
        ask("child again")
        sys.exit(0)
    ask("parent meanwhile")
    assert os.waitpid(child, 0)[1] == 0, "the child failed"
    ask("parent after")
print("fine")
"""


def test_a_forked_child_makes_sockets_of_its_own_and_the_parents_still_work(peer, spawn):
    child = spawn([sys.executable, "-c", FORK, peer.endpoint])
    assert child.wait(LONG_S) == 0
    assert child.log_text() == "fine\n"


def test_as_many_threads_may_ask_as_the_web_side_may_have():
    # A thread has its socket, and a pair for the monitor; SERVER_THREADS may be 4,096.
    assert connection._context().get(zmq.MAX_SOCKETS) > 3 * 4200


def test_the_socket_of_a_thread_that_ended_is_closed(client, peer):
    for number in range(300):
        thread = threading.Thread(target=ask, args=(client, str(number)))
        thread.start()
        thread.join(LONG_S)
    assert len(peer.calls) == 300
