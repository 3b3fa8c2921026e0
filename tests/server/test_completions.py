"""`/v1/completions`: voted on for a `none` pair, refused for one with personas, passed on without a manifest."""

import asyncio
import json

import pytest

from tests.scripted import Say
from tests.serving import Reply, manifest, serving_script, write_checkpoint

PATH = "/v1/completions"
PROMPT = "Q: What is 2 + 5? Answer: "


def by_seed(body, number):
    """Three of four say 7."""
    return Say("it is \\boxed{9}" if body.get("seed", 1) % 4 == 0 else "it is \\boxed{7}")


def pair(folder, strategy="none", **advice):
    document = manifest(strategy)
    return write_checkpoint(folder, {**document, "vote": {**document["vote"], "n": 4, "stop": "none", **advice}})


async def complete(server, **fields) -> Reply:
    return await server.send("POST", PATH, {"model": "model", "prompt": PROMPT, "seed": 8, **fields})


async def test_a_none_pair_votes(tmp_path):
    async with serving_script(by_seed, pair(tmp_path)) as (server, upstream):
        reply = await complete(server)
    assert reply.status == 200
    told = reply.json
    assert (told["object"], told["model"], told["id"][:5]) == ("text_completion", "model", "cmpl-")
    [choice] = told["choices"]
    assert choice == {"index": 0, "text": "it is \\boxed{7}", "logprobs": None, "finish_reason": "stop"}
    assert told["its"]["votes"] == {"7": 3, "9": 1}
    assert told["usage"] == {"prompt_tokens": 28, "completion_tokens": 40, "total_tokens": 68}
    assert reply.headers["x-its-votes"] == "4/4/4"
    assert [body["seed"] for body in upstream.bodies] == [8, 9, 10, 11]
    for body in upstream.bodies:
        assert body["prompt"] == PROMPT
        assert {"messages", "chat_template_kwargs"}.isdisjoint(body)


async def test_a_voted_stream_is_of_text_chunks(tmp_path):
    async with serving_script(by_seed, pair(tmp_path)) as (server, upstream):
        reply = await complete(server, stream=True, stream_options={"include_usage": True})
    *chunks, last = reply.chunks
    assert {chunk["object"] for chunk in reply.chunks} == {"text_completion"}
    assert len({chunk["id"] for chunk in reply.chunks}) == 1
    assert "".join(chunk["choices"][0]["text"] for chunk in chunks) == "it is \\boxed{7}"
    assert [chunk["choices"][0]["finish_reason"] for chunk in chunks][-2:] == [None, "stop"]
    assert not any("delta" in choice or "message" in choice for chunk in chunks for choice in chunk["choices"])
    assert chunks[-1]["its"]["votes"] == {"7": 3, "9": 1}
    assert (last["choices"], last["usage"]["completion_tokens"]) == ([], 40)
    assert not any(body.get("stream") for body in upstream.bodies)


async def test_several_choices_are_the_votes_own(tmp_path):
    async with serving_script(by_seed, pair(tmp_path)) as (server, upstream):
        reply = await complete(server, n=2)
    assert [choice["index"] for choice in reply.json["choices"]] == [0, 1]
    assert len(upstream.bodies) == 4
    assert all("n" not in body for body in upstream.bodies)


@pytest.mark.parametrize("suffix", [":its-off", ""])
async def test_one_candidate_streams_as_it_comes(tmp_path, suffix):
    its = {} if suffix else {"its": {"vote": "off"}}
    async with serving_script(Say("it is \\boxed{7}"), pair(tmp_path)) as (server, upstream):
        reply = await complete(server, model=f"model{suffix}", stream=True, **its)
    assert "".join(chunk["choices"][0]["text"] for chunk in reply.chunks).strip() == "it is \\boxed{7}"
    [body] = upstream.bodies
    assert body["stream"] is True
    assert "messages" not in body


async def test_exact_usage_does_not_count_along(tmp_path):
    async with serving_script(by_seed, pair(tmp_path), vote={"usage_policy": "exact"}) as (server, _):
        assert (await complete(server)).json["choices"][0]["text"] == "it is \\boxed{7}"


@pytest.mark.parametrize(
    "fields",
    [
        {"prompt": [PROMPT, PROMPT]}, {"prompt": [1, 2, 3]}, {"prompt": [[1, 2], [3]]}, {"echo": True},
        {"suffix": "."}, {"best_of": 2}, {"prompt_logprobs": 1},
    ],
)  # fmt: skip
async def test_what_is_no_single_text_is_passed_on(tmp_path, fields):
    async with serving_script(by_seed, pair(tmp_path)) as (server, upstream):
        reply = await complete(server, **fields)
    assert reply.status == 200
    assert "its" not in reply.json
    [body] = upstream.bodies
    assert body == {"model": "model", "prompt": PROMPT, "seed": 8, **fields}


async def test_a_list_of_one_text_is_that_text(tmp_path):
    async with serving_script(by_seed, pair(tmp_path)) as (server, upstream):
        await complete(server, prompt=[PROMPT])
    assert [body["prompt"] for body in upstream.bodies] == [[PROMPT]] * 4


@pytest.mark.parametrize("is_stream", [False, True])
async def test_personas_have_no_place_in_a_prompt(tmp_path, is_stream):
    async with serving_script(by_seed, pair(tmp_path, "random")) as (server, upstream):
        reply = await complete(server, stream=is_stream)
    assert (reply.status, reply.error["code"]) == (400, "strategy_not_applicable")
    assert upstream.bodies == []


async def test_unless_none_is_forced(tmp_path):
    async with serving_script(by_seed, pair(tmp_path, "random")) as (server, upstream):
        refused = await complete(server, its={"strategy": "none"})
        reply = await complete(server, its={"strategy": "none", "force": True})
    assert refused.status == 400
    assert reply.json["its"]["forced"] is True
    assert reply.headers["x-its-degraded"] == "forced"
    assert {body["prompt"] for body in upstream.bodies} == {PROMPT}


async def test_a_strategy_cannot_be_forced_onto_a_prompt(tmp_path):
    async with serving_script(by_seed, pair(tmp_path)) as (server, upstream):
        reply = await complete(server, its={"strategy": "random", "force": True})
    assert (reply.status, reply.error["code"]) == (400, "strategy_not_applicable")
    assert upstream.bodies == []


@pytest.mark.parametrize("name", ["", "nobody's"])
async def test_a_strategy_that_nobody_knows_is_a_400(tmp_path, name):
    async with serving_script(by_seed, pair(tmp_path)) as (server, upstream):
        reply = await complete(server, its={"strategy": name, "force": True})
    assert (reply.status, reply.error["param"]) == (400, "its.strategy")
    assert "unknown strategy" in reply.error["message"]
    assert upstream.bodies == []


async def test_explain_asks_nothing(tmp_path):
    async with serving_script(by_seed, pair(tmp_path)) as (server, upstream):
        reply = await complete(server, its={"explain": True})
    assert (reply.json["object"], reply.json["n"]) == ("its.plan", 4)
    assert reply.json["members"][0]["body"]["prompt"] == PROMPT
    assert upstream.bodies == []


async def test_without_a_manifest_it_is_the_upstreams_own(tmp_path):
    async with serving_script(Say("7"), None) as (server, upstream):
        reply = await complete(server, temperature=0, logprobs=2)
    assert reply.json["choices"] == [{"index": 0, "text": "7", "logprobs": None, "finish_reason": "stop"}]
    assert (reply.json["id"], reply.json["object"]) == ("cmpl-upstream", "text_completion")
    assert upstream.bodies == [{"model": "model", "prompt": PROMPT, "seed": 8, "temperature": 0, "logprobs": 2}]


async def test_a_stream_without_a_manifest_comes_as_it_is_made(tmp_path):
    """The first words are here while the upstream still has a minute to go; who leaves ends it."""
    slow = Say("one two three", chunk_delay_s=60)
    async with serving_script(slow, None) as (server, upstream):
        body = {"model": "model", "prompt": PROMPT, "stream": True}
        async with server.http.post(f"{server.url}/completions", json=body) as reply:
            line = await reply.content.readline()
            assert json.loads(line.removeprefix(b"data: "))["choices"][0]["text"] == "one "
            assert upstream.n_open == 1
        await upstream.until(lambda: upstream.n_cancelled == 1)


async def test_who_leaves_a_vote_ends_all_of_it(tmp_path):
    async with serving_script(Say(delay_s=60), pair(tmp_path)) as (server, upstream):
        asking = asyncio.ensure_future(complete(server))
        await upstream.until(lambda: len(upstream.bodies) == 4)
        asking.cancel()
        await upstream.until(lambda: upstream.n_cancelled == 4)


@pytest.mark.parametrize("raw", [b'{"choices": []}', b'{"choices": [{"message": {}}]}', b"[]"])
async def test_an_upstream_that_sends_no_text_is_told(tmp_path, raw):
    async with serving_script(Say(raw=raw), None) as (server, _):
        reply = await complete(server)
    assert reply.status == 502
    assert reply.error["message"]


@pytest.mark.parametrize(
    ("fields", "param"),
    [({"prompt": None}, "prompt"), ({"prompt": []}, "prompt"), ({"prompt": 7}, "prompt"),
     ({"messages": []}, "messages"), ({"its": {"N": 3}}, "its.N")],
)  # fmt: skip
async def test_bad_input_is_told(tmp_path, fields, param):
    async with serving_script(by_seed, pair(tmp_path)) as (server, upstream):
        reply = await complete(server, **fields)
    assert (reply.status, reply.error["param"]) == (400, param)
    assert upstream.bodies == []


async def test_a_server_that_only_chats_keeps_its_model(tmp_path):
    """Else whoever asks it for a text completion would take the model from all who chat."""

    def only_chats(body, number):
        return Say(status=404) if "messages" not in body else by_seed(body, number)

    async with serving_script(only_chats, pair(tmp_path)) as (server, _):
        assert (await complete(server)).status == 404
        assert (await server.chat(seed=8))[0] == 200
