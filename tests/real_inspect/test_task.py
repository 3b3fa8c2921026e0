"""The real `inspect eval` over the real demo, embedded: what it scores is what its-proxy's own votes come to.

`make test-eval` runs them; `make test` does not collect them.
"""

import asyncio
import json
import os
from collections import defaultdict
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

import its_proxy
from its_proxy.voting.answers import answer_of, read_answer
from its_proxy.voting.tally import Ballot, majority_vote
from tests.command import ROOT, serve_command

PROBLEMS = Path(its_proxy.__file__).parent / "demo" / "problems.jsonl"
N_ITEMS, K = 10, 4
TIMEOUT_S = 300

pytestmark = [
    pytest.mark.skipif("ITS_EVAL" not in os.environ, reason="ITS_EVAL is not set: make test-eval sets it"),
    pytest.mark.timeout(2 * TIMEOUT_S),
    pytest.mark.asyncio(loop_scope="module"),
]


@dataclass(frozen=True)
class Evaluated:
    code: int
    said: str
    log: Any


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def url() -> AsyncIterator[str]:
    async with serve_command(timeout_s=TIMEOUT_S) as server:
        yield server.url


@pytest.fixture
def items(tmp_path) -> Path:
    path = tmp_path / "items.jsonl"
    path.write_text("\n".join(PROBLEMS.read_text().splitlines()[:N_ITEMS]) + "\n")
    return path


async def inspect(url: str, folder: Path, *options: str) -> Evaluated:
    """One `inspect eval` of demo-none, as the page in docs/ has it."""
    task = ("eval", "its_proxy/inspect_task.py", "--model", "openai-api/its/demo-none")
    process = await asyncio.create_subprocess_exec(
        str(Path(os.environ["ITS_EVAL"], "bin/inspect")),
        *(*task, "--display", "plain", "--log-format", "json", "--log-dir", str(folder / "logs"), *options),
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT), "ITS_BASE_URL": url, "ITS_API_KEY": "none"},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    async with asyncio.timeout(TIMEOUT_S):
        said, _ = await process.communicate()
    logs = list((folder / "logs").glob("*.json"))
    assert process.returncode is not None
    return Evaluated(process.returncode, said.decode(), json.loads(logs[0].read_text()) if logs else None)


def accuracies(log: Any) -> dict[str, float]:
    return {score["reducer"]: score["metrics"]["accuracy"]["value"] for score in log["results"]["scores"]}


async def test_maj_at_k_is_the_vote_over_the_answers_and_not_inspects_mode(url, tmp_path, items):
    done = await inspect(url, tmp_path, "-T", f"file={items}", "-T", f"k={K}")
    assert (done.code, done.log["status"]) == (0, "success"), done.said
    replies = defaultdict(list)
    for sample in sorted(done.log["samples"], key=lambda sample: sample["epoch"]):
        text = sample["output"]["choices"][0]["message"]["content"]
        replies[sample["id"], sample["target"]].append(text if isinstance(text, str) else text[0]["text"])
    assert {len(texts) for texts in replies.values()} == {K}
    # Each epoch has seeds of its own: the candidates are K draws and not one.
    assert any(len(set(texts)) > 1 for texts in replies.values())
    found = accuracies(done.log)
    rights = [
        [read_answer(text, "boxed") == answer_of(gold, "boxed") for text in texts]
        for (_, gold), texts in replies.items()
    ]
    assert found["mean"] == pytest.approx(sum(map(sum, rights)) / (N_ITEMS * K))
    assert found["majority_of_answers"] == pytest.approx(sum(map(is_voted_right, replies.items())) / N_ITEMS)


def is_voted_right(item: tuple[tuple[str, str], list[str]]) -> bool:
    (_, gold), texts = item
    answers = [read_answer(text, "boxed") for text in texts]
    vote = majority_vote([Ballot(index, answer) for index, answer in enumerate(answers) if answer is not None])
    return vote.answer is not None and vote.answer.form == answer_of(gold, "boxed").form


async def test_its_proxy_can_vote_itself(url, tmp_path, items):
    options = ("-T", f"file={items}", "-T", "k=1", "-T", "voted=true", "--limit", "4")
    done = await inspect(url, tmp_path, *options)
    assert (done.code, done.log["status"]) == (0, "success"), done.said
    assert len(done.log["samples"]) == 4
    # Eight candidates an item were paid for, which its-proxy sums up.
    usage = done.log["stats"]["model_usage"]["openai-api/its/demo-none"]
    assert usage["output_tokens"] > 4 * 8 * 5


async def test_items_without_gold_answers_are_refused(url, tmp_path):
    (tmp_path / "items.jsonl").write_text('{"query": "2 + 5?"}\n')
    done = await inspect(url, tmp_path, "-T", f"file={tmp_path / 'items.jsonl'}")
    assert done.code != 0
    assert "a task needs gold answers" in done.said
