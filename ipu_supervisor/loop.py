"""The only loop: sockets, signals, timers. It performs what the core decided and decides nothing itself.

One thread. Signal handlers only note the signal; each turn takes in what arrived, then lets time pass, then performs.
"""

import collections
import os
import signal
import socket
import time
from typing import Any, Deque, Dict, Iterable, List, Mapping, Optional, Set

import zmq

from ipu_supervisor import births, devices, log, operate, status, versions
from ipu_supervisor.clock import StallFreeClock
from ipu_supervisor.config import Config
from ipu_supervisor.core import actions
from ipu_supervisor.core.compiles import CompileGate
from ipu_supervisor.core.leases import Leases
from ipu_supervisor.core.pool import Pool
from ipu_supervisor.front import TURN, Front, refused
from ipu_supervisor.launchers.local import LocalLauncher
from ipu_supervisor.loads import Loads
from ipu_supervisor.protocol import messages
from ipu_supervisor.protocol.errors import ErrorCode, ProtocolError
from ipu_supervisor.sockets import Sockets
from ipu_supervisor.systemd import Notifier, sentence

#: Longest sleep of the loop, seconds: a bound on how late it sees anything it was not told of.
MAX_SLEEP_S = 1.0
#: Longest wait for accepted requests when the supervisor is told to stop, seconds.
DRAIN_LIMIT_S = 30.0
#: Longest wait for replicas to end, seconds; then they are killed.
STOP_LIMIT_S = 6.0
#: How long the sockets stay after the last answer, seconds. libzmq drops with a connection what the client has not read
#: (seen in 9 of 20 answers to a client that stood still when the connection ended, 0.05 s after the answer).
PARTING_S = 0.5


class Supervisor:
    """The daemon: pools, sockets, processes."""

    def __init__(self, config: Config, environ: Mapping[str, str]) -> None:
        """Store what `devices.check` made of the settings, and the environment that replicas get (`.env` included)."""
        self.config = config
        self.environ = environ
        self.sockets = Sockets(config)
        self.launcher = LocalLauncher()
        self.gate = CompileGate()
        self.leases = Leases(config.ipus or 0, devices.ipu_needs(config))
        self.pools: Dict[str, Pool] = {}
        self.versions = {model.name: versions.Versions(model) for model in config.models}
        self.started_at = time.monotonic()
        self.pids: Dict[str, int] = {}
        self.draining = False
        self._signals: Deque[int] = collections.deque()
        self._child_ended = False
        self._stderrs: Set[int] = set()
        self._poller = zmq.Poller()
        self._drain_until: Optional[float] = None
        self._stop_until: Optional[float] = None
        self._answered_at = 0.0
        self._clock = StallFreeClock()
        self._loads = Loads(config.run_dir)
        self._systemd = Notifier.from_env(environ)

    # ---- life --------------------------------------------------------------------------------------------------------

    def run(self) -> None:
        """Serve until told to stop. Raises `AlreadyRunning`, `CannotListen`."""
        try:
            self._heed_signals()
            self.sockets.open()
            self._prepare()
            self._systemd.ready()
            while not self._finished():
                self._turn()
                self._tell_systemd()
        finally:
            self.launcher.kill_all()
            self.sockets.close()
        log.event("supervisor_stopped")

    def _heed_signals(self) -> None:
        """Have signals wake the loop; before there is anything to clean up."""
        self._wake, tell = socket.socketpair()
        for end in (self._wake, tell):
            end.setblocking(False)
        signal.set_wakeup_fd(tell.fileno(), warn_on_full_buffer=False)
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD):
            signal.signal(number, lambda number, frame: self._signals.append(number))
        self._tell = tell

    def _prepare(self) -> None:
        """Make the pools and watch the sockets."""
        self.front = Front(self.sockets.front)
        self._decode: messages.Decoder[messages.FromReplica] = messages.Decoder(messages.FromReplica)
        for source in (self.sockets.front, self.sockets.replicas, self.sockets.operator, self._wake.fileno()):
            self._poller.register(source, zmq.POLLIN)
        now = self._clock()
        loads = self._loads.read()
        for model in self.config.models:
            self.pools[model.name] = Pool(devices.pool_settings(model, self.config, loads.get(model.name)), now)
        self.make_room()
        log.event("supervisor_started", endpoint=self.config.endpoint, models=sorted(self.pools), pid=os.getpid())

    def _finished(self) -> bool:
        """Say whether everything has stopped, or had long enough to."""
        if self._stop_until is None:
            return False
        now = self._clock()
        parted = not len(self.launcher) and now >= self._answered_at + PARTING_S
        return parted or now >= self._stop_until

    # ---- one turn ----------------------------------------------------------------------------------------------------

    def _turn(self) -> None:
        """Sleep until something happens, take it in, let time pass."""
        happened = self._sleep()
        now = self._clock()
        if self._wake.fileno() in happened:
            self._take_signals(now)
        if happened.keys() & self._stderrs:
            self.launcher.forward()
            self._watch_stderr()
        if self.sockets.replicas in happened:
            self._hear_replicas(now)
        if self._child_ended:
            self._reap(now)
        if self.sockets.front in happened:
            self._hear_front(now)
        if self.sockets.operator in happened:
            operate.answer_commands(self, now)
        for pool in self.pools.values():
            wake_at = pool.wake_at()
            if wake_at is not None and wake_at <= now:
                self.perform(pool.tick(now), now)
        self._stop_when_drained(now)

    def _tell_systemd(self) -> None:
        """Feed the watchdog, and say now and then what every model does."""
        moment = time.monotonic()
        self._systemd.alive(moment)
        if self._systemd.due(moment):
            self._systemd.status(sentence(status.snapshot(self, self._clock()).models))

    def _sleep(self) -> Dict[Any, int]:
        """Wait for a socket, a signal, a replica's stderr, or the next moment of a pool; return what happened."""
        moments = [pool.wake_at() for pool in self.pools.values()] + [self._drain_until, self._stop_until]
        if self._stop_until is not None and not len(self.launcher):
            moments.append(self._answered_at + PARTING_S)
        wake_at = min((moment for moment in moments if moment is not None), default=None)
        sleep_s = MAX_SLEEP_S if wake_at is None else min(MAX_SLEEP_S, max(0.0, wake_at - self._clock()))
        happened = dict(self._poller.poll(int(sleep_s * 1000) + (1 if sleep_s > 0 else 0)))
        self._clock.slept(sleep_s)
        return happened

    def _watch_stderr(self) -> None:
        """Watch the stderr of the replicas that there are now."""
        there = set(self.launcher.stderr_fds())
        for descriptor in self._stderrs - there:
            self._poller.unregister(descriptor)
        for descriptor in there - self._stderrs:
            self._poller.register(descriptor, zmq.POLLIN)
        self._stderrs = there

    def _take_signals(self, now: float) -> None:
        """Act on the signals that were noted."""
        try:
            while self._wake.recv(4096):
                pass
        except BlockingIOError:
            pass
        while self._signals:
            number = self._signals.popleft()
            if number in (signal.SIGTERM, signal.SIGINT):
                self._told_to_stop(signal.Signals(number).name, now)
            elif number == signal.SIGHUP:
                operate.reload(self, "", now)
            elif number == signal.SIGCHLD:
                self._child_ended = True

    def _hear_front(self, now: float) -> None:
        """Take in calls, cancellations and status queries."""
        for envelope, message in self.front.receive():
            if isinstance(message, messages.Call):
                self._call(envelope, message, now)
            elif isinstance(message, messages.Cancel):
                self.front.forget(message.call_id)
                for pool in self.pools.values():
                    self.perform(pool.cancel(message.call_id), now)
            else:
                self.front.send(envelope, status.snapshot(self, now))

    def _call(self, envelope: List[bytes], call: messages.Call, now: float) -> None:
        """Hand a new call to its pool; a call that is known only changes its address."""
        if not self.front.expect(call.call_id, envelope):
            return
        pool = self.pools.get(call.model)
        if pool is not None:
            self.perform(pool.call(call, now), now)
            return
        failure = messages.Failure(ErrorCode.UNKNOWN_MODEL, "No model of this name is served.")
        self.front.answer(refused(call.call_id, len(call.items), failure, messages.Identity(call.model)))

    def _hear_replicas(self, now: float) -> None:
        """Take in what replicas say; nonsense from one counts as its death."""
        for _ in range(TURN):
            try:
                name, *frames = self.sockets.replicas.recv_multipart(zmq.NOBLOCK)
            except zmq.Again:
                return
            replica = name.decode("utf-8", "replace")
            pool = self.pools.get(replica.rpartition("-")[0])
            try:
                message = self._decode(frames[-1] if frames else b"")
            except ProtocolError as error:
                log.event("replica_nonsense", 40, replica=replica, error=str(error))
                self.launcher.signal(replica, signal.SIGKILL)
                continue
            if pool is not None:
                self.perform(pool.said(replica, message, now), now)

    def _reap(self, now: float) -> None:
        """Take in the processes that ended."""
        self._child_ended = False
        for name, how in self.launcher.reap():
            self._watch_stderr()
            self.pids.pop(name, None)
            self.leases.give(name)
            pool = self.pools.get(name.rpartition("-")[0])
            if pool is not None:
                self.perform(pool.exited(name, how, now), now)

    # ---- performing --------------------------------------------------------------------------------------------------

    def perform(self, wanted: Iterable[actions.Action], now: float) -> None:
        """Do what the core decided, in order."""
        for action in wanted:
            if isinstance(action, actions.Answer):
                self.front.answer(action.reply)
                self._answered_at = now
            elif isinstance(action, actions.Send):
                self._send(action)
            else:
                self._perform_rare(action, now)

    def _perform_rare(self, action: actions.Action, now: float) -> None:
        """Do what is not part of serving a request."""
        if isinstance(action, actions.Note):
            log.event(action.event, **action.fields)
        elif isinstance(action, actions.Spawn):
            self._spawn(action.replica, now)
        elif isinstance(action, actions.Terminate):
            self.launcher.signal(action.replica, signal.SIGTERM)
        elif isinstance(action, actions.Kill):
            self.launcher.signal(action.replica, signal.SIGKILL)
        elif isinstance(action, actions.WantCompile):
            self.gate.asks(action.replica)
            self._grant(now)
        elif isinstance(action, actions.CompileOver):
            self.gate.leaves(action.replica)
            self._grant(now)
        elif isinstance(action, actions.LoadMeasured):
            self._loads.keep(action.model, action.load_s)

    def _send(self, action: actions.Send) -> None:
        """Send to a replica; one that is not there any more is about to be reaped."""
        frames = [action.replica.encode(), messages.encode(action.message)]
        try:
            self.sockets.replicas.send_multipart(frames, zmq.NOBLOCK)
        except zmq.ZMQError as error:
            log.event("replica_unreachable", 30, replica=action.replica, error=str(error))

    def _spawn(self, replica: str, now: float) -> None:
        """Start a replica process; a machine that cannot start one counts as a death."""
        pool = self.pools[replica.rpartition("-")[0]]
        model = self.versions[pool.settings.model].of(pool.crew.named(replica))
        if not self.leases.take(replica, model.name, self.wanted()):
            why = "waits for IPUs: {} of {} are leased".format(self.leases.held, self.leases.total)
            self.perform(pool.unleased(replica, why, now), now)
            return
        threads = devices.threads_per_replica(sum(self.wanted().values()))
        spec = births.spec(replica, model, self.config, self.sockets.replicas_endpoint, threads)
        try:
            self.pids[replica] = self.launcher.spawn(replica, spec, births.environ(model, self.config, self.environ))
        except OSError as error:
            self.leases.give(replica)
            self.perform(pool.exited(replica, "could not be started: {}".format(error), now), now)
            return
        self._watch_stderr()
        log.event("replica_spawned", model=model.name, replica=replica, pid=self.pids[replica])

    def _grant(self, now: float) -> None:
        """Let the next replica compile."""
        replica = self.gate.next()
        if replica is not None:
            self.perform(self.pools[replica.rpartition("-")[0]].granted(replica, now), now)

    def wanted(self) -> Dict[str, int]:
        """Return how many replicas each model should have."""
        return {name: pool.crew.wanted for name, pool in self.pools.items()}

    def make_room(self) -> None:
        """Tell every pool whether a rolling change may start a new replica before it stops an old one."""
        for name, pool in self.pools.items():
            pool.crew.make_room(self.leases.room_for_both(name, self.wanted()))

    # ---- stopping ----------------------------------------------------------------------------------------------------

    def _told_to_stop(self, why: str, now: float) -> None:
        """Drain at the first signal, stop at once at the second."""
        log.event("supervisor_stopping", signal=why, at_once=self.draining)
        self._systemd.stopping()
        if self.draining:
            self._drain_until = now
        else:
            self._drain_until = now + DRAIN_LIMIT_S
            self.draining = True
            for pool in self.pools.values():
                self.perform(pool.drain(), now)

    def _stop_when_drained(self, now: float) -> None:
        """Stop the replicas when every accepted request is answered, or there is no more time for it."""
        if self._drain_until is None or self._stop_until is not None:
            return
        if now >= self._drain_until or all(pool.drained() for pool in self.pools.values()):
            self._stop_until = now + STOP_LIMIT_S
            for pool in self.pools.values():
                self.perform(pool.stop_all(now), now)
