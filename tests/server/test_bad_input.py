"""Whatever a client sends that cannot be served: a clear 4xx in OpenAI's shape, and no call to any upstream."""

import asyncio
import gzip
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import orjson
import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from tests.scripted import Say, ScriptedUpstream
from tests.serving import Reply, Server, manifest, serving_script, write_checkpoint
from tests.wire import connected

CHAT = "/v1/chat/completions"
QUESTION = [{"role": "user", "content": "What is 2 + 5?"}]
IMAGE = [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:,"}}]}]


@asynccontextmanager
async def persona_server(folder) -> AsyncIterator[tuple[Server, ScriptedUpstream]]:
    checkpoint = write_checkpoint(folder / "checkpoint", manifest("random"))
    async with serving_script(Say("\\boxed{7}"), checkpoint) as pair:
        yield pair


@pytest.fixture
async def server(tmp_path):
    """A persona model behind a server; that no bad input reached its upstream is checked after each test."""
    async with persona_server(tmp_path) as (server, upstream):
        yield server
        assert upstream.bodies == []


def request_with(**fields: Any) -> dict[str, Any]:
    return {"model": "model", "messages": QUESTION, **fields}


def is_clear(reply: Reply, status: int, code: str, param: str | None = None) -> bool:
    error = reply.error
    assert (reply.status, error["code"], error["param"]) == (status, code, param), error
    assert reply.headers["Content-Type"].startswith("application/json")
    return len(error["message"]) < 600


def nested(levels: int, opening: bytes = b"[", closing: bytes = b"]") -> bytes:
    return b'{"model": "model", "messages": ' + opening * levels + closing * levels + b"}"


NO_JSON = {
    "empty": b"",
    "no JSON": b"model=model",
    "cut off": b'{"model": "model"',
    "a list": b"[]",
    "a text": b'"model"',
    "null": b"null",
    "two documents": b"{} {}",
    "duplicate key": b'{"model": "model", "model": "other", "messages": []}',
    "duplicate key inside": b'{"model": "model", "messages": [{"role": "user", "role": "system", "content": "x"}]}',
    "duplicate key by escape": b'{"model": "model", "mod\\u0065l": "other", "messages": []}',
    "long duplicate key": b'{"' + b"k" * 20_000 + b'": 1, "' + b"k" * 20_000 + b'": 2}',
    "duplicate key, 64 KiB": (b'{"a": 1, "a": 2, "text": "' + b"x" * 65_506 + b'"}')[:65_536],
    "invalid UTF-8": b'{"model": "model\xff"}',
    "duplicate key, 2 MiB": b'{"a": 1, "text": "' + b"x" * 2_000_000 + b'", "a": 2}',
    "a million levels of objects": b'{"a":' * 300_000 + b"1" + b"}" * 300_000,
    "a million small values": b'{"a": [' + b"1," * 1_000_000 + b"1]}",
    "overlong UTF-8": b'{"model": "\xc0\xaf"}',
    "UTF-16": '{"model": "model"}'.encode("utf-16"),
    "byte order mark": b"\xef\xbb\xbf{}",
    "large, byte order mark": b'\xef\xbb\xbf{"model": "' + b"m" * 70_000 + b'"}',
    "NaN": b'{"model": "model", "temperature": NaN}',
    "infinity": b'{"model": "model", "temperature": -Infinity}',
    "number out of range": b'{"model": "model", "temperature": 1e999}',
    "lone surrogate": b'{"model": "model", "user": "\\ud800"}',
    "lone surrogate in a key": b'{"model": "model", "kv_\\ud800": 1}',
    "large, lone surrogate": b'{"user": "\\ud800' + b"m" * 70_000 + b'"}',
    "integer beyond 64 bits": b'{"model": "model", "seed": 123456789012345678901234567890}',
    "integer of 5,000 digits": b'{"model": "model", "seed": ' + b"9" * 5_000 + b"}",
    "null byte": b'{"model": "\x00"}',
    "100 levels": nested(100),
    "100 levels of objects": nested(100, b'{"a": ', b"}").replace(b'"a": }', b'"a": 1}'),
    "1,000 levels": nested(1_000),
    "10,000 levels": nested(10_000),
    "100,000 levels": nested(100_000),
    "100,000 levels, never closed": nested(100_000, closing=b""),
}


@pytest.mark.parametrize("body", NO_JSON.values(), ids=NO_JSON.keys())
async def test_a_body_that_two_parsers_could_read_differently_is_refused(server, body):
    assert is_clear(await server.send("POST", CHAT, body), 400, "invalid_json")


def kind(value: Any) -> dict[str, Any]:
    return {"role": "user", "content": value}


def for_route(path: str, body: dict) -> dict:
    """The same request as that route takes it."""
    if path == CHAT:
        return body
    return {"prompt": "What is 2 + 5?", **{key: value for key, value in body.items() if key != "messages"}}


BAD_FIELDS = {
    "no model": ({"messages": QUESTION}, "model"),
    "model of another type": (request_with(model=5), "model"),
    "empty model": (request_with(model=""), "model"),
    "no messages": ({"model": "model"}, "messages"),
    "empty messages": (request_with(messages=[]), "messages"),
    "messages as a text": (request_with(messages="What is 2 + 5?"), "messages"),
    "messages as an object": (request_with(messages={"role": "user"}), "messages"),
    "a message as a text": (request_with(messages=["hello"]), "messages[0]"),
    "a message without a role": (request_with(messages=[*QUESTION, {"content": "hello"}]), "messages[1]"),
    "a role of another type": (request_with(messages=[{"role": 1, "content": "hello"}]), "messages[0]"),
    "content as a number": (request_with(messages=[kind(5)]), "messages[0].content"),
    "content as an object": (request_with(messages=[kind({"text": "hello"})]), "messages[0].content"),
    "content parts as texts": (request_with(messages=[kind(["hello"])]), "messages[0].content"),
    "n as a text": (request_with(n="3"), "n"),
    "n zero": (request_with(n=0), "n"),
    "n true": (request_with(n=True), "n"),
    "n as a fraction": (request_with(n=1.5), "n"),
    "seed as a text": (request_with(seed="7"), "seed"),
    "seed true": (request_with(seed=True), "seed"),
    "seed out of range": (request_with(seed=2**63), "seed"),
    "max_tokens as a text": (request_with(max_tokens="many"), "max_tokens"),
    "max_tokens zero": (request_with(max_tokens=0), "max_tokens"),
    "stream as a text": (request_with(stream="yes"), "stream"),
    "stream as a number": (request_with(stream=1), "stream"),
    "stream_options as a list": (request_with(stream=True, stream_options=["include_usage"]), "stream_options"),
    "stream_options as a text": (request_with(stream_options="include_usage"), "stream_options"),
    "its as a list": (request_with(its=[]), "its"),
    "its as a text": (request_with(its="off"), "its"),
    "unknown its key": (request_with(its={"candidate": 3}), "its.candidate"),
    "its version of tomorrow": (request_with(its={"version": 2}), "its.version"),
    "its n zero": (request_with(its={"n": 0}), "its.n"),
    "its n as a text": (request_with(its={"n": "8"}), "its.n"),
    "its vote unknown": (request_with(its={"vote": "never"}), "its.vote"),
    "its min_agreement above one": (request_with(its={"min_agreement": 1.5}), "its.min_agreement"),
    "its stop unknown": (request_with(its={"stop": "median"}), "its.stop"),
    "its force as a text": (request_with(its={"force": "yes"}), "its.force"),
    "its strategy unknown": (request_with(its={"strategy": "rhyme", "force": True}), "its.strategy"),
    "its strategy not forced": (request_with(its={"strategy": "none"}), "its.strategy"),
}


@pytest.mark.parametrize(("body", "param"), BAD_FIELDS.values(), ids=BAD_FIELDS.keys())
async def test_a_bad_field_is_named(server, body, param):
    assert is_clear(await server.send("POST", CHAT, body), 400, "invalid_request", param)


DENIED = ("cache_salt", "kv_params", "kv_cache", "prompt_embeds", "request_id", "priority", "a_transfer_params")


@pytest.mark.parametrize("path", [CHAT, "/v1/completions", "/v1/embeddings"])
@pytest.mark.parametrize("field", DENIED)
async def test_fields_that_reach_into_the_engine_are_refused_on_every_route(server, path, field):
    reply = await server.send("POST", path, for_route(path, request_with(**{field: 1})))
    assert is_clear(reply, 400, "field_not_allowed", field)


@pytest.mark.parametrize(
    ("fields", "param"),
    [({"n": 17}, "n"), ({"its": {"n": 17}}, "its.n"), ({"n": 10_000}, "n"), ({"n": 17, "stream": True}, "n")],
)
async def test_more_candidates_than_the_cap_are_refused(server, fields, param):
    assert is_clear(await server.send("POST", CHAT, request_with(**fields)), 400, "n_too_large", param)


async def test_a_suffix_above_the_cap_is_refused(server):
    assert is_clear(await server.ask(model="model:its-17"), 400, "n_too_large", "its.n")


EXCESS = {
    "stops": (request_with(stop=["x"] * 65), "stop"),
    "forty thousand stops": (request_with(stop=["x"] * 40_000), "stop"),
    "a long stop": (request_with(stop="x" * 1025), "stop"),
    "a long stop among others": (request_with(stop=["x", "y" * 1025]), "stop"),
    "messages": (request_with(messages=QUESTION * 2049), "messages"),
    "parts": (request_with(messages=[kind([{"type": "text", "text": "x"}] * 2049)]), "messages[0].content"),
    "tools": (request_with(tools=[{"type": "function", "function": {"name": "f"}}] * 1025), "tools"),
    "biases": (request_with(logit_bias={str(token): 1 for token in range(1025)}), "logit_bias"),
    "fields": (request_with(**{f"x{number}": 1 for number in range(300)}), None),
}


@pytest.mark.parametrize(("body", "param"), EXCESS.values(), ids=EXCESS.keys())
@pytest.mark.parametrize("path", [CHAT, "/v1/completions"])
async def test_what_only_costs_is_refused(server, path, body, param):
    if path != CHAT and "messages" in str(param):
        param = "messages"  # which are none of this route's
    else:
        body = for_route(path, body)
    assert is_clear(await server.send("POST", path, body), 400, "invalid_request", param)


@pytest.mark.parametrize("fields", [{"n": 17}, {"n": 10_000, "stream": True}])
async def test_what_is_passed_through_has_the_same_cap_of_choices(fields):
    async with serving_script(Say(), None) as (server, upstream):
        assert is_clear(await server.ask(**fields), 400, "n_too_large", "n")
        for field in ("n", "best_of"):
            reply = await server.send("POST", "/v1/completions", {"model": "model", "prompt": "x", field: 17})
            assert is_clear(reply, 400, "n_too_large", field)
        assert (await server.ask(n=16)).status == 200
        assert len(upstream.bodies) == 1


MANY_TOKENS = {
    "of one answer": (CHAT, {"max_tokens": 1001}),
    "of one answer, by its other name": (CHAT, {"max_completion_tokens": 1001}),
    "of several": (CHAT, {"n": 4, "max_tokens": 251}),
    "streamed": (CHAT, {"max_tokens": 1001, "stream": True}),
    "of a completion": ("/v1/completions", {"prompt": "x", "max_tokens": 1001}),
    "of completions": ("/v1/completions", {"prompt": "x", "n": 4, "max_tokens": 251}),
    "of several prompts": ("/v1/completions", {"prompt": ["x", "y"], "n": 2, "max_tokens": 251}),
    "of several prompts as tokens": ("/v1/completions", {"prompt": [[1, 2]] * 4, "max_tokens": 251}),
}


@pytest.mark.parametrize(("path", "fields"), MANY_TOKENS.values(), ids=MANY_TOKENS.keys())
async def test_more_tokens_than_a_request_may_have_are_refused(path, fields):
    async with serving_script(Say(), None, max_request_tokens=1000) as (server, upstream):
        body = for_route(path, request_with(**fields))
        assert is_clear(await server.send("POST", path, body), 400, "too_many_tokens", "max_tokens")
        assert upstream.bodies == []


@pytest.mark.parametrize(
    ("path", "fields"),
    [(CHAT, {"n": 4, "max_tokens": 250}), ("/v1/completions", {"prompt": [1] * 2000, "max_tokens": 1000})],
)
async def test_as_many_tokens_as_a_request_may_have_are_asked_for(path, fields):
    async with serving_script(Say(), None, max_request_tokens=1000) as (server, upstream):
        reply = await server.send("POST", path, for_route(path, request_with(**fields)))
        assert reply.status == 200
        assert len(upstream.bodies) == 1


async def test_a_vote_counts_the_tokens_of_all_its_candidates(tmp_path):
    """After the manifest's own cap, 256, which a client's larger number does not raise."""
    checkpoint = write_checkpoint(tmp_path / "checkpoint", manifest("random"))
    async with serving_script(Say("\\boxed{7}"), checkpoint, max_request_tokens=8 * 256) as (server, upstream):
        assert (await server.ask(max_tokens=10**9)).status == 200
        upstream.forget()
        refused = await server.ask(max_tokens=10**9, its={"n": 9})
        assert is_clear(refused, 400, "too_many_tokens", "max_tokens")
        assert upstream.bodies == []


@pytest.mark.parametrize("suffix", ["0", "-1", "on", "8.0", "", "99999", "\N{ARABIC-INDIC DIGIT EIGHT}"])
async def test_an_unknown_suffix_is_refused(server, suffix):
    assert is_clear(await server.ask(model=f"model:its-{suffix}"), 400, "invalid_request", "model")


@pytest.mark.parametrize(
    "model", ["nobody", "Model", "model ", "model:its", "x" * 100_000, "nobody:its-8", "a/../model"]
)
async def test_an_unknown_model_is_not_found(server, model):
    assert is_clear(await server.ask(model=model), 404, "model_not_found", "model")


@pytest.mark.parametrize("messages", [IMAGE, [{"role": "system", "content": "hi"}], [kind(" \n")], [kind(None)]])
@pytest.mark.parametrize("stream", [False, True])
async def test_without_a_users_text_no_persona_can_be_put_before_it(server, messages, stream):
    reply = await server.send("POST", CHAT, request_with(messages=messages, stream=stream))
    assert is_clear(reply, 400, "strategy_not_applicable", reply.error["param"])


@pytest.mark.parametrize("field", ["chat_template", "chat_template_kwargs", "chat_template_content_format"])
async def test_a_template_of_the_clients_own_is_refused_for_a_persona_model(server, field):
    reply = await server.send("POST", CHAT, request_with(**{field: {"enable_thinking": False}}))
    assert is_clear(reply, 400, "strategy_not_applicable", field)


async def test_completions_do_not_go_past_a_strategy(server):
    reply = await server.send("POST", "/v1/completions", {"model": "model", "prompt": "2 + 5 ="})
    assert is_clear(reply, 400, "strategy_not_applicable", "model")


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"model": 5}, "model"),
        ({}, "model"),
        ({"model": "model:its-8"}, "model"),
        ({"model": "model", "its": {}}, "its"),
    ],
)
async def test_embeddings_know_no_its(server, body, param):
    assert is_clear(await server.send("POST", "/v1/embeddings", body), 400, "invalid_request", param)


async def test_three_megabytes_are_too_many(server):
    body = orjson.dumps(request_with(user="x" * 3 * 2**20))
    assert is_clear(await server.send("POST", CHAT, body), 413, "body_too_large")


async def test_a_body_that_says_it_is_too_large_is_refused_unread(server):
    async with connected(server.url) as wire:
        wire.send(b"POST /v1/chat/completions HTTP/1.1\r\nHost: h\r\nContent-Length: 52428800\r\n\r\n")
        reply = await wire.reply()
        assert is_clear(reply, 413, "body_too_large")
        assert reply.headers["connection"] == "close"
        assert await wire.rest() == b""


async def test_an_endless_body_is_cut_at_the_limit(server):
    n_sent = 0

    async def endless() -> AsyncIterator[bytes]:
        nonlocal n_sent
        while True:
            n_sent += 1
            yield b"x" * 65_536

    async with asyncio.timeout(10), server.http.post(server.url + "/chat/completions", data=endless()) as reply:
        assert reply.status == 413
    assert n_sent < 1_000


@pytest.mark.parametrize("encoding", ["gzip", "deflate", "br", "zstd"])
async def test_a_compressed_body_is_refused_unread(server, encoding):
    body = gzip.compress(orjson.dumps(request_with(user="x" * 2**20)))
    reply = await server.send("POST", CHAT, body, {"Content-Encoding": encoding})
    assert is_clear(reply, 415, "unsupported_encoding")


@pytest.mark.parametrize(
    ("method", "path"), [("GET", CHAT), ("PUT", CHAT), ("DELETE", CHAT), ("POST", "/v1/models"), ("POST", "/metrics")]
)
async def test_another_method_is_refused_and_the_right_one_named(server, method, path):
    reply = await server.send(method, path)
    assert is_clear(reply, 405, "method_not_allowed")
    assert reply.headers["Allow"]


async def test_an_expectation_that_nobody_knows_is_refused(server):
    reply = await server.send("POST", CHAT, request_with(), {"Expect": "miracles"})
    assert reply.status == 417
    assert reply.headers["x-request-id"]


@pytest.mark.parametrize("path", ["/", "/v1", "/v1/", "/v2/chat/completions", "/v1/tokenize", "/v1/load_lora_adapter",
                                  "/v1/chat/completions/", "/%ff", "/v1/../metrics/x"])  # fmt: skip
async def test_a_route_that_nobody_allowed_is_not_found(server, path):
    assert is_clear(await server.send("POST", path, request_with()), 404, "not_found")


SCALARS = st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats() | st.text(max_size=8)
JSON = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3)
)
TEXT = st.fixed_dictionaries({"type": st.just("text") | JSON, "text": st.just("How many are 2 + 3?") | JSON})
MESSAGE = st.fixed_dictionaries(
    {}, optional={"role": st.sampled_from(["user", "system", "tool", "x"]) | JSON,
                  "content": st.just("What is 2 + 5?") | st.lists(TEXT | JSON, max_size=2) | JSON,
                  "tool_calls": JSON},
)  # fmt: skip
ITS = st.fixed_dictionaries(
    {}, optional={"n": st.integers(0, 5) | JSON, "vote": st.sampled_from(["auto", "always", "off"]) | JSON,
                  "strategy": st.sampled_from(["none", "N", "similar", "fixed", "mixed"]) | JSON, "force": JSON,
                  "explain": JSON, "candidates": JSON, "min_agreement": JSON, "sampling": JSON, "x": JSON},
)  # fmt: skip
NAMES = ("temperature", "top_p", "seed", "n", "max_tokens", "max_completion_tokens", "tools", "response_format",
         "stop", "stream", "stream_options", "chat_template_kwargs", "logprobs", "user", "x")  # fmt: skip
REQUEST = st.fixed_dictionaries(
    {"model": st.sampled_from(["model", "model:its-off", "model:its-3", "other"]) | JSON},
    optional={"messages": st.lists(MESSAGE | JSON, max_size=3) | JSON, "its": ITS | JSON,
              **dict.fromkeys(NAMES, JSON)},
)  # fmt: skip
NEARLY_GOOD = st.dictionaries(st.sampled_from(NAMES), JSON, max_size=2).map(lambda fields: request_with(**fields))


def test_no_body_is_answered_by_a_5xx(tmp_path):
    """Bodies that nearly are requests: always either a reply or OpenAI's envelope."""
    loop = asyncio.new_event_loop()
    servers = persona_server(tmp_path)
    server, _ = loop.run_until_complete(servers.__aenter__())

    @hypothesis_settings(max_examples=250, deadline=None, suppress_health_check=list(HealthCheck))
    @given(request=NEARLY_GOOD | REQUEST | JSON, path=st.sampled_from([CHAT, CHAT, CHAT, "/v1/completions"]))
    def never_a_5xx(request: Any, path: str) -> None:
        reply = loop.run_until_complete(server.send("POST", path, _dumps(request)))
        assert reply.status < 500
        if reply.status != 200:
            assert reply.error["message"]

    try:
        never_a_5xx()
    finally:
        loop.run_until_complete(servers.__aexit__(None, None, None))
        loop.close()


def _dumps(value: Any) -> bytes:
    """As a careless client would write it: NaN, lone surrogates and huge integers as they come."""
    return json.dumps(value).encode()
