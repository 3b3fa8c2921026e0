"""What is not needed any more stops in vLLM itself, by its own counters, and within a second.

The second holds for the middle one of several rounds: one may meet a machine that is busy with something else.
"""

import asyncio
import json
from statistics import median

import pytest

from tests.real_vllm.conftest import QUERIES
from tests.serving import serving, write_checkpoint

ROUNDS = 5
WITHIN_S = 1.0
MAX_TOKENS = 400  # of one candidate that does not end by itself: it takes the server more than a second
LONG = {"max_tokens": MAX_TOKENS, "ignore_eos": True}
WAYS_TO_ASK = {
    # name: model, request, candidates of it
    "plain vote": ("model", {}, 8),
    "streamed vote": ("model", {"stream": True}, 8),
    "one candidate": ("model:its-off", {}, 1),
    "one candidate, streamed": ("model:its-off", {"stream": True}, 1),
    "without a manifest": ("plain", {}, 1),
    "without a manifest, streamed": ("plain", {"stream": True}, 1),
}


@pytest.fixture
async def proxy(vllm, checkpoint, tmp_path):
    """As the common one, but its candidates may be long, and differ in length; `hurried` has half a second for them."""
    document = json.loads((checkpoint / "its.json").read_text())
    document["vote"].update(max_tokens=MAX_TOKENS, temperature=1.4)
    model = {"upstream": "gpu", "served_name": vllm.name, "checkpoint": write_checkpoint(tmp_path / "long", document)}
    models = {
        "model": model,
        "hurried": {**model, "vote": {"deadline_s": 0.5}},
        "plain": {"upstream": "gpu", "served_name": vllm.name},
    }
    async with serving({"upstreams": {"gpu": {"url": vllm.url}}, "models": models}) as server:
        yield server


async def test_a_decided_vote_aborts_the_candidates_that_are_left(proxy, vllm):
    """vLLM counts the requests that it finished; those it was asked to abort are missing there."""
    n_finished, n_cancelled, spent_s = await finished(vllm), 0, []
    for query in QUERIES:
        its = (await proxy.ask(query)).json["its"]
        n_cancelled += its["cancelled"]["candidates"]
        spent_s.append(await vllm.until_idle())
    assert median(spent_s) < WITHIN_S
    n_aborted = 8 * len(QUERIES) - (await finished(vllm) - n_finished)
    assert 0 < n_aborted <= n_cancelled


@pytest.mark.parametrize("way", WAYS_TO_ASK)
async def test_a_client_who_leaves_empties_the_server(proxy, vllm, way):
    model, fields, n = WAYS_TO_ASK[way]
    spent_s = []
    for query in QUERIES[:ROUNDS]:
        n_tokens = await generated(vllm)
        asking = asyncio.create_task(proxy.ask(query, model, **LONG, **fields))
        await vllm.until_running(n)
        asking.cancel()
        await asyncio.wait({asking})
        spent_s.append(await vllm.until_idle())
        assert asking.cancelled()
        assert await generated(vllm) - n_tokens < n * MAX_TOKENS
    assert median(spent_s) < WITHIN_S


async def test_a_deadline_empties_the_server(proxy, vllm):
    n_tokens, spent_s = await generated(vllm), []
    for query in QUERIES[:ROUNDS]:
        reply = await proxy.ask(query, "hurried", **LONG)
        spent_s.append(await vllm.until_idle())
        assert reply.status == 504
    assert median(spent_s) < WITHIN_S
    assert 0 < await generated(vllm) - n_tokens < ROUNDS * 8 * MAX_TOKENS


async def finished(vllm):
    return (await vllm.metrics())["vllm:request_success_total"]


async def generated(vllm):
    return (await vllm.metrics())["vllm:generation_tokens_total"]
