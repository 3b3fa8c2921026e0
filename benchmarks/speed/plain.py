"""A plain proxy, as one writes it in an afternoon with Starlette and httpx: what its-proxy is measured beside.

    UPSTREAM=http://127.0.0.1:9000 uvicorn --app-dir benchmarks/speed plain:app

It passes completions and their streams on. Where a request says `"votes": 8` it asks so many times at once and returns
the first reply of the majority. It has no limits, no deadlines, no retries, no metrics and no keys. It runs in an
environment of its own, so it imports nothing of ours.
"""

import asyncio
import json
import os
import re
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

URL = os.environ.get("UPSTREAM", "") + "/v1/chat/completions"
BOXED = re.compile(r"\\boxed\{([^{}]*)\}")


@asynccontextmanager
async def lifespan(app: Starlette) -> AsyncIterator[dict[str, Any]]:
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=1024)
    async with httpx.AsyncClient(limits=limits, timeout=60) as http:
        yield {"http": http}


async def complete(request: Request) -> Response:
    http: httpx.AsyncClient = request.state.http
    body = json.loads(await request.body())
    if votes := body.pop("votes", None):
        return await vote(http, body, votes)
    if body.get("stream"):
        upstream = await http.send(http.build_request("POST", URL, json=body), stream=True)
        return StreamingResponse(events(upstream), upstream.status_code, media_type="text/event-stream")
    reply = await http.post(URL, json=body)
    return Response(reply.content, reply.status_code, media_type="application/json")


async def events(upstream: httpx.Response) -> AsyncIterator[bytes]:
    try:
        async for part in upstream.aiter_raw():
            yield part
    finally:
        await upstream.aclose()


async def vote(http: httpx.AsyncClient, body: dict[str, Any], votes: int) -> Response:
    replies = await asyncio.gather(*(http.post(URL, json={**body, "seed": k}) for k in range(votes)))
    answers = [(BOXED.findall(reply.json()["choices"][0]["message"]["content"]) or [None])[-1] for reply in replies]
    ballots = Counter(answer for answer in answers if answer is not None)
    winner = answers.index(ballots.most_common(1)[0][0]) if ballots else 0
    return Response(replies[winner].content, media_type="application/json")


app = Starlette(routes=[Route("/v1/chat/completions", complete, methods=["POST"])], lifespan=lifespan)
