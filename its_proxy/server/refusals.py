"""Requests that no handler should see: two readers would read them differently, or there is no room for them."""

from its_proxy.codesign.errors import RequestError, TooManyConnections
from its_proxy.server.http.request import Refused, Request
from its_proxy.upstreams.base import APPLIED_HEADER

_SAID_ONCE = ("Authorization", APPLIED_HEADER)
OPEN_ROUTES = frozenset({"/livez", "/health", "/readyz"})
ENDS_CONNECTION = frozenset({"invalid_http", "too_many_connections"})
"""Codes of errors after which what follows on a connection is not read."""


def refuse_ambiguous(request: Request) -> None:
    """What the parser lets through, and a proxy before or behind this one may read otherwise. Raises RequestError."""
    if request.is_repeated(b"host") or (request.version == "1.1" and b"host" not in request.fields):
        raise RequestError("a request names its host once", code="invalid_http")
    if request.repeated:
        for name in (*_SAID_ONCE, request.context.settings.tenant_from.removeprefix("header:")):
            if request.is_repeated(name.lower().encode()):
                # One of them may be of a layer in front, and the other the client's own.
                raise RequestError(f"{name} is there twice", code="invalid_http")
    if not request.target.startswith("/"):
        # Such as `GET http://other/`, for a proxy that would go there: its Host might name somebody else.
        raise RequestError("the request's target is not a path", code="invalid_http")


def refuse_expectation(request: Request) -> None:
    """Raises Refused where more is expected than to be told whether to send the body."""
    expected = request.header(b"expect")
    if expected is not None and expected.lower() != "100-continue":
        raise Refused(417)


def refuse_beyond_limit(request: Request) -> None:
    """A connection beyond the limit is good for the open routes. Raises TooManyConnections."""
    if request.connection.is_spare and request.path not in OPEN_ROUTES:
        raise TooManyConnections("too many clients are connected", hint="try again, or keep fewer connections")
