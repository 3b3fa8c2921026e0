"""What an operator and a client say about a vote, over HTTP: counting, the first wave, rules, kinds of answer."""

import asyncio
import json

import pytest

from tests.scripted import Say
from tests.serving import manifest, serving_script, write_checkpoint

N = 8
HELD = "thinking about it " * 100


@pytest.fixture
def checkpoint(tmp_path):
    return write_checkpoint(tmp_path / "checkpoint", manifest("random"))


def five_answer(counts_along=True):
    """Seeds 0 to 4 answer when the others have said some of their words."""

    def script(body, number):
        if body["seed"] < 5:
            return Say("so \\boxed{7}", delay_s=0.1, counts_along=counts_along)
        return Say(HELD, chunk_delay_s=0.002, completion_tokens=1000, counts_along=counts_along)

    return script


class TestUsagePolicy:
    async def test_exact_counts_what_cancelled_candidates_had_generated(self, checkpoint):
        async with serving_script(five_answer(), checkpoint, **{"vote.usage_policy": "exact"}) as (server, upstream):
            status, reply = await server.chat(seed=0, its={"vote": "always"})
            cancelled = reply["its"]["cancelled"]
            assert (status, reply["its"]["stopped"], cancelled["candidates"]) == (200, "decided", 3)
            assert cancelled["completion_tokens"] > 3
            assert reply["usage"]["completion_tokens"] == 5 * 10 + cancelled["completion_tokens"]
            assert reply["usage"]["prompt_tokens"] == N * 7
            assert reply["usage"]["total_tokens"] == reply["usage"]["completion_tokens"] + N * 7
            assert all(body["stream"] and body["stream_options"]["continuous_usage_stats"] for body in upstream.bodies)
            await upstream.until(lambda: upstream.n_cancelled == 3)

    async def test_a_server_that_does_not_count_along_leaves_an_estimate(self, checkpoint):
        script = five_answer(counts_along=False)
        async with serving_script(script, checkpoint, **{"vote.usage_policy": "exact"}) as (server, _):
            _, reply = await server.chat(seed=0, its={"vote": "always"})
        cancelled = reply["its"]["cancelled"]
        assert (cancelled["candidates"], cancelled["completion_tokens"]) == (3, None)
        assert cancelled["completion_tokens_estimated"] > 0
        assert reply["usage"]["completion_tokens"] == 5 * 10
        assert reply["usage"]["prompt_tokens"] == N * 7

    async def test_a_client_who_leaves_ends_its_streams(self, checkpoint):
        held = Say(HELD, chunk_delay_s=0.005)
        async with serving_script(held, checkpoint, **{"vote.usage_policy": "exact"}) as (server, upstream):
            client = asyncio.create_task(server.chat(its={"vote": "always"}))
            await upstream.until(lambda: upstream.n_open == N)
            await asyncio.sleep(0.05)
            client.cancel()
            await upstream.until(lambda: upstream.n_cancelled == N)
            assert upstream.n_open == 0

    async def test_a_streamed_candidate_tells_its_first_token_also_when_it_is_cut_off(self, checkpoint):
        async with serving_script(five_answer(), checkpoint, **{"vote.usage_policy": "exact"}) as (server, _):
            _, reply = await server.chat(seed=0, its={"vote": "always", "candidates": True})
        candidates = reply["its"]["candidates"]
        assert all(c["started_s"] < c["first_token_s"] for c in candidates)
        finished = [c for c in candidates if c["state"] == "ok"]
        assert len(finished) == 5
        assert all(c["first_token_s"] <= c["finished_s"] for c in finished)
        assert {c["finished_s"] for c in candidates if c["state"] == "cancelled"} == {None}

    async def test_by_default_nothing_is_streamed_or_claimed(self, checkpoint):
        async with serving_script(Say("so \\boxed{7}"), checkpoint) as (server, upstream):
            _, reply = await server.chat(its={"vote": "always"})
            assert reply["its"]["cancelled"]["completion_tokens"] is None
            assert not any("stream" in body for body in upstream.bodies)

    async def test_a_stream_that_just_ends_is_a_lost_candidate(self, checkpoint):
        def script(body, number):
            return Say("so \\boxed{7}", finish_reason=None if body["seed"] < 2 else "stop")

        settings = {"vote.usage_policy": "exact", "vote.stop": "none"}
        async with serving_script(script, checkpoint, **settings) as (server, _):
            _, reply = await server.chat(seed=0, its={"vote": "always"})
        assert (reply["its"]["lost"], reply["its"]["votes"]) == (2, {"7": 6})

    async def test_the_winner_of_a_streamed_vote_is_a_whole_completion(self, checkpoint):
        async with serving_script(Say("so \\boxed{7}"), checkpoint, **{"vote.usage_policy": "exact"}) as (server, _):
            _, reply = await server.chat(its={"vote": "always"})
            chunks = (await server.ask(stream=True, its={"vote": "always"})).chunks
        assert reply["choices"][0]["message"] == {"role": "assistant", "content": "so \\boxed{7} "}
        assert reply["choices"][0]["finish_reason"] == "stop"
        assert chunks[-1]["its"]["answer"] == "7"


class TestFirstWave:
    async def test_candidates_that_agree_spare_the_rest(self, checkpoint):
        async with serving_script(Say("\\boxed{7}"), checkpoint, **{"vote.first": "auto"}) as (server, upstream):
            _, reply = await server.chat(its={"vote": "always"})
            its = reply["its"]
            assert (its["n"], its["n_started"], its["stopped"], len(upstream.bodies)) == (8, 5, "decided", 5)
            explained = (await server.chat(its={"vote": "always", "explain": True}))[1]
            assert explained["starts_with"] == 5

    async def test_beta_starts_with_four_and_says_by_which_rule_it_stopped(self, checkpoint):
        settings = {"vote.first": "auto", "vote.stop": "beta"}
        async with serving_script(Say("\\boxed{7}"), checkpoint, **settings) as (server, upstream):
            its = (await server.chat(its={"vote": "always"}))[1]["its"]
            assert (its["stop"], its["n_started"], len(upstream.bodies)) == ("beta", 4, 4)
            its = (await server.chat(its={"vote": "off"}))[1]["its"]
            assert its["stop"] is None

    async def test_a_client_may_ask_for_a_rule(self, checkpoint):
        async with serving_script(Say("\\boxed{7}"), checkpoint, **{"vote.first": "auto"}) as (server, _):
            assert (await server.chat(its={"vote": "always", "stop": "beta"}))[1]["its"]["n_started"] == 4


SCHEMA = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"], "additionalProperties": False}
FORMAT = {"type": "json_schema", "json_schema": {"name": "x", "schema": SCHEMA}}


class TestKinds:
    async def test_who_asks_for_a_schema_gets_a_vote_over_valid_json(self, checkpoint):
        said = ['{"b": 1}', '{"a": "1"}', 'Sure: {"a": 3}', '{"a": 2}', '{"a":2.0}', '{"a": 1}', "{}", "{}"]

        def script(body, number):
            return Say(said[body["seed"]])

        async with serving_script(script, checkpoint) as (server, upstream):
            _, reply = await server.chat("Extract the number.", seed=0, response_format=FORMAT)
            assert all(body["response_format"] == FORMAT for body in upstream.bodies)
        its = reply["its"]
        assert (its["answer_kind"], its["answer"], its["votes"]) == ("json", '{"a":2}', {'{"a":2}': 2, '{"a":1}': 1})
        assert its["abstained"] == {"no_answer": 5}
        assert reply["choices"][0]["message"]["content"] == '{"a": 2}'

    async def test_a_schema_that_cannot_be_checked_is_the_clients_fault(self, checkpoint):
        broken = {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "any"}}}
        async with serving_script(Say("{}"), checkpoint) as (server, upstream):
            reply = await server.ask(response_format=broken)
            assert (reply.status, reply.error["param"]) == (400, "response_format")
            assert reply.error["code"] == "invalid_json_schema"
            assert upstream.bodies == []
            assert (await server.ask(response_format=broken, its={"vote": "off"})).status == 200

    async def test_a_client_may_name_the_kind(self, checkpoint):
        async with serving_script(Say("The answer is (B)."), checkpoint) as (server, _):
            its = (await server.chat("Which one?", its={"answer": "letter"}))[1]["its"]
        assert (its["answer"], its["answer_kind"]) == ("B", "letter")

    async def test_calls_are_voted_on_where_the_kind_says_so(self, checkpoint):
        def call(city):
            function = {"name": "weather", "arguments": json.dumps({"city": city})}
            message = {"role": "assistant", "content": None,
                       "tool_calls": [{"id": f"call-{city}", "type": "function", "function": function}]}  # fmt: skip
            choice = {"index": 0, "message": message, "finish_reason": "tool_calls"}
            return Say(raw=json.dumps({"id": "c", "choices": [choice]}).encode())

        def script(body, number):
            return call("Oslo" if body["seed"] in (0, 1, 2) else "Rome")

        tools = [{"type": "function", "function": {"name": "weather", "parameters": {}}}]
        async with serving_script(script, checkpoint) as (server, upstream):
            _, reply = await server.chat("Is it raining?", seed=0, tools=tools, its={"answer": "tool_calls"})
            assert reply["its"]["answer"] == '[{"arguments":{"city":"Rome"},"name":"weather"}]'
            assert reply["choices"][0]["message"]["tool_calls"][0]["id"] == "call-Rome"
            upstream.forget()
            await server.chat("Is it raining?", seed=0, tools=tools)
            assert len(upstream.bodies) == 1
            await server.chat("Is it raining?", seed=0, its={"answer": "tool_calls"})
            assert len(upstream.bodies) == 2


@pytest.mark.parametrize("name", ["reasoning", "reasoning_content"])
async def test_the_winners_reasoning_is_told_under_the_name_that_its_server_uses(checkpoint, name):
    message = {"role": "assistant", "content": "\\boxed{7}", name: "not \\boxed{5}"}
    raw = json.dumps({"choices": [{"index": 0, "finish_reason": "stop", "message": message}]}).encode()
    async with serving_script(Say(raw=raw), checkpoint) as (server, _):
        _, reply = await server.chat()
        chunks = (await server.ask(stream=True)).chunks
    assert reply["its"]["answer"] == "7"
    assert reply["choices"][0]["message"][name] == "not \\boxed{5}"
    told = [chunk["choices"][0]["delta"] for chunk in chunks]
    assert {name: "not \\boxed{5}"} in told
    assert {key for delta in told for key in delta} == {"role", "content", name}
