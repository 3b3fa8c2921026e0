"""The middleware inside a real vLLM, against its-proxy before a plain one: one server with keys and the middleware."""

import asyncio
import json
import re
import shlex
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from hashlib import sha256
from pathlib import Path

import aiohttp
import pytest
import pytest_asyncio

from tests.command import ROOT
from tests.real_vllm.conftest import QUERIES, pair_name
from tests.real_vllm.server import VllmServer, start_vllm
from tests.serving import serving

KEY, FRONT = "engine-key", "front-key"
AUTHORIZED = {"Authorization": f"Bearer {KEY}"}
ROUNDS = 20
MAX_TOKENS = 400  # of one candidate that does not end by itself: it takes the server more than a second
LONG = {"max_tokens": MAX_TOKENS, "ignore_eos": True}
ENVIRONMENT = {
    "PYTHONPATH": f"{ROOT}:{ROOT / 'plugins'}",
    "ITS_VLLM_RIGHTS": "explain,candidates",
    "ITS_VLLM_FRONT_KEYS": sha256(FRONT.encode()).hexdigest(),
}

pytestmark = pytest.mark.asyncio(loop_scope="module")


def documented_flags() -> list[str]:
    """What the page says after the checkpoint's own name."""
    page = (ROOT / "docs" / "vllm-plugin.md").read_text("utf-8")
    command = next(line for line in page.splitlines() if line.startswith("vllm serve"))
    words = shlex.split(command)
    return words[words.index("--middleware") :]


@pytest.fixture(scope="module")
def patient(checkpoint, tmp_path_factory) -> Path:
    """As the common one, but its candidates may be long."""
    folder = tmp_path_factory.mktemp("checkpoint") / checkpoint.name
    shutil.copytree(checkpoint, folder)
    document = json.loads((folder / "its.json").read_text())
    document["vote"]["max_tokens"] = MAX_TOKENS
    (folder / "its.json").write_text(json.dumps(document))
    return folder


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def inside(patient, tmp_path_factory) -> AsyncIterator[VllmServer]:
    """demo-random with the middleware, as the page starts it, and with a key."""
    log = tmp_path_factory.mktemp("vllm") / "inside.log"
    flags = [*documented_flags(), "--api-key", KEY, FRONT]
    async with start_vllm(patient, pair_name(patient), *flags, log=log, env=ENVIRONMENT) as server:
        yield server


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def http() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession(headers=AUTHORIZED) as session:
        yield session


async def ask(http, server, query=QUERIES[0], headers=None, **fields):
    body = {"model": server.name, "messages": [{"role": "user", "content": query}], **fields}
    async with http.post(f"{server.url}/chat/completions", json=body, headers=headers) as reply:
        return reply.status, reply.headers, await reply.read()


async def test_its_handshake_stands_in_the_log(inside, http):
    status, _, _ = await ask(http, inside)
    assert status == 200
    assert f"handshake of {inside.name}: verified" in Path(inside.log).read_text()


async def test_rewrites_and_fields_are_those_of_the_proxy(inside, http, vllm, patient):
    """The proxy asks the plain server, so neither can have rewritten for the other."""
    model = {"upstream": "gpu", "served_name": vllm.name, "checkpoint": patient}
    async with serving({"upstreams": {"gpu": {"url": vllm.url}}, "models": {vllm.name: model}}) as proxy:
        for query in QUERIES[:3]:
            asked = {"seed": 5, "its": {"stop": "none", "candidates": True}}
            through = (await proxy.ask(query, vllm.name, **asked)).json
            _, headers, raw = await ask(http, inside, query, **asked)
            assert untimed(json.loads(raw)["its"]) == untimed(through["its"])
            assert json.loads(raw)["choices"] == through["choices"]
            explained = (await proxy.ask(query, vllm.name, seed=5, its={"explain": True})).json
            plan = json.loads((await ask(http, inside, query, seed=5, its={"explain": True}))[2])
            assert plan["members"][0]["body"] == explained["members"][0]["body"]
            assert plan["members"][0]["messages"] == explained["members"][0]["messages"]
            assert headers["x-its-pair"]


def untimed(its):
    """Without what names the server or the clock."""
    candidates = [{key: value for key, value in one.items() if not key.endswith("_s")} for one in its["candidates"]]
    return {**its, "candidates": candidates, "target": None}


async def test_a_stream_carries_the_vote(inside, http):
    _, headers, raw = await ask(http, inside, stream=True, seed=5)
    events = [json.loads(line[6:]) for line in raw.decode().split("\n") if line.startswith("data: {")]
    assert headers["content-type"].startswith("text/event-stream")
    assert events[-1]["its"]["strategy"] == "random"
    assert raw.endswith(b"data: [DONE]\n\n")


async def test_without_a_name_the_model_is_asked_as_trained_all_the_same(inside, http):
    body = {"messages": [{"role": "user", "content": QUERIES[0]}]}
    async with http.post(f"{inside.url}/chat/completions", json=body) as reply:
        assert (await reply.json())["its"]["strategy"] == "random"


async def test_401_and_404_are_vllms_own(inside, http, vllm):
    wrong = await ask(http, inside, headers={"Authorization": "Bearer wrong"})
    assert (wrong[0], json.loads(wrong[2])) == (401, {"error": "Unauthorized"})
    body = {"model": "stranger", "messages": [{"role": "user", "content": "?"}]}
    replies = []
    for server in (inside, vllm):
        async with http.post(f"{server.url}/chat/completions", json=body) as reply:
            replies.append((reply.status, await reply.read()))
    assert replies[0] == replies[1]
    assert replies[0][0] == 404


ASKED = [{"role": "user", "content": "3 eggs"}]
ROUTES = [
    ("GET", "/health", None),
    ("GET", "/version", None),
    ("POST", "/tokenize", {"prompt": "3 eggs and 4 eggs"}),
    ("POST", "/detokenize", {"tokens": [5, 6, 7]}),
    ("POST", "/v1/completions", {"prompt": "3 eggs", "max_tokens": 4, "temperature": 0, "seed": 1}),
    ("POST", "/v1/completions", {"prompt": "3 eggs", "max_tokens": -4}),
    ("POST", "/v1/completions", {"prompt": "3 eggs", "max_tokens": 4, "temperature": 0, "stream": True}),
    ("POST", "/v1/messages", {"messages": ASKED, "max_tokens": 4, "temperature": 0}),
    ("POST", "/v1/responses", {"input": "3 eggs", "max_output_tokens": 4, "temperature": 0}),
    ("POST", "/v1/chat/completions/render", {"messages": ASKED}),
    ("GET", "/v1/models", None),
    ("GET", "/v1/chat/completions", None),
    ("GET", "/v1/nothing", None),
]


@pytest.mark.parametrize(("method", "path", "body"), ROUTES)
async def test_other_routes_are_byte_identical_to_vllm_without_it(inside, http, vllm, method, path, body):
    replies = []
    for server in (inside, vllm):
        named = None if body is None else {"model": server.name, **body}
        async with http.request(method, server.root + path, json=named) as reply:
            headers = {name: value for name, value in reply.headers.items() if name not in ("Date", "Content-Length")}
            replies.append((reply.status, headers, plain(await reply.read())))
    assert replies[0] == replies[1]


def plain(raw: bytes) -> bytes:
    """Without what no two servers share: ids, the time, the checkpoint's folder, a digest of how they were started."""
    return re.sub(rb'"(id|created\w*|root|system_fingerprint)":\s*("[^"]*"|[\d.]+)', rb'"\1":""', raw)


@pytest.mark.parametrize("fields", [{}, {"stream": True}], ids=["plain", "streamed"])
async def test_a_client_who_leaves_ends_every_candidate(inside, http, fields):
    n_finished, spent_s = await finished(inside), []
    for number in range(ROUNDS):
        query = QUERIES[number % len(QUERIES)]
        asking = asyncio.create_task(ask(http, inside, query, **LONG, **fields, its={"n": 8}))
        await inside.until_running(8)
        asking.cancel()
        await asyncio.wait({asking})
        spent_s.append(await inside.until_idle())
    assert await finished(inside) == n_finished
    print(f"\nempty after {sorted(spent_s)[ROUNDS // 2]:.3f} s (median of {ROUNDS}), at most {max(spent_s):.3f} s")


async def test_a_client_who_leaves_after_the_first_token_ends_a_single_candidate(inside, http):
    body = {"model": inside.name, "messages": [{"role": "user", "content": QUERIES[0]}], "stream": True, **LONG}
    n_finished = await finished(inside)
    for _ in range(ROUNDS):
        async with http.post(f"{inside.url}/chat/completions", json={**body, "its": {"vote": "off"}}) as reply:
            while b'"content":"' not in await reply.content.readline():
                assert not reply.content.at_eof()
            assert await inside.n_running() == 1
            reply.close()
        await inside.until_idle()
    assert await finished(inside) == n_finished


async def finished(server):
    """What was asked and not aborted."""
    return (await server.metrics())["vllm:request_success_total"]


@asynccontextmanager
async def proxy_before(inside, checkpoint, key):
    settings = {
        "upstreams": {"gpu": {"url": inside.url, "key_env": "GPU_KEY"}},
        "models": {"model": {"upstream": "gpu", "served_name": inside.name, "checkpoint": checkpoint}},
    }
    async with serving(settings, {"GPU_KEY": key}) as proxy:
        yield proxy, next(proxy.context.catalog.targets())


async def test_behind_its_proxy_there_is_one_rewrite_and_one_vote(inside, vllm, patient):
    query, asked = QUERIES[1], {"seed": 5, "its": {"stop": "none"}}
    n_before = await finished(inside)
    async with proxy_before(inside, patient, FRONT) as (proxy, target):
        n_probes = await finished(inside) - n_before
        reply = (await proxy.ask(query, **asked)).json
    n_asked = await finished(inside) - n_before - n_probes
    model = {"upstream": "gpu", "served_name": vllm.name, "checkpoint": patient}
    async with serving({"upstreams": {"gpu": {"url": vllm.url}}, "models": {"model": model}}) as proxy:
        alone = (await proxy.ask(query, **asked)).json
    assert target.state == "verified"
    assert (reply["choices"], reply["its"]["votes"]) == (alone["choices"], alone["its"]["votes"])
    assert n_asked == 8
    assert reply["its"]["degraded"] is None


async def test_a_front_that_is_not_believed_is_told_by_its_own_handshake(inside, patient):
    """The middleware rewrites what the proxy has rewritten, so the probes come out as no recorded tokens."""
    async with proxy_before(inside, patient, KEY) as (proxy, target):
        assert target.state == "mismatch"
        assert (await proxy.ask(QUERIES[0])).status == 503
