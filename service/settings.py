"""What only the web side reads from the environment, on top of what both halves read (`ipu_supervisor.config`).

`WebEnvironmentSchema` is the table that documents these names. Nothing is read at import.
"""

import ipaddress
from collections.abc import Mapping
from dataclasses import dataclass

from marshmallow import EXCLUDE, Schema, ValidationError, fields, validate

from ipu_supervisor import config
from ipu_supervisor.config import Config, ConfigError

#: Threads that a worker keeps beside its inference permits, so that health, documentation and refusals are answered
#: while every permit is taken (chosen: each of these answers takes about a millisecond).
SPARE_THREADS = 8


def _address(value: str) -> None:
    """Refuse what was meant as an IP address and is none; a name is for the machine to look up."""
    if ":" in value or not value.strip("0123456789."):
        try:
            ipaddress.ip_address(value)
        except ValueError:
            raise ValidationError("Not an IP address.") from None


class WebEnvironmentSchema(Schema):
    """The environment names that only the web side reads."""

    class Meta:
        """An environment holds much else."""

        unknown = EXCLUDE

    SERVER_BIND = fields.String(
        load_default="0.0.0.0", validate=_address, metadata={"description": "Address that the web side listens on."}
    )
    SERVER_PORT = fields.Integer(
        load_default=8100, validate=validate.Range(1, 65_535), metadata={"description": "Port of the web side."}
    )
    SERVER_NUM_WORKERS = fields.Integer(
        load_default=2,
        validate=validate.Range(1, 256),
        metadata={"description": "Gunicorn workers; models are not copied per worker."},
    )
    WEB_CONCURRENCY = fields.Integer(
        load_default=None,
        allow_none=True,
        validate=validate.Range(1, 256),
        metadata={"description": "Gunicorn's own name for the number of workers; wins over `SERVER_NUM_WORKERS`."},
    )
    SERVER_THREADS = fields.Integer(
        load_default=64,
        validate=validate.Range(1, 4096),
        metadata={"description": "Inference requests that one worker holds at a time; one more is answered 429."},
    )
    SERVER_REQUEST_LIMIT_S = fields.Float(
        load_default=30.0,
        validate=validate.Range(0, 86_400, min_inclusive=False),
        metadata={
            "description": "Budget of a request that sets no `X-Request-Timeout`, seconds. Told to stop, the web half "
            "waits for what it holds 5 s longer than that: what asked for more may be cut."
        },
    )
    SERVER_MAX_REQUEST_BYTES = fields.Integer(
        load_default=1024 * 1024,
        validate=validate.Range(1, 32 * 1024 * 1024),
        metadata={"description": "Largest request body, bytes; a larger one is answered 413."},
    )
    SERVER_PROXIES = fields.Integer(
        load_default=0,
        validate=validate.Range(0, 10),
        metadata={
            "description": "Entries that proxies in front add to `X-Forwarded-*`, 1 where the last overwrites them; "
            "0: none is believed."
        },
    )


@dataclass(frozen=True)
class Settings:
    """Every setting of the web side, valid."""

    config: Config
    bind: str = "0.0.0.0"
    port: int = 8100
    workers: int = 2
    threads: int = 64
    request_limit_s: float = 30.0
    max_request_bytes: int = 1024 * 1024
    proxies: int = 0

    @classmethod
    def from_env(cls, environ: Mapping[str, str] | None = None) -> "Settings":
        """Return the settings in `environ` (default: the process's, over `.env`). Raises `ConfigError`."""
        environ = config.environment() if environ is None else environ
        faults: list[str] = []
        values = config.checked(
            WebEnvironmentSchema(), {name: value for name, value in environ.items() if value}, faults
        )
        try:
            shared = config.from_env(environ)
        except ConfigError as error:
            raise ConfigError(faults + error.faults, config.EXIT_CONFIG if faults else error.exit_code) from None
        if faults:
            raise ConfigError(faults)
        return cls(
            config=shared,
            bind=values["SERVER_BIND"],
            port=values["SERVER_PORT"],
            workers=values["WEB_CONCURRENCY"] or values["SERVER_NUM_WORKERS"],
            threads=values["SERVER_THREADS"],
            request_limit_s=values["SERVER_REQUEST_LIMIT_S"],
            max_request_bytes=values["SERVER_MAX_REQUEST_BYTES"],
            proxies=values["SERVER_PROXIES"],
        )

    def address(self) -> str:
        """Return where Gunicorn binds; IPv6 in brackets."""
        return f"[{self.bind}]:{self.port}" if ":" in self.bind else f"{self.bind}:{self.port}"
