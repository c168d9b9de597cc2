"""The supervisor's sockets: where they lie, who may open them, and the lock that makes this supervisor the only one."""

import fcntl
import os
import pathlib
import resource
import stat
from typing import IO, Callable, List, Optional

import zmq
import zmq.auth
from zmq.auth.thread import ThreadAuthenticator

from ipu_supervisor import log
from ipu_supervisor.config import Config
from ipu_supervisor.protocol import messages

#: Modes of the run folder, of the socket that the web side opens, and of those that only the supervisor's user may
#: open.
RUN_DIR_MODE, FRONT_MODE, PRIVATE_MODE = 0o750, 0o660, 0o600
#: Most messages that may wait in a socket for one peer (chosen: far over what one web thread can send).
HIGH_WATER_MARK = 10_000
#: Open files wanted, as in the systemd unit: one for each thread of the web side. libzmq aborts where one is refused.
WANTED_FILES = 65_536


class AlreadyRunning(RuntimeError):
    """Another supervisor holds the lock of this run folder, or of this endpoint."""


class CannotListen(RuntimeError):
    """The sockets cannot be bound as the settings say; the message says why."""


class Sockets:
    """Bound sockets; `close()` leaves no file behind but the locks."""

    def __init__(self, config: Config) -> None:
        """Store where to bind."""
        self._config = config
        self._context = zmq.Context()
        self._locks: List[IO[str]] = []
        self._authenticator: Optional[ThreadAuthenticator] = None
        self._files: List[pathlib.Path] = []

    def open(self) -> None:
        """Take the locks, then bind. Raises `AlreadyRunning`, `CannotListen`."""
        allow_files(WANTED_FILES)
        try:
            self._open(self._config.run_dir)
        except (OSError, ValueError, zmq.ZMQError) as error:
            text = "cannot listen on {}, with its other sockets in {}: {}"
            raise CannotListen(text.format(self._config.endpoint, self._config.run_dir, error)) from error

    def _open(self, folder: pathlib.Path) -> None:
        """Do so. Raises what goes wrong."""
        folder.mkdir(mode=RUN_DIR_MODE, parents=True, exist_ok=True)
        if folder.stat().st_mode & (stat.S_IWOTH | stat.S_ISVTX) == stat.S_IWOTH:
            log.event("run_dir_is_open_to_everybody", 30, folder=folder, advice="chmod 750")
        locks = [folder / "supervisor.lock"]
        if self._config.endpoint.startswith("ipc://"):
            # A second bind on a live path would succeed silently, also out of another run folder.
            locks.append(pathlib.Path(self._config.endpoint[len("ipc://") :] + ".lock"))
        for path in sorted({path.absolute() for path in locks}):
            self._take_lock(path)
        self.front = self._bind_front()
        self.replicas_endpoint = "ipc://{}".format((folder / "replicas.sock").absolute())
        self.replicas = self._bind(self.replicas_endpoint, PRIVATE_MODE)
        self.operator = self._bind(operator_endpoint(folder), PRIVATE_MODE)

    def close(self) -> None:
        """Close everything and remove the socket files."""
        if self._authenticator is not None:
            self._authenticator.stop()
        self._context.destroy(linger=200)
        for path in self._files:
            path.unlink(missing_ok=True)
        for lock in self._locks:
            lock.close()

    def _take_lock(self, path: pathlib.Path) -> None:
        """Hold an advisory lock for as long as this process lives."""
        self._locks.append(os.fdopen(os.open(str(path), os.O_WRONLY | os.O_CREAT, PRIVATE_MODE), "w", encoding="ascii"))
        os.fchmod(self._locks[-1].fileno(), PRIVATE_MODE)
        try:
            fcntl.flock(self._locks[-1], fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise AlreadyRunning("another supervisor holds {}".format(path)) from None

    def _bind_front(self) -> "zmq.Socket[bytes]":
        """Bind the socket of the web side, with CURVE where keys are given."""
        keys = self._config.curve_keys
        if keys is None or self._config.endpoint.startswith("ipc://"):
            return self._bind(self._config.endpoint, FRONT_MODE)
        self._authenticator = ThreadAuthenticator(self._context)
        self._authenticator.start()
        self._authenticator.configure_curve(domain="*", location=str(keys / "clients"))
        public, secret = zmq.auth.load_certificate(str(keys / "supervisor.key_secret"))

        def secure(socket: "zmq.Socket[bytes]") -> None:
            socket.curve_server = True
            socket.curve_publickey, socket.curve_secretkey = public, secret

        return self._bind(self._config.endpoint, FRONT_MODE, secure)

    def _bind(
        self, endpoint: str, mode: int, prepare: Optional[Callable[["zmq.Socket[bytes]"], None]] = None
    ) -> "zmq.Socket[bytes]":
        """Bind one ROUTER; an `ipc://` file is never open to more than `mode` says, not even for a moment."""
        socket = self._context.socket(zmq.ROUTER)
        socket.setsockopt(zmq.ROUTER_MANDATORY, 1)
        socket.setsockopt(zmq.MAXMSGSIZE, messages.MAX_MESSAGE_BYTES)
        socket.setsockopt(zmq.SNDHWM, HIGH_WATER_MARK)
        socket.setsockopt(zmq.RCVHWM, HIGH_WATER_MARK)
        socket.setsockopt(zmq.LINGER, 200)
        if prepare is not None:
            prepare(socket)
        umask = os.umask(0o777 & ~mode)
        try:
            socket.bind(endpoint)
        finally:
            os.umask(umask)
        if endpoint.startswith("ipc://"):
            self._files.append(pathlib.Path(endpoint[len("ipc://") :]))
        return socket


def allow_files(wanted: int) -> None:
    """Let this process, and those it starts, open as many files as wanted, or as many as may be."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    allowed = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    if soft != resource.RLIM_INFINITY and soft < allowed:
        resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, hard))


def operator_endpoint(run_dir: pathlib.Path) -> str:
    """Return where the operator's commands go."""
    return "ipc://{}".format(run_dir / "operator.sock")
