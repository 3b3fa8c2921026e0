"""Errors as OpenAI's clients expect them: one status, one JSON envelope, and whether to try again."""

import random
from dataclasses import dataclass, field
from math import ceil
from typing import Any

from its_proxy.codesign import errors

# First match wins, so subclasses stand before their parents.
_STATUSES: tuple[tuple[type[errors.ItsError], int, str], ...] = (
    (errors.Unauthenticated, 401, "invalid_request_error"),
    (errors.NotPermitted, 403, "permission_error"),
    (errors.ModelNotFound, 404, "invalid_request_error"),
    (errors.RequestError, 400, "invalid_request_error"),
    (errors.TooManyConnections, 503, "server_error"),
    (errors.ModelUnavailable, 503, "server_error"),
    (errors.StrategyUnavailable, 503, "server_error"),
    (errors.UpstreamUnreachable, 502, "upstream_error"),
    (errors.UpstreamTimeout, 504, "upstream_error"),
    (errors.BadPayload, 502, "upstream_error"),
    (errors.NoVote, 422, "vote_error"),
    (errors.NoConsensus, 422, "vote_error"),
    (errors.UpstreamError, 502, "upstream_error"),
)
_NEVER_RETRY = (errors.NoVote, errors.NoConsensus, errors.UpstreamTimeout)


@dataclass(frozen=True, slots=True)
class ErrorReply:
    status: int
    body: dict[str, Any]
    headers: dict[str, str] = field(default_factory=dict)


def error_reply(error: errors.ItsError) -> ErrorReply:
    """The reply that a client gets for `error`; our own words only, never an upstream's text."""
    status, kind = _status_and_kind(error)
    body = envelope(str(error), kind=kind, code=error.code, param=getattr(error, "param", None))
    headers: dict[str, str] = {}
    if status in (429, 503):
        headers["Retry-After"] = str(_jittered(getattr(error, "retry_after_s", None) or 1.0))
    if status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    is_final = isinstance(error, errors.ModelUnavailable) and not error.is_retryable
    if isinstance(error, _NEVER_RETRY) or status == 504 or is_final:
        # OpenAI's SDKs send 5xx again, twice: after a fan-out that would cost n candidates each time.
        headers["x-should-retry"] = "false"
    return ErrorReply(status, body, headers)


def defect_reply() -> ErrorReply:
    """The reply for an error that nobody raised on purpose; its text stays in the log."""
    body = envelope("its-proxy failed on this request", kind="server_error", code=errors.ItsError.code)
    return ErrorReply(500, body, {"x-should-retry": "false"})


def envelope(message: str, *, kind: str, code: str | None, param: str | None = None) -> dict[str, Any]:
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}


def _status_and_kind(error: errors.ItsError) -> tuple[int, str]:
    if isinstance(error, errors.UpstreamRejected):
        # A 401 or 403 of the upstream is about our key for it, not about the client's key for us.
        status = 502 if error.status in (401, 403) or not 400 <= error.status <= 599 else error.status
        return status, "invalid_request_error" if status < 500 else "upstream_error"
    if isinstance(error, errors.NotAdmitted):
        return error.status, "rate_limit_error" if error.status == 429 else "server_error"
    if isinstance(error, errors.UpstreamBusy | errors.QuorumLost):
        return error.status, "rate_limit_error" if error.status == 429 else "upstream_error"
    for error_type, status, kind in _STATUSES:
        if isinstance(error, error_type):
            return status, kind
    return 500, "server_error"


def _jittered(seconds: float) -> int:
    """At least 1 s and never under the upstream's own hint; spread upwards so that clients do not return as one."""
    return max(1, ceil(seconds * random.uniform(1.0, 1.25)))
