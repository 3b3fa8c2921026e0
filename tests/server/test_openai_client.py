"""The real openai package, unmodified, against a voted model and one that is passed through."""

import asyncio
from contextlib import asynccontextmanager

import openai
import pytest

from tests.scripted import Say, scripted_upstream
from tests.serving import manifest, serving, tokens_of, write_checkpoint

MESSAGES = [{"role": "user", "content": "What is 2 + 5?"}]
KEYS = {"keys": [{"name": "team", "env": "TEAM_KEY"}]}
RAISED = [
    (400, openai.BadRequestError), (404, openai.NotFoundError), (422, openai.UnprocessableEntityError),
    (429, openai.RateLimitError), (500, openai.InternalServerError),
    # A vote all of whose candidates were refused for load is a 429, whichever way they were refused.
    (503, (openai.InternalServerError, openai.RateLimitError)),
]  # fmt: skip


def script(body, number):
    if body.get("return_token_ids"):
        return Say("x", finish_reason="length")
    if body.get("user", "").startswith("fail "):
        return Say(status=int(body["user"].removeprefix("fail ")))
    return Say("so it is \\boxed{7}")


@asynccontextmanager
async def both_models(folder):
    """A server with a `voted` and a `plain` model, and an async client for it."""
    checkpoint = write_checkpoint(folder / "checkpoint", manifest("random"))
    async with scripted_upstream(script, ["voted", "plain"]) as upstream:
        upstream.tokens = lambda body: tokens_of(body["messages"])
        settings = {
            "upstreams": {"gpu": {"url": upstream.url}},
            "models": {"voted": {"upstream": "gpu", "checkpoint": checkpoint}, "plain": {"upstream": "gpu"}},
            **KEYS,
        }
        async with serving(settings, {"TEAM_KEY": "team-secret"}) as server:
            client = openai.AsyncOpenAI(base_url=server.url, api_key="team-secret", max_retries=0)
            async with client:
                yield client


@pytest.fixture(params=["voted", "plain"])
def model(request):
    return request.param


async def test_create(tmp_path, model):
    async with both_models(tmp_path) as client:
        completion = await client.chat.completions.create(model=model, messages=MESSAGES)
    assert completion.choices[0].message.content == "so it is \\boxed{7}"
    assert completion.choices[0].finish_reason == "stop"
    assert completion.usage.total_tokens > 0
    assert completion._request_id
    if model == "voted":
        assert completion.its["answer"] == "7"
        assert completion.its["agreement"] == 1.0


async def test_stream(tmp_path, model):
    async with both_models(tmp_path) as client:
        stream = await client.chat.completions.create(model=model, messages=MESSAGES, stream=True)
        chunks = [chunk async for chunk in stream]
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks).strip() == "so it is \\boxed{7}"
    assert chunks[0].choices[0].delta.role == "assistant"
    assert chunks[-1].choices[0].finish_reason == "stop"
    if model == "voted":
        assert chunks[-1].its["answer"] == "7"


async def test_stream_helper(tmp_path, model):
    async with (
        both_models(tmp_path) as client,
        client.chat.completions.stream(model=model, messages=MESSAGES) as stream,
    ):
        kinds = [event.type async for event in stream]
        completion = await stream.get_final_completion()
    assert "content.delta" in kinds
    assert completion.choices[0].message.content.strip() == "so it is \\boxed{7}"


async def test_usage_of_a_stream(tmp_path):
    async with both_models(tmp_path) as client:
        stream = await client.chat.completions.create(
            model="voted", messages=MESSAGES, stream=True, stream_options={"include_usage": True}
        )
        chunks = [chunk async for chunk in stream]
    assert chunks[-1].choices == []
    assert chunks[-1].usage.total_tokens > 0


async def test_n_choices(tmp_path):
    async with both_models(tmp_path) as client:
        completion = await client.chat.completions.create(model="voted", messages=MESSAGES, n=3)
    assert [choice.index for choice in completion.choices] == [0, 1, 2]


async def test_overrides_by_extra_body(tmp_path):
    async with both_models(tmp_path) as client:
        completion = await client.chat.completions.create(
            model="voted", messages=MESSAGES, extra_body={"its": {"n": 3, "candidates": True, "stop": "none"}}
        )
    assert completion.its["votes"] == {"7": 3}
    assert len(completion.its["candidates"]) == 3


async def test_headers_by_raw_response(tmp_path):
    async with both_models(tmp_path) as client:
        response = await client.chat.completions.with_raw_response.create(model="voted", messages=MESSAGES)
    assert response.headers["x-its-agreement"] == "1.0000"
    assert response.headers["x-its-pair"]
    assert response.headers["x-its-votes"].endswith("/8")
    assert response.parse().choices[0].message.content


async def test_models(tmp_path):
    async with both_models(tmp_path) as client:
        listed = [card.id async for card in client.models.list()]
        card = await client.models.retrieve("voted")
    assert listed == ["voted", "plain"]
    assert card.its["strategy"] == "random"


@pytest.mark.parametrize(("status", "error_type"), RAISED)
async def test_typed_errors_of_an_upstream(tmp_path, model, status, error_type):
    async with both_models(tmp_path) as client:
        with pytest.raises(error_type) as raised:
            await client.chat.completions.create(model=model, messages=MESSAGES, user=f"fail {status}")
    assert raised.value.body["message"]
    assert raised.value.request_id


async def test_typed_errors_of_our_own(tmp_path, model):
    async with both_models(tmp_path) as client:
        with pytest.raises(openai.BadRequestError) as bad:
            await client.chat.completions.create(model=model, messages=[])
        with pytest.raises(openai.NotFoundError) as missing:
            await client.chat.completions.create(model="nobody", messages=MESSAGES)
        with pytest.raises(openai.AuthenticationError) as stranger:
            await client.with_options(api_key="wrong").chat.completions.create(model=model, messages=MESSAGES)
    assert (bad.value.code, bad.value.param) == ("invalid_request", "messages")
    assert (missing.value.code, missing.value.param) == ("model_not_found", "model")
    assert stranger.value.code == "invalid_api_key"


async def test_an_error_in_the_middle_of_a_stream_is_raised(tmp_path, monkeypatch):
    monkeypatch.setattr("its_proxy.exchange.STREAM_BEGINS_S", 0.0)
    async with both_models(tmp_path) as client:
        stream = await client.chat.completions.create(model="voted", messages=MESSAGES, stream=True, user="fail 500")
        with pytest.raises(openai.APIError, match="upstream gpu answered 500"):
            async for _ in stream:
                pass


async def test_the_blocking_client_works_as_well(tmp_path, model):
    def ask(base_url: str) -> tuple[str, str]:
        with openai.OpenAI(base_url=base_url, api_key="team-secret", max_retries=0) as client:
            whole = client.chat.completions.create(model=model, messages=MESSAGES)
            pieces = client.chat.completions.create(model=model, messages=MESSAGES, stream=True)
            streamed = "".join(piece.choices[0].delta.content or "" for piece in pieces)
            return whole.choices[0].message.content, streamed.strip()

    async with both_models(tmp_path) as client:
        assert await asyncio.to_thread(ask, str(client.base_url)) == ("so it is \\boxed{7}",) * 2
