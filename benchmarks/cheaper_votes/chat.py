"""What does chat cost at a model that votes? Generated tokens by vLLM's counter, against one plain call with the same
seed.

The demo models box a number whatever they are asked, so `bad_words` keeps them from it: every reply is without an
answer, as a chat model's is.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks.cheaper_votes.walls import AT_ONCE, EIGHT, SEED_STEP
from benchmarks.vllm_vote.kept import Kept, Record
from benchmarks.vllm_vote.servers import Servers
from its_proxy.statistics import Estimate
from its_proxy.voting.expectation import expects_answer

PROMPTS = Path(__file__).with_name("chat.txt").read_text().splitlines()
N_SEEDS = 2
NO_ANSWER = {"bad_words": ["boxed"]}
PLAIN = "plain"
# As a client asks that knows nothing of votes; the model's settings have `vote: auto`.
WAYS = {PLAIN: (AT_ONCE, {"vote": "off"}), "n=16, all at once": (AT_ONCE, {}), "n=8, first 5": (EIGHT, {})}


@dataclass(frozen=True, slots=True)
class Cost:
    """`ratio`: generated tokens against plain, over all requests; `n_flagged`: prompts with a sign of a short answer,
    which begin with a whole wave, and `flagged_ratio` what these alone cost; `n_answered`: replies that held an answer
    after all."""

    way: str
    n_requests: int
    ratio: Estimate
    n_started: float
    n_answered: int
    n_flagged: int
    flagged_ratio: float | None


def waiting(kept: Kept) -> list[tuple[int, str]]:
    """Requests by number; request k is prompt k modulo their number."""
    done = {(record["number"], record["way"]) for record in kept.records}
    asked = ((number, way) for number in range(N_SEEDS * len(PROMPTS)) for way in WAYS)
    return [one for one in asked if one not in done]


async def measure(servers: Servers, kept: Kept) -> None:
    for number, way in waiting(kept):
        kept.add(await _ask(servers, number, way))


async def _ask(servers: Servers, number: int, way: str) -> Record:
    model, its = WAYS[way]
    prompt = PROMPTS[number % len(PROMPTS)]
    before = await servers.counters()
    reply = await servers.ask(prompt, model, seed=SEED_STEP * number, its=dict(its), **NO_ANSWER)
    after = await servers.counters()
    if reply.status != 200:
        raise RuntimeError(f"{way}: {reply.status} {reply.json}")
    told = reply.json["its"]
    return {
        "number": number,
        "way": way,
        "answer": told["answer"],
        "n_started": told["n_started"],
        "n_generated": after.n_generated - before.n_generated,
    }


def costs(records: Sequence[Record]) -> list[Cost]:
    """One for each way that votes; a request counts when every way has been asked."""
    by_way = {way: {record["number"]: record for record in records if record["way"] == way} for way in WAYS}
    numbers = sorted(set.intersection(*(set(found) for found in by_way.values())))
    if not numbers:
        return []
    return [_cost(way, [by_way[way][k] for k in numbers], [by_way[PLAIN][k] for k in numbers]) for way in WAYS]


def _cost(way: str, records: Sequence[Record], plain: Sequence[Record]) -> Cost:
    own, other = (np.array([record["n_generated"] for record in found]) for found in (records, plain))
    # A prompt is the unit of chance, not one of its seeds.
    prompts = np.array([record["number"] % len(PROMPTS) for record in records])
    is_flagged = np.array([expects_answer(PROMPTS[prompt]) for prompt in prompts])
    units = [np.flatnonzero(prompts == prompt) for prompt in np.unique(prompts)]
    sums = np.array([(own[unit].sum(), other[unit].sum()) for unit in units])
    drawn = sums[np.random.default_rng(0).integers(len(sums), size=(2000, len(sums)))].sum(1)
    low, high = np.quantile(drawn[:, 0] / drawn[:, 1], (0.025, 0.975))
    return Cost(
        way=way,
        n_requests=len(records),
        ratio=Estimate(float(own.sum() / other.sum()), float(low), float(high)),
        n_started=sum(record["n_started"] for record in records) / len(records),
        n_answered=sum(record["answer"] is not None for record in records),
        n_flagged=len(np.unique(prompts[is_flagged])),
        flagged_ratio=float(own[is_flagged].sum() / other[is_flagged].sum()) if is_flagged.any() else None,
    )
