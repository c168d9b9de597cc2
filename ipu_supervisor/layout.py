"""What an entry of `SERVER_MODELS` may say under `ipu`, and the rules it must keep. Torch-free: both halves read it.

The rules are those of optimum-graphcore 0.7.1 and PopTorch 3.3; docs/ipu.md gives each one's source. What needs the
checkpoint's configuration (how many layers it has) is checked by `checkpoint_faults`, as soon as that file is at hand.
"""

import json
import math
import pathlib
from typing import Any, Dict, List, Mapping, NamedTuple, Optional

from marshmallow import Schema, ValidationError, fields, validate

#: Most IPUs that one process may use (PopTorch).
MOST_IPUS = 64
#: Kinds of IPU that optimum-graphcore takes, by the number that PopTorch gives them.
HARDWARE = {2: "Mk2 or Bow", 21: "C600"}
#: Tasks whose encoder and decoder are programs of their own, each on IPUs of its own.
GENERATION = frozenset({"summarization"})
#: Share of an IPU's memory for matrix multiplications: Graphcore's own notebook for bart-large-cnn, and
#: optimum-graphcore's default for everything else.
MATMUL_PROPORTION = {"summarization": 0.15}
DEFAULT_MATMUL_PROPORTION = 0.2
#: Architectures (`model_type`) that optimum-graphcore 0.7.1 lays out for each task. Not mt5: its `parallelize` takes
#: none of the arguments that `generate` needs.
ARCHITECTURES = {
    "question-answering": ("bert", "deberta", "distilbert", "roberta"),
    "summarization": ("bart", "t5"),
    "sentence-embedding": ("bert", "mpnet"),
}
#: Architectures whose embedding optimum-graphcore cuts for no task that is served.
UNCUT = frozenset({"mpnet"})


def _power_of_two(value: int) -> None:
    """Refuse a number that is no power of two."""
    if value < 1 or value & (value - 1):
        higher = 1 << value.bit_length() if value > 0 else 1
        text = "Must be a power of two (IPUs are acquired in such groups): {} would hold {}, so set that, or less."
        raise ValidationError(text.format(higher, value))


def _proportions(value: Any) -> None:
    """Refuse what is neither a share of memory nor a list of them."""
    values = value if isinstance(value, list) and value else [value]
    if not all(isinstance(one, (int, float)) and not isinstance(one, bool) and 0 < one <= 1 for one in values):
        raise ValidationError("Must be a number over 0 and at most 1, or a list with one for each IPU.")


class ParallelizeSchema(Schema):
    """What `inference_parallelize_kwargs` may hold.

    Not `on_device_generation_steps`: in 0.7.1 its summaries end earlier.
    """

    batch_size = fields.Integer(strict=True)
    max_length = fields.Integer(strict=True)
    num_beams = fields.Integer(strict=True)
    use_cache = fields.Boolean()
    use_encoder_output_buffer = fields.Boolean()


class IpuSchema(Schema):
    """How a model lies on IPUs; the names are those of optimum-graphcore's `IPUConfig`, unless said otherwise."""

    ipus = fields.Integer(
        load_default=None,
        allow_none=True,
        strict=True,
        validate=[validate.Range(1, MOST_IPUS), _power_of_two],
        metadata={"description": "IPUs of one copy of the model; default: 1, or 2 for summarization."},
    )
    layers_per_ipu = fields.List(
        fields.Integer(strict=True, validate=validate.Range(min=-1)),
        load_default=None,
        allow_none=True,
        validate=validate.Length(min=1),
        metadata={
            "description": "Layers on each IPU; -1: an even share of what is left. "
            "Summarization: the encoder's IPUs come first."
        },
    )
    matmul_proportion = fields.Raw(
        load_default=None,
        allow_none=True,
        validate=_proportions,
        metadata={
            "description": "Share of memory for matrix multiplications, one or one per IPU; "
            "default 0.2, or 0.15 for summarization."
        },
    )
    batch_size = fields.Integer(
        load_default=1,
        strict=True,
        validate=validate.Range(1, 1024),
        metadata={"description": "Rows that the program is compiled for; fewer are filled up, more take more calls."},
    )
    replication = fields.Integer(
        load_default=1,
        strict=True,
        validate=[validate.Range(1, MOST_IPUS), _power_of_two],
        metadata={"description": "Copies of the model in one process, each with its own IPUs and its own batch."},
    )
    enable_half_partials = fields.Boolean(
        load_default=True, metadata={"description": "Sum up in half precision; never with dtype float32."}
    )
    embedding_serialization_factor = fields.Integer(
        load_default=1,
        strict=True,
        validate=validate.Range(min=1),
        metadata={"description": "Equal parts that the embedding is cut into (summarization: the last layer)."},
    )
    inference_parallelize_kwargs = fields.Nested(
        ParallelizeSchema,
        load_default=dict,
        metadata={"description": "What else a sequence model takes: {}.".format(", ".join(ParallelizeSchema().fields))},
    )


def complete(ipu: Mapping[str, Any], task: str) -> Dict[str, Any]:
    """Return the settings with the defaults of the task filled in."""
    layers = ipu["layers_per_ipu"]
    default = len(layers) if layers else (2 if task in GENERATION else 1)
    proportion = MATMUL_PROPORTION.get(task, DEFAULT_MATMUL_PROPORTION)
    return {
        **ipu,
        "ipus": ipu["ipus"] or default,
        "matmul_proportion": proportion if ipu["matmul_proportion"] is None else ipu["matmul_proportion"],
    }


def compiled_batch(ipu: Mapping[str, Any]) -> int:
    """Return the rows of one call of the compiled program."""
    return int(ipu["batch_size"]) * int(ipu["replication"])


def need(ipu: Mapping[str, Any]) -> int:
    """Return the IPUs that one replica holds."""
    return int(ipu["ipus"]) * int(ipu["replication"])


def faults(ipu: Mapping[str, Any], task: str, entry: Mapping[str, Any], shapes: Mapping[str, int]) -> List[str]:
    """Return what is wrong with complete settings, as far as it can be told without the checkpoint.

    `entry`: the model's entry of `SERVER_MODELS`; `shapes`: what the model file's options say about lengths and beams.
    """
    found = [*_placement_faults(ipu, task), *_entry_faults(ipu, entry)]
    if task and not shapes:
        found.append(
            "device: ipu programs are compiled for fixed lengths, and this model file has no `shapes(options)`"
        )
    if task and task not in GENERATION and ipu["inference_parallelize_kwargs"]:
        found.append("ipu.inference_parallelize_kwargs: only for a model that generates; leave it out")
    return [*found, *_generation_faults(ipu, shapes)] if task in GENERATION else found


def _placement_faults(ipu: Mapping[str, Any], task: str) -> List[str]:
    """Return what is wrong with the numbers of IPUs."""
    ipus, found = ipu["ipus"], []
    if ipus & (ipus - 1):
        found.append("ipu.layers_per_ipu: names {} IPUs; the number of IPUs must be a power of two".format(ipus))
    if task in GENERATION and ipus < 2:
        found.append("ipu.ipus: 1, but encoder and decoder each need IPUs of their own; set 2 or more")
    if task in GENERATION and ipu["replication"] > 1:
        found.append("ipu.replication: not for a model that generates; set the entry's `replicas` instead")
    if need(ipu) > MOST_IPUS:
        found.append("ipu: ipus x replication is {}; one process may use at most {}".format(need(ipu), MOST_IPUS))
    for name in ("layers_per_ipu", "matmul_proportion"):
        if isinstance(ipu[name], list) and len(ipu[name]) != ipus:
            found.append("ipu.{}: has {} numbers for {} IPUs; give one for each".format(name, len(ipu[name]), ipus))
    return found


def _entry_faults(ipu: Mapping[str, Any], entry: Mapping[str, Any]) -> List[str]:
    """Return what other settings of the entry do not fit a compiled program."""
    found, batch = [], compiled_batch(ipu)
    if entry["dtype"] == "bfloat16":
        found.append("dtype: an IPU has no bfloat16; use auto (float16) or float32")
    if entry["max_batch_size"] not in (None, batch):
        text = "max_batch_size: {}, but the program is compiled for ipu.batch_size x ipu.replication = {}; leave it out"
        found.append(text.format(entry["max_batch_size"], batch))
    if entry["max_batch_tokens"] is not None:
        found.append("max_batch_tokens: a compiled program's size is fixed; set ipu.batch_size instead")
    return found


def _generation_faults(ipu: Mapping[str, Any], shapes: Mapping[str, int]) -> List[str]:
    """Return where the layout of a sequence model contradicts the model file's options, which decide."""
    given = ipu["inference_parallelize_kwargs"]
    wanted = {
        "num_beams": (shapes.get("num_beams"), "options.num_beams"),
        "max_length": (shapes.get("max_new_tokens", 0) + 1, "options.max_new_tokens + 1 (the start token)"),
        "batch_size": (ipu["batch_size"], "ipu.batch_size"),
    }
    text = (
        "ipu.inference_parallelize_kwargs.{}: {}, but the program is compiled for {} = {}; leave it out, or change that"
    )
    return [
        text.format(name, given[name], place, value)
        for name, (value, place) in wanted.items()
        if name in given and given[name] != value
    ]


class Layers(NamedTuple):
    """How many layers a checkpoint has; `decoder` is 0 for an encoder."""

    encoder: int
    decoder: int = 0


def layers(config: Mapping[str, Any], task: str) -> Layers:
    """Return the layers that a checkpoint's `config.json` tells. Raises `KeyError` where it does not."""
    kind = config["model_type"]
    if task not in GENERATION:
        return Layers(int(config["n_layers" if kind == "distilbert" else "num_hidden_layers"]))
    if kind == "bart":
        return Layers(int(config["encoder_layers"]), int(config["decoder_layers"]))
    return Layers(int(config["num_layers"]), int(config.get("num_decoder_layers") or config["num_layers"]))


def plan(ipu: Mapping[str, Any], found: Layers) -> List[int]:
    """Return the layers on each IPU: as set, or spread evenly, the encoder's IPUs before the decoder's."""
    if ipu["layers_per_ipu"] is not None and -1 not in ipu["layers_per_ipu"]:
        return list(ipu["layers_per_ipu"])
    if not found.decoder:
        return _spread(ipu["layers_per_ipu"] or [-1] * ipu["ipus"], found.encoder)
    half = ipu["ipus"] // 2
    given = ipu["layers_per_ipu"] or [-1] * ipu["ipus"]
    return _spread(given[:half], found.encoder) + _spread(given[half:], found.decoder)


def _spread(given: List[int], total: int) -> List[int]:
    """Return a layout in which every -1 got an even share of what is left; the last ones get what is over."""
    free = [place for place, number in enumerate(given) if number == -1]
    left = total - sum(number for number in given if number != -1)
    result = list(given)
    for count, place in enumerate(free):
        result[place] = left // len(free) + (count >= len(free) - left % len(free))
    return result


def checkpoint_faults(
    ipu: Mapping[str, Any], shapes: Mapping[str, int], config: Mapping[str, Any], task: str
) -> List[str]:
    """Return what is wrong with complete settings for the checkpoint that has this `config.json`.

    Raises `KeyError` where the file leaves a number of layers at its default.
    """
    kind = config.get("model_type", "")
    if kind not in ARCHITECTURES.get(task, ()):
        text = "device: optimum-graphcore lays out no {!r} for {}; it has: {}"
        return [text.format(kind, task, ", ".join(ARCHITECTURES.get(task, ())) or "nothing")]
    found = layer_faults(ipu, config, task) + _embedding_faults(ipu["embedding_serialization_factor"], config)
    return found + (_position_faults(shapes, config) if kind == "bart" else [])


def _embedding_faults(parts: int, config: Mapping[str, Any]) -> List[str]:
    """Return what is wrong with the number of parts of the embedding, which must be equal."""
    if parts > 1 and config["model_type"] in UNCUT:
        text = "ipu.embedding_serialization_factor: optimum-graphcore does not cut the embedding of {!r}; leave it out"
        return [text.format(config["model_type"])]
    words = config.get("vocab_size", 0)
    if words % parts == 0:
        return []
    fewer = next(number for number in range(parts, 0, -1) if words % number == 0)
    text = "ipu.embedding_serialization_factor: {} does not divide the vocabulary of {}; set {}"
    return [text.format(parts, words, fewer)]


def _position_faults(shapes: Mapping[str, int], config: Mapping[str, Any]) -> List[str]:
    """Return what is wrong with the length of a summary, where the decoder has learned so many positions."""
    positions = config.get("max_position_embeddings", math.inf)
    if shapes["max_new_tokens"] <= positions:
        return []
    text = "options.max_new_tokens: {}, but the checkpoint's decoder has {} positions; lower it"
    return [text.format(shapes["max_new_tokens"], positions)]


def layer_faults(ipu: Mapping[str, Any], config: Mapping[str, Any], task: str) -> List[str]:
    """Return what is wrong with the number of layers on each IPU."""
    found = layers(config, task)
    planned, total = plan(ipu, found), found.encoder + found.decoder
    if min(planned) < 0:
        text = "ipu.layers_per_ipu: {} leaves less than 0 of the checkpoint's {} layers for -1; lower the other numbers"
        return [text.format(ipu["layers_per_ipu"], _counted(found))]
    if sum(planned) != total:
        text = "ipu.layers_per_ipu: {} adds up to {}, but the checkpoint has {} layers; make them add up"
        return [text.format(ipu["layers_per_ipu"], sum(planned), _counted(found))]
    if found.decoder and not _parts(planned, found.encoder):
        text = (
            "ipu.layers_per_ipu: {} does not part the encoder's {} layers from the decoder's {}; each needs IPUs of "
            "its own, a power of two of them, the encoder's first"
        )
        return [text.format(planned, found.encoder, found.decoder)]
    return []


def _parts(planned: List[int], encoder: int) -> bool:
    """Say whether some power of two of the first IPUs holds the encoder, and a power of two of them is left."""
    return any(
        sum(planned[:count]) == encoder and not count & (count - 1) and not rest & (rest - 1)
        for count, rest in ((count, len(planned) - count) for count in range(1, len(planned)))
    )


def _counted(found: Layers) -> str:
    """Return the number of layers in words."""
    return "{} + {}".format(found.encoder, found.decoder) if found.decoder else str(found.encoder)


def configuration(folder: pathlib.Path) -> Optional[Dict[str, Any]]:
    """Return a checkpoint folder's `config.json`, or None where it cannot be read."""
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return config if isinstance(config, dict) else None
