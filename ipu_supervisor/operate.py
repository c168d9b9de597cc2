"""The operator's verbs: drain, reload, scale. They come on a socket that only the supervisor's user may open."""

from typing import TYPE_CHECKING, List

import zmq

from ipu_supervisor import log
from ipu_supervisor.models import catalog
from ipu_supervisor.protocol import messages
from ipu_supervisor.protocol.errors import ProtocolError
from ipu_supervisor.protocol.messages import OperatorAnswer, OperatorCommand

if TYPE_CHECKING:
    from ipu_supervisor.loop import Supervisor

#: Most replicas that `scale` takes, as in `SERVER_MODELS`.
MOST_REPLICAS = 64

_decode: messages.Decoder[OperatorCommand] = messages.Decoder(OperatorCommand)


def answer_commands(supervisor: "Supervisor", now: float) -> None:
    """Obey the commands that have arrived."""
    while True:
        try:
            *envelope, frame = supervisor.sockets.operator.recv_multipart(zmq.NOBLOCK)
        except zmq.Again:
            return
        answer = _obey(supervisor, frame, now)
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
    """Replace replicas one after the other; model files are read again."""
    if supervisor.draining:
        return OperatorAnswer(False, "the supervisor stops; nothing is started any more")
    for name in _named(supervisor, model):
        config = supervisor.configs[name]
        try:
            file = catalog.find(name, supervisor.config.models_path)
        except catalog.ModelFileError as error:
            return OperatorAnswer(False, str(error))
        supervisor.configs[name] = config.with_file(file)
        supervisor.perform(supervisor.pools[name].reload(now), now)
    return OperatorAnswer(True, "reloading {}".format(model or "every model"))


def scale(supervisor: "Supervisor", command: OperatorCommand, now: float) -> OperatorAnswer:
    """Change the number of replicas of one model."""
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
