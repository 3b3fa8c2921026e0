"""The packaged demo checkpoints: whole, small, believed by the handshake, and voting over HTTP."""

import json
from pathlib import Path

import openai
import pytest

from its_proxy.candidates import read_items
from its_proxy.checkpoint import check_weights, open_checkpoint
from its_proxy.server.build import DEMO, DEMO_ENSEMBLE
from its_proxy.voting.answers import read_answer
from tests.serving import Server, serving

ARMS = ("none", "similar", "dissimilar", "random")
FOLDERS = [DEMO / f"demo-{arm}" for arm in ARMS]


@pytest.fixture(scope="module")
def problems():
    return read_items(DEMO / "problems.jsonl")


def test_a_thousand_held_out_problems_are_packaged(problems):
    assert len({item.query for item in problems}) == 1_000


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_each_checkpoint_is_small_sealed_and_free_of_pickles(folder: Path):
    files = list(folder.iterdir())
    assert sum(file.stat().st_size for file in files) <= 2_000_000
    assert {file.suffix for file in files} <= {".json", ".safetensors", ".jinja"}
    checkpoint = open_checkpoint(folder)
    check_weights(checkpoint)
    assert json.loads((folder / "config.json").read_text())["its"]["pair_id"] == checkpoint.pair_id


def test_the_arms_differ_in_nothing_but_the_strategy():
    manifests = [open_checkpoint(folder).manifest for folder in FOLDERS]
    assert len({manifest.provenance["ids_sha256"] for manifest in manifests}) == 1
    assert len({manifest.provenance["base_sha256"] for manifest in manifests}) == 1
    assert [manifest.pair.trained_with.strategy for manifest in manifests] == list(ARMS)
    assert all(manifest.pair.trained_with == manifest.pair.serve_with for manifest in manifests)


def test_every_measured_number_carries_its_conditions():
    for folder in FOLDERS:
        evaluation = open_checkpoint(folder).manifest.evaluation
        assert {"pass@1", "maj@8", "greedy"} <= {row.metric for row in evaluation}
        assert all(row.ci95 is not None and row.items >= 1_000 and row.split == "test" for row in evaluation)


async def test_every_model_is_verified_and_listed():
    async with serving({}) as server:
        cards = {
            card["id"]: card["its"] for card in (await (await server.http.get(f"{server.url}/models")).json())["data"]
        }
    assert {name: cards[name]["handshake"] for name in cards if name != DEMO_ENSEMBLE} == {
        f"demo-{arm}": "verified" for arm in ARMS
    }
    assert cards[DEMO_ENSEMBLE]["handshake"] == ["verified"] * 3


async def test_the_vote_is_right_far_more_often_than_chance(problems):
    """A floor, not a measurement: docs/results holds the figures."""
    async with serving({}) as server:
        right = 0
        for item in problems[:20]:
            status, reply = await server.chat(item.query, "demo-random", seed=3)
            assert status == 200
            right += reply["its"]["answer"] == item.gold
    assert right >= 12


async def test_the_ensemble_asks_each_member_in_its_own_way(problems):
    async with serving({}) as server:
        status, reply = await server.chat(problems[0].query, DEMO_ENSEMBLE, seed=3, its={"stop": "none"})
    assert status == 200
    assert [member["strategy"] for member in reply["its"]["members"]] == ["similar", "dissimilar", "random"]
    assert sum(reply["its"]["votes"].values()) + sum(reply["its"]["abstained"].values()) == 9


async def test_an_unmodified_openai_client_gets_the_voted_answer_plain_and_streamed(problems):
    query = [{"role": "user", "content": problems[0].query}]
    async with serving({}) as server, openai.AsyncOpenAI(base_url=server.url, api_key="none") as client:
        plain = await client.chat.completions.create(model="demo-random", messages=query, seed=1)
        stream = await client.chat.completions.create(model="demo-random", messages=query, seed=1, stream=True)
        text = "".join([chunk.choices[0].delta.content or "" async for chunk in stream])
    answer = read_answer(plain.choices[0].message.content, "boxed")
    assert answer is not None
    assert plain.its["answer"] == answer.text
    assert read_answer(text, "boxed") == answer


async def test_the_same_seed_gives_the_same_vote(problems):
    async def votes(server: Server) -> dict[str, int]:
        _, reply = await server.chat(problems[1].query, "demo-similar", seed=11, its={"stop": "none"})
        return reply["its"]["votes"]

    async with serving({}) as server:
        assert await votes(server) == await votes(server)
