"""The pages for people: playground and Swagger UI, from local files, under a strict Content-Security-Policy."""

import flask
from flask import Response, render_template, url_for
from werkzeug.utils import redirect

from service.face import Face

#: Scripts, styles and requests of this server only; `data:` images are Swagger UI's icons.
CONTENT_SECURITY_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; font-src 'self'; "
    "connect-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
)


def blueprint(face: Face) -> flask.Blueprint:
    """Return the pages; they are no part of the OpenAPI document."""
    pages = flask.Blueprint("pages", __name__)
    pages.add_url_rule("/playground", "playground", lambda: page("playground.html", face))
    pages.add_url_rule("/docs", "docs", lambda: page("docs.html", face))
    pages.add_url_rule(
        "/favicon.ico", "favicon", lambda: redirect(url_for("static", filename="swagger-ui/favicon-32x32.png"))
    )
    return pages


def page(template: str, face: Face) -> Response:
    """Return a page that may only load what this server holds."""
    html = render_template(template, models=[contract.model for contract in face.contracts])
    headers = {"Content-Security-Policy": CONTENT_SECURITY_POLICY, "Referrer-Policy": "same-origin", "Vary": "Accept"}
    return Response(html, mimetype="text/html", headers=headers)
