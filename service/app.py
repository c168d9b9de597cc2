"""Puts the web side together: routes, errors, and what happens before and after every request.

One app per worker process; it holds no connection until a request needs one.
"""

import json
import logging
import time

from flask import Flask, Response, g, request

from service import backend, body, errors, openapi, proxy, wire
from service.face import Face
from service.routes import health, infer, metrics, models, playground
from service.settings import Settings

access_log = logging.getLogger("service.access")


def create_app(settings: Settings, client: backend.Client | None = None) -> Flask:
    """Return the WSGI app; tests hand in a `client` of their own."""
    app = Flask("service", static_folder="static", template_folder="templates")
    app.config["MAX_CONTENT_LENGTH"] = settings.max_request_bytes + 1  # see service.body
    app.url_map.strict_slashes = False
    proxy.trust(app, settings.proxies)
    face = Face(settings, client or backend.connect(settings.config.endpoint, settings.config.curve_keys))
    app.extensions["face"] = face
    _add_routes(app, face)
    errors.register(app)
    app.before_request(_begin)

    @app.after_request
    def _end(response: Response) -> Response:
        return _finish(face, response)

    return app


def _add_routes(app: Flask, face: Face) -> None:
    """Add every route; those of the API with their documentation."""
    api = openapi.api(app)
    for documented in (infer, models, health, metrics):
        api.register_blueprint(documented.blueprint(face))
    app.register_blueprint(health.aliases(face))
    app.register_blueprint(playground.blueprint(face))
    document = json.dumps(api.spec.to_dict(), indent=2).encode()
    app.add_url_rule("/openapi.json", "openapi", lambda: Response(document, mimetype="application/json"))


def _begin() -> None:
    """Note when the request came and what it is called."""
    g.started = time.monotonic()
    g.request_id = wire.request_id()


def _finish(face: Face, response: Response) -> Response:
    """Name the request, tell who computed the answer, count it, and log one line."""
    response.headers["X-Request-ID"] = g.request_id
    response.headers["X-Content-Type-Options"] = "nosniff"
    body.finish(request)
    seconds = time.monotonic() - g.started
    fields = {
        "request_id": g.request_id,
        "method": request.method,
        "path": request.path,
        "status": response.status_code,
        "ms": round(seconds * 1000, 3),
        "client": request.remote_addr or "",
    }
    contract, code, reply = g.get("contract"), g.get("code", ""), g.get("reply")
    if contract is not None:
        fields["model"] = contract.model.name
        face.metrics.answered(contract.model.name, response.status_code, code, seconds)
        if reply is not None:
            face.standing.computes(reply.identity)
        wire.tell(response, face.standing.identity(contract.identity) if reply is None else reply.identity, reply)
    if code:
        fields.update(code=code, detail=g.get("detail", ""))
    level = logging.WARNING if response.status_code >= 500 else logging.INFO
    access_log.log(level, "access", extra={"fields": {"event": "access", **fields}})
    return response
