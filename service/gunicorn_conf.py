"""How Gunicorn runs the web side: `gunicorn -c service/gunicorn_conf.py`. The master process executes this file.

Overload is refused by us with 429 and a time to come back, and nowhere else: threads exceed the inference permits,
and neither `worker_connections` nor `backlog` is ever what fills up first. `GUNICORN_CMD_ARGS` wins over everything
here.
"""

import functools
import os
import pathlib
import resource
import shutil
import signal
import socket
import struct
import sys
import tempfile
from collections.abc import Callable
from typing import Any

from gunicorn.glogging import Logger

from ipu_supervisor.config import ConfigError
from service import log
from service.permits import Permits, permits_of
from service.settings import SPARE_THREADS, Settings
from service.worker import SILENCE_LIMIT_S

try:
    settings = Settings.from_env()
except ConfigError as error:
    print(f"The settings are wrong:\n{error}", file=sys.stderr)
    sys.exit(error.exit_code)

#: Files here never touch a disk, so that neither heartbeats nor figures wait for one.
MEMORY = "/dev/shm"  # noqa: S108  # names in it are made by mkdtemp and mkstemp

wsgi_app = "service.wsgi:app"
bind = settings.address()
workers = settings.workers
worker_class = "service.worker.Worker"
threads = settings.threads + SPARE_THREADS
#: Open connections that one worker takes, idle ones included (chosen: far more than it has threads, so that it never
#: stops accepting while someone waits to be told 429), and the kernel's queue before that.
worker_connections = 16 * 1024
backlog = 4096
#: Seconds an idle connection is kept (longer than the 60 s of common load balancers, which must be first to close).
keepalive = 65
#: Seconds that a stopping worker has for the requests it holds.
graceful_timeout = int(settings.request_limit_s) + 5
preload_app = False
control_socket_disable = True
#: Gunicorn itself believes no X-Forwarded-Proto, not even of this machine's own peers: SERVER_PROXIES decides alone.
forwarded_allow_ips = ""
worker_tmp_dir = MEMORY if os.access(MEMORY, os.W_OK) else None
accesslog = None
loglevel = settings.config.log_level.lower()


class logger_class(Logger):  # type: ignore[misc]  # noqa: N801  # Gunicorn has no types; the name is its setting's
    """Gunicorn's own log lines in our shape."""

    def setup(self, cfg: Any) -> None:
        """Give every handler our formatter."""
        super().setup(cfg)
        for handler in self.error_log.handlers:
            handler.setFormatter(log.formatter(settings.config.log_format))


def on_starting(server: Any) -> None:
    """Make the folder in which workers share their figures, allow open files for connections, and guard reloads."""
    server.figures = tempfile.mkdtemp(prefix="model-server-metrics-", dir=worker_tmp_dir)
    os.environ["PROMETHEUS_MULTIPROC_DIR"] = server.figures
    wanted = worker_connections + 1024
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(
            resource.RLIMIT_NOFILE, (wanted if hard == resource.RLIM_INFINITY else min(wanted, hard), hard)
        )

    server.reload = functools.partial(_reload, server, server.reload)


def _reload(server: Any, reload: Callable[[], None]) -> None:
    """Read everything anew at SIGHUP; where something is wrong with it, what serves goes on."""
    try:
        Settings.from_env()
    except ConfigError as error:
        server.log.error("reload refused, nothing changes: %s", "; ".join(error.faults))
    else:
        reload()


def when_ready(server: Any) -> None:
    """Limit silent clients (a connection inherits it from its listener), and say where the documentation is."""
    for listener in server.LISTENERS:
        for option in (socket.SO_RCVTIMEO, socket.SO_SNDTIMEO):
            listener.sock.setsockopt(socket.SOL_SOCKET, option, struct.pack("ll", SILENCE_LIMIT_S, 0))
    addresses = [listener.sock.getsockname() for listener in server.LISTENERS]
    ports = [address[1] for address in addresses if isinstance(address, tuple)]
    server.log.info(
        "ready: documentation at %s", " ".join(f"http://localhost:{port}/docs" for port in ports) or "/docs"
    )


def pre_fork(server: Any, worker: Any) -> None:
    """Give a worker the first free number: its figures live in a file of that number, so its successor counts on."""
    taken = {other.number for other in server.WORKERS.values()}
    worker.number = next(number for number in range(len(taken) + 1) if number not in taken)


def post_fork(server: Any, worker: Any) -> None:
    """Log in our shape, and count in the file of the worker's number.

    Until the worker has signal handlers of its own, it must not swallow a SIGTERM in those it has from the master.
    """
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    from prometheus_client import values

    log.configure(settings.config.log_level, settings.config.log_format)
    values.ValueClass = values.MultiProcessValue(lambda: worker.number)  # type: ignore[no-untyped-call]


def post_worker_init(worker: Any) -> None:
    """Derive the permits from the threads that the worker really has: `GUNICORN_CMD_ARGS` may have changed them."""
    worker.wsgi.extensions["face"].permits = Permits(permits_of(worker.cfg.threads))


def child_exit(server: Any, worker: Any) -> None:
    """Forget what a dead worker was doing; what it counted stays."""
    from prometheus_client.multiprocess import mark_process_dead

    mark_process_dead(worker.number, server.figures)  # type: ignore[no-untyped-call]


def on_exit(server: Any) -> None:
    """Remove the figures' folder."""
    shutil.rmtree(pathlib.Path(server.figures), ignore_errors=True)
