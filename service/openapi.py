"""How routes get into the OpenAPI document: one call adds a route, its schemas, its examples and its error codes.

The schema that validates a body is the schema that documents it.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from flask import Flask, Response
from flask_smorest import Api, Blueprint
from marshmallow import Schema

from service.body import BodyParser
from service.errors import STATUS, Code, ErrorSchema

#: Version of the HTTP interface.
API_VERSION = "1.0.0"
#: What the document says about itself.
DESCRIPTION = (
    "Inference for Hugging Face models. Every error has one shape: `error.code` is for programs, `error.message` for people, "
    "`error.request_id` finds the request in the log. Further aliases: `/livez`, `/readyz`, `/healthz`, `/ping`."
)
#: The header of answers that ask a client to come back.
RETRY_AFTER = {"Retry-After": {"schema": {"type": "integer", "minimum": 1}, "description": "Seconds to wait."}}

View = Callable[..., Response]


class ApiBlueprint(Blueprint):  # type: ignore[misc]  # flask-smorest has no types
    """A blueprint whose bodies are read by `service.body`."""

    ARGUMENTS_PARSER = BodyParser()


class ServiceApi(Api):  # type: ignore[misc]
    """The collector of the document: our error shape, and no `default` response."""

    ERROR_SCHEMA = ErrorSchema
    DEFAULT_ERROR_RESPONSE_NAME = None


def api(app: Flask) -> Any:
    """Return the collector of the OpenAPI document of `app`."""
    app.config.update(API_TITLE="Model server", API_VERSION=API_VERSION, OPENAPI_VERSION="3.1.0")
    app.config["API_SPEC_OPTIONS"] = {"info": {"description": DESCRIPTION}}
    return ServiceApi(app)


def add_route(
    blueprint: Any,
    rule: str,
    view: View,
    *,
    method: str = "GET",
    doc: Mapping[str, Any],
    body: tuple[type[Schema], Any] | None = None,
    answer: Mapping[str, Any],
    errors: Iterable[Code] = (),
    error_schema: type[Schema] = ErrorSchema,
    around: Callable[[View], View] | None = None,
) -> None:
    """Add a documented route; `around` wraps the view outside the reading of its body."""
    view = blueprint.response(200, **answer)(view)
    for status, description in _by_status(errors).items():
        headers = RETRY_AFTER if status in (429, 503) else None
        view = blueprint.alt_response(status, schema=error_schema, description=description, headers=headers)(view)
    if body is not None:
        view = blueprint.arguments(body[0], example=body[1])(view)
    view = blueprint.doc(**doc)(view)
    blueprint.add_url_rule(rule, doc["operationId"], around(view) if around else view, methods=[method])


def _by_status(errors: Iterable[Code]) -> dict[int, str]:
    """Return one description per status: its codes and what they mean."""
    described: dict[int, str] = {}
    for code in errors:
        status, meaning = STATUS[code]
        described[status] = (described.get(status, "") + f"\n* `{code.value}`: {meaning}").lstrip("\n")
    return described
