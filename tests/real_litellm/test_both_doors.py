"""What holds of both doors, LiteLLM in front of its-proxy and its-proxy inside LiteLLM, for OpenAI's own clients."""

import asyncio
import json
from time import monotonic

import pytest

from tests.real_litellm.script import CALL, FORMAT, QUERY, TOOLS, USAGE, messages

pytestmark = pytest.mark.asyncio(loop_scope="session")
N = 8
ALL = (N * USAGE[0], N * USAGE[1])
STREAM = {"stream": True, "stream_options": {"include_usage": True}}
KINDS = {400: "BadRequestError", 404: "NotFoundError", 429: "RateLimitError", 500: "InternalServerError"}


async def test_a_query_is_rewritten_and_voted_on(world, client):
    reply = await world.ask(client)
    assert (reply.text, reply.reasoning) == ("so it is \\boxed{7}", "I add them up.")
    assert (reply.finish_reasons, reply.usage) == (["stop"], ALL)
    assert (reply.its["strategy"], reply.its["answer"], reply.its["votes"]) == ("random", "7", {"7": N})
    [text] = {body["messages"][0]["content"] for body in world.asked}
    assert text.endswith(f"\n\n{QUERY}")
    assert text != QUERY
    assert len(world.asked) == len({body["seed"] for body in world.asked}) == N


async def test_a_stream_tells_the_winner_and_the_summed_usage(world, client):
    reply = await world.ask(client, **STREAM)
    assert (reply.text, reply.reasoning) == ("so it is \\boxed{7}", "I add them up.")
    assert (reply.finish_reasons, reply.usage) == (["stop"], ALL)
    assert len(world.asked) == N


async def test_several_choices_are_the_voters(world, client):
    reply = await world.ask(client, n=2)
    assert [choice["index"] for choice in reply.body["choices"]] == [0, 1]
    assert reply.finish_reasons == ["stop", "stop"]
    assert len(world.asked) == N


@pytest.mark.parametrize("how", [{}, STREAM], ids=["whole", "stream"])
async def test_tool_calls_come_through_whole(world, client, how):
    reply = await world.ask(client, tools=TOOLS, **how)
    assert (reply.calls, reply.finish_reasons) == ([CALL], ["tool_calls"])
    assert (reply.usage, len(world.asked)) == (USAGE, 1)


async def test_a_json_schema_is_voted_on_as_json(world, client):
    reply = await world.ask(client, response_format=FORMAT)
    assert json.loads(reply.text) == {"answer": 7}
    assert reply.its["answer_kind"] == "json"
    assert all(body["response_format"] == FORMAT for body in world.asked)


@pytest.mark.parametrize("stream", [False, True])
async def test_responses_are_answered_through_the_vote(world, client, stream):
    reply = await world.ask(client, "responses", input=QUERY, stream=stream)
    response = reply.chunks[-1]["response"] if stream else reply.body
    texts = [part["text"] for item in response["output"] if item["type"] == "message" for part in item["content"]]
    assert texts == ["so it is \\boxed{7}"]
    assert (response["usage"]["input_tokens"], response["usage"]["output_tokens"]) == ALL
    assert len(world.asked) == N


async def test_messages_are_answered_through_the_vote(world, client):
    reply = await world.ask(client, "messages", messages=messages(), max_tokens=500)
    assert [part["text"] for part in reply.body["content"] if part["type"] == "text"] == ["so it is \\boxed{7}"]
    assert (reply.body["usage"]["input_tokens"], reply.body["usage"]["output_tokens"]) == ALL
    assert len(world.asked) == N


async def test_a_wrong_key_is_turned_away(world, client):
    reply = await client.ask(world.litellm.url, "sk-nobody", "chat/completions", world.body())
    assert (reply.status, reply.error) == (401, "AuthenticationError")
    assert world.asked == []


@pytest.mark.parametrize("how", [{}, STREAM], ids=["whole", "stream"])
@pytest.mark.parametrize("status", [404, 429, 500])
async def test_a_failing_engine_keeps_its_status_and_is_not_asked_all_over_again(world, client, status, how):
    reply = await world.ask(client, messages=messages(f"fail {status}: {QUERY}"), **how)
    assert (reply.status, reply.error) == (status, KINDS[status])
    assert "upstream secret text" not in reply.message
    # Each candidate once; where it was turned away for load, a second time within its-proxy's own budget of three.
    assert N <= len(world.asked) <= N + 3
    await world.until_serving()


async def test_unknown_keys_of_its_are_refused(world, client):
    reply = await world.ask(client, its={"votes": 3})
    assert (reply.status, reply.error) == (400, "BadRequestError")
    assert "unknown key" in reply.message
    assert world.asked == []


async def test_its_lowers_n(world, client):
    assert (await world.ask(client, its={"n": 3})).its["n"] == 3
    assert len(world.asked) == 3


@pytest.mark.parametrize("how", [{}, STREAM], ids=["whole", "stream"])
async def test_the_summed_usage_is_charged_once(world, how):
    await world.litellm.forget_charges()
    reply = await world.ask(world.python, **how)
    [charge] = await world.litellm.charges(1)
    assert (charge["prompt_tokens"], charge["completion_tokens"]) == reply.usage == ALL


@pytest.mark.parametrize(
    ("path", "fields"),
    [("chat/completions", {}), ("responses", {"input": QUERY}), ("messages", {"max_tokens": 500})],
)
async def test_two_users_are_two_tenants(world, path, fields):
    salts = []
    for user in ("anna", "bert", "anna"):
        world.forget()
        await world.ask(world.python, path, user=user, **fields)
        [salt] = {body.get("cache_salt") for body in world.asked}
        salts.append(salt)
    anna, bert, again = salts
    assert anna == again != bert
    assert None not in salts


@pytest.mark.parametrize("how", [{}, STREAM], ids=["whole", "stream"])
async def test_all_candidates_are_cancelled_when_the_client_leaves(world, how):
    """20 of 20: ten of either kind."""
    seconds = []
    for _ in range(10):
        world.forget()
        call = asyncio.create_task(world.ask(world.python, messages=messages(f"slowly: {QUERY}"), **how))
        await world.engine.until(lambda: world.engine.n_open == N, 10)
        call.cancel()
        left = monotonic()
        await world.engine.until(lambda: world.engine.n_open == 0)
        seconds.append(monotonic() - left)
        assert world.engine.n_cancelled == N
    print(f"cancelled within {max(seconds) * 1000:.0f} ms")


async def test_all_candidates_are_cancelled_when_a_browser_aborts(world, npm):
    body = world.body(messages=messages(f"slowly: {QUERY}"))
    reply = await npm.ask_and_leave(world.litellm.url, world.key("anna"), "chat/completions", body, after_ms=1500)
    assert reply.error == "aborted"
    await world.engine.until(lambda: world.engine.n_cancelled == N)
