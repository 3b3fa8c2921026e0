"""The real openai package, wrapped: votes in the caller's own process, before a scripted upstream."""

import asyncio
import gc
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import openai
import pytest
from pydantic import BaseModel

from its_proxy.background import BackgroundLoop
from its_proxy.checkpoint import open_checkpoint
from its_proxy.client import wrap
from its_proxy.codesign.errors import ConfigError, ManifestError, ModelUnavailable, StrategyNotApplicable
from tests.command import ROOT
from tests.scripted import Say, ScriptedUpstream, scripted_upstream
from tests.serving import manifest, tokens_of, write_checkpoint

MESSAGES: list[Any] = [{"role": "user", "content": "What is 2 + 5?"}]
ASK: dict[str, Any] = {"model": "model", "messages": MESSAGES}
CALL = {"id": "c1", "type": "function", "function": {"name": "add", "arguments": '{"a": 2}'}}
ERROR = b'{"error": {"message": "the quota of team 7 is spent", "type": "t", "param": null, "code": "spent"}}'


class Answer(BaseModel):
    answer: int


def script(body, number):
    if body.get("return_token_ids"):
        return Say("x", finish_reason="length")
    failure, _, seconds = body.get("user", "").partition(" ")
    if failure == "fail":
        return Say(status=int(seconds))
    if failure == "wait":
        return Say("\\boxed{7}", delay_s=float(seconds))
    if body.get("tools"):
        return Say(None, finish_reason="tool_calls", message={"tool_calls": [CALL]})
    return Say('{"answer": 7}' if body.get("response_format") else "so it is \\boxed{7}")


@asynccontextmanager
async def engine(says: Any = script, models: Any = None) -> AsyncIterator[ScriptedUpstream]:
    async with scripted_upstream(says, models) as upstream:
        upstream.tokens = lambda body: tokens_of(body["messages"])
        yield upstream


def checkpoint(folder: Path, strategy: str = "random") -> Path:
    return write_checkpoint(folder / strategy, manifest(strategy))


def client_at(upstream: ScriptedUpstream, **options: Any) -> openai.AsyncOpenAI:
    return openai.AsyncOpenAI(base_url=upstream.url, api_key="key-1", **options)


def blocking_at(upstream: ScriptedUpstream, **options: Any) -> openai.OpenAI:
    return openai.OpenAI(base_url=upstream.url, api_key="key-1", **options)


@asynccontextmanager
async def wrapped(folder: Path, strategy: str = "random", **options: Any) -> AsyncIterator[tuple[Any, Any]]:
    """A wrapped client, its handshake done, and the upstream, as if nothing had been asked yet."""
    async with (
        engine() as upstream,
        wrap(client_at(upstream, **options), checkpoint=checkpoint(folder, strategy)) as client,
    ):
        await client.its.ready()
        upstream.forget()
        yield client, upstream


# -- what a caller gets ------------------------------------------------------------------------------------------------


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


# -- leaving -----------------------------------------------------------------------------------------------------------


async def test_a_cancelled_call_cancels_its_candidates(tmp_path):
    async with wrapped(tmp_path) as (client, upstream):
        asking = asyncio.create_task(client.chat.completions.create(**ASK, user="wait 30"))
        await upstream.until(lambda: len(upstream.bodies) == 8)
        asking.cancel()
        await upstream.until(lambda: upstream.n_cancelled == 8)


@pytest.mark.parametrize("way", ["close", "with", "unread"])
async def test_a_stream_that_is_left_cancels_its_candidates(tmp_path, monkeypatch, way):
    monkeypatch.setattr("its_proxy.exchange.STREAM_BEGINS_S", 0.01)
    async with wrapped(tmp_path) as (client, upstream):
        stream = await client.chat.completions.create(**ASK, stream=True, user="wait 30")
        await upstream.until(lambda: len(upstream.bodies) == 8)
        if way == "unread":
            await stream.close()
        elif way == "close":
            await anext(stream)
            await stream.close()
        else:
            async with stream:
                await anext(stream)
        await upstream.until(lambda: upstream.n_cancelled == 8)


async def test_a_stream_that_is_dropped_cancels_its_candidates(tmp_path, monkeypatch):
    monkeypatch.setattr("its_proxy.exchange.STREAM_BEGINS_S", 0.01)
    async with wrapped(tmp_path) as (client, upstream):
        stream = await client.chat.completions.create(**ASK, stream=True, user="wait 30")
        await upstream.until(lambda: len(upstream.bodies) == 8)
        async for _ in stream:
            break
        del stream

        def is_cancelled():
            gc.collect()  # as Python does by itself, sooner or later
            return upstream.n_cancelled == 8

        await upstream.until(is_cancelled)


async def test_whoever_still_reads_a_stream_that_another_closes_comes_to_its_end(tmp_path, monkeypatch):
    monkeypatch.setattr("its_proxy.exchange.STREAM_BEGINS_S", 0.01)
    async with wrapped(tmp_path) as (client, upstream):
        response = await client.chat.completions.with_raw_response.create(**ASK, stream=True, user="wait 30")
        stream = response.parse()
        await upstream.until(lambda: len(upstream.bodies) == 8)
        await anext(stream)
        reading = asyncio.create_task(anext(stream, "end"))
        await asyncio.sleep(0)
        await response.http_response.aclose()
        assert await asyncio.wait_for(reading, 5) == "end"
        await upstream.until(lambda: upstream.n_cancelled == 8)


async def test_closing_leaves_no_task_behind(tmp_path):
    async with engine() as upstream:
        before = asyncio.all_tasks()
        async with wrap(client_at(upstream), checkpoint=checkpoint(tmp_path)) as client:
            await client.chat.completions.create(**ASK)
            left = await client.chat.completions.create(**ASK, stream=True)
            await anext(left)
            await left.close()
            assert asyncio.all_tasks() > before
        assert {task for task in asyncio.all_tasks() - before if "its_proxy" in repr(task)} == set()


# -- nothing goes past the strategy ------------------------------------------------------------------------------------


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


# -- what goes wrong ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (400, openai.BadRequestError), (401, openai.AuthenticationError), (403, openai.PermissionDeniedError),
        (404, openai.NotFoundError), (429, openai.RateLimitError), (500, openai.InternalServerError),
        (503, openai.InternalServerError), (504, openai.InternalServerError),
    ],
)  # fmt: skip
async def test_the_servers_refusals_are_those_of_the_client_alone(tmp_path, status, kind):
    async with wrapped(tmp_path, max_retries=0) as (client, upstream):
        alone = client_at(upstream, max_retries=0)
        with pytest.raises(kind) as plain:
            await alone.chat.completions.create(**ASK, user=f"fail {status}")
        with pytest.raises(kind) as told:
            await client.chat.completions.create(**ASK, user=f"fail {status}")
        await alone.close()
    assert told.value.status_code == plain.value.status_code == status
    assert told.value.message == plain.value.message
    assert told.value.request_id


async def test_a_failed_vote_is_not_repeated_but_a_refused_one_is(tmp_path):
    async with wrapped(tmp_path) as (client, upstream):  # `openai` repeats twice by default
        with pytest.raises(openai.InternalServerError):
            await client.chat.completions.create(**ASK, user="fail 500", extra_body={"its": {"n": 4, "stop": "none"}})
        # Beside the vote's own calls there may be a probe already: the server that fails is examined again.
        assert sum(body.get("user") == "fail 500" for body in upstream.bodies) == 4
        upstream.forget()
        with pytest.raises(openai.RateLimitError):
            await client.with_options(max_retries=1).chat.completions.create(**ASK, user="fail 429")
        assert sum(body.get("user") == "fail 429" for body in upstream.bodies) == 16


async def test_a_timeout_is_a_timeout_and_is_not_repeated(tmp_path):
    async with wrapped(tmp_path) as (client, upstream):
        with pytest.raises(openai.APITimeoutError):
            await client.with_options(timeout=0.2).chat.completions.create(**ASK, user="wait 30")
        assert sum(body.get("user") == "wait 30" for body in upstream.bodies) == 8
        await upstream.until(lambda: upstream.n_cancelled == 8)


async def test_a_server_that_is_away_is_a_connection_error_before_and_after_the_handshake(tmp_path):
    folder = checkpoint(tmp_path)
    async with engine() as upstream:
        client = wrap(client_at(upstream, max_retries=0), checkpoint=folder, model="model")
        late = wrap(client_at(upstream, max_retries=0), checkpoint=folder, model="model")
        await client.its.ready()
    async with client, late:
        for one in (client, late):
            with pytest.raises(openai.APIConnectionError) as away:
                await one.chat.completions.create(**ASK)
            assert not isinstance(away.value, openai.APITimeoutError)
        with pytest.raises(ModelUnavailable, match="cannot be reached"):
            await late.its.ready()


async def test_a_wrong_key_is_told_as_such_at_the_first_request(tmp_path):
    def stranger(body, number):
        return Say(status=401)

    async with (
        engine(stranger) as upstream,
        wrap(client_at(upstream), checkpoint=checkpoint(tmp_path), model="model") as client,
    ):
        with pytest.raises(openai.AuthenticationError):
            await client.chat.completions.create(**ASK)
        assert len(upstream.bodies) == 1


async def test_a_server_that_is_not_what_the_manifest_says_answers_nothing(tmp_path):
    async with engine() as upstream:
        upstream.tokens = lambda body: [1, 2, 3]
        async with wrap(client_at(upstream), checkpoint=checkpoint(tmp_path)) as client:
            with pytest.raises(ModelUnavailable, match="other tokens than recorded"):
                await client.its.ready()
            upstream.forget()
            with pytest.raises(openai.InternalServerError) as refused:
                await client.chat.completions.create(**ASK)
    assert refused.value.code == "model_mismatch"
    assert upstream.bodies == []


async def test_our_own_refusals_are_openais_classes(tmp_path):
    async with wrapped(tmp_path) as (client, _):
        with pytest.raises(openai.UnprocessableEntityError) as no_vote:
            await client.chat.completions.create(
                **ASK, response_format={"type": "json_object"},
                extra_body={"its": {"on_no_answer": "error", "answer": "letter", "vote": "always"}},
            )  # fmt: skip
        with pytest.raises(openai.BadRequestError) as unknown:
            await client.chat.completions.create(**ASK, extra_body={"its": {"no_such": 1}})
        with pytest.raises(openai.BadRequestError) as template:
            await client.chat.completions.create(**ASK, extra_body={"chat_template": "{{ x }}"})
    assert no_vote.value.code == "no_vote"
    assert unknown.value.param == "its.no_such"
    assert template.value.code == "strategy_not_applicable"


async def test_an_error_in_the_middle_of_a_stream_is_raised(tmp_path, monkeypatch):
    monkeypatch.setattr("its_proxy.exchange.STREAM_BEGINS_S", 0.0)
    async with wrapped(tmp_path) as (client, _):
        stream = await client.chat.completions.create(**ASK, stream=True, user="fail 500")
        with pytest.raises(openai.APIError, match="answered 500"):
            async for _ in stream:
                pass


def test_what_is_wrong_with_a_checkpoint_is_told_by_wrap_itself(tmp_path):
    client = openai.AsyncOpenAI(base_url="http://127.0.0.1:9/v1", api_key="k")
    good = checkpoint(tmp_path)
    write_checkpoint(tmp_path / "one-sided", manifest("random", "none"))
    write_checkpoint(tmp_path / "broken", manifest())
    (tmp_path / "broken" / "its.json").write_text("{")
    for name, message in (("nowhere", "is not there"), ("one-sided", "persona"), ("broken", "not JSON")):
        with pytest.raises(ManifestError, match=message):
            wrap(client, checkpoint=tmp_path / name)
    with pytest.raises(ConfigError, match=r"vote\.no_such: unknown key"):
        wrap(client, checkpoint=good, vote={"no_such": 1})
    with pytest.raises(ConfigError, match="an ensemble needs a name"):
        wrap(client, checkpoint={"a": good, "b": good})
    with pytest.raises(ConfigError, match="wrapped already"):
        wrap(wrap(client, checkpoint=good / "its.json"), checkpoint=good)


async def test_an_ensemble_asks_each_member_by_its_own_manifest(tmp_path):
    members = {"a": checkpoint(tmp_path, "random"), "b": checkpoint(tmp_path, "none")}
    async with (
        engine(models=["a", "b"]) as upstream,
        wrap(client_at(upstream), checkpoint=members, model="both", vote={"n": 4, "stop": "none"}) as client,
    ):
        await client.its.ready()
        upstream.forget()
        completion = await client.chat.completions.create(model="both", messages=MESSAGES)
    assert [(member["model"], member["n"]) for member in completion.its["members"]] == [("a", 2), ("b", 2)]
    plain = {body["model"]: body["messages"] == MESSAGES for body in upstream.bodies}
    assert plain == {"a": False, "b": True}


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"openai.py": ""}, r"openai\.py hides the installed package openai \(rename it\)"),
        ({"openai/notes.txt": ""}, ""),
        ({"openai.py": "AsyncOpenAI, __version__ = None, '1.99.0'"}, r"openai 1\.99\.0 is not supported"),
        ({"openai.py": "raise ModuleNotFoundError(name='openai')"}, r"openai is not installed \(pip install"),
    ],
)
def test_another_openai_than_ours_is_told_when_the_wrapper_is_imported(tmp_path, files, message):
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    variables = os.environ | {"PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}"}
    done = subprocess.run(
        [sys.executable, "-c", "import its_proxy.client"], env=variables, capture_output=True, text=True, timeout=60
    )
    assert (done.returncode == 0) is (message == "")
    assert re.search(message, done.stderr)


async def asked_on_and_on(client):
    while True:
        await client.chat.completions.create(**ASK)
        await asyncio.sleep(0.05)


async def test_another_checkpoint_under_the_old_name_is_noticed_without_a_call_that_fails(tmp_path, monkeypatch):
    monkeypatch.setattr("its_proxy.client.upstream.ClientUpstream.poll_s", 0.05)
    async with wrapped(tmp_path) as (client, upstream):
        await asyncio.sleep(0.2)  # the list has been seen as it was
        upstream.tokens, upstream.card_fields = lambda body: [1, 2, 3], {"root": "/another"}
        with pytest.raises(openai.InternalServerError, match="other tokens than recorded"):
            await asyncio.wait_for(asked_on_and_on(client), 10)


# -- loops and threads -------------------------------------------------------------------------------------------------


def test_one_client_serves_several_event_loops(tmp_path):
    upstreams = BackgroundLoop("upstream")
    scripted = engine()
    upstream = upstreams.run(scripted.__aenter__())

    async def ask(client):
        return (await client.chat.completions.create(**ASK)).its["answer"]

    # An HTTP client that kept connections would keep them for a loop that is gone, wrapped or not.
    client = wrap(client_at(upstream, default_headers={"Connection": "close"}), checkpoint=checkpoint(tmp_path))
    assert [asyncio.run(ask(client)), asyncio.run(ask(client))] == ["7", "7"]
    upstreams.run(scripted.__aexit__(None, None, None))
    upstreams.close()


@asynccontextmanager
async def blocking(folder: Path, **options: Any) -> AsyncIterator[tuple[Any, Any]]:
    """A wrapped client that blocks, for use in another thread."""
    async with engine() as upstream:
        client = wrap(blocking_at(upstream, **options), checkpoint=checkpoint(folder))
        try:
            await asyncio.to_thread(client.its.ready)
            upstream.forget()
            yield client, upstream
        finally:
            await asyncio.to_thread(client.close)


async def test_the_blocking_client_votes_and_streams(tmp_path):
    def ask(client):
        with client.chat.completions.create(**ASK, stream=True) as stream:
            chunks = list(stream)
        parsed = client.chat.completions.parse(**ASK, response_format=Answer).choices[0].message.parsed
        raw = client.with_options(timeout=9).chat.completions.with_raw_response.create(**ASK)
        return chunks, parsed, raw, [card.id for card in client.models.list()]

    async with blocking(tmp_path) as (client, upstream):
        assert isinstance(client, openai.OpenAI)
        chunks, parsed, raw, names = await asyncio.to_thread(ask, client)
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == "so it is \\boxed{7}"
    assert chunks[-1].its["answer"] == raw.parse().its["answer"] == "7"
    assert (parsed, names) == (Answer(answer=7), ["model"])
    assert all(body["messages"] != MESSAGES for body in upstream.bodies)
    assert {headers["Authorization"] for headers in upstream.headers} == {"Bearer key-1"}


async def test_the_blocking_client_refuses_and_raises_as_the_other(tmp_path):
    def ask(client):
        with pytest.raises(openai.BadRequestError, match="past its strategy"):
            client.completions.create(model="model", prompt="x")
        with pytest.raises(StrategyNotApplicable):
            _ = client.responses
        with pytest.raises(openai.RateLimitError):
            client.chat.completions.create(**ASK, user="fail 429")
        with pytest.raises(openai.APITimeoutError):
            client.with_options(timeout=0.2).chat.completions.create(**ASK, user="wait 30")

    async with blocking(tmp_path, max_retries=0) as (client, _):
        await asyncio.to_thread(ask, client)


async def test_a_blocking_stream_that_is_left_cancels_its_candidates(tmp_path, monkeypatch):
    monkeypatch.setattr("its_proxy.exchange.STREAM_BEGINS_S", 0.01)

    all_asked = threading.Event()

    def leave(client):
        with client.chat.completions.create(**ASK, stream=True, user="wait 30") as stream:
            next(stream)
            all_asked.wait(5)

    async with blocking(tmp_path) as (client, upstream):
        leaving = asyncio.create_task(asyncio.to_thread(leave, client))
        await upstream.until(lambda: len(upstream.bodies) == 8)
        all_asked.set()
        await leaving
        await upstream.until(lambda: upstream.n_cancelled == 8)


async def test_closing_leaves_no_thread_behind(tmp_path):
    async with blocking(tmp_path) as (client, _):
        assert "its_proxy.client" in {thread.name for thread in threading.enumerate()}
        await asyncio.to_thread(client.close)
        assert "its_proxy.client" not in {thread.name for thread in threading.enumerate()}


async def test_the_blocking_client_works_inside_a_running_loop_as_in_a_notebook(tmp_path):
    upstreams = BackgroundLoop("upstream")
    scripted = engine()
    upstream = upstreams.run(scripted.__aenter__())
    with wrap(blocking_at(upstream), checkpoint=checkpoint(tmp_path)) as client:
        assert client.chat.completions.create(**ASK).its["answer"] == "7"
    upstreams.run(scripted.__aexit__(None, None, None))
    upstreams.close()


async def test_a_blocking_client_with_an_http_client_of_its_own_needs_an_async_one_beside_it(tmp_path):
    folder = checkpoint(tmp_path)
    async with engine() as upstream:
        client = blocking_at(upstream, http_client=openai.DefaultHttpxClient())
        with pytest.raises(ConfigError, match=r"async_client=openai.AsyncOpenAI"):
            wrap(client, checkpoint=folder)
        elsewhere = openai.AsyncOpenAI(base_url="http://elsewhere/v1", api_key="k")
        with pytest.raises(ConfigError, match=r"async_client asks http://elsewhere/v1/, and the client http://127"):
            wrap(client, checkpoint=folder, async_client=elsewhere)
        beside = client_at(upstream, http_client=openai.DefaultAsyncHttpxClient(headers={"x-pool": "own"}))
        with wrap(client, checkpoint=folder, async_client=beside) as both:
            completion = await asyncio.to_thread(both.chat.completions.create, **ASK)
            await asyncio.to_thread(both.close)
    assert completion.its["answer"] == "7"
    assert upstream.headers[-1]["x-pool"] == "own"


CTRL_C = """
import sys, openai
from its_proxy.client import wrap
client = wrap(openai.OpenAI(base_url=sys.argv[1], api_key="k"), checkpoint=sys.argv[2])
client.its.ready()
print("ready", flush=True)
try:
    client.chat.completions.create(model="model", messages=[{"role": "user", "content": "2 + 5?"}], user="wait 30")
except KeyboardInterrupt:
    client.close()
    print("left", flush=True)
"""


async def test_ctrl_c_in_a_blocking_call_cancels_its_candidates(tmp_path):
    async with engine() as upstream:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-c", CTRL_C, upstream.url, str(checkpoint(tmp_path)), stdout=asyncio.subprocess.PIPE
        )
        assert await process.stdout.readline() == b"ready\n"
        upstream.forget()
        await upstream.until(lambda: len(upstream.bodies) == 8)
        process.send_signal(signal.SIGINT)
        await upstream.until(lambda: upstream.n_cancelled == 8)
        assert await process.stdout.readline() == b"left\n"
        assert await process.wait() == 0
