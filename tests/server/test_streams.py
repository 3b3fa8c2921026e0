"""Streams: a vote told as the stream it could have been, one candidate relayed, and failures after the first byte."""

import asyncio
import json

import pytest
from aiohttp import web

from its_proxy import exchange
from tests.scripted import Say
from tests.serving import manifest, serving_script, write_checkpoint

QUESTION = {"model": "model", "messages": [{"role": "user", "content": "What is 2 + 5?"}], "stream": True}
LONG = "so " * 50 + "\\boxed{7}"


@pytest.fixture
def checkpoint(tmp_path):
    return write_checkpoint(tmp_path / "checkpoint", manifest("random"))


def text_of(chunks, index=0):
    choices = [choice for chunk in chunks for choice in chunk["choices"] if choice["index"] == index]
    return "".join(choice["delta"].get("content") or "" for choice in choices)


class TestVotedStream:
    async def test_role_first_then_the_winners_text_then_the_finish_with_its(self, checkpoint):
        async with serving_script(Say(LONG), checkpoint) as (server, _):
            reply = await server.ask(stream=True)
        chunks = reply.chunks
        assert reply.status == 200
        assert reply.headers["Content-Type"] == "text/event-stream"
        assert reply.headers["x-its-pair"]
        assert reply.headers["x-request-id"] == chunks[0]["id"].removeprefix("chatcmpl-")
        assert len({(c["id"], c["created"], c["model"], c["object"]) for c in chunks}) == 1
        assert (chunks[0]["model"], chunks[0]["object"]) == ("model", "chat.completion.chunk")
        assert chunks[0]["choices"][0]["delta"] == {"role": "assistant", "content": ""}
        assert all(c["choices"] and set(c["choices"][0]) >= {"index", "delta", "finish_reason"} for c in chunks)
        assert text_of(chunks) == LONG
        assert len(chunks) > 4, "a long text comes in pieces"
        assert [c["choices"][0]["finish_reason"] for c in chunks] == [None] * (len(chunks) - 1) + ["stop"]
        assert ["its" in c for c in chunks] == [False] * (len(chunks) - 1) + [True]
        assert chunks[-1]["its"]["answer"] == "7"

    async def test_usage_comes_last_and_only_if_asked_for(self, checkpoint):
        async with serving_script(Say(LONG), checkpoint) as (server, _):
            asked = (await server.ask(stream=True, stream_options={"include_usage": True}, its={"stop": "none"})).chunks
            declined = (await server.ask(stream=True, stream_options={"include_usage": False})).chunks
        assert asked[-1]["choices"] == []
        assert asked[-1]["usage"] == {"prompt_tokens": 56, "completion_tokens": 80, "total_tokens": 136}
        assert not any("usage" in chunk for chunk in [*asked[:-1], *declined])

    async def test_every_choice_has_its_role_its_text_and_its_finish(self, checkpoint):
        async with serving_script(Say(LONG), checkpoint) as (server, _):
            chunks = (await server.ask(stream=True, n=3)).chunks
        for index in range(3):
            own = [c["choices"][0] for c in chunks if c["choices"][0]["index"] == index]
            assert own[0]["delta"]["role"] == "assistant"
            assert own[-1]["finish_reason"] == "stop"
            assert text_of(chunks, index) == LONG
        assert [c["choices"][0]["index"] for c in chunks if "its" in c] == [2]

    async def test_a_choice_that_was_lost_never_begins(self, checkpoint):
        def all_but_one(body, number):
            return Say(LONG, status=500 if body["seed"] == 102 else 200)

        async with serving_script(all_but_one, checkpoint) as (server, _):
            chunks = (await server.ask(stream=True, n=3, seed=100, its={"n": 3})).chunks
        told = [chunk["choices"][0] for chunk in chunks]
        assert {choice["index"] for choice in told} == {0, 1}
        assert [choice["index"] for choice in told if choice["finish_reason"]] == [0, 1]
        assert [choice["index"] for choice in told if "role" in choice["delta"]] == [0, 1]

    async def test_reasoning_and_tool_calls_of_the_winner_are_streamed_too(self, checkpoint):
        call = {"id": "a", "type": "function", "function": {"name": "f", "arguments": "{}"}}
        message = {"role": "assistant", "content": None, "reasoning": "hm", "tool_calls": [call]}
        raw = json.dumps({"choices": [{"index": 0, "finish_reason": "tool_calls", "message": message}]}).encode()
        async with serving_script(Say(raw=raw), checkpoint) as (server, _):
            chunks = (await server.ask(stream=True)).chunks
        deltas = [chunk["choices"][0]["delta"] for chunk in chunks[1:]]
        assert deltas[0] == {"reasoning": "hm"}
        assert deltas[1] == {"tool_calls": [{"index": 0, **call}]}
        assert chunks[-1]["choices"][0]["finish_reason"] == "tool_calls"

    async def test_comments_keep_the_line_alive_while_the_vote_goes_on(self, checkpoint, monkeypatch):
        monkeypatch.setattr(exchange, "STREAM_BEGINS_S", 0.05)
        monkeypatch.setattr(exchange, "HEARTBEAT_S", 0.05)
        async with (
            serving_script(Say(LONG, delay_s=0.4), checkpoint) as (server, upstream),
            server.http.post(server.url + "/chat/completions", json=QUESTION) as reply,
        ):
            assert upstream.n_finished == 0, "the headers wait for no candidate longer than they must"
            raw = await reply.read()
        first, second, *_ = raw.decode().split("\n\n")
        assert '"role":"assistant"' in first
        assert second.startswith(": ")
        assert raw.count(b"\n: ") >= 3
        assert raw.endswith(b"data: [DONE]\n\n")

    async def test_an_early_failure_still_gets_its_status(self, checkpoint):
        async with serving_script(Say(status=404), checkpoint) as (server, _):
            reply = await server.ask(stream=True)
        assert reply.status == 404
        assert reply.headers["Content-Type"].startswith("application/json")
        assert reply.error["code"] == "upstream_rejected"

    async def test_a_late_failure_is_one_event_and_done(self, checkpoint, monkeypatch):
        monkeypatch.setattr(exchange, "STREAM_BEGINS_S", 0.05)
        async with serving_script(Say(status=500, delay_s=0.3), checkpoint) as (server, _):
            reply = await server.ask(stream=True)
        assert reply.status == 200
        role, failure = reply.chunks
        assert "choices" in role
        assert failure["error"]["code"] == "upstream_rejected"
        assert b"secret" not in reply.raw

    async def test_a_client_that_insists_on_an_answer_hears_late_that_there_is_none(self, checkpoint):
        def script(body, number):
            return Say("That depends.", delay_s=0 if number == 0 else 0.2)

        async with serving_script(script, checkpoint) as (server, _):
            chunks = (await server.ask(stream=True, its={"on_no_answer": "error", "vote": "always"})).chunks
        assert chunks[-1]["error"]["code"] == "no_vote"

    async def test_a_defect_in_the_middle_ends_the_stream_in_order(self, checkpoint, monkeypatch):
        def broken(*args, **kwargs):
            raise RuntimeError("secret of the house")

        async with serving_script(Say(LONG), checkpoint) as (server, _):
            monkeypatch.setattr(exchange, "completion_events", broken)
            reply = await server.ask(stream=True)
        assert reply.chunks[-1]["error"]["code"] == "internal_error"
        assert b"secret" not in reply.raw

    async def test_an_ordinary_question_costs_one_call_here_too(self, checkpoint):
        async with serving_script(Say("I am a model."), checkpoint) as (server, upstream):
            chunks = (await server.ask("Hello, who are you?", stream=True)).chunks
            assert len(upstream.bodies) == 1
        assert chunks[-1]["its"]["stopped"] == "no_answer"

    async def test_a_client_that_leaves_in_the_middle_of_its_stream_cancels_all(self, checkpoint, monkeypatch):
        monkeypatch.setattr(exchange, "STREAM_BEGINS_S", 0.05)
        monkeypatch.setattr(exchange, "HEARTBEAT_S", 0.05)
        async with serving_script(Say(LONG, delay_s=60), checkpoint) as (server, upstream):
            async with server.http.post(server.url + "/chat/completions", json=QUESTION) as reply:
                await reply.content.readany()
                reply.close()
            await upstream.until(lambda: upstream.n_cancelled == 8)
            left = b'its_proxy_client_disconnects_total{phase="streaming"} 1.0'
            async with asyncio.timeout(5):
                while left not in server.context.metrics.exposition():
                    await asyncio.sleep(0.01)


class TestRelayedStream:
    async def test_one_candidate_is_relayed_as_it_comes(self, checkpoint):
        say = Say("one two \\boxed{7}", chunk_delay_s=0.05)
        async with serving_script(say, checkpoint) as (server, upstream):
            body = QUESTION | {"model": "model:its-off", "seed": 9, "stream_options": {"include_usage": True}}
            async with server.http.post(server.url + "/chat/completions", json=body) as reply:
                await reply.content.readuntil(b"one ")
                assert upstream.n_open == 1, "the first words are here before the last ones are there"
                assert (await reply.read()).endswith(b"data: [DONE]\n\n")
            (sent,) = upstream.bodies
        assert sent["stream"] is True
        assert (sent["seed"], sent["stream_options"]) == (9, {"include_usage": True})
        assert sent["messages"][0]["content"].endswith("\n\nWhat is 2 + 5?")
        assert reply.headers["x-its-pair"]
        assert reply.headers["x-request-id"]

    @pytest.mark.parametrize("has_manifest", [False, True])
    async def test_a_stream_that_just_ends_ends_with_an_error(self, checkpoint, has_manifest):
        cut = Say("one two", finish_reason=None)
        async with serving_script(cut, checkpoint if has_manifest else None) as (server, _):
            reply = await server.ask(stream=True, max_tokens=5)
        assert text_of(reply.chunks[:-1]) == "one two "
        assert reply.chunks[-1]["error"]["code"] == "upstream_error"

    async def test_a_refused_stream_gets_its_status(self):
        async with serving_script(Say(status=429, headers={"Retry-After": "30"}), None) as (server, _):
            reply = await server.ask(stream=True)
        assert (reply.status, reply.error["code"]) == (429, "upstream_busy")
        assert int(reply.headers["Retry-After"]) >= 30

    async def test_an_upstream_that_answers_a_stream_plainly_is_a_bad_gateway(self):
        async with serving_script(Say(raw=b"<html>secret</html>"), None) as (server, _):
            reply = await server.ask(stream=True)
        assert (reply.status, reply.error["code"]) == (502, "bad_upstream_payload")


FINISH = b'data: {"choices": [{"finish_reason": "stop"}]}'
PIECES = {
    "whole": [FINISH + b"\n\n", b"data: [DONE]\n\n"],
    "in the middle of a line": [FINISH[:12], FINISH[12:] + b"\n\ndata: [DO", b"NE]\n\n"],
    "CRLF": [FINISH + b"\r\n\r", b"\ndata: [DONE]\r\n\r\n"],
    "CR": [FINISH + b"\r\rdata: {}\r", b"\rdata: [DONE]\r\r"],
    "comments and named events": [b": ping\n\nevent: x\ndata: {}\n\n", FINISH + b"\n\ndata: [DONE]\n\n"],
    "no newline at the end": [FINISH + b"\n\ndata: [DONE]"],
    "no space": [FINISH.replace(b" ", b"", 1) + b"\n\ndata:[DONE]\n\n"],
    "more behind [DONE]": [FINISH + b"\n\ndata: [DONE]\n\n", b"data: [DONE]\n\nsecret"],
}
BROKEN = {
    "nothing": [],
    "no finish": [b'data: {"a": 1}\n\n', b"data: [DONE]\n\n"],
    "neither finish nor [DONE]": [b'data: {"choices": [{"finish_reason": null}]}\n\n'],
    "no event": [FINISH + b"\n\ndata: secret\n\ndata: [DONE]\n\n"],
    "an error in a line that goes on": [FINISH, b'\ndata: {"error": "secret"}\n\n'],
    "[DONE] inside a text": [b'data: {"a": "data: [DONE]"}\n\n'],
    "cut in the middle of a line": [b'data: {"a": 1}\n\ndata: {"b": "secr'],
    "an error of its own": [b'data: {"a": 1}\n\ndata: {"error": {"message": "secret"}}\n\ndata: [DONE]\n\n'],
    "an error without a newline": [b'data: {"a": 1}\n\n', b'data: { "error": "secret"}'],
}


class TestRelayed:
    """The relay itself, over an upstream that writes exactly these bytes."""

    async def relay(self, pieces) -> bytes:
        async def stream(request: web.Request) -> web.StreamResponse:
            response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
            await response.prepare(request)
            for piece in pieces:
                await response.write(piece)
                await asyncio.sleep(0.005)
            return response

        app = web.Application()
        app.router.add_post("/v1/chat/completions", stream)
        runner = web.AppRunner(app, access_log=None)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        url = f"http://127.0.0.1:{runner.addresses[0][1]}/v1"
        try:
            async with serving_script(Say(), None, upstreams={"gpu": {"url": url}}) as (server, _):
                return (await server.ask(stream=True)).raw
        finally:
            await runner.cleanup()

    @pytest.mark.parametrize("pieces", PIECES.values(), ids=PIECES.keys())
    async def test_events_arrive_as_they_were_sent_up_to_done(self, pieces):
        events, _, _ = b"".join(pieces).replace(b"data:[", b"data: [").partition(b"data: [DONE]")
        assert await self.relay(pieces) == events + b"data: [DONE]\n\n"

    @pytest.mark.parametrize("end", [b"\n\n", b"\n", b""])
    async def test_a_finished_stream_without_done_is_told_its_end(self, end):
        assert await self.relay([FINISH + end]) == FINISH + end + b"\n\ndata: [DONE]\n\n"

    @pytest.mark.parametrize("pieces", BROKEN.values(), ids=BROKEN.keys())
    async def test_a_broken_stream_ends_with_our_error_and_done(self, pieces):
        raw = await self.relay(pieces)
        events = [line for line in raw.split(b"\n") if line]
        assert events[-2].startswith(b'data: {"error":{"message":"the upstream ')
        assert events[-1] == b"data: [DONE]"
        assert b"secr" not in raw
        assert all(event.endswith((b"}", b"[DONE]")) for event in events)
