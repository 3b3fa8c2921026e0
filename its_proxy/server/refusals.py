"""Requests that no handler should see: two readers would read them differently, or there is no room for them."""

from aiohttp import web
from aiohttp.http import HttpVersion11

from its_proxy.codesign.errors import RequestError, TooManyConnections
from its_proxy.server.connection import Connection
from its_proxy.server.context import context_of
from its_proxy.upstreams.base import APPLIED_HEADER

_SAID_ONCE = ("Authorization", APPLIED_HEADER)
OPEN_ROUTES = frozenset({"/livez", "/health", "/readyz"})
ENDS_CONNECTION = frozenset({"invalid_http", "too_many_connections"})
"""Codes of errors after which what follows on a connection is not read."""


def refuse_ambiguous(request: web.Request) -> None:
    """What the parser lets through, and a proxy before or behind this one may read otherwise. Raises RequestError."""
    hosts = request.headers.getall("Host", [])
    if len(hosts) > 1 or (not hosts and request.version >= HttpVersion11):
        raise RequestError("a request names its host once", code="invalid_http")
    for name in (*_SAID_ONCE, context_of(request).settings.tenant_from.removeprefix("header:")):
        if len(request.headers.getall(name, [])) > 1:
            # One of them may be of a layer in front, and the other the client's own.
            raise RequestError(f"{name} is there twice", code="invalid_http")
    if not request.raw_path.startswith("/"):
        # Such as `GET http://other/`, for a proxy that would go there: its Host might name somebody else.
        raise RequestError("the request's target is not a path", code="invalid_http")


def refuse_beyond_limit(request: web.Request) -> None:
    """A connection beyond the limit is good for the open routes. Raises TooManyConnections."""
    if isinstance(request.protocol, Connection) and request.protocol.is_spare and request.path not in OPEN_ROUTES:
        raise TooManyConnections("too many clients are connected", hint="try again, or keep fewer connections")
