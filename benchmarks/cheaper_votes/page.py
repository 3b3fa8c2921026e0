"""docs/cheaper-votes.md from the results; every number on it stands in the JSON."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.vllm_vote.tables import plain, table
from its_proxy.statistics import Estimate

Results = Mapping[str, Any]
FULL = "n=16"
MOST_SLOWER = 1.5
ON_VLLM = {"vllm": "real vLLM, alone", "crowd": "real vLLM, in a crowd"}
ROOT = Path(__file__).parents[2]
PICTURES = "results/cheaper-votes"

_HEAD = """# Cheaper votes: how few tokens does an answer need?

How many candidates to ask, how many of them at first, and when to stop. Every way is judged on the same items as the
full vote of 16 (*maj@16*): accuracy by a paired 95% interval over items, generated tokens (those of cut-off candidates
included), and wall time. Made by `make results-votes` (`benchmarks/cheaper_votes`) from `results/cheaper-votes.json`.
"""

_READ = """
**How to read it.** *n* candidates at most, stop rule, first wave. Where the vote is undecided and answers disagree, as
many again are started as have been, as the proxy does (*then the fewest*: as few as could decide; *then the rest*: all
others). *Minus maj@16* is accuracy in points over {n_orders} orders of the recorded candidates, as if seeds had been
drawn again; *once* is the recorded order alone, as one evaluation sees it. *Saved* is the share of maj@16's generated
tokens. *p95* is the 95% quantile of wall time, beside it as a multiple of maj@16's. *Tokens per right answer* is a
multiple of one greedy call's. **Bold**: no loss of accuracy by either interval, 50% or more saved, p95 at most {slower}
times the full vote's. The JSON holds more ways.
"""

_SHORT = """
## In short

Against maj@16 on the same items: tokens saved, difference in accuracy in points with its interval, and p95 of wall time
as a multiple. **Bold**: no loss of accuracy, 50% or more saved, p95 at most 1.5 times.
"""

_WORTH_KNOWING = {
    "n=8 exact, first 8": "`n: 8`",
    "n=8 exact, first 5": "`n: 8, first: auto`",
    "n=8 beta, first 4": "`n: 8, stop: beta, first: auto`",
    "n=16 beta, first 4": "`n: 16, stop: beta, first: auto`",
    "n=16 exact, first 9": "`n: 16, first: auto`",
}

_CHOICE = """
**What to take.**

- *`n: 8, stop: exact`, all at once*, the default: half of maj@16's tokens, and nobody waits for a second wave.
- *`first: auto` beside it* where tokens cost more than the slowest answers: the answer is still that of the full vote
  of 8, always. Its second wave is what p95 shows: twice as long where candidates are equally long and a batch costs no
  time, about as long where lengths differ (sigma 0.3 below) or a smaller batch runs faster, as on the real vLLM. On a
  busy server it is the quicker way, too: eight queries at a time wait for each other's tokens.
- *`n: 16, stop: beta, first: auto`* for maj@16's answer at about half of its tokens, at up to three waves.
- *`exact` with n=16* saves little by waves: nine must agree, and where one disagrees seven more are asked.
- *short-m@k* loses accuracy here, where the candidates of an item are about equally long.
- *Adaptive-Consistency* and *ESC* spend as few tokens as `beta`, and take 15 and 4 times as long.
- *One greedy call*: on these two models it is as often right as the vote, at a sixteenth of maj@16's tokens for each
  right answer. Measure your own model before you vote at all (`its-proxy evaluate` asks greedily, too).
"""

_LENGTHS = """
The demo models answer in about {tokens:.0f} tokens, and the candidates of one item are about equally long (their
deviation is {spread:.0%} of the mean). So time here is counted in decoding steps, a token a step for all that run; next
to nothing is saved by cutting off stragglers, for there are none; and a second wave doubles the time.
"""

_MODELS = """
## Where lengths differ: a model, not a measurement

The same candidates with their lengths multiplied by log-normal factors of mean 1 and the given sigma, drawn for each
candidate independently of whether it is right. Two clocks: *a batch costs no time* (a token a step whatever runs, as on
a GPU far from full), and, where the real vLLM below has been measured, its pace on this machine's CPU, by how many
candidates run. Cells: tokens saved / p95 against the full vote's.
"""

_VLLM = """
## Before a real vLLM: wall times as measured, {queries}

vLLM {vllm} on this machine's CPU ({cores} cores, load average {load} at the end), `demo-random`, its-proxy as a process
of its own before it; {n_items} items, {queries}, all ways with the same seeds, each way first in its turn. Tokens by
vLLM's counter `vllm:generation_tokens_total`, so those of cut-off candidates are in it. {date}.
"""

_CHAT = """
## What chat costs at a model that votes

{n_prompts} chat prompts (`benchmarks/cheaper_votes/chat.txt`, written for this), two seeds each, to a model with
`vote: auto` before a real vLLM; `bad_words` keeps the demo model from boxing a number, so that no reply holds
an answer. Generated tokens by vLLM's counter, against one plain call with the same seed; intervals are over prompts.
Prompts with a sign of a short answer begin with a whole wave: there the first wave is what chat can cost.
"""

_ADVICE = """
## Is the smallest n that `replay` advises enough elsewhere?

`its-proxy replay` marks the smallest n (and with it the fewest tokens) that is at most a point below the best setting
and, by the paired interval, not surely below it. Here it advises on one half of the items, and the other half judges:
accuracy there less that of all {most} candidates, paired. {n_splits} random splits; they overlap, so their shares carry
no interval.
"""


def page(results: Results) -> str:
    parts = [_HEAD.strip(), *_short(results)]
    if "replays" in results:
        parts += _replays(results)
    for part in ON_VLLM:
        if part in results:
            parts += _vllm(part, results[part])
    if "models" in results:
        parts += _models(results["models"])
    if "chat" in results:
        parts += _chat(results["chat"])
    if "advice" in results:
        parts += _advice(results)
    return "\n\n".join(parts) + "\n"


def _short(results: Results) -> Iterator[str]:
    """The ways worth knowing, from every source that has been measured."""
    sources = {name: replay["points"] for name, replay in results.get("replays", {}).items()}
    sources |= {title: results[part]["points"] for part, title in ON_VLLM.items() if part in results}
    if sources:
        yield _SHORT.strip()
        yield table([_short_cells(way, wish, sources) for way, wish in _WORTH_KNOWING.items()])
        yield _CHOICE.strip()


def _short_cells(way: str, wish: str, sources: Mapping[str, Sequence[Results]]) -> dict[str, object]:
    cells: dict[str, object] = {"way": way, "settings": wish}
    for source, points in sources.items():
        point = next((point for point in points if point["name"] == way), None)
        if point is None:
            cells[source] = "not asked"
            continue
        cell = f"{100 * point['saved'][0]:.0f}% saved, {_share(point['minus_full'])}, p95 {point['p95_ratio'][0]:.2f}"
        cells[source] = f"**{cell}**" if is_good(point) else cell
    return cells


def _replays(results: Results) -> Iterator[str]:
    told = results["replayed"]
    yield _READ.strip().format(n_orders=told["n_orders"], slower=MOST_SLOWER)
    for name, replay in results["replays"].items():
        yield f"## Recorded candidates, {name}: {replay['title']}"
        yield (
            f"{replay['n_items']} items of `its_proxy/demo/problems.jsonl`, {replay['n_candidates']} candidates each, "
            f"recorded {replay['recorded'][:10]}. pass@1 {_share(replay['pass_at_1'])}; one greedy call "
            f"{_share(replay['greedy'])} at {replay['greedy_tokens']:.1f} tokens."
        )
        yield _LENGTHS.strip().format(tokens=replay["tokens"], spread=replay["spread"])
        yield f"![Accuracy against generated tokens]({PICTURES}/{name}.svg)"
        yield table([_cells(point) for point in replay["points"] if _is_shown(point["name"])])


def _is_shown(name: str) -> bool:
    """Of the staged votes those of 8 and 16, with the first waves of interest."""
    return not name.startswith("n=32 ") and ", first 3" not in name


def _cells(point: Results) -> dict[str, object]:
    name = point["name"] + (" (published)" if point["is_published"] else "")
    return {
        "way": f"**{name}**" if is_good(point) else name,
        "accuracy": _share(point["accuracy"]),
        "minus maj@16": _share(point["minus_full"]),
        "once": _share(point["minus_full_once"]),
        "same answer": f"{100 * point['same']:.1f}",
        "tokens": f"{point['n_tokens']:.0f}",
        "saved, %": _share(point["saved"]),
        "calls": f"{point['n_started']:.1f}",
        "p50": f"{point['p50']:.3g}",
        "p95": f"{point['p95']:.3g}",
        "p95 against maj@16": plain(Estimate(*point["p95_ratio"]), 2),
        "tokens per right answer": plain(Estimate(*point["per_right"]), 2),
    }


def is_equal(point: Results) -> bool:
    """Whether neither interval shows a loss."""
    return all(Estimate(*point[key]).high >= 0 for key in ("minus_full", "minus_full_once"))


def is_good(point: Results) -> bool:
    return is_equal(point) and point["saved"][0] >= 0.5 and point["p95_ratio"][0] <= MOST_SLOWER


def _vllm(part: str, vllm: Results) -> Iterator[str]:
    queries = "one query at a time" if vllm["at_once"] == 1 else f"{vllm['at_once']} queries at a time"
    yield _VLLM.strip().format(**{**vllm, "load": vllm["load"][0], "queries": queries})
    yield f"![Tokens saved against wall time]({PICTURES}/{part}.svg)"
    yield table([_cells(point) for point in vllm["points"]])
    if vllm["at_once"] > 1:
        yield "Intervals are over items. Queries of a crowd share their luck, so those of wall times are too narrow."
    else:
        clock = vllm["clock"]
        yield (
            f"Its pace, by a straight line through the ways that begin all at once: "
            f"{1000 * clock['step']:.1f} ms a token and {1000 * clock['more']:.2f} ms more for each that runs."
        )


def _models(models: Sequence[Results]) -> Iterator[str]:
    yield _MODELS.strip()
    for workload in dict.fromkeys(model["workload"] for model in models):
        chosen = [model for model in models if model["workload"] == workload]
        yield f"### {workload}"
        yield table([_model_cells(number, chosen) for number in range(len(chosen[0]["points"]))])


def _model_cells(number: int, models: Sequence[Results]) -> dict[str, object]:
    cells: dict[str, object] = {"way": models[0]["points"][number]["name"]}
    for model in models:
        point = model["points"][number]
        cell = f"{100 * point['saved'][0]:.0f}% / {point['p95_ratio'][0]:.2f}"
        cells[f"{model['clock']}, sigma {model['spread']:g}"] = f"**{cell}**" if is_good(point) else cell
    return cells


def _chat(chat: Results) -> Iterator[str]:
    yield _CHAT.strip().format(**chat)
    yield table(
        [
            {
                "way": cost["way"],
                "requests": cost["n_requests"],
                "tokens against plain": plain(Estimate(*cost["ratio"]), 3),
                "calls started": f"{cost['n_started']:.2f}",
                "replies with an answer": cost["n_answered"],
                "prompts with a sign of an answer": f"{cost['n_flagged']} of {chat['n_prompts']}",
                "these alone, against plain": "" if cost["flagged_ratio"] is None else f"{cost['flagged_ratio']:.1f}",
            }
            for cost in chat["costs"]
        ]
    )
    flagged = [cost for cost in chat["costs"] if (cost["flagged_ratio"] or 0) > 1]
    bounds = ", ".join(f"{30 / (cost['flagged_ratio'] - 1):.0f}% ({cost['way']})" for cost in flagged)
    if bounds:
        yield (
            "At that price, which so few prompts tell but roughly, chat stays below 1.3 times plain while no more than "
            f"{bounds} of its prompts have such a sign."
        )


def _advice(results: Results) -> Iterator[str]:
    first = next(iter(results["advice"].values()))
    most = next(iter(results["replays"].values()))["n_candidates"]
    yield _ADVICE.strip().format(most=most, n_splits=first["n_splits"])
    yield table([_advice_cells(name, advice) for name, advice in results["advice"].items()])


def _advice_cells(name: str, advice: Results) -> dict[str, object]:
    return {
        "workload": name,
        "items a half": advice["n_items_each"],
        "advised (splits)": ", ".join(f"{way} ({n})" for way, n in advice["advised"].items()),
        "held-out interval includes 0": f"{advice['n_include_zero']} of {advice['n_splits']}",
        "mean difference, points": f"{100 * advice['mean_lost']:.2f}",
        "worst": f"{100 * advice['worst_lost']:.1f}",
        "widest interval": f"{100 * advice['widest']:.1f}",
        "tokens saved against all": f"{100 * advice['mean_saved']:.1f}%",
    }


def _share(estimate: Sequence[float]) -> str:
    return str(Estimate(*estimate))
