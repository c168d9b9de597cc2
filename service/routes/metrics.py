"""Prometheus's view of this instance: all its web workers, and the supervisor's figures."""

from typing import Any

from flask import Response
from prometheus_client import CONTENT_TYPE_LATEST

from ipu_supervisor.protocol.errors import RequestError
from ipu_supervisor.protocol.messages import Status
from service.face import Face
from service.openapi import ApiBlueprint, Route


def blueprint(face: Face) -> Any:
    """Return the route that Prometheus scrapes."""
    routes = ApiBlueprint("metrics", __name__, description="Figures for Prometheus.")

    def metrics() -> Response:
        try:
            status: Status | None = face.standing.status()
        except RequestError:
            status = None
        return Response(face.metrics.exposition(status), content_type=CONTENT_TYPE_LATEST)

    answer = {"schema": {"type": "string"}, "content_type": "text/plain", "description": "Prometheus's text format."}
    Route(
        "/metrics", metrics, doc={"operationId": "metrics", "summary": "Figures for Prometheus."}, answer=answer
    ).add_to(routes)
    return routes
