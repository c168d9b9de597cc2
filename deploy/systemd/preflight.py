"""Tries a release before it serves: run in its folder by the web half's Python, as the web half's user.

Builds the web app, which finds every wrong setting and every module that cannot be imported, and prints what a
deployment must know. Starts nothing.
"""

import json
import sys

from ipu_supervisor import config
from service.settings import Settings, WebEnvironmentSchema

#: How long a deployment waits for its models where nothing is set, seconds.
DEFAULT_WAIT_S = 1800.0


def main() -> int:
    """Print the facts as JSON; wrong settings end with their exit code and all their names."""
    environ = config.environment()
    try:
        settings = Settings.from_env(environ)
    except config.ConfigError as error:
        print(f"the settings are wrong:\n{error}", file=sys.stderr)
        return error.exit_code
    import service.wsgi  # noqa: F401  # builds the app

    facts = {
        "address": settings.address(),
        "wait_s": float(environ.get("SERVER_WAIT_TIMEOUT") or DEFAULT_WAIT_S),
        "demo": settings.config.checkpoints in ("demo", "auto"),
        "model_files": [model.file.sha256 for model in settings.config.models],
        "web_only": [*WebEnvironmentSchema().fields, "SERVER_WAIT_TIMEOUT", "COMPOSE_PROJECT_NAME"],
    }
    print(json.dumps(facts))
    return 0


if __name__ == "__main__":
    sys.exit(main())
