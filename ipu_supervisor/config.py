"""Every setting that both halves read: one parser, torch-free, all faults named at once.

Reads an environment that is handed in, never at import. What only the web side reads is in `service/settings.py`.
"""

import dataclasses
import json
import os
import pathlib
import re
from dataclasses import dataclass, field
from typing import Any, Collection, Dict, List, Mapping, Optional, Sequence, Tuple, Union

import dotenv
from dotenv.parser import parse_stream
from marshmallow import Schema, ValidationError, fields

from ipu_supervisor import endpoints, layout
from ipu_supervisor.models import catalog
from ipu_supervisor.models.base import BasePipeline
from ipu_supervisor.schemas import DEFAULT_ENDPOINT, EntrySchema, EnvironmentSchema

#: Exit codes by kind of fault (the numbers of sysexits.h): bad settings, a bad model file, too few devices.
EXIT_CONFIG, EXIT_MODEL_FILE, EXIT_DEVICES = 78, 65, 69
#: What says where the supervisor is.
WHEREABOUTS = ("SUPERVISOR_ENDPOINT", "SUPERVISOR_RUN_DIR", "SUPERVISOR_CURVE_KEYS")
#: A model's route: one or more parts of `/` and a name.
ROUTE = re.compile(r"(/\w[\w.~-]*)+\Z")
#: With what the web side's own paths begin.
OWN_PATHS = frozenset(
    "docs favicon.ico health healthz livez metrics models openapi.json ping playground readyz static".split()
)


class ConfigError(ValueError):
    """Settings that stop the start; `faults` names all of them, `exit_code` tells their kind.

    `known`: the settings without what is wrong with them, if that is enough to look for devices.
    """

    def __init__(self, faults: List[str], exit_code: int = EXIT_CONFIG, known: Optional["Config"] = None) -> None:
        """Store every fault, one sentence each."""
        super().__init__("\n".join(faults))
        self.faults = faults
        self.exit_code = exit_code
        self.known = known


@dataclass(frozen=True)
class ModelConfig:
    """One entry of `SERVER_MODELS`, complete and valid."""

    name: str
    file: catalog.ModelFile
    route: str
    task: str
    deterministic: bool
    checkpoint: str
    revision: str
    replicas: int = 1
    device: str = "auto"
    dtype: str = "auto"
    max_batch_size: Optional[int] = None
    max_batch_tokens: Optional[int] = None
    max_client_batch_size: int = 32
    max_backlog: int = 256
    batch_limit_s: float = 30.0
    load_limit_s: float = 1800.0
    ipu: Dict[str, Any] = field(default_factory=dict)
    options: Dict[str, Any] = field(default_factory=dict)
    #: Lengths and beams that a compiled engine is built for, from the model file and its options.
    shapes: Dict[str, int] = field(default_factory=dict)
    #: The entry as it was given.
    entry: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Config:
    """What both halves agree on."""

    models: Tuple[ModelConfig, ...]
    endpoint: str = DEFAULT_ENDPOINT
    run_dir: pathlib.Path = pathlib.Path(".run")
    curve_keys: Optional[pathlib.Path] = None
    checkpoints: str = "hub"
    models_path: Tuple[pathlib.Path, ...] = ()
    #: None: as many as there are.
    ipus: Optional[int] = None
    executables: pathlib.Path = pathlib.Path("executables")
    log_level: str = "INFO"
    log_format: str = "json"


def environment(dotenv_path: str = ".env") -> Dict[str, str]:
    """Return the process's environment over the defaults of `.env` (the one loader of that file).

    An empty value is none. Raises `ConfigError` for a file that cannot be read as it was meant.
    """
    try:
        with open(dotenv_path, encoding="utf-8") as lines:
            faults = [
                "{}: what begins in line {} is no NAME=value: is a quote missing?".format(
                    dotenv_path, line.original.line
                )
                for line in parse_stream(lines)
                if line.error
            ]
    except FileNotFoundError:
        faults = []
    except (OSError, ValueError) as error:
        faults = ["{}: cannot be read as UTF-8 text: {}".format(dotenv_path, error)]
    if faults:
        raise ConfigError(faults)
    defaults = {name: value for name, value in dotenv.dotenv_values(dotenv_path).items() if value is not None}
    return {**os.environ, **{name: value for name, value in defaults.items() if not os.environ.get(name)}}


def whereabouts(environ: Mapping[str, str], keys: Sequence[str] = endpoints.CLIENT_KEYS) -> Config:
    """Return only where the supervisor is, whatever else has come to be wrong. Raises `ConfigError`."""
    return from_env({"SERVER_MODELS": "[]", **{name: environ[name] for name in WHEREABOUTS if name in environ}}, keys)


def from_env(environ: Mapping[str, str], keys: Sequence[str] = endpoints.CLIENT_KEYS) -> Config:
    """Return the settings in `environ`; `keys`: which CURVE keys are needed, where any are.

    Raises `ConfigError` that names every fault at once.
    """
    faults: List[str] = []
    values = checked(EnvironmentSchema(), {name: value for name, value in environ.items() if value != ""}, faults)
    models_path = tuple(pathlib.Path(part) for part in values["MODELS_PATH"].split(":") if part)
    faults += ["MODELS_PATH: no such folder: {}".format(path) for path in models_path if not path.is_dir()]
    run_dir, socket_faults = endpoints.run_dir(values, keys == endpoints.SUPERVISOR_KEYS)
    bad_settings = faults + socket_faults + endpoints.key_faults(values, keys)
    models, bad_files = _models(values["SERVER_MODELS"], models_path, bad_settings)
    settings = Config(
        models=tuple(models),
        endpoint=values["SUPERVISOR_ENDPOINT"],
        run_dir=run_dir,
        curve_keys=pathlib.Path(values["SUPERVISOR_CURVE_KEYS"]) if values["SUPERVISOR_CURVE_KEYS"] else None,
        checkpoints=values["CHECKPOINTS"],
        models_path=models_path,
        ipus=values["SUPERVISOR_IPUS"],
        executables=pathlib.Path(os.path.expanduser(values["POPTORCH_CACHE_DIR"])).absolute(),
        log_level=values["LOG_LEVEL"],
        log_format=values["LOG_FORMAT"],
    )
    if bad_settings or bad_files:
        known = None if any(fault.startswith("SUPERVISOR_IPUS") for fault in faults) else settings
        raise ConfigError(bad_settings + bad_files, EXIT_CONFIG if bad_settings else EXIT_MODEL_FILE, known)
    return settings


def reread(config: Config, names: Collection[str]) -> Config:
    """Return the settings with the entries of the models `names` made anew, from their files as they are now.

    Raises `ConfigError` that names every fault.
    """
    bad_settings: List[str] = []
    entries = [model.entry if model.name in names else model for model in config.models]
    models, bad_files = _entries(entries, config.models_path, bad_settings)
    if bad_settings or bad_files:
        raise ConfigError(bad_settings + bad_files)
    return dataclasses.replace(config, models=tuple(models))


def checked(schema: Schema, values: Mapping[str, Any], faults: List[str], prefix: str = "") -> Dict[str, Any]:
    """Return what `schema` makes of `values`; bad ones are added to `faults` and replaced by their defaults."""
    required = tuple(name for name, field in schema.fields.items() if field.required)
    partial: Tuple[str, ...] = ()
    # Twice: what is wrong with several values together is only found where each of them is right.
    for _ in range(2):
        try:
            return dict(schema.load(values, partial=partial))
        except ValidationError as error:
            messages = error.normalized_messages()
        told = [_fault(prefix, name, message) for name, message in messages.items()]
        faults += [fault for fault in told if fault not in faults]
        values, partial = _without(schema, values, messages), required
    return dict(schema.load({}, partial=required))


def _without(schema: Schema, values: Mapping[str, Any], messages: Mapping[str, Any]) -> Dict[str, Any]:
    """Return the values that no message is about."""
    good = {name: value for name, value in values.items() if name not in messages}
    for name, message in messages.items():
        if isinstance(schema.fields.get(name), fields.Nested) and isinstance(values[name], dict):
            good[name] = {inner: value for inner, value in values[name].items() if inner not in message}
    return good


def _fault(prefix: str, name: str, message: Any) -> str:
    """Return one line for what is wrong with a value, or with several of them together."""
    return "{}: {}".format((prefix + name if name != "_schema" else prefix.rstrip(".")) or "settings", _flat(message))


def _flat(message: Any) -> str:
    """Return one line for the nested messages of a schema."""
    if isinstance(message, dict):
        return "; ".join("{}: {}".format(name, _flat(inner)) for name, inner in message.items())
    return " ".join(str(part) for part in message) if isinstance(message, list) else str(message)


def _models(
    text: str, folders: Tuple[pathlib.Path, ...], bad_settings: List[str]
) -> Tuple[List[ModelConfig], List[str]]:
    """Return the sound models of `SERVER_MODELS` and the faults in files; other faults are added to `bad_settings`."""
    try:
        entries = json.loads(text)
    except (ValueError, RecursionError) as error:
        bad_settings.append("SERVER_MODELS: not JSON: {}".format(error))
        return [], []
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        bad_settings.append("SERVER_MODELS: must be a JSON list of objects")
        return [], []
    return _entries(entries, folders, bad_settings)


def _entries(
    entries: Sequence[Union[Mapping[str, Any], ModelConfig]],
    folders: Tuple[pathlib.Path, ...],
    bad_settings: List[str],
) -> Tuple[List[ModelConfig], List[str]]:
    """Return the sound models of some entries (one that is complete stays) and faults in files, as `_models`."""
    bad_files: List[str] = []
    models: List[ModelConfig] = []
    sound: List[ModelConfig] = []
    for number, entry in enumerate(entries):
        before = len(bad_settings)
        prefix = "SERVER_MODELS[{}].".format(number)
        found = [entry] if isinstance(entry, ModelConfig) else _model(prefix, entry, folders, bad_settings, bad_files)
        models += found
        sound += found if len(bad_settings) == before else []
    bad_settings += ["SERVER_MODELS: " + fault for fault in [*_doubled(models), *_bad_routes(models)]]
    return sound, bad_files


def _model(
    prefix: str,
    entry: Mapping[str, Any],
    folders: Tuple[pathlib.Path, ...],
    bad_settings: List[str],
    bad_files: List[str],
) -> List[ModelConfig]:
    """Return the one model of an entry, or none."""
    values = checked(EntrySchema(), entry, bad_settings, prefix)
    if "model" not in values:
        return []
    try:
        file = catalog.find(values.pop("model"), folders)
        pipeline = file.load() if file.shape is catalog.Shape.PIPELINE else BasePipeline
    except catalog.ModelFileError as error:
        bad_files.append("{}model: {}".format(prefix, error))
        return []
    try:
        if pipeline is not BasePipeline:
            values["options"] = checked(pipeline.Options(), values["options"], bad_settings, prefix + "options.")
        values["shapes"] = dict(pipeline.shapes(values["options"]))
    except (Exception, SystemExit) as error:  # noqa: BLE001  # its code may do anything
        text = "{}model: {}: its Options or shapes(): {}: {}"
        bad_files.append(text.format(prefix, file.path, type(error).__name__, error))
        return []
    if "max_client_batch_size" not in entry:
        values["max_client_batch_size"] = min(values["max_client_batch_size"], values["max_backlog"])
    if values["max_client_batch_size"] > values["max_backlog"]:
        bad_settings.append(prefix + "max_client_batch_size: more than max_backlog, so such a batch could never enter")
    model = _complete(file, pipeline, {**values, "entry": entry})
    bad_settings += [prefix + fault for fault in [*_unread(model, values, entry), *_device_faults(model, entry)]]
    return [model]


def _unread(model: ModelConfig, values: Mapping[str, Any], entry: Mapping[str, Any]) -> List[str]:
    """Return which settings of an entry nothing would read: a model file without a task has no engine."""
    if model.task:
        return []
    names = [name for name in ("checkpoint", "revision", "dtype") if values[name] not in ("", "auto")]
    if model.file.shape is catalog.Shape.PIPELINE:
        text = "{}: a model file without a `task` has no engine that could read it; leave it out"
    else:
        text = "{}: not read by a model file of an older shape, which makes its model itself; set it there"
        names += ["options"] if values["options"] else []
        # How many IPUs it takes is for its lease.
        given = entry.get("ipu")
        names += ["ipu." + name for name in model.ipu if isinstance(given, dict) and name in given and name != "ipus"]
    return [text.format(name) for name in names]


def _device_faults(model: ModelConfig, entry: Mapping[str, Any]) -> List[str]:
    """Return what in an entry does not fit its device."""
    if model.device != "ipu":
        return ["ipu: only read with device ipu; set that, or leave this out"] if entry.get("ipu") else []
    if not model.task and model.file.shape is catalog.Shape.PIPELINE:
        return ["device: this model file needs no engine, so it computes on no device; leave device out"]
    values = {name: getattr(model, name) for name in ("dtype", "max_batch_size", "max_batch_tokens")}
    return layout.faults(model.ipu, model.task, values, model.shapes)


def _complete(file: catalog.ModelFile, pipeline: Any, values: Dict[str, Any]) -> ModelConfig:
    """Fill an entry up with the model file's own defaults."""
    values["checkpoint"] = values["checkpoint"] or pipeline.checkpoint
    values["revision"] = values["revision"] or pipeline.revision
    values["ipu"] = layout.complete(values["ipu"], pipeline.task)
    return ModelConfig(
        name=file.name,
        file=file,
        route=pipeline.route or "/" + file.name,
        task=pipeline.task,
        deterministic=pipeline.deterministic and pipeline is not BasePipeline,
        **values,
    )


def _doubled(models: List[ModelConfig]) -> List[str]:
    """Name each model and each route that is there twice."""
    names = [model.name for model in models]
    routes = [model.route for model in models]
    return [
        *(
            "the model {!r} is there twice; set its replicas instead".format(name)
            for name in sorted(set(names))
            if names.count(name) > 1
        ),
        *(
            "the route {!r} is taken twice".format(route)
            for route in sorted(set(routes))
            if routes.count(route) > 1 and len(set(names)) == len(names)
        ),
    ]


def _bad_routes(models: List[ModelConfig]) -> List[str]:
    """Name each route that cannot be served, with the rule that it breaks."""
    routes = {model.route for model in models}
    faults = []
    for route in sorted(routes):
        if not ROUTE.match(route):
            faults.append(
                "the route {!r} must be /NAME or /NAME/NAME…; names hold letters, digits and _.~-".format(route)
            )
        elif route.split("/")[1] in OWN_PATHS:
            faults.append("the route {!r} begins as one of the web side's own paths; choose another".format(route))
        elif route.endswith("/batch") and route[: -len("/batch")] in routes:
            faults.append("the route {!r} is where another model takes batches; choose another".format(route))
    return faults
