"""Rewrites stay as they are: by recorded digests, in another process, over all of GSM8K."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path

import pytest

from its_proxy.codesign import taxonomy
from its_proxy.codesign.canonical import canonical_json
from its_proxy.codesign.strategies import Rewritten, rewrite
from tests.codesign.strategies.rewriting import NAMES, assert_unrelated, assistant, queries, recipe, user


def golden_digest(name: str) -> str:
    """Over 200 queries: each as a training row, as served alone, and as served after another turn."""
    lines = []
    for n, query in enumerate(queries(200)):
        rows = (
            rewrite(recipe(name), [user(query)], row_id=f"row {n}"),
            rewrite(recipe(name), [user(query)]),
            rewrite(recipe(name, seed=n), [user(query), assistant("5"), user("And " + query)]),
        )
        lines += [canonical_json(row.messages) for row in rows]
    return sha256(b"\n".join(lines)).hexdigest()


# -- the same text in every process, forever ---------------------------------------------------------------------------

GOLDEN = {
    "none": "81bb47d569ce393a799baeaf66cd54fe4481a8f23aa03ffb9dd73d8d31144fe4",
    "similar": "b43c6098d21c13f4691cc2ac2a1d6a48b9889ed9d3a1ffa53bd0263f3b38ea20",
    "dissimilar": "898836ffa0d7b687686eb9f39dff134d77c4c61ffee9f97cd782951d66e7efba",
    "random": "484351c7b996a75ef7f167f01c3577943b7365641224c1901aa6a934c67ee72d",
    "mixed": "8d7ef85f74086acc7be2185b7181fce793d48d706a8f6476ae22d99c079f9bd0",
    "filler": "4d55dedc0d85213c968e9657b73fe0942b9ddd22cce723daffa8ea7b2e2779cf",
    "fixed": "632c0664fb19ea41660140bd0179c09bd64f1cc7a0ad6f32bccc512a5294a879",
    "shuffled": "115860664eaf21e3a652faef23a7a9d47e69231dba859bf0fd8872c8a8eceff8",
}


@pytest.mark.parametrize("name", NAMES)
def test_rewrites_are_the_recorded_ones(name: str) -> None:
    assert golden_digest(name) == GOLDEN[name], (
        f"{name!r} rewrites differently than it did: checkpoints trained with version 1 would be served other text. "
        "Keep version 1 as it is and register the new rule as version 2"
    )


@pytest.mark.parametrize("hash_seed", ["1", "2"])
def test_rewrites_are_the_same_in_another_process(hash_seed: str) -> None:
    environment = {**os.environ, "PYTHONHASHSEED": hash_seed, "PYTHONPATH": os.pathsep.join(sys.path)}
    shown = subprocess.run([sys.executable, __file__], env=environment, capture_output=True, text=True, check=True)
    assert json.loads(shown.stdout) == {name: golden_digest(name) for name in NAMES}


# -- GSM8K -------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def gsm8k(test_data: Path) -> list[str]:
    lines = (test_data / "gsm8k-test.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line)["question"] for line in lines]


def rewrite_all(name: str, questions: Sequence[str]) -> list[Rewritten]:
    return [rewrite(recipe(name), [user(question)], row_id=f"gsm8k:{n}") for n, question in enumerate(questions)]


@pytest.mark.parametrize("name", NAMES)
def test_all_gsm8k_questions_are_rewritten_alike_twice_with_their_text_intact(name: str, gsm8k: list[str]) -> None:
    started = time.perf_counter()
    rewritten = rewrite_all(name, gsm8k)
    print(f"{name}: {len(gsm8k)} questions rewritten in {time.perf_counter() - started:.2f} s")
    assert len(rewritten) == 1319
    assert rewrite_all(name, gsm8k) == rewritten
    for question, row in zip(gsm8k, rewritten, strict=True):
        persona = row.personas.get(0)
        assert row.messages == [user(question if persona is None else f"{persona.text}\n\n{question}")]


def test_dissimilar_is_unrelated_on_all_gsm8k_questions(gsm8k: list[str]) -> None:
    for question, row in zip(gsm8k, rewrite_all("dissimilar", gsm8k), strict=True):
        assert_unrelated(row.personas[0], question)


def test_shuffled_leaves_the_own_domain_of_all_gsm8k_questions(gsm8k: list[str]) -> None:
    for question, row in zip(gsm8k, rewrite_all("shuffled", gsm8k), strict=True):
        assert row.personas[0].domain != taxonomy.domain_of(question)


if __name__ == "__main__":
    print(json.dumps({name: golden_digest(name) for name in NAMES}))
