"""`GET /playground`: one static page with its scripts, its styles and KaTeX, all out of this package.

The page needs no key, as it holds nothing; what it asks for goes through the same routes as anybody's.
"""

from dataclasses import dataclass
from functools import cache
from hashlib import sha256
from pathlib import Path

from its_proxy.server.http.request import Refused, Request
from its_proxy.server.http.response import Response

PAGE = "index.html"
_HERE = Path(__file__).parent
_FOLDERS = {"": _HERE / "playground", "katex/": _HERE / "third_party" / "katex"}
_TYPES = {
    ".css": "text/css; charset=utf-8",
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
    ".woff2": "font/woff2",
}
# Nothing from elsewhere, nothing inline, and no text that becomes markup: an answer stays an answer.
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; font-src 'self'; img-src 'self'; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
    "require-trusted-types-for 'script'; trusted-types 'none'"
)
_HEADERS = {
    "Cache-Control": "no-cache",  # asked about each time, and mostly answered with 304
    "Content-Security-Policy": _POLICY,
    "Cross-Origin-Opener-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}


@dataclass(frozen=True, slots=True)
class Asset:
    """One file of the page, ready to be sent."""

    body: bytes
    content_type: str
    headers: dict[str, str]


@cache
def names() -> dict[str, Path]:
    """Every file that is served, by its name below `/playground/`: no other path is ever looked at."""
    return {
        prefix + file.relative_to(folder).as_posix(): file
        for prefix, folder in _FOLDERS.items()
        for file in sorted(folder.rglob("*"))
        if file.suffix in _TYPES
    }


@cache
def asset(name: str) -> Asset | None:
    """A file as it is in the package; None for a name that is none of its."""
    if (file := names().get(name)) is None:
        return None
    body = file.read_bytes()
    etag = f'"{sha256(body).hexdigest()[:32]}"'
    return Asset(body, _TYPES[file.suffix], {**_HEADERS, "ETag": etag})


async def playground(request: Request) -> Response:
    """Raises Refused for what is none of its files."""
    found = asset(request.tail or PAGE)
    if found is None:
        raise Refused(404)
    is_known = request.header(b"if-none-match") == found.headers["ETag"]
    return Response(b"" if is_known else found.body, 304 if is_known else 200, found.content_type, found.headers)
