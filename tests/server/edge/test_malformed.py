"""Requests that two readers could read differently: a 400 in OpenAI's shape, and the end of the connection."""

import asyncio

import pytest

from tests.scripted import Say
from tests.serving import serving_script
from tests.wire import connected, post

SECRET = b"sk-planted-secret"
BODY = b'{"model":"model","messages":[{"role":"user","content":"sk-planted-secret"}]}'
POST, END = b"POST /v1/chat/completions HTTP/1.1\r\n", b"\r\n\r\n"
HOST, LENGTH = b"Host: h\r\n", b"Content-Length: %d\r\n" % len(BODY)
CHUNKED = b"%x\r\n%s\r\n0\r\n\r\n" % (len(BODY), BODY)
TE = b"Transfer-Encoding: chunked\r\n"

MALFORMED = {
    "Content-Length beside Transfer-Encoding": POST + HOST + LENGTH + TE + b"\r\n" + CHUNKED,
    "Transfer-Encoding beside Content-Length": POST + HOST + TE + b"Content-Length: 4\r\n\r\n" + CHUNKED,
    "two equal Content-Lengths": POST + HOST + LENGTH + LENGTH + b"\r\n" + BODY,
    "two Content-Lengths that differ": POST + HOST + LENGTH + b"Content-Length: 3\r\n\r\n" + BODY,
    "a list of Content-Lengths": POST + HOST + b"Content-Length: %d, %d" % (len(BODY), len(BODY)) + END + BODY,
    "a negative Content-Length": POST + HOST + b"Content-Length: -5" + END + BODY,
    "a signed Content-Length": POST + HOST + b"Content-Length: +%d" % len(BODY) + END + BODY,
    "a hexadecimal Content-Length": POST + HOST + b"Content-Length: 0x%x" % len(BODY) + END + BODY,
    "an empty Content-Length": POST + HOST + b"Content-Length: " + END + BODY,
    "a Content-Length beyond 64 bits": POST + HOST + b"Content-Length: " + b"9" * 30 + END + BODY,
    "a folded header": POST + HOST + b"X-A: sk-planted-\r\n secret\r\n" + LENGTH + b"\r\n" + BODY,
    "bare line feeds": POST.replace(b"\r", b"") + b"Host: h\nContent-Length: %d\n\n" % len(BODY) + BODY,
    "one bare line feed": POST + b"Host: h\n" + LENGTH + b"\r\n" + BODY,
    "a bare carriage return in a value": POST + HOST + b"X-A: a\rsk-planted-secret\r\n" + LENGTH + b"\r\n" + BODY,
    "NUL in a value": POST + HOST + b"X-A: sk-planted-secret\x00\r\n" + LENGTH + b"\r\n" + BODY,
    "NUL in a name": POST + HOST + b"X-\x00A: sk-planted-secret\r\n" + LENGTH + b"\r\n" + BODY,
    "a space before the colon": POST + HOST + b"Content-Length : %d" % len(BODY) + END + BODY,
    "a header without a name": POST + HOST + b": sk-planted-secret\r\n" + LENGTH + b"\r\n" + BODY,
    "a header without a colon": POST + HOST + b"sk-planted-secret\r\n" + LENGTH + b"\r\n" + BODY,
    "chunked twice": POST + HOST + b"Transfer-Encoding: chunked, chunked" + END + CHUNKED,
    "two Transfer-Encodings": POST + HOST + TE + TE + b"\r\n" + CHUNKED,
    "xchunked": POST + HOST + b"Transfer-Encoding: xchunked" + END + CHUNKED,
    "chunked is not last": POST + HOST + b"Transfer-Encoding: chunked, identity" + END + CHUNKED,
    "a chunk size that is none": POST + HOST + TE + b"\r\nsk-planted-secret\r\n" + CHUNKED,
    "a negative chunk size": POST + HOST + TE + b"\r\n-5\r\n" + CHUNKED,
    "a chunk longer than told": POST + HOST + TE + b"\r\n4\r\n" + SECRET + b"\r\n0\r\n\r\n",
    "an oversized header": POST + HOST + b"X-A: " + SECRET * 600 + b"\r\n" + LENGTH + b"\r\n" + BODY,
    "oversized headers together": POST + HOST + b"X-A: " + (SECRET * 200 + b"\r\nX-A: ") * 12,
    "hundreds of headers": POST + HOST + b"X-A: a\r\n" * 500 + LENGTH + b"\r\n" + BODY,
    "an oversized target": b"GET /" + SECRET * 600 + b" HTTP/1.1\r\n" + HOST + b"\r\n",
    "no host": POST + LENGTH + b"\r\n" + BODY,
    "two hosts": POST + HOST + b"Host: other\r\n" + LENGTH + b"\r\n" + BODY,
    "two keys": POST + HOST + b"Authorization: Bearer a\r\nAuthorization: Bearer b\r\n" + LENGTH + b"\r\n" + BODY,
    "two marks of a layer in front": POST
    + HOST
    + b"X-Its-Applied: a\r\nx-its-applied: b\r\n"
    + LENGTH
    + b"\r\n"
    + BODY,
    "absolute form": b"POST http://other/v1/chat/completions HTTP/1.1\r\n" + HOST + LENGTH + b"\r\n" + BODY,
    "a target without its slash": b"POST v1/chat/completions HTTP/1.1\r\n" + HOST + LENGTH + b"\r\n" + BODY,
    "CONNECT": b"CONNECT other:443 HTTP/1.1\r\n" + HOST + b"\r\n",
    "spaces in the target": b"GET /livez sk-planted-secret HTTP/1.1\r\n" + HOST + b"\r\n",
    "another version": POST.replace(b"1.1", b"3.7") + HOST + LENGTH + b"\r\n" + BODY,
    "no HTTP": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + SECRET + b"\r\n\r\n",
}
SMUGGLED = b"GET /metrics HTTP/1.1\r\nHost: h\r\n\r\n"


@pytest.fixture
async def server(tmp_path):
    async with serving_script(Say(), None) as (server, upstream):
        yield server
        assert upstream.bodies == []


@pytest.mark.parametrize("request_", MALFORMED.values(), ids=MALFORMED.keys())
async def test_a_malformed_request_is_a_400_and_ends_the_connection(server, request_, capfd):
    async with connected(server.url) as wire:
        wire.send(request_ + SMUGGLED)
        reply = await wire.reply()
        assert (reply.status, reply.error["code"], reply.error["type"]) == (
            400,
            "invalid_http",
            "invalid_request_error",
        )
        assert reply.headers["connection"] == "close"
        assert reply.headers["server"] == "its-proxy"
        assert SECRET not in reply.raw
        assert await wire.rest() == b""
    said = capfd.readouterr()
    assert SECRET.decode() not in said.out + said.err


async def test_a_body_that_turns_out_malformed_is_a_400_as_well(server, capfd):
    """Its headers were good, and its handler is reading already."""
    async with connected(server.url) as wire:
        wire.send(POST + HOST + TE + b"\r\n")
        await asyncio.sleep(0.05)
        wire.send(b"sk-planted-secret\r\n" + CHUNKED + SMUGGLED)
        reply = await wire.reply()
        assert (reply.status, reply.error["code"], reply.headers["connection"]) == (400, "invalid_http", "close")
        assert await wire.rest() == b""
    assert SECRET.decode() not in capfd.readouterr().err


async def test_malformed_requests_are_counted(server):
    async with connected(server.url) as wire:
        wire.send(MALFORMED["NUL in a value"])
        await wire.rest()
    assert server.context.metrics.registry.get_sample_value("its_proxy_malformed_requests_total") == 1


async def test_a_request_that_is_well_made_is_none_of_these(server):
    async with connected(server.url) as wire:
        wire.send(post({"model": "nobody", "messages": [{"role": "user", "content": "Hi"}]}) * 2)
        for _ in range(2):
            assert (await wire.reply()).status == 404
