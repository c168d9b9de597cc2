"""The tables of the settings that both halves read; docs/settings.md is made of them."""

from marshmallow import EXCLUDE, Schema, fields, validate

from ipu_supervisor import layout

#: What `SERVER_MODELS` is when it is not set.
DEFAULT_MODELS = '[{"model": "question_answering"}, {"model": "summarization"}, {"model": "embeddings"}]'
#: Where the supervisor listens when nothing else is said; relative to the folder it is started in.
DEFAULT_ENDPOINT = "ipc://.run/supervisor.sock"


class EntrySchema(Schema):
    """One entry of `SERVER_MODELS`."""

    model = fields.String(required=True, metadata={"description": "Name of a model file."})
    replicas = fields.Integer(
        load_default=1, strict=True, validate=validate.Range(1, 64), metadata={"description": "Model processes."}
    )
    checkpoint = fields.String(
        load_default="", metadata={"description": "Hugging Face id or folder; default: the model file's."}
    )
    revision = fields.String(load_default="", metadata={"description": "Branch, tag or commit of the checkpoint."})
    device = fields.String(
        load_default="auto",
        validate=validate.OneOf(["auto", "cpu", "cuda", "ipu"]),
        metadata={"description": "Where it computes."},
    )
    dtype = fields.String(
        load_default="auto",
        validate=validate.OneOf(["auto", "float32", "bfloat16", "float16"]),
        metadata={"description": "Precision; `auto`: what the device does natively and correctly."},
    )
    max_batch_size = fields.Integer(
        load_default=None,
        allow_none=True,
        strict=True,
        validate=validate.Range(1, 1024),
        metadata={"description": "Most requests in a batch; default: 1 on a CPU, 32 on a GPU, on an IPU its batch."},
    )
    max_batch_tokens = fields.Integer(
        load_default=None,
        allow_none=True,
        strict=True,
        validate=validate.Range(1),
        metadata={"description": "Most tokens in a batch, padding counted; default: no limit."},
    )
    max_client_batch_size = fields.Integer(
        load_default=32,
        strict=True,
        validate=validate.Range(1, 1024),
        metadata={"description": "Most inputs in one `/batch` request; not more than `max_backlog`."},
    )
    max_backlog = fields.Integer(
        load_default=256,
        strict=True,
        validate=validate.Range(1, 100_000),
        metadata={"description": "Most requests that wait; beyond it 429."},
    )
    batch_limit_s = fields.Float(
        load_default=30.0,
        validate=validate.Range(0, 86_400, min_inclusive=False),
        metadata={"description": "Longest a batch may take before its replica is replaced, seconds."},
    )
    load_limit_s = fields.Float(
        load_default=1800.0,
        validate=validate.Range(0, 86_400, min_inclusive=False),
        metadata={"description": "Longest a replica may take to load, and again to compile, seconds."},
    )
    ipu = fields.Nested(
        layout.IpuSchema,
        load_default=lambda: layout.IpuSchema().load({}),
        metadata={"description": "With device ipu: how the model lies on the IPUs, see below."},
    )
    options = fields.Dict(load_default=dict, metadata={"description": "The model file's own options."})


class EnvironmentSchema(Schema):
    """The environment names that both halves read; this table and no other documents them."""

    class Meta:
        """An environment holds much else."""

        unknown = EXCLUDE

    SERVER_MODELS = fields.String(
        load_default=DEFAULT_MODELS, metadata={"description": "JSON list of the models to serve, see below."}
    )
    SUPERVISOR_ENDPOINT = fields.String(
        load_default=DEFAULT_ENDPOINT,
        validate=validate.Regexp(r"(ipc|tcp)://.+", error="Must begin with ipc:// or tcp://."),
        metadata={"description": "Where the supervisor listens: `ipc://PATH` or `tcp://HOST:PORT`."},
    )
    SUPERVISOR_RUN_DIR = fields.String(
        load_default="",
        metadata={"description": "Folder of the supervisor's sockets and lock; default: that of the endpoint."},
    )
    SUPERVISOR_CURVE_KEYS = fields.String(
        load_default="",
        metadata={
            "description": "Folder of CURVE keys, needed for `tcp://` beyond loopback; "
            "`python -m ipu_supervisor keys FOLDER` makes them."
        },
    )
    CHECKPOINTS = fields.String(
        load_default="hub",
        validate=validate.OneOf(["hub", "demo", "auto"]),
        metadata={
            "description": "`hub`: the named checkpoints. `demo`: built-in ones. `auto`: hub, or demo if unreachable."
        },
    )
    SUPERVISOR_IPUS = fields.Integer(
        load_default=None,
        allow_none=True,
        validate=validate.Range(min=0),
        metadata={"description": "IPUs that the supervisor may use; default: as many as `gc-info` counts."},
    )
    POPTORCH_CACHE_DIR = fields.String(
        load_default="~/.cache/model-server/executables",
        metadata={"description": "Folder of compiled IPU programs; nothing is ever removed from it."},
    )
    POPTORCH_LOG_LEVEL = fields.String(
        load_default="WARN",
        validate=validate.OneOf(["TRACE_ALL", "TRACE", "DEBUG", "INFO", "WARN", "ERR", "OFF"]),
        metadata={"description": "What PopTorch logs on an IPU."},
    )
    MODELS_PATH = fields.String(
        load_default="", metadata={"description": "Extra folders of model files, separated by `:`; searched first."}
    )
    LOG_LEVEL = fields.String(
        load_default="INFO",
        validate=validate.OneOf(["DEBUG", "INFO", "WARNING", "ERROR"]),
        metadata={"description": "Least severity that is logged."},
    )
    LOG_FORMAT = fields.String(
        load_default="json",
        validate=validate.OneOf(["json", "text"]),
        metadata={"description": "`json`: one object a line. `text`: for people."},
    )
