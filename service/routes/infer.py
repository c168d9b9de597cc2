"""One route per configured model and its `/batch` sibling, generated from the model file.

A permit is taken before the body is read and given back when the answer is made, so that neither slow clients nor
slow models take the threads that health needs.
"""

import functools
import logging
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
from flask import Response, g, request

from ipu_supervisor.protocol.deadline import Deadline
from ipu_supervisor.protocol.errors import ErrorCode, RequestError
from ipu_supervisor.protocol.messages import Failure, Outcome, Reply
from service import wire
from service.contracts import Contract
from service.errors import Code, HttpCode, error_response, public
from service.face import Face
from service.openapi import ApiBlueprint, Route, View

log = logging.getLogger("service")

#: What an inference route may answer instead of a result, in the order of the documentation.
ERRORS: tuple[Code, ...] = (
    HttpCode.BAD_JSON,
    HttpCode.BAD_REQUEST,
    ErrorCode.UNKNOWN_MODEL,
    HttpCode.BODY_TOO_LARGE,
    HttpCode.UNSUPPORTED_MEDIA_TYPE,
    HttpCode.INVALID_FIELDS,
    ErrorCode.INVALID_INPUT,
    ErrorCode.OVERLOADED,
    ErrorCode.MODEL_ERROR,
    ErrorCode.POISON,
    HttpCode.INTERNAL,
    ErrorCode.PROTOCOL,
    ErrorCode.NOT_READY,
    ErrorCode.DRAINING,
    ErrorCode.REPLICA_DIED,
    ErrorCode.DEADLINE_EXCEEDED,
)


def blueprint(face: Face) -> Any:
    """Return the routes of all configured models."""
    routes = ApiBlueprint("inference", __name__, description="Ask a model.")
    for contract in face.contracts:
        _add_single(routes, face, contract)
        _add_batch(routes, face, contract)
    return routes


def _add_single(routes: Any, face: Face, contract: Contract) -> None:
    """Add the route that answers one input."""

    def infer(inputs: Mapping[str, Any]) -> Response:
        (outcome,) = _call(face, contract, [inputs]).outcomes
        result = _json(outcome)
        if isinstance(result, Failure):
            raise _error(result)
        return Response(bytes(result), mimetype="application/json")

    Route(
        contract.model.route,
        infer,
        method="POST",
        doc=_doc(face, contract, contract.model.name, contract.pipeline.summary),
        body=(contract.inputs, contract.example),
        answer={"schema": contract.output, "headers": wire.ANSWER_HEADERS, "description": "The model's answer."},
        errors=ERRORS,
        around=functools.partial(_admitted, face, contract),
    ).add_to(routes)


def _add_batch(routes: Any, face: Face, contract: Contract) -> None:
    """Add the route that answers several inputs at once."""

    def infer_batch(batch: Mapping[str, Any]) -> Response:
        return _batch_response(_call(face, contract, batch["inputs"]).outcomes)

    summary = f"{contract.pipeline.summary.rstrip('.')}, for up to {contract.model.max_client_batch_size} inputs."
    Route(
        contract.model.route + "/batch",
        infer_batch,
        method="POST",
        doc=_doc(face, contract, contract.model.name + "_batch", summary),
        body=(contract.batch_inputs(), {"inputs": [contract.example]}),
        answer={
            "schema": contract.batch_output(),
            "headers": wire.ANSWER_HEADERS,
            "description": "The model's answers.",
        },
        errors=ERRORS,
        error_schema=contract.batch_error(),
        around=functools.partial(_admitted, face, contract),
    ).add_to(routes)


def _doc(face: Face, contract: Contract, operation: str, summary: str) -> dict[str, Any]:
    """Return what the documentation says beside schemas and codes."""
    model, settings = contract.model, face.settings
    checkpoint = f", checkpoint `{model.checkpoint}`{_demo(face)}" if model.checkpoint else ""
    limits = (
        f"Bodies hold at most {settings.max_request_bytes:,} bytes; the time limit is {settings.request_limit_s:g} s."
    )
    return {
        "operationId": operation,
        "summary": summary,
        "description": f"Model `{model.name}`{checkpoint}. {limits}",
        "parameters": wire.REQUEST_HEADERS,
    }


def _demo(face: Face) -> str:
    """Say in the documentation that a demo may answer."""
    replaced = {"demo": ", whose place a built-in demo takes", "auto": ", or a built-in demo where it cannot be had"}
    told = replaced.get(face.settings.config.checkpoints, "")
    return told and told + " (`X-Model` says which)"


def _admitted(face: Face, contract: Contract, view: View) -> View:
    """Return `view` behind a permit: without one, 429 at once."""
    name = contract.model.name

    @functools.wraps(view)
    def admitted(*args: Any, **kwargs: Any) -> Response:
        g.contract = contract
        permits = face.permits
        if not permits.take():
            face.metrics.shed.labels(name, "permits").inc()
            wait_s = face.standing.expected_wait_s(name)
            return error_response(
                ErrorCode.OVERLOADED, "Every place of this web worker is taken.", retry_after_s=wait_s
            )
        try:
            g.deadline = Deadline(g.started + wire.limit_s(face.settings.request_limit_s))
            with face.metrics.in_progress.labels(name).track_inprogress():
                return view(*args, **kwargs)
        finally:
            permits.give_back()

    return admitted


def _call(face: Face, contract: Contract, items: Sequence[Mapping[str, Any]]) -> Reply:
    """Let the supervisor answer `items`. Raises `RequestError`, `ClientGone`."""
    reply = face.client.call(
        contract.model.name,
        items,
        [contract.size(inputs) for inputs in items],
        g.deadline,
        request_id=g.request_id,
        traceparent=wire.traceparent(),
        client_socket=request.environ.get("gunicorn.socket"),
    )
    if len(reply.outcomes) != len(items):
        raise RequestError(ErrorCode.PROTOCOL, f"{len(reply.outcomes)} outcomes for {len(items)} items")
    g.reply = reply
    face.metrics.computed(contract.model.name, reply)
    return reply


def _json(outcome: Outcome) -> msgspec.Raw | Failure:
    """Return a result as JSON, or why there is none. Raises `RequestError` for what is no result."""
    if outcome.failure is not None:
        return outcome.failure
    try:
        value = msgspec.msgpack.decode(outcome.result)
    except (msgspec.MsgspecError, RecursionError, ValueError) as error:
        raise RequestError(ErrorCode.PROTOCOL, f"a result that cannot be read: {error}") from None
    try:
        return msgspec.Raw(msgspec.json.encode(value))
    except (TypeError, ValueError, RecursionError) as error:  # JSON has fewer kinds of keys and values
        fault = {"event": "unwritable_result", "request_id": g.request_id, "path": request.path}
        log.error("unwritable_result", exc_info=error, extra={"fields": fault})
        return Failure(ErrorCode.MODEL_ERROR, f"a result that JSON cannot hold: {error}")


def _error(failure: Failure) -> RequestError:
    """Return the failure of a lone item as the request's."""
    return RequestError(failure.code, failure.message, failure.retry_after_s)


def _batch_response(outcomes: Sequence[Outcome]) -> Response:
    """Return all results; if some inputs failed, the first failure's status, each failure, and the other results."""
    told = [_json(outcome) for outcome in outcomes]
    results = [None if isinstance(result, Failure) else result for result in told]
    failures = [(index, result) for index, result in enumerate(told) if isinstance(result, Failure)]
    if not failures:
        return Response(msgspec.json.encode({"results": results}), mimetype="application/json")
    index, first = failures[0]
    errors = [_item_error(index, failure) for index, failure in failures]
    why = public(first.code, first.message)
    message = f"{len(failures)} of {len(outcomes)} inputs failed; the first, inputs.{index}: {why}"
    extra = {"errors": errors, "results": results}
    return error_response(first.code, message, retry_after_s=first.retry_after_s, extra=extra)


def _item_error(index: int, failure: Failure) -> dict[str, Any]:
    """Return one failed input of a batch as the client reads it."""
    error = {"index": index, "code": failure.code.value, "message": public(failure.code, failure.message)}
    return error if failure.retry_after_s is None else {**error, "retry_after_s": failure.retry_after_s}
