"""Small blocking JSON calls for the command line; errors come back as the one line that the server wrote."""

import http.client
import json
import urllib.error
import urllib.request
from typing import Any

from its_proxy.codesign.errors import ItsError, UpstreamUnreachable

TIMEOUT_S = 600.0
START_ONE = "start one by its-proxy serve, or name one that runs by --url"
WHOLE_URL = "its-proxy's URL is whole, as http://127.0.0.1:8080/v1"
# The machine's proxy settings are not consulted: the server is named by the user, and mostly on loopback.
_opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))


def get_json(url: str, key: str | None = None) -> dict[str, Any]:
    """Raises ItsError with the server's own words, UpstreamUnreachable where none answers."""
    return _call(url, None, key)


def post_json(url: str, body: dict[str, Any], key: str | None = None) -> dict[str, Any]:
    """Raises like `get_json`."""
    return _call(url, json.dumps(body).encode(), key)


def _call(url: str, data: bytes | None, key: str | None) -> dict[str, Any]:
    headers = {"Content-Type": "application/json"} | ({"Authorization": f"Bearer {key}"} if key else {})
    try:
        with _opener.open(urllib.request.Request(url, data=data, headers=headers), timeout=TIMEOUT_S) as reply:
            document = json.load(reply)
    except urllib.error.HTTPError as error:
        raise ItsError(_message(error), hint=advice(url, error.code)) from None
    except (OSError, ValueError, http.client.HTTPException):
        document = None
    if not isinstance(document, dict):
        raise unanswered(url)
    return document


def advice(url: str, status: int) -> str:
    """What to do about an error status, where the URL tells."""
    return WHOLE_URL if status == 404 and "/v1/" not in url else ""


def unanswered(url: str) -> UpstreamUnreachable:
    is_whole = url.startswith(("http://", "https://"))
    return UpstreamUnreachable(f"no its-proxy answers at {url}", hint=START_ONE if is_whole else WHOLE_URL)


def _message(error: urllib.error.HTTPError) -> str:
    try:
        return str(json.load(error)["error"]["message"])
    except (ValueError, KeyError, TypeError):
        return f"the server answered {error.code}"
