"""Voting over a real vLLM: the reply says what its candidates said, and vLLM received what the manifest records."""

import asyncio
import re
from collections import Counter

import aiohttp
import pytest

from tests.command import serve_command
from tests.real_vllm.conftest import QUERIES


def answer_of(text):
    """Read here with a pattern of its own, so that the vote is checked by other code than it was made with."""
    boxes = re.findall(r"\\boxed\{(-?\d+)\}", text)
    return boxes[-1] if boxes else None


async def test_the_reply_is_the_majority_of_what_the_candidates_say(proxy):
    for query in QUERIES:
        reply = await proxy.ask(query, its={"candidates": True, "stop": "none"})
        its = reply.json["its"]
        answers = [answer_of(candidate["text"]) for candidate in its["candidates"]]
        counts = Counter(answer for answer in answers if answer is not None)
        leaders = [answer for answer, count in counts.items() if count == max(counts.values())]
        winner = its["candidates"][answers.index(its["answer"])]
        assert len(its["candidates"]) == its["n"] == 8
        assert its["votes"] == counts
        assert its["answer"] in leaders
        assert its["agreement"] == pytest.approx(counts[its["answer"]] / 8)
        assert reply.json["choices"][0]["message"]["content"] == winner["text"]


async def test_candidates_have_seeds_of_their_own_and_differ(proxy):
    reported = [(await proxy.ask(query, its={"candidates": True, "stop": "none"})).json["its"] for query in QUERIES]
    for its in reported:
        assert [candidate["seed"] - its["seed"] for candidate in its["candidates"]] == list(range(8))
    assert any(len({candidate["text"] for candidate in its["candidates"]}) > 1 for its in reported)


async def test_every_candidate_reads_the_query_as_the_manifest_rewrites_it(proxy, vllm):
    """By the token counts of the server: of each candidate's prompt, and of the rewritten text rendered alone."""
    explained = (await proxy.ask(QUERIES[0], its={"explain": True})).json
    (messages,) = find_all(explained, "messages")
    assert messages[-1]["content"].endswith(QUERIES[0])
    assert messages[-1]["content"] != QUERIES[0]
    usage = (await proxy.ask(QUERIES[0], its={"stop": "none"})).json["usage"]
    assert usage["prompt_tokens"] == 8 * await n_tokens(vllm, messages)


async def test_a_streamed_vote_tells_the_winner_and_then_its_vote(proxy):
    chunks = (await proxy.ask(QUERIES[1], stream=True, stream_options={"include_usage": True})).chunks
    text = "".join(chunk["choices"][0]["delta"].get("content") or "" for chunk in chunks if chunk["choices"])
    its = [chunk["its"] for chunk in chunks if "its" in chunk]
    assert len(its) == 1
    assert its[0]["answer"] == answer_of(text)
    assert its[0]["votes"][its[0]["answer"]] == max(its[0]["votes"].values())
    assert chunks[-1]["usage"]["completion_tokens"] > 0


async def test_each_candidate_reaches_the_server_under_a_request_id_of_its_own(proxy, vllm):
    reply = await proxy.ask(QUERIES[2], its={"stop": "none"})
    request_id = reply.headers["x-request-id"]
    logged = re.findall(rf"Received request chatcmpl-{request_id}(\S*):", vllm.log.read_text())
    assert sorted(logged) == [f"-{index}" for index in range(8)]


async def test_the_command_votes_as_the_server_in_a_test_does(vllm, checkpoint):
    arguments = ("--upstream", vllm.url, "--model", vllm.name, "--checkpoint", checkpoint)
    async with serve_command(*arguments) as command, aiohttp.ClientSession() as http:
        async with asyncio.timeout(60):
            while (await http.get(command.url.removesuffix("/v1") + "/readyz")).status != 200:
                await asyncio.sleep(0.1)
        body = {"model": vllm.name, "messages": [{"role": "user", "content": QUERIES[3]}], "its": {"stop": "none"}}
        async with http.post(command.url + "/chat/completions", json=body) as reply:
            its = (await reply.json())["its"]
    assert its["strategy"] == "random"
    assert sum(its["votes"].values()) + sum(its["abstained"].values()) == 8


async def n_tokens(vllm, messages):
    body = {"model": vllm.name, "messages": messages}
    async with aiohttp.ClientSession() as http, http.post(f"{vllm.root}/tokenize", json=body) as reply:
        return (await reply.json())["count"]


def find_all(document, key):
    """Every value under this key, at any depth."""
    if isinstance(document, list):
        return [value for item in document for value in find_all(item, key)]
    if not isinstance(document, dict):
        return []
    own = [document[key]] if key in document else []
    return own + [value for name, item in document.items() if name != key for value in find_all(item, key)]
