"""Texts and log-probabilities are those of transformers itself, and depend on their own seed only."""

import asyncio
import math
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from its_proxy.upstreams.embedded import EmbeddedUpstream
from its_proxy.upstreams.engine import Checkpoint
from tests.upstreams.embedded.asking import ask_many, body, text_of, until

# -- the numbers, against transformers itself --------------------------------------------------------------------------


async def test_greedy_text_is_that_of_transformers_generate(shared: EmbeddedUpstream, tiny_checkpoint: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM

    reply = await shared.complete(body(temperature=0, max_tokens=40, return_token_ids=True), "r")
    model = AutoModelForCausalLM.from_pretrained(tiny_checkpoint, dtype=torch.float32)
    prompt = torch.tensor([reply["prompt_token_ids"]])
    expected = model.generate(prompt, attention_mask=torch.ones_like(prompt), do_sample=False, max_new_tokens=40)
    assert reply["choices"][0]["token_ids"] == expected[0, prompt.shape[1] :].tolist()


async def test_log_probabilities_are_those_of_one_pass_over_prompt_and_text(
    shared: EmbeddedUpstream, tiny_checkpoint: Path
) -> None:
    import torch
    from transformers import AutoModelForCausalLM

    reply = await shared.complete(
        body(seed=2, logprobs=True, top_logprobs=2, prompt_logprobs=1, return_token_ids=True), "r"
    )
    prompt_ids, [choice] = reply["prompt_token_ids"], reply["choices"]
    token_ids = prompt_ids + choice["token_ids"]
    model = AutoModelForCausalLM.from_pretrained(tiny_checkpoint, dtype=torch.float32)
    with torch.inference_mode():
        expected = model(torch.tensor([token_ids])).logits[0].log_softmax(-1)
    assert reply["prompt_logprobs"][0] is None
    assert len(reply["prompt_logprobs"]) == len(prompt_ids)
    for place, entries in enumerate(reply["prompt_logprobs"][1:], start=1):
        before, token_id = expected[place - 1], token_ids[place]
        entry = entries[str(token_id)]
        assert entry["logprob"] == pytest.approx(before[token_id].item(), abs=1e-4)
        assert entry["rank"] == int((before > before[token_id]).sum()) + 1
        assert min(other["rank"] for other in entries.values()) == 1
    for place, entry in enumerate(choice["logprobs"]["content"], start=len(prompt_ids)):
        before = expected[place - 1]
        assert entry["logprob"] == pytest.approx(before[token_ids[place]].item(), abs=1e-4)
        assert [top["logprob"] for top in entry["top_logprobs"]] == pytest.approx(
            before.topk(2).values.tolist(), abs=1e-4
        )


async def test_first_tokens_follow_the_model_s_distribution(shared: EmbeddedUpstream, checkpoint: Checkpoint) -> None:
    """2,048 seeds: each likely token appears within four standard deviations of its probability."""
    probe = await shared.complete(body(logprobs=True, top_logprobs=8, temperature=1, max_tokens=1), "r")
    tops = probe["choices"][0]["logprobs"]["content"][0]["top_logprobs"]
    asked = [
        shared.complete(body(n=64, seed=first, temperature=1, max_tokens=1, logprobs=True), "r")
        for first in range(0, 2048, 64)
    ]
    replies = [await one for one in asked]
    drawn = Counter(choice["logprobs"]["content"][0]["logprob"] for reply in replies for choice in reply["choices"])
    for top in tops:
        share = math.exp(top["logprob"])
        count = sum(times for logprob, times in drawn.items() if abs(logprob - top["logprob"]) < 1e-6)
        assert abs(count / 2048 - share) < 4 * math.sqrt(share * (1 - share) / 2048)


@pytest.mark.parametrize(
    ("fields", "kept"),
    [
        ({"top_k": 2}, {0, 1}),
        ({"top_p": 0.5}, {0}),
        ({"top_p": 0.51}, {0, 1}),
        ({"top_p": 0.81}, {0, 1, 2}),
        ({"min_p": 0.35}, {0, 1, 2}),
        ({"min_p": 0.5, "top_p": 0.6}, {0}),
        ({"top_k": 3, "top_p": 0.95}, {0, 1, 2}),
        ({}, {0, 1, 2, 3}),
        ({"temperature": 0}, {0}),
    ],
)
def test_filters_keep_the_likeliest_tokens(fields: dict[str, Any], kept: set[int]) -> None:
    torch = pytest.importorskip("torch")
    from its_proxy.upstreams.engine import Columns, choose_tokens
    from its_proxy.upstreams.rows import Sampling

    # Shuffled places, so that nothing rests on the vocabulary's order.
    places = {0: 3, 1: 0, 2: 4, 3: 1}
    logits = torch.full((1, 5), -math.inf)
    for rank, probability in enumerate([0.5, 0.24, 0.2, 0.06]):
        logits[0, places[rank]] = math.log(probability)
    columns = Columns([Sampling(seed=0, max_tokens=1, **fields)], vocab_size=5)
    drawn = {choose_tokens(logits, columns, [step / 1000]).item() for step in range(1000)}
    assert drawn == {places[rank] for rank in kept}


# -- seeds -------------------------------------------------------------------------------------------------------------


async def test_text_depends_on_its_own_seed_only(shared: EmbeddedUpstream) -> None:
    alone = [text_of(await shared.complete(body(seed=seed), "r")) for seed in range(24)]
    assert len(set(alone)) == 24
    eights = [await ask_many(shared, range(first, first + 8)) for first in (0, 8, 16)]
    assert [text_of(reply) for replies in eights for reply in replies] == alone
    twos = [await ask_many(shared, (seed, 1000 + seed), top_p=0.999999) for seed in range(0, 24, 6)]
    assert [text_of(replies[0]) for replies in twos] == alone[::6]
    backwards = await ask_many(shared, reversed(range(24)))
    assert [text_of(reply) for reply in reversed(backwards)] == alone


async def test_text_stays_the_same_when_neighbours_are_cancelled(upstream: EmbeddedUpstream) -> None:
    alone = {seed: text_of(await upstream.complete(body(seed=seed, max_tokens=60), "r")) for seed in range(8)}
    generated = upstream.stats.generated_tokens
    tasks = [asyncio.create_task(upstream.complete(body(seed=seed, max_tokens=60), "r")) for seed in range(8)]
    await until(lambda: upstream.stats.generated_tokens > generated + 16)
    for task in tasks[::3]:
        task.cancel()
    kept = [seed for seed in range(8) if seed % 3]
    assert [text_of(await tasks[seed]) for seed in kept] == [alone[seed] for seed in kept]
    assert upstream.stats.cancelled == 3


async def test_rows_of_a_batch_keep_their_own_settings(shared: EmbeddedUpstream) -> None:
    settings: list[dict[str, Any]] = [
        {"seed": 1, "temperature": 0},
        {"seed": 2, "temperature": 1.3, "max_tokens": 40},
        {"seed": 3, "top_k": 3},
        {"seed": 4, "stop": ["e", "a"]},
        {"seed": 5, "top_p": 0.7, "max_tokens": 9},
    ]
    together = await asyncio.gather(*(shared.complete(body(**fields), "r") for fields in settings))
    apart = [await shared.complete(body(**fields), "r") for fields in settings]
    assert [text_of(reply) for reply in together] == [text_of(reply) for reply in apart]


async def test_without_a_seed_texts_differ(shared: EmbeddedUpstream) -> None:
    replies = await asyncio.gather(*(shared.complete(body(), "r") for _ in range(4)))
    assert len({text_of(reply) for reply in replies}) == 4


async def test_neighbouring_and_negative_seeds_have_nothing_in_common(shared: EmbeddedUpstream) -> None:
    replies = await ask_many(shared, (-2, -1, 0, 1, 2, 2**63 - 1))
    assert len({text_of(reply) for reply in replies}) == 6
