"""An upstream as a process of its own: does what each query wishes, and can be asked what became of its candidates.

    async with start_upstream() as upstream:
        ...
        seen = await upstream.calls("my-request", running=8)     # waits until 8 candidates of that request run

Times are CLOCK_MONOTONIC's, which all processes of one machine share.
"""

import asyncio
import json
import os
import socket
import sys
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import asdict, dataclass, field
from time import monotonic
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import aiohttp
import uvloop

from benchmarks.reliability.wishes import Wish, wish_of
from tests.faults.faults import FAULTS
from tests.faults.upstream import Call, event
from tests.real_vllm.server import LAUNCH
from tests.serving import tokens_of

MODELS = ("model", "other")
N_REMEMBERED = 20_000
WAIT_S = 10.0


@dataclass(slots=True)
class Calls:
    """The candidates of one request, or of all: how many began, run, finished, and when the others were hung up on."""

    n_begun: int = 0
    n_running: int = 0
    n_finished: int = 0
    n_aborted: int = 0
    aborted_at: list[float] = field(default_factory=list)


class Watched(Call):
    """A call whose connection is read by whoever watches for its end. `is_text`: of a prompt, not of a chat."""

    @property
    def is_text(self) -> bool:
        return "messages" not in self.body

    async def until_left(self) -> None:
        await asyncio.Event().wait()


class Upstream:
    """The server itself, inside its process."""

    def __init__(self) -> None:
        self.all = Calls()
        self._by_request: OrderedDict[str, Calls] = OrderedDict()
        self._changed = asyncio.Event()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection, until either side ends it."""
        begun: bytes | None = b""
        with suppress(asyncio.IncompleteReadError, OSError):
            while begun is not None:
                begun = await self._answer(reader, writer, begun)
        writer.close()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, begun: bytes) -> bytes | None:
        """One request, of which `begun` has been read; what has been read of the next one, None where none may come."""
        request_line, *lines = (begun + await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        data = await reader.readexactly(int(headers.get("content-length", 0)))
        target = request_line.split(" ")[1]
        if request_line.startswith("GET"):
            told = await self._told(target)
        elif not target.endswith("/completions"):  # passed on, as JSON or as a form
            told = {"object": "list", "data": []}
        elif (body := json.loads(data)).get("return_token_ids"):  # a handshake
            choice = {"index": 0, "message": {"role": "assistant", "content": "x"}, "finish_reason": "length"}
            told = {"choices": [choice], "prompt_token_ids": tokens_of(body["messages"])}
        else:
            return await self._complete(Watched(reader, writer, body), headers.get("x-request-id", ""))
        await _send(writer, told)
        return b""

    async def _complete(self, call: Watched, request_id: str) -> bytes | None:
        """A candidate, watched for being hung up on all the while."""
        # its-proxy numbers the candidates of a vote behind a dash.
        own = self._by_request.setdefault(request_id.partition("-")[0], Calls())
        if len(self._by_request) > N_REMEMBERED:
            self._by_request.popitem(last=False)
        self._count(own, n_begun=1, n_running=1)
        work = asyncio.ensure_future(_carry_out(call))
        gone = asyncio.ensure_future(_until_gone(call.reader))
        try:
            await asyncio.wait({work, gone}, return_when=asyncio.FIRST_COMPLETED)
            next_begun = gone.result() if gone.done() else b""
            if next_begun:
                await asyncio.wait({work})  # its answer has arrived whole, or nobody would go on
            is_done = work.done() and work.exception() is None
            if is_done:
                self._count(own, n_running=-1, n_finished=1)
            else:
                own.aborted_at.append(monotonic())
                self._count(own, n_running=-1, n_aborted=1)
            return next_begun if is_done and call.keeps_open else None
        finally:
            for task in (work, gone):
                task.cancel()
            await asyncio.wait({work, gone})

    def _count(self, own: Calls, **changes: int) -> None:
        for calls in (own, self.all):
            for name, change in changes.items():
                setattr(calls, name, getattr(calls, name) + change)
        self._changed.set()
        self._changed = asyncio.Event()

    async def _told(self, target: str) -> Any:
        """`/calls/REQUEST?running=7&finished=1` waits until it is so, `?over=8` until all of so many have ended."""
        url = urlsplit(target)
        if url.path == "/counters":
            return asdict(self.all)
        if url.path.startswith("/calls/"):
            wanted = {name: int(value) for name, value in parse_qsl(url.query)}
            request_id = url.path.removeprefix("/calls/")
            with suppress(TimeoutError):
                async with asyncio.timeout(WAIT_S):
                    while not _is_so(self._by_request.get(request_id) or Calls(), wanted):
                        await self._changed.wait()
            return asdict(self._by_request.get(request_id) or Calls())
        return {"object": "list", "data": [{"id": name, "object": "model"} for name in MODELS]}


def _is_so(calls: Calls, wanted: Mapping[str, int]) -> bool:
    n_over = calls.n_finished + calls.n_aborted
    is_over = "over" not in wanted or (calls.n_running == 0 and n_over >= wanted["over"])
    return is_over and all(
        count == wanted.get(name, count)
        for name, count in (("running", calls.n_running), ("finished", calls.n_finished))
    )


async def _until_gone(reader: asyncio.StreamReader) -> bytes:
    """Nothing at the other side's end; or the first byte of its next request, which can come very soon."""
    try:
        return await reader.read(1)
    except OSError:
        return b""


async def _carry_out(call: Watched) -> None:
    seed = call.body.get("seed")
    wish, number = wish_of(call.body), seed if isinstance(seed, int) else 0
    if (fault := wish.faults.get(str(number), wish.faults.get("all"))) is not None:
        await FAULTS[fault](call)
    elif number >= wish.n_answering:
        await asyncio.Event().wait()
    else:
        await asyncio.sleep(wish.delay_s)
        text = wish.texts[number % len(wish.texts)]
        await (_stream(call, wish, text) if call.is_stream else _reply(call, text))
        call.keeps_open = True


async def _reply(call: Watched, text: str) -> None:
    said = {"text": text} if call.is_text else {"message": {"role": "assistant", "content": text}}
    usage = {"prompt_tokens": 7, "completion_tokens": 10, "total_tokens": 17}
    choice = {"index": 0, **said, "finish_reason": "stop"}
    await _send(call.writer, {**_head(call, "chat.completion"), "choices": [choice], "usage": usage})


async def _stream(call: Watched, wish: Wish, text: str) -> None:
    head = _head(call, "chat.completion.chunk")
    await call.send(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n")
    said, nothing = ({"text": text}, {"text": ""}) if call.is_text else ({"delta": {"content": text}}, {"delta": {}})
    for _ in range(wish.n_chunks):
        await call.piece(event({**head, "choices": [{"index": 0, **said, "finish_reason": None}]}))
        await asyncio.sleep(wish.chunk_delay_s)
    await call.piece(event({**head, "choices": [{"index": 0, **nothing, "finish_reason": "stop"}]}))
    await call.piece(b"data: [DONE]\n\n")
    await call.end()


def _head(call: Watched, what: str) -> dict[str, Any]:
    return {"id": "c", "object": "text_completion" if call.is_text else what, "created": 1, "model": call.body["model"]}


async def _send(writer: asyncio.StreamWriter, document: Any) -> None:
    data = json.dumps(document).encode()
    writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(data) + data)
    await writer.drain()


# -- from outside ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Running:
    """The process as others see it. `url` ends in /v1."""

    url: str
    pid: int
    http: aiohttp.ClientSession

    async def calls(self, request_id: str, **until: int) -> Calls:
        """Of one request, whose id has no dash; waits at most 10 s until so many are `running` and `finished`, or until
        so many are `over` and none runs."""
        return await self._get(f"/calls/{request_id}", until)

    async def counters(self) -> Calls:
        """Of all requests so far."""
        return await self._get("/counters", {})

    async def _get(self, path: str, query: Mapping[str, int]) -> Calls:
        async with self.http.get(self.url.removesuffix("/v1") + path, params=dict(query)) as reply:
            return Calls(**await reply.json())


@asynccontextmanager
async def start_upstream() -> AsyncIterator[Running]:
    """On a free loopback port; it ends with the block, and with whoever started it."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-I", "-c", LAUNCH, str(os.getpid())),
        *(sys.executable, "-m", "benchmarks.reliability.upstream"),
        stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    assert process.stdout is not None
    try:
        url = (await process.stdout.readline()).decode().strip()
        if not url:
            raise RuntimeError("the upstream ended before it served")
        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as http:
            yield Running(url, process.pid, http)
    finally:
        with suppress(ProcessLookupError):
            process.terminate()
        await process.wait()


async def _main(say: Callable[[str], None]) -> None:
    server = await asyncio.start_server(Upstream().serve, "127.0.0.1", 0, backlog=4096)
    # Its kernel would make megabytes of a reply that nobody reads, and be busy with that for long.
    server.sockets[0].setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 64 * 1024)
    say(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1")
    await server.serve_forever()


if __name__ == "__main__":
    with suppress(KeyboardInterrupt):
        uvloop.run(_main(lambda line: print(line, flush=True)))
