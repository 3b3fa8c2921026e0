"""A voted stream while its vote is held: the first candidate's thoughts as they come, candidates as they arrive."""

import asyncio

import pytest

from its_proxy import exchange
from its_proxy.leader import ANOTHER
from tests.scripted import Say
from tests.serving import Reply, manifest, serving_script, write_checkpoint

SEED = 100
QUESTION = {
    "model": "model",
    "messages": [{"role": "user", "content": "What is 2 + 5?"}],
    "stream": True,
    "seed": SEED,
    "its": {"stream": "leader"},
}
LOST = Say(status=500)


@pytest.fixture
def checkpoint(tmp_path):
    return write_checkpoint(tmp_path / "checkpoint", manifest("random"))


@pytest.fixture
def held():
    """Whatever waits for it says nothing until a test lets it."""
    return asyncio.Event()


def by_index(*says: Say):
    """A script: candidate k says `says[k]`, those behind the last one what that says."""
    return lambda body, number: says[min(body["seed"] - SEED, len(says) - 1)]


def said(chunks, *fields: str) -> str:
    deltas = [choice["delta"] for chunk in chunks for choice in chunk.get("choices", ())]
    return "".join(delta[field] for delta in deltas for field in fields if delta.get(field))


def progress(chunks) -> list[dict]:
    return [chunk["its"]["progress"] for chunk in chunks if "progress" in chunk.get("its", {})]


async def opened(server, body=QUESTION, path="/chat/completions"):
    return await server.http.post(server.url + path, json=body)


async def whole(reply, begun: bytes = b"") -> Reply:
    return Reply(reply.status, reply.headers, begun + await reply.read())


class TestThoughts:
    @pytest.mark.parametrize("fields", [("reasoning",), ("reasoning_content",), ("reasoning", "reasoning_content")])
    async def test_they_are_told_live_and_the_answer_when_the_vote_is_decided(self, checkpoint, held, fields):
        first = Say("\\boxed{7}", pieces=[dict.fromkeys(fields, "hm "), held, dict.fromkeys(fields, "seven")])
        script = by_index(first, Say("\\boxed{7}", gate=held))
        async with serving_script(script, checkpoint) as (server, upstream), await opened(server) as reply:
            begun = await reply.content.readuntil(b'"hm "')
            assert upstream.n_finished == 0, "nothing has been answered yet"
            held.set()
            chunks = (await whole(reply, begun)).chunks
        for field in fields:
            assert said(chunks, field) == "hm seven", "told once, and as the upstream spells it"
        assert said(chunks, "content").strip() == "\\boxed{7}"
        thought = [number for number, chunk in enumerate(chunks) if said([chunk], *fields)]
        answered = [number for number, chunk in enumerate(chunks) if said([chunk], "content")]
        assert max(thought) < min(answered)
        assert chunks[-1]["its"]["votes"] == {"7": len(upstream.bodies) - chunks[-1]["its"]["cancelled"]["candidates"]}

    async def test_without_the_wish_nothing_is_told_before_the_vote(self, checkpoint):
        thoughtful = Say("\\boxed{7}", message={"reasoning": "hm"})
        async with serving_script(thoughtful, checkpoint) as (server, upstream):
            chunks = (await server.ask(stream=True)).chunks
            assert not any(body.get("stream") for body in upstream.bodies)
        assert said(chunks, "reasoning") == "hm"

    async def test_only_the_first_candidate_is_asked_as_a_stream(self, checkpoint):
        async with serving_script(Say("\\boxed{7}", pieces=[{"reasoning": "hm"}]), checkpoint) as (server, upstream):
            chunks = (await server.ask(stream=True, seed=SEED, its={"stream": "leader", "stop": "none"})).chunks
            assert [body["seed"] for body in upstream.bodies if body.get("stream")] == [SEED]
        assert said(chunks, "reasoning") == "hm"

    async def test_a_plain_reply_is_what_it_was(self, checkpoint):
        async with serving_script(Say("\\boxed{7}"), checkpoint) as (server, upstream):
            status, reply = await server.chat(its={"stream": "leader"})
            assert not any(body.get("stream") for body in upstream.bodies)
        assert (status, reply["choices"][0]["message"]["content"]) == (200, "\\boxed{7}")

    async def test_when_another_candidate_wins_a_line_says_so_and_its_own_reply_follows(self, checkpoint):
        wrong = Say("\\boxed{5}", pieces=[{"reasoning": "five"}])
        right = Say("\\boxed{7}", message={"reasoning": "seven"})
        async with serving_script(by_index(wrong, right), checkpoint) as (server, _):
            chunks = (await server.ask(stream=True, seed=SEED, its={"stream": "leader", "stop": "none"})).chunks
        assert said(chunks, "reasoning") == f"five{ANOTHER}seven"
        assert said(chunks, "content") == "\\boxed{7}"
        assert ANOTHER.strip().count("\n") == 0
        assert chunks[-1]["its"]["votes"] == {"7": 7, "5": 1}

    async def test_a_first_candidate_that_breaks_off_is_lost_and_the_others_vote(self, checkpoint):
        broken = Say("", finish_reason=None, pieces=[{"reasoning": "hm"}])
        async with serving_script(by_index(broken, Say("\\boxed{7}")), checkpoint) as (server, _):
            chunks = (await server.ask(stream=True, seed=SEED, its={"stream": "leader", "stop": "none"})).chunks
        assert said(chunks, "reasoning") == f"hm{ANOTHER}"
        assert said(chunks, "content") == "\\boxed{7}"
        assert chunks[-1]["its"]["lost"] == 1

    async def test_a_first_candidate_still_thinking_when_the_vote_is_decided_is_cancelled(self, checkpoint):
        endless = Say(pieces=[{"reasoning": "hm"}, asyncio.Event()])
        async with serving_script(by_index(endless, Say("\\boxed{7}")), checkpoint) as (server, upstream):
            chunks = (await server.ask(stream=True, seed=SEED, its={"stream": "leader"})).chunks
            await upstream.until(lambda: upstream.n_open == 0)
        assert said(chunks, "content") == "\\boxed{7}"
        assert chunks[-1]["its"]["stopped"] == "decided"

    async def test_a_model_that_does_not_think_apart_streams_as_ever(self, checkpoint):
        script = by_index(Say("<think>hm</think>\\boxed{5}"), Say("\\boxed{7}"))
        async with serving_script(script, checkpoint) as (server, _):
            chunks = (await server.ask(stream=True, seed=SEED, its={"stream": "leader", "stop": "none"})).chunks
        assert said(chunks, "reasoning", "reasoning_content") == ""
        assert said(chunks, "content") == "\\boxed{7}"

    async def test_an_upstream_that_refuses_our_stream_options_is_asked_plainly(self, checkpoint):
        def script(body, number):
            return Say(status=400) if body.get("stream") else Say("\\boxed{7}", message={"reasoning": "hm"})

        async with serving_script(script, checkpoint) as (server, _):
            chunks = (await server.ask(stream=True, seed=SEED, its={"stream": "leader", "stop": "none"})).chunks
        assert said(chunks, "reasoning") == "hm"
        assert chunks[-1]["its"]["votes"] == {"7": 8}

    async def test_one_candidate_without_a_vote_is_relayed_whole(self, checkpoint):
        async with serving_script(Say("seven", pieces=[{"reasoning": "hm"}]), checkpoint) as (server, _):
            chunks = (await server.ask(model="model:its-off", stream=True, its={"stream": "leader"})).chunks
        assert (said(chunks, "reasoning"), said(chunks, "content")) == ("hm", "seven ")

    async def test_usage_is_summed_as_for_any_vote(self, checkpoint):
        options = {"stream_options": {"include_usage": True}, "its": {"stream": "leader", "stop": "none"}}
        async with serving_script(Say("\\boxed{7}", pieces=[{"reasoning": "hm"}]), checkpoint) as (server, _):
            chunks = (await server.ask(stream=True, seed=SEED, **options)).chunks
        assert chunks[-1]["usage"] == {"prompt_tokens": 56, "completion_tokens": 80, "total_tokens": 136}
        assert chunks[-1]["choices"] == []


class TestItsEnd:
    async def test_a_client_that_leaves_cancels_every_candidate(self, checkpoint):
        script = by_index(Say(pieces=[{"reasoning": "hm"}, asyncio.Event()]), Say(gate=asyncio.Event()))
        async with serving_script(script, checkpoint) as (server, upstream):
            async with await opened(server) as reply:
                await reply.content.readuntil(b'"hm"')
                reply.close()
            await upstream.until(lambda: upstream.n_cancelled == 8)

    async def test_a_late_failure_is_one_event_behind_the_thoughts(self, checkpoint, held):
        broken = Say("", finish_reason=None, pieces=[{"reasoning": "hm"}, held])
        script = by_index(broken, Say(status=500, gate=held))
        async with serving_script(script, checkpoint) as (server, _), await opened(server) as reply:
            begun = await reply.content.readuntil(b'"hm"')
            held.set()
            told = await whole(reply, begun)
        assert told.chunks[-1]["error"]["code"] == "quorum_lost"
        assert said(told.chunks, "content") == ""
        assert b"secret" not in told.raw

    async def test_a_lost_candidate_does_not_begin_the_stream(self, checkpoint, held, monkeypatch):
        """So that a failure of them all still has its status."""
        monkeypatch.setattr(exchange, "STREAM_BEGINS_S", 60.0)
        script = by_index(LOST, Say(status=500, gate=held))
        async with serving_script(script, checkpoint) as (server, upstream):
            asking = asyncio.ensure_future(server.ask(stream=True, seed=SEED, its={"stream": "leader"}))
            await upstream.until(lambda: upstream.n_finished >= 1 and len(upstream.bodies) >= 8)  # and perhaps a probe
            held.set()
            reply = await asking
        assert (reply.status, reply.error["code"]) == (500, "upstream_rejected")

    async def test_the_deadline_ends_it_with_an_error(self, checkpoint):
        script = by_index(Say(pieces=[{"reasoning": "hm"}, asyncio.Event()]), Say(gate=asyncio.Event()))
        async with serving_script(script, checkpoint, vote={"deadline_s": 0.3}) as (server, upstream):
            chunks = (await server.ask(stream=True, seed=SEED, its={"stream": "leader"})).chunks
            await upstream.until(lambda: upstream.n_open == 0)
        assert said(chunks, "reasoning") == "hm"
        assert chunks[-1]["error"]["type"] == "upstream_error"

    async def test_comments_keep_the_line_alive_while_nothing_is_thought(self, checkpoint, held, monkeypatch):
        monkeypatch.setattr(exchange, "HEARTBEAT_S", 0.01)
        script = by_index(Say(pieces=[{"reasoning": "hm"}, held]), Say(gate=held))
        async with serving_script(script, checkpoint) as (server, _), await opened(server) as reply:
            begun = await reply.content.readuntil(b"\n: ")
            held.set()
            assert said((await whole(reply, begun)).chunks, "content").strip() == "\\boxed{1}"


class TestCandidates:
    async def test_each_is_told_as_it_arrives_with_the_vote_so_far(self, checkpoint, held):
        script = by_index(Say("\\boxed{5}"), Say("\\boxed{7}", gate=held))
        body = QUESTION | {"its": {"candidates": True, "stop": "none"}}
        async with serving_script(script, checkpoint) as (server, upstream), await opened(server, body) as reply:
            begun = await reply.content.readuntil(b'"progress"')
            assert upstream.n_finished == 1
            held.set()
            chunks = (await whole(reply, begun)).chunks
        first, *others = progress(chunks)
        assert (first["n"], first["n_started"], first["votes"], first["agreement"]) == (8, 8, {"5": 1}, 1.0)
        told = {"index": 0, "state": "ok", "text": "\\boxed{5}", "answer": "5"}
        assert first["candidate"] | told == first["candidate"]
        assert sorted(step["candidate"]["index"] for step in others) == list(range(1, 8))
        assert (others[-1]["answer"], others[-1]["votes"]) == ("7", {"7": 7, "5": 1})
        assert chunks[-1]["its"]["candidates"][0]["answer"] == "5"
        assert "progress" not in chunks[-1]["its"]

    async def test_a_client_that_reads_deltas_sees_the_winner_alone(self, checkpoint):
        async with serving_script(Say("\\boxed{7}"), checkpoint) as (server, _):
            chunks = (await server.ask(stream=True, its={"candidates": True})).chunks
        assert said(chunks, "content") == "\\boxed{7}"
        assert all(chunk["choices"][0]["delta"] == {} for chunk in chunks if "progress" in chunk.get("its", {}))
        assert [chunk["choices"][0]["finish_reason"] for chunk in chunks] == [None] * (len(chunks) - 1) + ["stop"]

    async def test_one_that_is_lost_or_cut_off_or_without_an_answer_is_told_too(self, checkpoint):
        script = by_index(LOST, Say("\\boxed", finish_reason="length"), Say("hm"), Say("\\boxed{7}"))
        its = {"candidates": True, "stop": "none", "vote": "always"}
        async with serving_script(script, checkpoint) as (server, _):
            steps = progress((await server.ask(stream=True, seed=SEED, its=its)).chunks)
        states = {step["candidate"]["index"]: step["candidate"]["state"] for step in steps}
        assert states == {0: "lost", 1: "truncated", 2: "no_answer"} | dict.fromkeys(range(3, 8), "ok")
        assert steps[-1]["votes"] == {"7": 5}
        assert steps[-1]["agreement"] == round(5 / 6, 6), "the one without an answer is valid, the others are not"

    async def test_nobody_hears_of_them_who_did_not_ask(self, checkpoint):
        async with serving_script(Say("\\boxed{7}"), checkpoint) as (server, _):
            assert progress((await server.ask(stream=True)).chunks) == []

    async def test_both_wishes_go_together(self, checkpoint):
        script = by_index(Say("\\boxed{5}", pieces=[{"reasoning": "hm"}]), Say("\\boxed{7}"))
        its = {"candidates": True, "stream": "leader", "stop": "none"}
        async with serving_script(script, checkpoint) as (server, _):
            chunks = (await server.ask(stream=True, seed=SEED, its=its)).chunks
        assert said(chunks, "reasoning") == f"hm{ANOTHER}"
        assert len(progress(chunks)) == 8


class TestResponses:
    async def test_thoughts_are_reasoning_deltas_and_candidates_are_left_out(self, checkpoint, held):
        first = Say("\\boxed{7}", pieces=[{"reasoning": "hm "}, held, {"reasoning": "seven"}])
        body = {"model": "model", "input": "What is 2 + 5?", "stream": True, "seed": SEED}
        body |= {"its": {"stream": "leader", "candidates": True}}
        script = by_index(first, Say("\\boxed{7}", gate=held))
        async with (
            serving_script(script, checkpoint) as (server, upstream),
            await opened(server, body, "/responses") as reply,
        ):
            begun = await reply.content.readuntil(b"response.reasoning_text.delta")
            assert upstream.n_finished == 0
            held.set()
            raw = begun + await reply.read()
        assert b'"delta":"hm "' in raw
        assert raw.count(b"event: response.reasoning_text.done") == 1
        assert raw.index(b"event: response.reasoning_text.done") < raw.index(b"event: response.output_text.delta")
        assert raw.count(b'"n_started"') == 1, "in the whole Response alone"
        assert raw.rindex(b"event: ") == raw.index(b"event: response.completed")
