"""Paths find their handlers by what was written, and by nothing that could be read into it."""

import pytest

from its_proxy.server.http.request import Refused, Request
from its_proxy.server.http.response import Response
from its_proxy.server.http.router import Router
from tests.server.http.test_reader import Taking


async def shown(request: Request) -> Response:
    return Response(request.tail.encode())


async def said(request: Request) -> Response:
    return Response(b"")


ROUTER = Router()
ROUTER.post("/v1/chat", said)
ROUTER.get("/v1/models", said)
ROUTER.get("/v1/models/{name}", shown)


def asked(target: str) -> Request:
    return Request(Taking(), "GET", target, "1.1", {}, set(), is_kept=True)


@pytest.mark.parametrize("target", ["/v1/models", "/v1/models?limit=1", "/v1/models?"])
def test_a_path_is_found_without_its_query(target):
    assert ROUTER.find(asked(target)).handler("GET") is said


@pytest.mark.parametrize(
    ("target", "name"),
    [
        ("/v1/models/a", "a"),
        ("/v1/models/org/a", "org/a"),
        ("/v1/models/org%2Fa?x", "org/a"),
        ("/v1/models/%ff", "\ufffd"),
    ],
)
def test_a_name_is_what_stands_at_the_end(target, name):
    request = asked(target)
    route = ROUTER.find(request)
    assert (route.path, route.handler("HEAD"), request.tail) == ("/v1/models/{name}", shown, name)


@pytest.mark.parametrize(
    "target",
    ["/", "/v1/models/", "/v1/chat/", "/V1/chat", "/v1/%63hat", "/v1//chat", "//v1/chat", "/v1/chat;a", "/x/v1/chat"],
)
def test_what_nearly_is_a_route_is_none(target):
    route = ROUTER.find(asked(target))
    with pytest.raises(Refused) as refused:
        route.handler("GET")
    assert (route.path, refused.value.status) == ("none", 404)


@pytest.mark.parametrize(
    ("target", "method", "allow"), [("/v1/chat", "GET", "POST"), ("/v1/models", "PUT", "GET,HEAD")]
)
def test_another_method_names_those_that_there_are(target, method, allow):
    with pytest.raises(Refused) as refused:
        ROUTER.find(asked(target)).handler(method)
    assert (refused.value.status, refused.value.allow) == (405, allow)
