"""LiteLLM in front of its-proxy, as docs/litellm.md has it: what only this door has."""

import pytest

from tests.real_litellm.script import QUERY, messages

pytestmark = pytest.mark.asyncio(loop_scope="session")
N = 8


async def test_the_headers_of_a_vote_reach_the_client_with_litellms_prefix(front, client):
    told = (await front.ask(client)).headers
    assert (told["llm_provider-x-its-votes"], told["llm_provider-x-its-agreement"]) == ("8/8/8", "1.0000")
    streamed = (await front.ask(client, stream=True)).headers
    assert streamed["llm_provider-x-its-pair"] == told["llm_provider-x-its-pair"]


async def test_candidates_and_explain_are_rights_that_litellms_key_has(front, client):
    reply = await front.ask(client, its={"candidates": True})
    assert [candidate["text"] for candidate in reply.its["candidates"]] == ["so it is \\boxed{7}"] * N


async def test_no_client_of_litellms_may_say_that_its_query_is_rewritten(front, client):
    pair_id = (await front.ask(client)).its["pair_id"]
    front.forget()
    reply = await front.ask(client, headers={"x-its-applied": pair_id})
    assert reply.its["strategy"] == "random"
    assert all(body["messages"][0]["content"] != QUERY for body in front.asked)


async def test_no_client_of_litellms_may_speak_for_another_user(front):
    salts = []
    for headers in ({}, {"x-litellm-user_api_key_user_id": "bert"}):
        front.forget()
        await front.ask(front.python, headers=headers)
        salts.append({body["cache_salt"] for body in front.asked})
    assert salts[0] == salts[1]


async def test_retries_would_ask_for_a_vote_all_over_again(front):
    """What `num_retries: 0` on the page prevents, asked for by a header that LiteLLM obeys."""
    await front.ask(front.python, messages=messages(f"fail 500: {QUERY}"), headers={"x-litellm-num-retries": "2"})
    assert len(front.asked) == 3 * N
    await front.until_serving()


async def test_a_stream_that_waits_is_kept_open(front):
    raw = await front.raw(stream=True, messages=messages(f"patiently: {QUERY}"))
    assert b": ping" in raw
    assert raw.endswith(b"data: [DONE]\n\n")
