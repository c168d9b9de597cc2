"""The command line: run, check-config, keys, status, top, drain, reload, scale."""

import argparse
import os
import pathlib
import sys
import time
from typing import Dict, List, Mapping, Optional, Sequence

import msgspec
import zmq
import zmq.auth

from ipu_supervisor import config, devices, endpoints, log
from ipu_supervisor.protocol import messages
from ipu_supervisor.protocol.client import SupervisorClient
from ipu_supervisor.protocol.deadline import Deadline
from ipu_supervisor.protocol.errors import ProtocolError, RequestError
from ipu_supervisor.sockets import AlreadyRunning, CannotListen, operator_endpoint

#: Exit codes (sysexits.h): what was asked for failed; another supervisor runs; the supervisor cannot be reached.
EXIT_REFUSED, EXIT_RUNNING, EXIT_UNREACHABLE = 1, 75, 69
#: Longest wait for the supervisor's answer to a command, seconds.
ANSWER_LIMIT_S = 5.0


def main(arguments: Optional[Sequence[str]] = None) -> int:
    """Run one command; return its exit code."""
    given = _parser().parse_args(arguments)
    try:
        environ = config.environment()
        settings = _needed(given.command, environ)
    except config.ConfigError as error:
        for fault in error.faults:
            print("error: " + fault, file=sys.stderr)
        return error.exit_code
    given.environ = environ
    return int(COMMANDS[given.command](settings, given))


def _needed(command: str, environ: Mapping[str, str]) -> config.Config:
    """Return what a command must know of the settings. Raises `ConfigError` for what is wrong with that."""
    if command in ("run", "check-config"):
        return _served(environ)
    if command == "keys":
        return config.Config(())
    return config.whereabouts(environ, endpoints.CLIENT_KEYS if command in ("status", "top") else ())


def _served(environ: Mapping[str, str]) -> config.Config:
    """Return the settings and the devices that there are. Raises `ConfigError` that names the faults of both."""
    try:
        return devices.check(config.from_env(environ, endpoints.SUPERVISOR_KEYS), environ)
    except config.ConfigError as error:
        if error.known is None:
            raise
        wrong, known = error, error.known
    try:
        devices.check(known, environ)
    except config.ConfigError as lacking:
        raise config.ConfigError(wrong.faults + lacking.faults, wrong.exit_code) from None
    raise wrong


def run(settings: config.Config, given: argparse.Namespace) -> int:
    """Own the model processes until told to stop (SIGTERM or Ctrl-C; a second one stops at once)."""
    from ipu_supervisor.loop import Supervisor

    log.configure(settings.log_level, settings.log_format)
    try:
        Supervisor(settings, given.environ).run()
    except AlreadyRunning as error:
        print("error: {}".format(error), file=sys.stderr)
        return EXIT_RUNNING
    except CannotListen as error:
        print("error: {}".format(error), file=sys.stderr)
        return config.EXIT_CONFIG
    return 0


def check_config(settings: config.Config, given: argparse.Namespace) -> int:
    """Say what would be served; nothing is started."""
    for model in settings.models:
        print(
            "{}: POST {}, {} on {}, {} replica(s)".format(
                model.name, model.route, model.checkpoint or "no checkpoint", model.device, model.replicas
            )
        )
    print("{} model(s), listening on {}".format(len(settings.models), settings.endpoint))
    return 0


def keys(settings: config.Config, given: argparse.Namespace) -> int:
    """Make CURVE keys for `tcp://`: the supervisor's, and one client's."""
    folder = pathlib.Path(given.folder)
    there = sorted(path.name for path in folder.glob("*.key_secret"))
    if there:
        print("error: {} holds {}; name another folder".format(folder, " and ".join(there)), file=sys.stderr)
        return EXIT_REFUSED
    (folder / "clients").mkdir(mode=0o700, parents=True, exist_ok=True)
    os.umask(0o077)
    zmq.auth.create_certificates(str(folder), "supervisor")
    zmq.auth.create_certificates(str(folder), "service")
    (folder / "service.key").replace(folder / "clients" / "service.key")
    print("keys are in {}; give the web side supervisor.key and service.key_secret only".format(folder))
    return 0


def show_status(settings: config.Config, given: argparse.Namespace) -> int:
    """Print the state of every model and replica once."""
    try:
        status = _client(settings).status(Deadline.after(ANSWER_LIMIT_S))
    except RequestError as error:
        print("error: {}".format(error), file=sys.stderr)
        return EXIT_UNREACHABLE
    print(msgspec.json.encode(status).decode() if given.json else render(status))
    return 0


def top(settings: config.Config, given: argparse.Namespace) -> int:
    """Print the state again and again until Ctrl-C."""
    client = _client(settings)
    try:
        while True:
            try:
                text = render(client.status(Deadline.after(ANSWER_LIMIT_S)))
            except RequestError as error:
                text = "error: {}".format(error)
            print("\x1b[2J\x1b[H" + text, flush=True)
            time.sleep(given.every)
    except KeyboardInterrupt:
        return 0


def command(settings: config.Config, given: argparse.Namespace) -> int:
    """Send one of the operator's verbs and print the answer."""
    wanted = messages.OperatorCommand(given.command, given.model or "", getattr(given, "replicas", 0))
    socket: zmq.Socket[bytes] = zmq.Context.instance().socket(zmq.REQ)
    socket.setsockopt(zmq.LINGER, 0)
    socket.connect(operator_endpoint(settings.run_dir))
    socket.send(messages.encode(wanted))
    if not socket.poll(int(ANSWER_LIMIT_S * 1000)):
        print("error: no supervisor answers in {}".format(settings.run_dir), file=sys.stderr)
        return EXIT_UNREACHABLE
    try:
        decode: messages.Decoder[messages.OperatorAnswer] = messages.Decoder(messages.OperatorAnswer)
        answer = decode(socket.recv())
    except ProtocolError as error:
        print("error: {}".format(error), file=sys.stderr)
        return EXIT_REFUSED
    print(answer.message)
    return 0 if answer.ok else EXIT_REFUSED


def render(status: messages.Status) -> str:
    """Return the status as lines for people."""
    lines = [
        "supervisor {} pid {} up {:.0f} s{}".format(
            status.version, status.pid, status.uptime_s, ", draining" if status.draining else ""
        )
    ]
    for model in status.models:
        lines += _model_lines(model)
    return "\n".join(lines)


def _model_lines(model: messages.ModelStatus) -> List[str]:
    """Return the lines of one model."""
    what = "{}{}".format(model.identity.checkpoint or "-", " (demo)" if model.identity.demo else "")
    counts: Dict[str, float] = model.counters
    lines = [
        "{:20} {:9} {} backlog {}/{} in flight {} computed {:.0f} restarts {:.0f}".format(
            model.model,
            "ready" if model.ready else "NOT READY",
            what,
            model.backlog,
            model.max_backlog,
            model.in_flight,
            counts.get("computed", 0),
            counts.get("restarts", 0),
        )
    ]
    lines += ["    " + text for text in (model.reason, *model.last_stderr[-5:]) if text]
    for replica in model.replicas:
        died = "  last: " + replica.last_exit if replica.last_exit else ""
        lines.append(
            "    {:24} {:18} {:8.1f} s  pid {}{}".format(
                replica.replica, replica.state, replica.since_s, replica.pid, died
            )
        )
        lines += ["        " + text for text in (replica.reason, replica.advice) if text]
    return lines


def _client(settings: config.Config) -> SupervisorClient:
    """Return a client of the configured supervisor."""
    return SupervisorClient(settings.endpoint, settings.curve_keys)


COMMANDS = {
    "run": run,
    "check-config": check_config,
    "keys": keys,
    "status": show_status,
    "top": top,
    "drain": command,
    "reload": command,
    "scale": command,
}


def _parser() -> argparse.ArgumentParser:
    """Return the parser; each command's help is its function's first line."""
    parser = argparse.ArgumentParser(prog="python -m ipu_supervisor", description="The supervisor of model processes.")
    commands = parser.add_subparsers(dest="command", required=True)
    helps = {name: (function.__doc__ or "").splitlines()[0] for name, function in COMMANDS.items()}
    helps.update(
        drain="Take no new requests, answer what was accepted.",
        reload="Replace replicas one by one without losing a request; ends a drain.",
        scale="Change a model's number of replicas.",
    )
    made = {name: commands.add_parser(name, help=text, description=text) for name, text in helps.items()}
    made["keys"].add_argument("folder")
    made["status"].add_argument("--json", action="store_true", help="the same, and more, for programs")
    made["top"].add_argument("--every", type=float, default=1.0, help="seconds between two pictures")
    for name in ("drain", "reload"):
        made[name].add_argument("model", nargs="?", default="", help="default: every model")
    made["scale"].add_argument("model")
    made["scale"].add_argument("replicas", type=int)
    return parser
