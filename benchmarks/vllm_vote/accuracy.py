"""Is an answer through vLLM as often right as one of the embedded engine, on the same items?"""

from collections.abc import Mapping, Sequence
from pathlib import Path

from benchmarks.vllm_vote.servers import start_embedded
from benchmarks.vllm_vote.tables import table
from its_proxy.evaluate import Comparison, Item, Row, collect, compare, read_candidates, score
from its_proxy.statistics import Estimate, wilson

# Items asked at the same time: vLLM puts the candidates of all of them into one batch.
AT_ONCE = {"vllm": 32, "embedded": 2}
TOLERANCE = 0.04


_INTRO = """
{n:,} items, 8 candidates each at the manifest's sampling (temperature 0.8) and one greedy reply, all asked through
its-proxy. Both engines get the same numbers as seeds, but each has a generator of its own: the samples are different
draws, and only greedy replies can be compared one by one.
"""


def is_complete(keep: Path, model: str, engine: str, items: Sequence[Item]) -> bool:
    file = _file(keep, model, engine)
    return file.exists() and {item.id for item in items} <= {row.id for row in read_candidates(file)}


async def ask(url: str, model: str, engine: str, items: Sequence[Item], keep: Path) -> None:
    """Asks the items that the file does not hold yet."""
    await collect(url, model, items, _file(keep, model, engine), concurrency=AT_ONCE[engine])


async def ask_embedded(models: Sequence[str], items: Sequence[Item], keep: Path) -> None:
    async with start_embedded() as url:
        for model in models:
            await ask(url, model, "embedded", items, keep)


def report(models: Sequence[str], items: Sequence[Item], keep: Path) -> str:
    """Of those models that both engines were asked."""
    models = [model for model in models if all(is_complete(keep, model, engine, items) for engine in AT_ONCE)]
    if not models:
        return "Not measured."
    rows = {(model, engine): _rows(keep, model, engine, items) for model in models for engine in AT_ONCE}
    pairs = {model: (rows[model, "vllm"], rows[model, "embedded"]) for model in models}
    differences = {model: compare(*pair) for model, pair in pairs.items()}
    parts = [
        _INTRO.strip().format(n=len(items)),
        table([_score_cells(model, engine, rows[model, engine]) for model in models for engine in AT_ONCE]),
        "vLLM minus embedded, paired by item, in points:",
        table([_difference_cells(model, differences[model]) for model in models]),
        "Greedy replies of the two engines (vLLM computes in bfloat16, the embedded engine in float32):",
        table([_greedy_cells(model, *pairs[model]) for model in models]),
        _verdict(differences),
    ]
    return "\n\n".join(parts)


def _file(keep: Path, model: str, engine: str) -> Path:
    return keep / f"{model}-{engine}.jsonl"


def _rows(keep: Path, model: str, engine: str, items: Sequence[Item]) -> list[Row]:
    by_id = {row.id: row for row in read_candidates(_file(keep, model, engine))}
    return [by_id[item.id] for item in items]


def _score_cells(model: str, engine: str, rows: Sequence[Row]) -> dict[str, object]:
    measured = score(rows)
    return {
        "model": model,
        "engine": engine,
        "pass@1": measured.pass_at_1,
        "maj@8": measured.majority,
        "greedy": measured.greedy,
        "no answer": f"{100 * measured.no_answer_rate:.2f}",
        "tokens an item": f"{measured.tokens_per_item:.1f}",
    }


def _difference_cells(model: str, difference: Comparison) -> dict[str, object]:
    return {
        "model": model,
        "items": difference.n_items,
        "pass@1": difference.pass_at_1,
        "maj@8": difference.majority,
        "greedy": difference.greedy,
    }


def _greedy_cells(model: str, first: Sequence[Row], second: Sequence[Row]) -> dict[str, object]:
    pairs = [(a.greedy, b.greedy) for a, b in zip(first, second, strict=True) if a.greedy and b.greedy]
    return {
        "model": model,
        "same text": wilson(sum(a.text == b.text for a, b in pairs), len(pairs)),
        "same answer": wilson(sum(a.answer == b.answer for a, b in pairs), len(pairs)),
    }


def _verdict(differences: Mapping[str, Comparison]) -> str:
    estimates = {
        f"{model}, {metric}": estimate
        for model, it in differences.items()
        for metric, estimate in (("pass@1", it.pass_at_1), ("maj@8", it.majority), ("greedy", it.greedy))
        if estimate is not None
    }
    failed = [name for name, estimate in estimates.items() if not _is_alike(estimate)]
    claim = f"includes 0 and lies within {100 * TOLERANCE:.0f} points of it"
    if failed:
        return (
            f"The interval {claim} in {len(estimates) - len(failed)} of {len(estimates)}; not in: {'; '.join(failed)}."
        )
    return f"The interval of each of the {len(estimates)} differences {claim}."


def _is_alike(difference: Estimate) -> bool:
    return -TOLERANCE <= difference.low <= 0 <= difference.high <= TOLERANCE
