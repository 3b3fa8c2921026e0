"""What schemathesis checks beyond its own checks, and counts; read by its process alone (SCHEMATHESIS_HOOKS)."""

import atexit
import json
import os
import re
import time
from collections import Counter
from pathlib import Path
from typing import Any

import schemathesis

REQUEST_ID = re.compile(r"[A-Za-z0-9_-]{1,64}")
PLACE = re.compile(r"File \".*\", line \d+")
SLOW_S = 0.1
counts: Counter[str] = Counter()
slow: list[dict[str, Any]] = []


@schemathesis.hook
def after_call(context: Any, case: Any, response: Any) -> None:
    counts[f"{case.method} {case.path} {response.status_code}"] += 1
    if response.elapsed > SLOW_S:
        slow.append({"at": time.time(), "s": round(response.elapsed, 3), "call": f"{case.method} {case.path}"})


@schemathesis.hook
def after_network_error(context: Any, case: Any, request: Any) -> None:
    counts[f"{case.method} {case.path} no reply"] += 1


@schemathesis.check
def request_is_named(ctx: Any, response: Any, case: Any) -> None:
    names = response.headers.get("x-request-id", [])
    assert len(names) == 1, f"x-request-id: {names}"
    assert REQUEST_ID.fullmatch(names[0]), f"x-request-id: {names}"


@schemathesis.check
def errors_have_openais_shape(ctx: Any, response: Any, case: Any) -> None:
    if response.status_code < 400 or case.path == "/readyz" or case.method == "HEAD":
        return
    document = json.loads(response.content)
    assert list(document) == ["error"], document
    assert set(document["error"]) == {"message", "type", "param", "code"}, document
    # A name that the client itself sent may be told; a place in the code may not.
    assert PLACE.search(document["error"]["message"]) is None, document


@schemathesis.check
def streams_end(ctx: Any, response: Any, case: Any) -> None:
    is_stream = "text/event-stream" in response.headers.get("content-type", [""])[0]
    if is_stream and case.path.endswith("/completions"):
        assert response.content.endswith(b"data: [DONE]\n\n"), response.content[-200:]


def _write() -> None:
    Path(os.environ["ITS_FUZZ_COUNTS"]).write_text(json.dumps({"counts": counts, "slow": slow}))


if "ITS_FUZZ_COUNTS" in os.environ:
    atexit.register(_write)
