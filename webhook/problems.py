"""Errors as HTTP answers: problem documents (RFC 9457), and under `/v2/` the shape of the distribution-spec."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from typing import Any

from flask import Flask, Response, request
from werkzeug.exceptions import HTTPException
from werkzeug.http import HTTP_STATUS_CODES

from executor.errors import PushwrightError, UsageError
from tasks.project_rules import ProjectInvalidError
from tasks.queries import CommitAmbiguousError

logger = logging.getLogger(__name__)

MEDIA_TYPE = "application/problem+json"
STATUSES: Mapping[str, int] = {
    "token-required": 401,
    "signature-invalid": 401,
    "host-refused": 403,
    "origin-refused": 403,
    "not-found": 404,
    "project-unknown": 404,
    "build-not-found": 404,
    "commit-unknown": 404,
    "method-not-allowed": 405,
    "request-timeout": 408,
    "project-exists": 409,
    "commit-ambiguous": 409,
    "build-finished": 409,
    "body-too-large": 413,
    "media-type-unsupported": 415,
    "range-invalid": 416,
    "redis-unavailable": 503,
    "too-many-streams": 503,
}
_CODES_OF_HTTP: Mapping[int, str] = {
    404: "not-found",
    405: "method-not-allowed",
    408: "request-timeout",
    413: "body-too-large",
    415: "media-type-unsupported",
    416: "range-invalid",
}
# distribution-spec 1.1, "Error Codes"; what it has no code for gets the one of the registry that everybody runs
_REGISTRY_CODES: Mapping[str, str] = {
    "token-required": "UNAUTHORIZED",
    "host-refused": "DENIED",
    "origin-refused": "DENIED",
    "method-not-allowed": "UNSUPPORTED",
    "not-found": "UNSUPPORTED",
    "range-invalid": "RANGE_INVALID",
    "redis-unavailable": "UNAVAILABLE",
}
RETRY_SECONDS = 2
REGISTRY_HEADERS = {"Docker-Distribution-Api-Version": "registry/2.0"}


class RequestError(UsageError):
    """A request that is not taken; its code decides the status."""

    code = "request-invalid"


class RegistryProblem(UsageError):
    """A refusal of the registry, with the distribution-spec's own code."""

    code = "registry-request"

    def __init__(self, status: int, registry_code: str, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.registry_code = registry_code


def handle_errors(app: Flask) -> None:
    """Every error of a view becomes an answer; only faults of our own are logged with their traceback."""
    app.register_error_handler(PushwrightError, _answer_ours)
    app.register_error_handler(HTTPException, _answer_http)
    app.register_error_handler(Exception, _answer_fault)


def problem(error: PushwrightError) -> dict[str, Any]:
    """The problem document of an error."""
    status = status_of(error)
    members: dict[str, Any] = {
        "type": "about:blank",
        "title": HTTP_STATUS_CODES[status],
        "status": status,
        "detail": error.message,
        "code": error.code,
    }
    if error.hint:
        members["hint"] = error.hint
    if isinstance(error, ProjectInvalidError):
        members["field"] = error.field
    if isinstance(error, CommitAmbiguousError):
        members["candidates"], members["more"] = list(error.candidates), error.more
    return members


def status_of(error: PushwrightError) -> int:
    """The HTTP status of an error: of its code, else whose fault it is."""
    if isinstance(error, RegistryProblem):
        return error.status
    return STATUSES.get(error.code) or (400 if isinstance(error, UsageError) else 500)


def respond(error: PushwrightError) -> Response:
    """An error as an answer to the current request."""
    status = status_of(error)
    if _is_registry_request():
        body: dict[str, Any] = {"errors": [_registry_error(error, status)]}
        response = Response(json.dumps(body) + "\n", status, mimetype="application/json", headers=REGISTRY_HEADERS)
    else:
        response = Response(json.dumps(problem(error)) + "\n", status, mimetype=MEDIA_TYPE)
    if status == 401 and error.code == "token-required":
        scheme = "Basic" if _is_registry_request() else "Bearer"
        response.headers["WWW-Authenticate"] = f'{scheme} realm="pushwright"'
    if status == 503:
        response.headers["Retry-After"] = str(RETRY_SECONDS)
    return response


def _registry_error(error: PushwrightError, status: int) -> dict[str, Any]:
    if isinstance(error, RegistryProblem):
        code = error.registry_code
    else:
        code = _REGISTRY_CODES.get(error.code, "UNKNOWN" if status >= 500 else "UNSUPPORTED")
    return {"code": code, "message": error.message, "detail": error.hint}


def _is_registry_request() -> bool:
    return request.path == "/v2" or request.path.startswith("/v2/")


def _answer_ours(error: PushwrightError) -> Response:
    response = respond(error)
    if response.status_code >= 500:
        logger.error("%s %s: %s: %s", request.method, ascii(request.path), error.code, error.message)
    return response


def _answer_http(error: HTTPException) -> Response:
    """Werkzeug's own errors: no such path, wrong method, too large."""
    status = error.code or 500
    if status < 400:  # a redirect to the canonical path
        response = error.get_response()
        return Response(response.get_data(), status, dict(response.headers))
    known = _CODES_OF_HTTP.get(status, "request-invalid" if status < 500 else "internal")
    response = respond(RequestError(_describe(known), code=known))
    for name, value in error.get_headers():
        if name in {"Allow", "Content-Range"}:
            response.headers[name] = value
    return response


def _describe(code: str) -> str:
    return {
        "not-found": "nothing is served under this path",
        "method-not-allowed": "this path does not take this method",
        "request-timeout": "the request did not arrive in time",
        "body-too-large": "the body is larger than this path takes",
        "media-type-unsupported": "the body's Content-Type is not taken here",
        "range-invalid": "the range asked for is not in this blob",
    }.get(code, "the request is not understood")


def _answer_fault(error: Exception) -> Response:
    logger.error("%s %s failed", request.method, ascii(request.path), exc_info=error)
    return respond(PushwrightError("a fault of this server; its log has the rest"))
