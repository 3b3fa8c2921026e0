"""Requests and replies on one connection: in order, framed for whoever asks; and who is refused sees the refusal."""

import asyncio
import gc
import weakref

import pytest

from its_proxy.server.http.connection import MAX_AHEAD, MAX_AHEAD_BYTES
from its_proxy.server.http.response import Response
from tests.scripted import Say
from tests.serving import serving_script
from tests.wire import connected, post

LIVE = b"GET /livez HTTP/1.1\r\nHost: h\r\n\r\n"
QUESTION = {"model": "model", "messages": [{"role": "user", "content": "Hi"}]}
STREAM = {**QUESTION, "stream": True}
LONG = {"header_s": 60.0, "body_s": 60.0, "write_idle_s": 60.0, "keepalive_s": 60.0}
KEY = {"environ": {"KEY": "k"}, "keys": [{"name": "team", "env": "KEY"}]}


async def until(condition, timeout_s: float = 10.0) -> None:
    async with asyncio.timeout(timeout_s):
        while not condition():
            await asyncio.sleep(0.005)


@pytest.fixture
async def server():
    async with serving_script(Say("one two"), None, **LONG) as (server, _):
        yield server


class TestRequestsSentAhead:
    async def test_are_answered_in_their_order(self):
        def say(body, number):
            return Say(body["messages"][0]["content"], delay_s=0.2 if number == 0 else 0)

        async with serving_script(say, None) as (server, _), connected(server.url) as wire:
            queries = ["first", "second", "third"]
            asked = [{**QUESTION, "messages": [{"role": "user", "content": query}]} for query in queries]
            wire.send(b"".join(map(post, asked)))
            replies = [(await wire.reply()).json["choices"][0]["message"]["content"] for _ in queries]
        assert [reply.strip() for reply in replies] == queries

    async def test_are_answered_up_to_a_number_and_the_last_says_so(self, server):
        async with connected(server.url) as wire:
            wire.send(LIVE * 3 * MAX_AHEAD)
            replies = [await wire.reply() for _ in range(1 + MAX_AHEAD)]
            assert await wire.rest() == b""
        assert [reply.headers.get("connection") for reply in replies] == [None] * MAX_AHEAD + ["close"]

    async def test_are_not_read_beyond_an_amount_while_one_is_answered(self):
        async with (
            serving_script(Say(delay_s=600.0), None, **LONG) as (server, upstream),
            connected(server.url) as wire,
        ):
            wire.send(post(QUESTION) + post({**QUESTION, "user": "u" * 10 * MAX_AHEAD_BYTES}))
            await until(lambda: server.connections and server.connections[0].is_reading_paused)
            await upstream.until(lambda: upstream.n_open == 1)

    async def test_are_all_answered_when_they_are_long(self):
        async with serving_script(Say("one", delay_s=0.1), None) as (server, _), connected(server.url) as wire:
            wire.send(post({**QUESTION, "user": "u" * 10 * MAX_AHEAD_BYTES}) * 3)
            assert [(await wire.reply()).status for _ in range(3)] == [200] * 3


class TestFraming:
    async def test_a_stream_is_chunked_and_its_connection_goes_on(self, server):
        async with connected(server.url) as wire:
            for _ in range(2):
                wire.send(post(STREAM))
                head = await wire.reader.readuntil(b"\r\n\r\n")
                assert b"Transfer-Encoding: chunked\r\n" in head
                assert b"Connection" not in head
                assert (await wire.reader.readuntil(b"0\r\n\r\n")).count(b"data: [DONE]") == 1

    async def test_an_old_client_gets_a_stream_without_chunks_and_then_its_end(self, server):
        async with connected(server.url) as wire:
            wire.send(post(STREAM).replace(b"HTTP/1.1", b"HTTP/1.0"))
            head, _, body = (await wire.rest()).partition(b"\r\n\r\n")
        assert b"Transfer-Encoding" not in head
        assert b"\r\nConnection: close" in head
        assert body.startswith(b"data: {")
        assert body.endswith(b"data: [DONE]\n\n")

    async def test_an_old_client_that_wants_to_stay_may(self, server):
        async with connected(server.url) as wire:
            for _ in range(2):
                wire.send(b"GET /livez HTTP/1.0\r\nConnection: keep-alive\r\n\r\n")
                assert (await wire.reply()).headers["connection"] == "keep-alive"

    async def test_who_asks_for_the_head_gets_no_body(self, server):
        async with connected(server.url) as wire:
            wire.send(LIVE.replace(b"GET", b"HEAD") + LIVE)
            assert b"Content-Length: 18\r\n" in await wire.reader.readuntil(b"\r\n\r\n")
            assert (await wire.reply()).json == {"status": "alive"}

    async def test_who_wishes_another_protocol_is_answered_in_this_one(self, server):
        """As Java's own client does with every first request."""
        upgrade = {"Connection": "Upgrade, HTTP2-Settings", "Upgrade": "h2c", "HTTP2-Settings": "AAMAAABk"}
        async with connected(server.url) as wire:
            wire.send(post(QUESTION, **upgrade) + LIVE)
            assert [(await wire.reply()).status for _ in range(2)] == [200, 200]


class TestExpectation:
    ASKING = post(QUESTION, Expect="100-continue")

    async def test_who_asks_before_sending_a_body_is_told_to_go_on(self, server):
        head, end, body = self.ASKING.partition(b"\r\n\r\n")
        async with connected(server.url) as wire:
            wire.send(head + end)
            assert await wire.reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
            wire.send(body)
            assert (await wire.reply()).status == 200

    async def test_who_does_not_wait_is_not_told(self, server):
        async with connected(server.url) as wire:
            wire.send(self.ASKING)
            assert (await wire.reply()).status == 200

    async def test_whose_answer_is_known_hears_that_instead(self):
        head, end, _ = self.ASKING.partition(b"\r\n\r\n")
        async with serving_script(Say(), None, **KEY) as (server, _), connected(server.url) as wire:
            wire.send(head + end)
            assert (await wire.reply()).status == 401
            assert await wire.rest() == b""


@pytest.mark.parametrize("n_sent", [10**5, 10**7])
async def test_a_client_that_is_refused_while_it_sends_sees_the_refusal_and_no_reset(server, n_sent):
    async with connected(server.url) as wire:
        wire.send(b"POST /v1/chat/completions HTTP/1.1\r\nHost: h\r\nContent-Length: 100000000\r\n\r\n")
        wire.send(b"x" * n_sent)
        await asyncio.sleep(0.3)  # the refusal is there, and more of the body behind it
        wire.send(b"x" * n_sent)
        assert (await wire.reply()).status == 413
        assert await wire.reader.read() == b""


async def test_a_header_that_would_be_two_is_a_defect_and_no_second_header(server):
    async def odd(request):
        return Response(b"{}", headers={"x-its-degraded": "a\r\nSet-Cookie: b"})

    server.site.app.router.get("/odd", odd)
    async with connected(server.url) as wire:
        wire.send(LIVE.replace(b"livez", b"odd"))
        reply = await wire.reply()
        assert (reply.status, reply.error["code"], reply.headers["connection"]) == (500, "internal_error", "close")
        assert "set-cookie" not in reply.headers


LEAVING = {"answered": LIVE, "in the middle of its request": post(QUESTION)[:-5], "unanswered": post(QUESTION)}


@pytest.mark.parametrize("sent", LEAVING.values(), ids=LEAVING.keys())
async def test_a_client_that_leaves_leaves_nothing_for_the_collector(sent):
    async with serving_script(Say(delay_s=600.0), None, **LONG) as (server, upstream):
        gc.disable()
        try:
            async with connected(server.url) as wire:
                wire.send(sent)
                if sent == LIVE:
                    await wire.reply()
                elif sent == post(QUESTION):
                    await upstream.until(lambda: upstream.n_open == 1)
                await until(lambda: server.connections)
                [connection] = map(weakref.ref, server.connections)
            await until(lambda: connection() is None)
        finally:
            gc.enable()
