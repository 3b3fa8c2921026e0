"""Secrets planted everywhere a request or an operator can put one, and searched for wherever its-proxy speaks.

    python -m benchmarks.reliability.secrets

Every error path is walked with them, with the log at `debug` and traces on; then the whole log, the metrics, the
traces as they left, and every error that a client saw are searched.
"""

import asyncio
import json
import ssl
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager, redirect_stderr, suppress
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from urllib.parse import urlsplit

import aiohttp
import click
import structlog

from benchmarks.reliability.results import FOLDER, save
from its_proxy.server.logs import on_loop_exception, writing_logs
from its_proxy.settings import load_settings
from its_proxy.targets import Target
from its_proxy.upstreams.base import RawReply
from tests.certificates import make_certificate
from tests.scripted import Say, ScriptedUpstream, scripted_upstream
from tests.server.otlp import receiving, traces_to
from tests.serving import Server, digest_of, manifest, serving, side, tokens_of, write_checkpoint

GOAL = "20 planted secrets (keys, prompts, upstream bodies, URLs) searched in logs, metrics, errors, traces: 0 found."
PLANTED = (
    "a caller's key", "a wrong key", "an upstream's key", "a query", "a system prompt", "an earlier answer",
    "a user id", "a tool's name", "a tool's arguments", "a request id with a line break", "a model name",
    "a body that is not JSON", "a key of a body", "a header", "a cookie", "a URL's query", "a path", "a method",
    "bytes that are not HTTP", "a stop sequence", "a schema of an answer", "an applied pair", "a traceparent",
    "a tenant", "an upstream's error body", "an upstream's answer", "an upstream's page", "an upstream's header",
    "an upstream's error in a stream", "an upstream's finish reason", "words of an exception", "an upstream's address",
    "a certificate's name", "a key pasted into the settings", "a persona",
)  # fmt: skip
SECRETS = {name: f"canary{number:02}q" for number, name in enumerate(PLANTED)}
"""Each with a mark that is found even where the rest of it was cut off or written otherwise."""


TOLD_BACK = ("a model name", "a key of a body")
"""What an error may tell the one who wrote it, and nobody else: `no model named ...`, `its.nn: unknown key`."""


def secret(name: str) -> str:
    return f"{SECRETS[name]}-{name.replace(' ', '-')}"


@dataclass(slots=True)
class Evidence:
    """Everything that was said. `errors`: status, headers and body of every reply that tells of one. `reached`: what
    came to the upstream, where most of it should be."""

    log: str = ""
    metrics: str = ""
    traces: bytes = b""
    reached: str = ""
    errors: list[str] = field(default_factory=list)
    statuses: set[int] = field(default_factory=set)
    codes: set[str] = field(default_factory=set)

    def places(self) -> Mapping[str, str]:
        traces = self.traces.decode("latin-1")
        return {"log": self.log, "metrics": self.metrics, "traces": traces, "errors": "\n".join(self.errors)}

    def found(self, name: str) -> list[str]:
        """Where a secret was found."""
        return [place for place, text in self.places().items() if SECRETS[name] in text.lower()]


# -- the upstreams -----------------------------------------------------------------------------------------------------

_UPSTREAMS_HEADER, _UPSTREAMS_PAGE = secret("an upstream's header"), secret("an upstream's page")
_UPSTREAMS_ADDRESS, _QUERY = secret("an upstream's address"), secret("a URL's query")
_ERROR = {"error": {"message": secret("an upstream's error in a stream"), "type": "x", "param": None, "code": None}}
SAYS: Mapping[str, Say] = {
    "well": Say(secret("an upstream's answer"), message={"reasoning": secret("an upstream's answer")}),
    "no": Say(status=500, headers={"X-Upstream": secret("an upstream's header")}),
    "busy": Say(status=429, headers={"Retry-After": secret("an upstream's header")}),
    "away": Say(status=302, headers={"Location": f"http://127.0.0.1:9/{_UPSTREAMS_HEADER}"}),
    "unavailable": Say(status=503),
    "refused": Say(status=400),
    "unknown": Say(status=404),
    "page": Say(raw=f"<html>{_UPSTREAMS_PAGE}</html>".encode()),
    "error": Say(raw=json.dumps(_ERROR).encode()),
    "list": Say(raw=json.dumps([secret("an upstream's page")]).encode()),
    "choiceless": Say(raw=json.dumps({"choices": [], "id": secret("an upstream's page")}).encode()),
    "odd end": Say(secret("an upstream's answer"), finish_reason=secret("an upstream's finish reason")),
    "no end": Say(secret("an upstream's answer"), finish_reason=None),
    "late": Say(secret("an upstream's answer"), delay_s=30),
    "slow": Say(" ".join([secret("an upstream's answer")] * 100), chunk_delay_s=0.5),
}


def script(body: Mapping[str, Any], number: int) -> Say:
    if body.get("return_token_ids"):
        return Say("x", finish_reason="length")
    return SAYS[str((body.get("metadata") or {}).get("say", "well"))]


class Strange:
    """An upstream with a defect in it: what it raises is nobody's business."""

    name = "strange"

    async def complete(self, body: object, request_id: str) -> Any:
        raise ValueError(secret("words of an exception"), body)

    @asynccontextmanager
    async def stream(self, body: object, request_id: str) -> AsyncIterator[AsyncIterator[bytes]]:
        async def chunks() -> AsyncIterator[bytes]:
            yield b'data: {"choices": [{"index": 0, "delta": {"content": "x"}, "finish_reason": null}]}\n\n'
            raise KeyError(secret("words of an exception"))

        yield chunks()

    async def models(self) -> Sequence[Mapping[str, Any]]:
        return ()

    async def forward(self, method: str, path: str, body: bytes, content_type: str) -> RawReply:
        raise ExceptionGroup(secret("words of an exception"), [ValueError(body)])

    async def close(self) -> None:
        """Nothing is open."""


@asynccontextmanager
async def untrusted(folder: Path) -> AsyncIterator[str]:
    """The address of a TLS server whose certificate nobody trusts."""
    made = make_certificate(folder, subject=secret("a certificate's name"))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(made.cert, made.key)
    server = await asyncio.start_server(lambda reader, writer: writer.close(), "127.0.0.1", 0, ssl=context)
    async with server:
        yield f"https://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1"


# -- the server --------------------------------------------------------------------------------------------------------


def checkpoint_at(folder: Path) -> Path:
    """One whose pool holds a single persona, the secret one."""
    pool = json.dumps({"domain": "cooking", "text": f"You are {secret('a persona')}."}).encode() + b"\n"
    personas = {"source": "pool", "file": "its-personas.jsonl", "sha256": digest_of(pool), "domains": "taxonomy/1"}
    pair = dict.fromkeys(("trained_with", "serve_with"), side("random", personas=personas))
    write_checkpoint(folder, manifest("random", pair=pair, probes=[]))
    (folder / "its-personas.jsonl").write_bytes(pool)
    return folder


def settings_of(upstream: ScriptedUpstream, tls_url: str, folder: Path) -> dict[str, Any]:
    voted = {"upstream": "gpu", "served_name": "model", "checkpoint": checkpoint_at(folder / "checkpoint")}
    return {
        "upstreams": {
            "gpu": {"url": upstream.url, "key_env": "GPU_KEY"},
            "gone": {"url": f"http://127.0.0.1:9/{_UPSTREAMS_ADDRESS}/v1"},
            "untrusted": {"url": tls_url},
        },
        "models": {
            "voted": voted,
            "strict": {**voted, "vote": {"on_no_answer": "error"}},
            "passed": {"upstream": "gpu", "served_name": "other"},
            "gone": {"upstream": "gone"},
            "untrusted": {"upstream": "untrusted"},
            "strange": {"upstream": "gpu", "served_name": "strange"},
        },
        "keys": [
            {"name": "team", "env": "TEAM_KEY", "rights": ["explain", "candidates", "force", "front"]},
            {"name": "slow", "env": "SLOW_KEY", "requests_per_minute": 1},
        ],
        "vote": {"deadline_s": 1.0, "n": 3},
        "tenant_from": "header:X-Tenant",
        "max_body_bytes": 65536,
        "log_level": "debug",
    }


ENVIRON = {
    "TEAM_KEY": secret("a caller's key"),
    "SLOW_KEY": secret("a caller's key") + "-slow",
    "GPU_KEY": secret("an upstream's key"),
}
HEADERS = {
    "Authorization": f"Bearer {ENVIRON['TEAM_KEY']}",
    "X-Any": secret("a header"),
    "Cookie": f"session={secret('a cookie')}",
    "X-Request-Id": secret("a request id with a line break") + "%0d%0a",
    "X-Tenant": secret("a tenant"),
    "traceparent": secret("a traceparent"),
    "User-Agent": secret("a header"),
}


def body(model: str = "passed", say: str = "well", **fields: Any) -> dict[str, Any]:
    """A chat request that holds something secret wherever one can."""
    tool = {"type": "function", "function": {"name": SECRETS["a tool's name"], "parameters": {"type": "object"}}}
    call = {"name": SECRETS["a tool's name"], "arguments": json.dumps({"x": secret("a tool's arguments")})}
    messages = [
        {"role": "system", "content": secret("a system prompt")},
        {"role": "user", "content": f"{secret('a query')}: what is 2 + 5?"},
        {"role": "assistant", "content": secret("an earlier answer"),
         "tool_calls": [{"id": "1", "type": "function", "function": call}]},
        {"role": "tool", "tool_call_id": "1", "content": secret("a tool's arguments")},
        {"role": "user", "content": f"{secret('a query')}: what is 2 + 5?"},
    ]  # fmt: skip
    tools = {"tools": [tool]} if model == "passed" else {}
    common = {"user": secret("a user id"), "stop": [secret("a stop sequence")], "metadata": {"say": say}}
    return {"model": model, "messages": messages, **common, **tools, **fields}


def requests() -> Iterator[tuple[str, str, Any, dict[str, str]]]:
    """Method, path, body and headers of every way to fail that one request has."""
    chat, query = "/v1/chat/completions", f"?api_key={_QUERY}"
    for is_stream in (False, True):
        for model in ("voted", "strict", "passed"):
            for say in SAYS:
                if say != "slow":
                    yield "POST", chat + query, body(model, say, stream=is_stream), HEADERS
        for model in ("gone", "untrusted", "strange", secret("a model name")):
            yield "POST", chat, body(model, stream=is_stream), HEADERS
    wanted = {"name": "x", "schema": {"enum": [secret("a schema of an answer")]}}
    schema = {"type": "json_schema", "json_schema": wanted}
    for fields in (
        {"its": {secret("a key of a body"): 1}},
        {"its": {"vote": secret("a key of a body")}},
        {"its": {"strategy": secret("a key of a body"), "force": True}},
        {"its": {"n": 1000}},
        {"its": {"candidates": True}, "response_format": schema},
        {"cache_salt": secret("a key of a body")},
        {"temperature": secret("a key of a body")},
        {"messages": [{"role": secret("a key of a body"), "content": secret("a query")}]},
        {"messages": secret("a query")},
        {"n": secret("a key of a body")},
        {"max_tokens": -1},
    ):
        yield "POST", chat, body("voted", **fields), HEADERS
    applied = {**HEADERS, "x-its-applied": secret("an applied pair")}
    yield "POST", chat, body("voted"), applied
    for data in (
        secret("a body that is not JSON"),
        f'{{"{secret("a key of a body")}": 1,' * 2,
        f'{{"{secret("a key of a body")}": 1, "{secret("a key of a body")}": 2}}',
        f'["{secret("a query")}"]',
    ):
        yield "POST", chat, data.encode(), HEADERS  # fmt: skip
    yield "POST", chat, (secret("a query") * 5000).encode(), HEADERS
    yield "POST", chat, body(), {**HEADERS, "Content-Encoding": "gzip"}
    yield "POST", chat, body(), {**HEADERS, "Authorization": f"Bearer {secret('a wrong key')}"}
    yield "POST", chat, body(), {"Authorization": secret("a wrong key")}
    for _ in range(2):
        yield "POST", chat, body(), {**HEADERS, "Authorization": f"Bearer {ENVIRON['SLOW_KEY']}"}
    for path in ("completions", "embeddings", "responses"):
        for model, say in (("passed", "no"), ("strange", "well"), ("voted", "page"), (secret("a model name"), "well")):
            given = {**body(model, say), "prompt": secret("a query"), "input": secret("a query")}
            if path == "responses":
                del given["messages"], given["stop"], given["prompt"]
                given.pop("tools", None)
            yield "POST", f"/v1/{path}", given, HEADERS
    yield "GET", f"/v1/models/{secret('a model name')}", None, HEADERS
    yield "GET", f"/v1/{secret('a path')}", None, HEADERS
    yield secret("a method").upper().replace("'", ""), chat, None, HEADERS
    yield "DELETE", chat + query, None, HEADERS


RAW = (
    f"{secret('bytes that are not HTTP')}\r\n\r\n",
    f"GET /livez HTTP/1.1\r\nHost: h\r\n{secret('bytes that are not HTTP')}\r\n\r\n",
    f"GET /livez HTTP/1.1\r\nHost: h\r\nX: \x01{secret('a header')}\r\n\r\n",
    f"POST /v1/chat/completions HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n{secret('a query')}\r\n",
    f"GET http://{secret('bytes that are not HTTP')}/livez HTTP/1.1\r\nHost: h\r\n\r\n",
    f"GET /livez HTTP/1.1\r\nHost: h\r\nX-Request-Id: a\r\n {secret('a request id with a line break')}\r\n\r\n",
)


# -- the walk ----------------------------------------------------------------------------------------------------------


async def walk(folder: Path, said: Callable[[], str]) -> Evidence:
    """`said` gives the log so far, whole."""
    evidence = Evidence()
    async with AsyncExitStack() as stack:
        upstream = await stack.enter_async_context(scripted_upstream(script, ["model", "other", "strange"]))
        upstream.tokens = lambda given: tokens_of(given["messages"])
        tls_url = await stack.enter_async_context(untrusted(folder))
        receiver = await stack.enter_async_context(receiving())
        async with traces_to(receiver) as traces:
            flags = settings_of(upstream, tls_url, folder)
            read = _with_a_pasted_key(flags)
            async with serving(flags, ENVIRON, read=read) as server:
                asyncio.get_running_loop().set_exception_handler(on_loop_exception)
                server.context.traces = traces
                [strange] = server.context.catalog.served["strange"].targets
                _make_strange(strange)
                await _ask_all(server, evidence)
                server.reload()
                evidence.metrics = (await server.send("GET", "/metrics", None, HEADERS)).raw.decode()
        evidence.traces = receiver.raw
        evidence.reached = json.dumps([upstream.bodies, upstream.headers]).lower()
    evidence.log = said()
    return evidence


def _with_a_pasted_key(flags: Mapping[str, Any]) -> Callable[[], Any]:
    def read() -> Any:
        pasted = {"name": "x", "env": f"sk-{secret('a key pasted into the settings')}"}
        return load_settings(None, ENVIRON, {**flags, "keys": [pasted]})

    return read


def _make_strange(target: Target) -> None:
    target.upstream = Strange()


async def _ask_all(server: Server, evidence: Evidence) -> None:
    for method, path, given, headers in requests():
        reply = await server.send(method, path, given, headers)
        evidence.statuses.add(reply.status)
        is_stream = isinstance(given, dict) and given.get("stream")
        if reply.status >= 400 or is_stream:
            _note(evidence, reply.status, dict(reply.headers), reply.raw, given)
    for data in RAW:
        evidence.errors.append((await _send_raw(server.url, data.encode("latin-1"))).decode("latin-1"))
    await _leave(server)


def _note(evidence: Evidence, status: int, headers: Mapping[str, str], raw: bytes, given: Any) -> None:
    """Of a stream only its error: the rest of it is the answer that was asked for."""
    text = raw.decode("latin-1")
    if status == 200:
        text = "\n".join(line for line in text.splitlines() if '"error"' in line)
    for line in text.splitlines():
        with suppress(ValueError):
            error = json.loads(line.removeprefix("data: ")).get("error") or {}
            evidence.codes.add(str(error.get("code")))
    for name in TOLD_BACK:
        text = text.replace(secret(name), "")
    evidence.errors.append(f"{status} {headers} {text}")


async def _send_raw(url: str, data: bytes) -> bytes:
    place = urlsplit(url)
    reader, writer = await asyncio.open_connection(place.hostname, place.port)
    writer.write(data)
    with suppress(OSError):
        async with asyncio.timeout(5):
            seen = await reader.readuntil(b"}}")
    writer.close()
    return seen


async def _leave(server: Server) -> None:
    """Clients that go in the middle, plainly and of a stream."""
    for given in (body("voted", "late"), body("passed", "slow", stream=True)):
        with suppress(TimeoutError):
            limit = aiohttp.ClientTimeout(total=0.3)
            url = f"{server.url}/chat/completions"
            async with server.http.post(url, json=given, headers=HEADERS, timeout=limit) as reply:
                await reply.read()
    async with asyncio.timeout(10):
        while server.total("inflight_requests"):
            await asyncio.sleep(0.01)


@contextmanager
def captured_log(folder: Path) -> Iterator[Callable[[], str]]:
    """The process's own log, as `its-proxy serve` writes it, in a file."""
    path, before = folder / "stderr", structlog.get_config()
    with path.open("w") as file, redirect_stderr(file), writing_logs("debug") as sink:

        def said() -> str:
            sink.close()
            return path.read_text()

        yield said
    structlog.configure(**before)


def gather(folder: Path) -> Evidence:
    with captured_log(folder) as said:
        return asyncio.run(walk(folder, said))


@click.command(help=__doc__)
@click.option("--out", type=click.Path(path_type=Path), default=FOLDER, show_default=False)
def main(out: Path) -> None:
    with TemporaryDirectory() as folder:
        evidence = gather(Path(folder))
    found = {name: places for name in SECRETS if (places := evidence.found(name))}
    figures = {
        "secrets": len(SECRETS),
        "found": len(found),
        "error replies": len(evidence.errors),
        "statuses": sorted(evidence.statuses),
        **{f"{place}, bytes searched": len(text) for place, text in evidence.places().items()},
    }
    path = save("secrets", figures, not found, {"log_level": "debug"}, goal=GOAL, folder=out, planted=list(SECRETS))
    print(json.dumps({**figures, "where": found}, indent=1), path)


if __name__ == "__main__":
    main()
