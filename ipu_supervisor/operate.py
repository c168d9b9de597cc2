"""The operator's verbs: drain, reload, scale. They come on a socket that only the supervisor's user may open."""

import dataclasses
from typing import TYPE_CHECKING, Dict, List, Tuple

import zmq

from ipu_supervisor import config, devices, log
from ipu_supervisor.core.crew import PoolSettings
from ipu_supervisor.protocol import messages
from ipu_supervisor.protocol.errors import ProtocolError
from ipu_supervisor.protocol.messages import OperatorAnswer, OperatorCommand

if TYPE_CHECKING:
    from ipu_supervisor.loop import Supervisor

#: Most replicas that `scale` takes, as in `SERVER_MODELS`.
MOST_REPLICAS = 64
STOPPING = "the supervisor stops; nothing is started any more"

_decode: messages.Decoder[OperatorCommand] = messages.Decoder(OperatorCommand)


def answer_commands(supervisor: "Supervisor", now: float) -> None:
    """Obey the commands that have arrived."""
    while True:
        try:
            *envelope, frame = supervisor.sockets.operator.recv_multipart(zmq.NOBLOCK)
        except zmq.Again:
            return
        done = _obey(supervisor, frame, now)
        # A fault may quote what is no Unicode.
        answer = OperatorAnswer(done.ok, done.message.encode("utf-8", "backslashreplace").decode())
        try:
            supervisor.sockets.operator.send_multipart([*envelope, messages.encode(answer)], zmq.NOBLOCK)
        except zmq.ZMQError:
            log.event("operator_gone", 30)


def _obey(supervisor: "Supervisor", frame: bytes, now: float) -> OperatorAnswer:
    """Do what a command says, or say what is wrong with it."""
    try:
        command = _decode(frame)
    except ProtocolError as error:
        return OperatorAnswer(False, str(error))
    if command.model and command.model not in supervisor.pools:
        return OperatorAnswer(False, "no model {!r}; there are: {}".format(command.model, ", ".join(supervisor.pools)))
    log.event("operator_command", verb=command.verb, model=command.model, replicas=command.replicas)
    if command.verb == "drain":
        return drain(supervisor, command.model, now)
    if command.verb == "reload":
        return reload(supervisor, command.model, now)
    if command.verb == "scale":
        return scale(supervisor, command, now)
    return OperatorAnswer(False, "no verb {!r}; there are: drain, reload, scale".format(command.verb))


def drain(supervisor: "Supervisor", model: str, now: float) -> OperatorAnswer:
    """Take no new requests for a model (all models without one); `reload` ends it."""
    for name in _named(supervisor, model):
        supervisor.perform(supervisor.pools[name].drain(), now)
    return OperatorAnswer(True, "draining {}".format(model or "every model"))


def reload(supervisor: "Supervisor", model: str, now: float) -> OperatorAnswer:
    """Replace replicas one after the other; model files are read again. Where one is refused, nothing changes."""
    names = _named(supervisor, model)
    try:
        supervisor.config = _reread(supervisor, names)
    except (Exception, SystemExit) as error:  # noqa: BLE001  # model files are run, and whatever they do, the others serve on
        faults = error.faults if isinstance(error, config.ConfigError) else [repr(error)]
        log.event("reload_refused", 40, exc_info=not isinstance(error, config.ConfigError), model=model, faults=faults)
        return OperatorAnswer(False, "\n".join(faults))
    for entry in _entries(supervisor.config, names):
        pool, versions = supervisor.pools[entry.name], supervisor.versions[entry.name]
        wanted = pool.reload(now, changed=entry.file.sha256 != versions.of(None).file.sha256)
        versions.add(entry, pool.crew)
        supervisor.perform(wanted, now)
    return OperatorAnswer(True, "reloading {}".format(model or "every model"))


def _reread(supervisor: "Supervisor", names: List[str]) -> config.Config:
    """Return the settings with some models' files read again. Raises `ConfigError`, also for what takes a restart."""
    if supervisor.draining:
        raise config.ConfigError([STOPPING])
    settings = config.reread(supervisor.config, names)
    models = _entries(settings, names)
    devices.check(dataclasses.replace(settings, models=tuple(models)), supervisor.environ)
    text = "{}: another task, or another word on whether it is deterministic, takes a restart of the supervisor"
    faults = [
        text.format(new.name)
        for old, new in zip(_entries(supervisor.config, names), models)
        if _fixed(old, settings) != _fixed(new, settings)
    ]
    if faults:
        raise config.ConfigError(faults)
    return settings


def _fixed(model: config.ModelConfig, settings: config.Config) -> Tuple[PoolSettings, Dict[str, int]]:
    """Return what the supervisor made of an entry when it started."""
    needs = devices.ipu_needs(dataclasses.replace(settings, models=(model,)))
    return devices.pool_settings(model, settings, None), needs


def scale(supervisor: "Supervisor", command: OperatorCommand, now: float) -> OperatorAnswer:
    """Change the number of replicas of one model."""
    if supervisor.draining:
        return OperatorAnswer(False, STOPPING)
    if not command.model or not 0 < command.replicas <= MOST_REPLICAS:
        return OperatorAnswer(False, "scale takes a model and 1 to {} replicas".format(MOST_REPLICAS))
    lacking = supervisor.leases.lacking({**supervisor.wanted(), command.model: command.replicas})
    if lacking > 0:
        text = "{} replicas need {} IPUs more than the {} there are"
        return OperatorAnswer(False, text.format(command.replicas, lacking, supervisor.leases.total))
    supervisor.perform(supervisor.pools[command.model].scale(command.replicas, now), now)
    supervisor.make_room()
    return OperatorAnswer(True, "{} will have {} replicas".format(command.model, command.replicas))


def _named(supervisor: "Supervisor", model: str) -> List[str]:
    """Return the models that a command is about."""
    return [model] if model else list(supervisor.pools)


def _entries(settings: config.Config, names: List[str]) -> List[config.ModelConfig]:
    """Return the entries of some models."""
    return [model for model in settings.models if model.name in names]
