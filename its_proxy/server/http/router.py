"""Which handler a request is for, by its path as it was written and its method."""

from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from urllib.parse import unquote

from its_proxy.server.http.request import Refused, Request
from its_proxy.server.http.response import Response, Stream

Handler = Callable[[Request], Awaitable[Response | Stream]]
TAIL = "{name}"
"""At the end of a path: whatever stands there, and at least something."""


@dataclass(frozen=True, slots=True)
class Route:
    path: str
    handlers: dict[str, Handler] = field(default_factory=dict)

    def handler(self, method: str) -> Handler:
        """Raises Refused."""
        handler = self.handlers.get(method)
        if handler is not None:
            return handler
        raise Refused(405, allow=",".join(sorted(self.handlers))) if self.handlers else Refused(404)


NOWHERE = Route("none")


class Router:
    def __init__(self) -> None:
        self._exact: dict[str, Route] = {}
        self._tailed: list[Route] = []

    def post(self, path: str, handler: Handler) -> None:
        self._route(path).handlers["POST"] = handler

    def get(self, path: str, handler: Handler) -> None:
        self._route(path).handlers.update(GET=handler, HEAD=handler)

    def find(self, request: Request) -> Route:
        """A path spelled with escapes is none of the exact ones: a front may have read it otherwise."""
        route = self._exact.get(request.path)
        if route is not None:
            return route
        for route in self._tailed:
            tail = request.path.removeprefix(route.path.removesuffix(TAIL))
            if tail and tail != request.path:
                request.tail = unquote(tail)
                return route
        return NOWHERE

    def routes(self) -> Iterator[tuple[str, str]]:
        """(method, path) of each."""
        for route in (*self._exact.values(), *self._tailed):
            for method in route.handlers:
                yield method, route.path

    def _route(self, path: str) -> Route:
        if not path.endswith(TAIL):
            return self._exact.setdefault(path, Route(path))
        self._tailed.append(Route(path))
        return self._tailed[-1]
