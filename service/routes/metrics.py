"""Prometheus's view of this instance: all its web workers, and the supervisor's figures."""

from typing import Any

from flask import Response
from prometheus_client import CONTENT_TYPE_LATEST

from ipu_supervisor.protocol.errors import RequestError
from service.face import Face
from service.openapi import ApiBlueprint, Route


def blueprint(face: Face) -> Any:
    """Return the route that Prometheus scrapes."""
    routes = ApiBlueprint("metrics", __name__, description="Figures for Prometheus.")

    def metrics() -> Response:
        try:
            status = face.standing.status()
            models, version = status.models, status.version
        except RequestError:
            models, version = [], ""
        return Response(face.metrics.exposition(models, version), content_type=CONTENT_TYPE_LATEST)

    answer = {"schema": {"type": "string"}, "content_type": "text/plain", "description": "Prometheus's text format."}
    Route(
        "/metrics", metrics, doc={"operationId": "metrics", "summary": "Figures for Prometheus."}, answer=answer
    ).add_to(routes)
    return routes
