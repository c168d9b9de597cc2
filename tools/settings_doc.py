"""Writes docs/settings.md from the schemas that read the settings (`make docs`), so that the table cannot be wrong."""

from __future__ import annotations

import json
import pathlib
from collections.abc import Iterator, Mapping
from typing import Any

from marshmallow import Schema, fields, missing, validate

from ipu_supervisor import layout, schemas
from ipu_supervisor.models import catalog
from service.settings import WebEnvironmentSchema

#: The document.
PATH = pathlib.Path("docs/settings.md")
#: Names that no schema reads: only the deployment does.
ELSEWHERE = {
    "COMPOSE_PROJECT_NAME": ("`ipu-model-server`", "Name of the containers, networks and volumes of `docker compose`."),
    "SERVER_WAIT_TIMEOUT": ("`1800`", "How long the deploy scripts wait until every model is ready, seconds."),
}
#: What the kinds of fields without choices or a range take; all others take a number.
KINDS = {
    "String": "text",
    "Dict": "object",
    "Nested": "object",
    "Boolean": "true, false",
    "List": "list of numbers",
    "Raw": "number or list",
}
#: Models that are there for tests.
NOT_DOCUMENTED = frozenset({"echo"})

HEAD = """\
# Settings

Generated from the code by `make docs`; a test holds them equal. Every setting is an environment variable. Defaults for
the usual ones stand in `.env`, which python-dotenv reads (neither make nor a shell does); the process's environment
wins over it, and an empty value is the same as none. Every bad value is named at once when the server starts, and
stops the start; so does a `.env` that cannot be read as it was meant. `python` is the Python of the installation
(`.venv/bin/python` in a checkout). `make run` starts with `CHECKPOINTS=auto` and `LOG_FORMAT=text` where they are not
set.
"""
MODELS = """
## `SERVER_MODELS`

A JSON list with one object per model; only `model` is required, and no model may be there twice:

```
SERVER_MODELS='[{"model": "question_answering", "replicas": 2}, {"model": "embeddings", "device": "cpu"}]'
```
"""
IPU = """
## `ipu`

How a model lies on IPUs, with `"device": "ipu"`. The start is refused, with the rule, where these contradict each other
or the model's `options`. [ipu.md](ipu.md) explains them.

"""
OPTIONS = """
## `options`

What each model file takes under `options`. A file of your own documents itself here in the same way.
"""


def document() -> str:
    """Return the whole of docs/settings.md."""
    parts = [HEAD, "\n## Both halves\n\n", *_table(schemas.EnvironmentSchema()), "\n## The web half\n\n"]
    parts += [
        *_table(WebEnvironmentSchema()),
        "\n## The deployment\n\n",
        "| name | default | meaning |\n| --- | --- | --- |\n",
    ]
    parts += [f"| `{name}` | {default} | {meaning} |\n" for name, (default, meaning) in ELSEWHERE.items()]
    parts += [MODELS, "\n", *_table(schemas.EntrySchema()), IPU, *_table(layout.IpuSchema()), OPTIONS]
    for name, options in _options().items():
        parts += [f"\n### `{name}`\n\n", *_table(options)]
    return "".join(parts)


def main() -> None:
    """Write the document."""
    PATH.write_text(document(), encoding="utf-8")
    print(f"wrote {PATH}")


def _options() -> Mapping[str, Schema]:
    """Return the options of every model file of the newer shape, by the file's name."""
    files = [catalog.find(name) for name in catalog.names() if name not in NOT_DOCUMENTED]
    return {file.name: file.load().Options() for file in files if file.shape is catalog.Shape.PIPELINE}


def _table(schema: Schema) -> Iterator[str]:
    """Yield the lines of the table of a schema."""
    yield "| name | default | values | meaning |\n| --- | --- | --- | --- |\n"
    for name, field in schema.fields.items():
        meaning = field.metadata.get("description", "")
        yield f"| `{name}` | {_default(field)} | {_values(field)} | {_cell(meaning)} |\n"


def _default(field: fields.Field[Any]) -> str:
    """Return the default of a field as it would be set."""
    default = field.load_default() if callable(field.load_default) else field.load_default
    if field.required or default is missing:
        return "required"
    if default is None or default == "" or isinstance(field, fields.Nested):
        return ""
    return f"`{_cell(default if isinstance(default, str) else json.dumps(default))}`"


def _values(field: fields.Field[Any]) -> str:
    """Return what a field takes: its choices or its range, else its kind."""
    for validator in field.validators:
        if isinstance(validator, validate.OneOf):
            return ", ".join(f"`{choice}`" for choice in validator.choices)
        if isinstance(validator, validate.Range):
            return _range(validator)
    return KINDS.get(type(field).__name__, "number")


def _range(limits: validate.Range) -> str:
    """Return a range in words."""
    least = "" if limits.min is None else f"{'at least' if limits.min_inclusive else 'over'} {limits.min:,}"
    most = "" if limits.max is None else f"{'at most' if limits.max_inclusive else 'under'} {limits.max:,}"
    return ", ".join(part for part in (least, most) if part)


def _cell(text: Any) -> str:
    """Return text that cannot break a table."""
    return str(text).replace("|", "\\|").replace("\n", " ")


if __name__ == "__main__":
    main()
