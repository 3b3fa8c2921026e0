"""Nothing goes past the strategy; what holds no query is the server's own."""

import openai
import pytest

from its_proxy.checkpoint import open_checkpoint
from its_proxy.client import wrap
from its_proxy.codesign.errors import ConfigError, StrategyNotApplicable
from tests.client.wrapped import ASK, MESSAGES, checkpoint, client_at, engine, wrapped


async def test_no_other_route_carries_a_query_past_the_strategy(tmp_path):
    async with wrapped(tmp_path) as (client, upstream):
        for ask in (
            client.completions.create(model="model", prompt="2 + 5?"),
            client.batches.create(completion_window="24h", endpoint="/v1/chat/completions", input_file_id="f"),
            client.post("/messages", cast_to=object, body={"messages": MESSAGES}),
        ):
            with pytest.raises(openai.BadRequestError, match="past its strategy") as refused:
                await ask
            assert refused.value.code == "strategy_not_applicable"
        for name in ("responses", "realtime", "beta"):
            with pytest.raises(StrategyNotApplicable, match=f"client.{name} would ask the model past its strategy"):
                getattr(client, name)
    assert upstream.bodies == []


async def test_routes_without_a_query_are_the_servers_own(tmp_path):
    async with wrapped(tmp_path) as (client, upstream):
        assert [card.id async for card in client.models.list()] == ["model"]
        await client.post("/embeddings", cast_to=object, body={"model": "model", "input": "x"})
    assert upstream.bodies == [{"model": "model", "input": "x"}]


async def test_without_a_persona_other_routes_stay_open(tmp_path):
    async with wrapped(tmp_path, "none") as (client, upstream):
        await client.completions.create(model="model", prompt="2 + 5?")
        assert client.responses is not None
    assert [body["prompt"] for body in upstream.bodies] == ["2 + 5?"]


async def test_copies_stay_wrapped(tmp_path):
    async with wrapped(tmp_path) as (client, _):
        for copied in (client.copy(), client.with_options(max_retries=5), client.with_options(timeout=3).copy()):
            assert isinstance(copied, openai.AsyncOpenAI)
            await copied.its.ready()
            assert (await copied.chat.completions.create(**ASK)).its["answer"] == "7"
        with pytest.raises(ConfigError, match="another HTTP client would ask plain queries"):
            client.with_options(http_client=openai.DefaultAsyncHttpxClient())
        with pytest.raises(openai.BadRequestError, match="asks another server"):
            await client.with_options(base_url="http://127.0.0.1:9/v1").chat.completions.create(**ASK)


async def test_the_clients_own_class_is_kept(tmp_path):
    class Team(openai.AsyncOpenAI):
        pass

    async with (
        engine() as upstream,
        wrap(Team(base_url=upstream.url, api_key="k"), checkpoint=checkpoint(tmp_path)) as client,
    ):
        assert isinstance(client, Team)
        assert (await client.copy().chat.completions.create(**ASK)).its["answer"] == "7"


async def test_only_the_wrapped_model_is_asked(tmp_path):
    async with wrapped(tmp_path) as (client, upstream):
        with pytest.raises(openai.NotFoundError, match="wrapped for model, not for 'other'"):
            await client.chat.completions.create(model="other", messages=MESSAGES)
    assert upstream.bodies == []


async def test_an_unnamed_model_is_the_only_one_there(tmp_path):
    async with (
        engine(models=["one", "two"]) as upstream,
        wrap(client_at(upstream), checkpoint=checkpoint(tmp_path)) as client,
    ):
        with pytest.raises(ConfigError, match=r"which model is it\? the server lists 'one', 'two'"):
            await client.its.ready()
        upstream.drop_model("two")
        await client.its.ready()


async def test_what_a_layer_before_has_applied_is_left_alone(tmp_path):
    async with wrapped(tmp_path) as (client, upstream):
        mark = {"x-its-applied": open_checkpoint(tmp_path / "random").pair_id}
        completion = await client.chat.completions.create(**ASK, extra_headers=mark)
        with pytest.raises(openai.BadRequestError) as other:
            await client.chat.completions.create(**ASK, extra_headers={"x-its-applied": "deadbeef"})
    assert [body["messages"] for body in upstream.bodies] == [MESSAGES]
    assert not hasattr(completion, "its")
    assert other.value.code == "pair_mismatch"
