"""How routes get into the OpenAPI document: one record holds a route, its schemas, its examples and its error codes.

The schema that validates a body is the schema that documents it.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
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
    "Inference for Hugging Face models. Every error has one shape: `error.code` is for programs, `error.message` for "
    "people, `error.request_id` finds the request in the log. Health has aliases: `/livez`, `/readyz`, `/healthz`, "
    "`/ping`."
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


@dataclass(frozen=True)
class Route:
    """One route and all that its documentation says."""

    rule: str
    view: View
    #: What OpenAPI calls an operation object: `operationId`, `summary`, …
    doc: Mapping[str, Any]
    #: What the 200 holds: `schema`, and optionally `headers`, `description`, `content_type`.
    answer: Mapping[str, Any]
    method: str = "GET"
    #: The schema of the body, and a valid example.
    body: tuple[type[Schema], Any] | None = None
    errors: Iterable[Code] = ()
    error_schema: type[Schema] = ErrorSchema
    #: Wraps the view outside the reading of its body.
    around: Callable[[View], View] | None = None

    def add_to(self, blueprint: Any) -> None:
        """Serve and document the route."""
        view = blueprint.response(200, **self.answer)(self.view)
        for status, description in _by_status(self.errors).items():
            told = {"description": description, "headers": RETRY_AFTER if status in (429, 503) else None}
            view = blueprint.alt_response(status, schema=self.error_schema, **told)(view)
        if self.body is not None:
            view = blueprint.arguments(self.body[0], example=self.body[1])(view)
        view = blueprint.doc(**self.doc)(view)
        view = self.around(view) if self.around else view
        blueprint.add_url_rule(self.rule, self.doc["operationId"], view, methods=[self.method])


def _by_status(errors: Iterable[Code]) -> dict[int, str]:
    """Return one description per status: its codes and what they mean."""
    described: dict[int, str] = {}
    for code in errors:
        status, meaning = STATUS[code]
        described[status] = (described.get(status, "") + f"\n* `{code.value}`: {meaning}").lstrip("\n")
    return described
