"""Tries a release before it serves: run in its folder by the web half's Python, as the web half's user.

Builds the web app, which finds every wrong setting and every module that cannot be imported, and prints what a
deployment must know. Starts nothing.
"""

import json
import sys
from collections.abc import Mapping

from marshmallow import EXCLUDE, Schema, fields, validate

from ipu_supervisor import config
from service.settings import Settings, WebEnvironmentSchema


class DeploymentSchema(Schema):
    """What a deployment alone reads, and what it takes in fewer forms than the web half."""

    class Meta:
        """An environment holds much else."""

        unknown = EXCLUDE

    #: How long a deployment waits for its models, seconds. A day is longer than any model takes.
    SERVER_WAIT_TIMEOUT = fields.Float(load_default=1800.0, validate=validate.Range(0, 86_400, min_inclusive=False))
    #: systemd, which holds the port, looks up no names.
    SERVER_BIND = fields.IP(load_default=None)


def read(environ: Mapping[str, str]) -> tuple[Settings, float]:
    """Return the settings, and how long a deployment waits. Raises `ConfigError` that names every fault at once."""
    faults: list[str] = []
    own = config.checked(DeploymentSchema(), {name: value for name, value in environ.items() if value}, faults)
    try:
        settings = Settings.from_env(environ)
    except config.ConfigError as error:
        raise config.ConfigError(faults + error.faults, config.EXIT_CONFIG if faults else error.exit_code) from None
    if faults:
        raise config.ConfigError(faults)
    return settings, own["SERVER_WAIT_TIMEOUT"]


def main() -> int:
    """Print the facts as JSON on the last line; wrong settings end with their exit code and all their names."""
    try:
        settings, wait_s = read(config.environment())
    except config.ConfigError as error:
        print(f"the settings are wrong:\n{error}", file=sys.stderr)
        return error.exit_code
    import service.wsgi  # noqa: F401  # builds the app

    facts = {
        "address": settings.address(),
        "wait_s": wait_s,
        "demo": settings.config.checkpoints in ("demo", "auto"),
        "model_files": [model.file.sha256 for model in settings.config.models],
        "web_only": [*WebEnvironmentSchema().fields, "SERVER_WAIT_TIMEOUT", "COMPOSE_PROJECT_NAME"],
    }
    # On a line of its own, whatever a model file printed before.
    print(f"\n{json.dumps(facts)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
