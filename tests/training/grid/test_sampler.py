import asyncio
from pathlib import Path

import pytest

import its_proxy
from its_proxy.candidates import read_items
from its_proxy.upstreams.embedded import EmbeddedUpstream
from its_proxy.upstreams.engine import load_checkpoint
from its_proxy.upstreams.rows import Sampling
from its_training.grid.cache import roomy_cache
from its_training.grid.sampler import sample

DEMO = Path(its_proxy.__file__).parent / "demo"
pytestmark = pytest.mark.timeout(300)


@pytest.fixture(scope="module")
def checkpoint():
    return load_checkpoint(DEMO / "demo-none")


@pytest.fixture(scope="module")
def queries():
    return [item.query for item in read_items(DEMO / "problems.jsonl")[:12]]


def prompts_of(checkpoint, queries):
    rendered = [checkpoint.render([{"role": "user", "content": q}], add_generation_prompt=True) for q in queries]
    return [checkpoint.encode(text) for text in rendered]


def samplings(n, *, temperature=0.8, max_tokens=96):
    return [Sampling(seed=100 + k, max_tokens=max_tokens, temperature=temperature) for k in range(n)]


async def texts_of_the_engine(queries, n):
    upstream = EmbeddedUpstream("embedded", {"m": DEMO / "demo-none"}, threads=1)
    try:
        bodies = [
            {"model": "m", "messages": [{"role": "user", "content": q}], "max_tokens": 96, "temperature": 0.8,
             "seed": 100 + k}
            for q in queries for k in range(n)
        ]  # fmt: skip
        replies = [await upstream.complete(body, "r") for body in bodies]
    finally:
        await upstream.close()
    return [reply["choices"][0]["message"]["content"] for reply in replies]


def test_the_embedded_engine_draws_the_same_texts(checkpoint, queries):
    drawn = sample(checkpoint, prompts_of(checkpoint, queries), [samplings(3)] * len(queries))
    texts = [completion.text for one in drawn for completion in one]
    expected = asyncio.run(texts_of_the_engine(queries, 3))
    n_same = sum(a == b for a, b in zip(texts, expected, strict=True))
    # Larger matrices round differently, which may move a draw to the next token.
    assert n_same >= 0.95 * len(expected)


def test_a_prompt_draws_the_same_whoever_is_beside_it(checkpoint, queries):
    prompts = prompts_of(checkpoint, queries)
    together = sample(checkpoint, prompts, [samplings(8)] * len(prompts))
    alone = sample(checkpoint, prompts[3:4], [samplings(8)])
    n_same = sum(a.text == b.text for a, b in zip(together[3], alone[0], strict=True))
    assert n_same >= 7


def test_greedy_rows_are_equal_and_tokens_are_counted_with_the_end(checkpoint, queries):
    [one] = sample(checkpoint, prompts_of(checkpoint, queries[:1]), [samplings(3, temperature=0.0)])
    assert len({completion.text for completion in one}) == 1
    assert one[0].finish_reason == "stop"
    assert one[0].n_tokens == len(checkpoint.encode(one[0].text)) + 1


def test_a_completion_that_does_not_end_is_cut_by_length(checkpoint, queries):
    [one] = sample(checkpoint, prompts_of(checkpoint, queries[:1]), [samplings(2, max_tokens=3)])
    assert [(completion.finish_reason, completion.n_tokens) for completion in one] == [("length", 3)] * 2


def test_other_end_tokens_may_be_named(checkpoint, queries):
    ends = frozenset(checkpoint.encode("="))
    [one] = sample(checkpoint, prompts_of(checkpoint, queries[:1]), [samplings(1, temperature=0.0)], eos_ids=ends)
    assert one[0].finish_reason == "stop"
    assert "=" not in one[0].text


def test_progress_counts_every_prompt(checkpoint, queries):
    told = []
    sample(checkpoint, prompts_of(checkpoint, queries), [samplings(1)] * len(queries), on_done=told.append)
    assert sum(told) == len(queries)


def test_a_roomy_cache_holds_what_a_plain_one_holds(checkpoint, queries):
    import torch

    ids = torch.tensor([prompts_of(checkpoint, queries)[0]] * 3)
    logits = []
    for cache in (checkpoint.new_cache(), roomy_cache(checkpoint.new_cache())):
        with torch.inference_mode():
            checkpoint.forward(ids, cache)
            for step in range(40):
                if step == 20:
                    cache.batch_select_indices(torch.tensor([0, 2]))
                steps = torch.full((len(cache.layers[0].keys), 1), 7)
                last = checkpoint.forward(steps, cache)
        logits.append((last, cache.layers[1].keys))
    assert torch.allclose(logits[0][0], logits[1][0], atol=1e-5)
    assert torch.equal(logits[0][1], logits[1][1])
