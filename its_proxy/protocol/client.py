"""Small blocking JSON calls for the command line; errors come back as the one line that the server wrote."""

import json
import urllib.error
import urllib.request
from typing import Any

from its_proxy.codesign.errors import ItsError, UpstreamUnreachable

TIMEOUT_S = 600.0
# The machine's proxy settings are not consulted: the server is named by the user, and mostly on loopback.
_opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))


def get_json(url: str, key: str | None = None) -> dict[str, Any]:
    return _call(urllib.request.Request(url, headers=_headers(key)))


def post_json(url: str, body: dict[str, Any], key: str | None = None) -> dict[str, Any]:
    headers = {"Content-Type": "application/json", **_headers(key)}
    return _call(urllib.request.Request(url, data=json.dumps(body).encode(), headers=headers))


def _headers(key: str | None) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"} if key else {}


def _call(request: urllib.request.Request) -> dict[str, Any]:
    try:
        with _opener.open(request, timeout=TIMEOUT_S) as reply:
            document: dict[str, Any] = json.load(reply)
            return document
    except urllib.error.HTTPError as error:
        raise ItsError(_message(error)) from None
    except (OSError, ValueError):
        raise UpstreamUnreachable(f"no its-proxy answers at {request.full_url}", hint="start one: make serve") from None


def _message(error: urllib.error.HTTPError) -> str:
    try:
        return str(json.load(error)["error"]["message"])
    except (ValueError, KeyError, TypeError):
        return f"the server answered {error.code}"
