"""What a caller of a wrapped client gets: votes in his own process."""

from typing import Any

from its_proxy.checkpoint import open_checkpoint
from tests.client.wrapped import ASK, MESSAGES, Answer, wrapped


async def test_a_completion_is_voted_on_and_stays_a_completion(tmp_path):
    async with wrapped(tmp_path) as (client, upstream):
        completion = await client.chat.completions.create(**ASK, extra_body={"unknown_field": 1})
    assert type(completion).__name__ == "ChatCompletion"
    assert completion.choices[0].message.content == "so it is \\boxed{7}"
    assert (completion.its["strategy"], completion.its["answer"]) == ("random", "7")
    assert completion._request_id
    assert 5 <= len(upstream.bodies) <= 8
    assert all(body["messages"][0]["content"].endswith("\n\nWhat is 2 + 5?") for body in upstream.bodies)
    assert all(body["unknown_field"] == 1 for body in upstream.bodies)


async def test_every_candidate_is_the_callers_own_request_with_the_pairs_mark(tmp_path):
    async with wrapped(tmp_path, default_headers={"x-team": "7"}) as (client, upstream):
        pair_id = open_checkpoint(tmp_path / "random").pair_id
        again = client.with_options(api_key="key-2", timeout=9)
        await again.chat.completions.create(**ASK, extra_headers={"X-Trace": "t"}, extra_query={"version": "1"})
    for headers in upstream.headers:
        sent = {name.lower(): value for name, value in headers.items()}
        assert (sent["authorization"], sent["x-team"], sent["x-trace"]) == ("Bearer key-2", "7", "t")
        assert sent["x-its-applied"] == pair_id
        assert sent["user-agent"].startswith("AsyncOpenAI/Python")
        assert sent["x-stainless-read-timeout"] == "9"


async def test_its_overrides_this_request_with_all_rights(tmp_path):
    async with wrapped(tmp_path) as (client, upstream):
        asked = {"n": 3, "stop": "none", "candidates": True, "strategy": "none", "force": True}
        completion = await client.chat.completions.create(**ASK, n=2, extra_body={"its": asked})
        n_asked = len(upstream.bodies)
        explained = await client.chat.completions.create(**ASK, extra_body={"its": {"explain": True}})
    assert (completion.its["votes"], completion.its["forced"]) == ({"7": 3}, True)
    assert [choice.index for choice in completion.choices] == [0, 1]
    assert len(completion.its["candidates"]) == 3
    assert [body["messages"] for body in upstream.bodies] == [MESSAGES] * 3
    assert len(upstream.bodies) == n_asked
    assert explained.n == 8


async def test_raw_and_streaming_responses_have_the_headers(tmp_path):
    async with wrapped(tmp_path) as (client, _):
        raw = await client.with_raw_response.chat.completions.create(**ASK)
        async with client.chat.completions.with_streaming_response.create(**ASK) as response:
            text = await response.text()
    assert raw.headers["x-its-votes"].endswith("/8")
    assert raw.parse().its["answer"] == "7"
    assert '"answer":"7"' in text


async def test_tools_and_formats_and_parsing_helpers(tmp_path):
    tools: list[Any] = [{"type": "function", "function": {"name": "add", "parameters": {"type": "object"}}}]
    async with wrapped(tmp_path) as (client, upstream):
        called = await client.chat.completions.create(**ASK, tools=tools)
        parsed = await client.chat.completions.parse(**ASK, response_format=Answer)
        async with client.chat.completions.stream(**ASK, response_format=Answer) as stream:
            streamed = await stream.get_final_completion()
    assert called.choices[0].message.tool_calls[0].function.name == "add"
    assert parsed.choices[0].message.parsed == streamed.choices[0].message.parsed == Answer(answer=7)
    assert parsed.its["answer_kind"] == "json"
    assert all(body["messages"] != MESSAGES for body in upstream.bodies)


async def test_a_stream_ends_with_its_and_with_usage_if_asked(tmp_path):
    async with wrapped(tmp_path) as (client, _):
        async with await client.chat.completions.create(
            **ASK, stream=True, stream_options={"include_usage": True}
        ) as stream:
            chunks = [chunk async for chunk in stream]
        single = await client.chat.completions.create(**ASK, stream=True, extra_body={"its": {"vote": "off"}})
        relayed = "".join([chunk.choices[0].delta.content or "" async for chunk in single])
    assert {type(chunk).__name__ for chunk in chunks} == {"ChatCompletionChunk"}
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks[:-1]) == "so it is \\boxed{7}"
    assert chunks[-2].its["answer"] == "7"
    assert chunks[-1].usage.total_tokens > 0
    assert relayed.strip() == "so it is \\boxed{7}"
