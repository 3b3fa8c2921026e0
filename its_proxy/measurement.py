"""Everything that one candidates file tells, each number with its 95% interval, and the conditions it holds under.

    measurement = measure(read_candidates(Path("candidates.jsonl")))
    print(as_markdown(measurement))

With gold answers: greedy, pass@k, maj@k, accuracy among answered, and how far agreement can be trusted. Without:
agreement, candidates without an answer, tokens and time.
"""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from its_proxy.candidates import Row
from its_proxy.codesign.errors import ConfigError
from its_proxy.compared import as_sentence
from its_proxy.metrics import Metric, estimate, read_metric, values
from its_proxy.statistics import Estimate, clustered_interval, wilson
from its_proxy.voting.tally import Vote

SCHEMA_VERSION = 1
AGREEMENT_EDGES = (0.0, 0.25, 0.5, 0.75, 1.0)
"""Where the bins of agreement begin; the last one holds unanimous votes alone."""


@dataclass(frozen=True, slots=True)
class Figure:
    """One number. `unit` is `share` (printed in percent), `tokens` or `seconds`; `n` is what it is a mean over."""

    name: str
    value: Estimate
    n: int
    unit: str = "share"

    def __str__(self) -> str:
        if self.unit == "share":
            return str(self.value)
        digits = 3 if self.unit == "seconds" else 1
        value, low, high = (f"{number:.{digits}f}" for number in self.value)
        return f"{value} [{low}, {high}] {self.unit}"


@dataclass(frozen=True, slots=True)
class Bin:
    """Votes with an agreement from `low` up to the next bin: how sure they were on average, and how often right."""

    low: float
    n_items: int
    agreement: float
    accuracy: Estimate


@dataclass(frozen=True, slots=True)
class Measurement:
    """`forced` and `temperature` tell how the model was asked, `equality` how answers were compared; `calibration` is
    empty for unlabelled items."""

    model: str
    pair_ids: tuple[str, ...]
    strategy: str | None
    forced: bool
    temperature: float | None
    seed: int | None
    n_items: int
    n: int
    is_labelled: bool
    equality: str
    figures: tuple[Figure, ...]
    calibration: tuple[Bin, ...]

    def document(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {
            **asdict(self),
            "pair_ids": list(self.pair_ids),
            "figures": [{**asdict(figure), **_interval(figure.value)} for figure in self.figures],
            "calibration": [{**asdict(one), "accuracy": _interval(one.accuracy)} for one in self.calibration],
        }


def _interval(estimate: Estimate) -> dict[str, Any]:
    return {"value": estimate.value, "ci95": [estimate.low, estimate.high]}


def measure(rows: Sequence[Row], metrics: Sequence[str] | None = None) -> Measurement:
    """Measures rows that were asked in one way, by these metrics or by all usual ones. Raises ConfigError."""
    if not rows:
        raise ConfigError("no rows to measure")
    ways = {(row.model, row.strategy, row.forced, row.temperature, len(row.candidates)) for row in rows}
    if len(ways) > 1:
        raise ConfigError(f"one measurement needs rows of one kind, and these are of {len(ways)}")
    model, strategy, forced, temperature, n = ways.pop()
    is_labelled = all(row.gold is not None for row in rows)
    if metrics and not is_labelled:
        raise ConfigError(f"{metrics[0]}: items without a gold answer can only be measured for agreement and cost")
    votes = [row.vote() for row in rows]
    chosen = [read_metric(name) for name in metrics] if metrics else list(_usual(rows, n))
    figures = [_figure(rows, metric) for metric in chosen] if is_labelled else []
    return Measurement(
        model=model,
        pair_ids=tuple(sorted({row.pair_id for row in rows if row.pair_id})),
        strategy=strategy,
        forced=forced,
        temperature=temperature,
        seed=rows[0].asked.get("seed"),
        n_items=len(rows),
        n=n,
        is_labelled=is_labelled,
        equality=as_sentence(rows),
        figures=(*figures, *(_among_answered(rows, votes) if is_labelled else ()), *_costs(rows, votes)),
        calibration=tuple(_calibration(rows, votes)) if is_labelled else (),
    )


def _usual(rows: Sequence[Row], n: int) -> Iterator[Metric]:
    """Greedy where it was asked, then pass@k and maj@k for k = 1 or 3, 2, 4, 8, ... and n."""
    if all(row.greedy is not None for row in rows):
        yield Metric("greedy")
    yield Metric("avg", n)
    powers = [2**power for power in range(n.bit_length()) if 2**power < n]
    yield from (Metric("pass", k) for k in sorted({*powers, n}))
    # Two voters cannot outvote each other: maj@2 is pass@1 by another name, but for abstentions.
    yield from (Metric("maj", k) for k in sorted({*(power for power in powers if power > 2), min(3, n), n}) if k > 1)


def _figure(rows: Sequence[Row], metric: Metric) -> Figure:
    return Figure(metric.name, estimate(values(rows, metric), metric, len(rows[0].candidates)), len(rows))


def _among_answered(rows: Sequence[Row], votes: Sequence[Vote]) -> Iterator[Figure]:
    answered = [row.is_right(vote.answer) for row, vote in zip(rows, votes, strict=True) if vote.answer is not None]
    if answered:
        yield Figure(
            f"maj@{len(rows[0].candidates)} among answered", wilson(sum(answered), len(answered)), len(answered)
        )


def _costs(rows: Sequence[Row], votes: Sequence[Vote]) -> Iterator[Figure]:
    """What needs no gold answer."""
    n, n_items = len(rows[0].candidates), len(rows)
    silent = [sum(candidate.read is None for candidate in row.candidates) / n for row in rows]
    yield Figure("agreement", clustered_interval([vote.agreement for vote in votes]), n_items)
    yield Figure("candidates without an answer", clustered_interval(silent), n_items)
    yield Figure("items without an answer", wilson(sum(vote.answer is None for vote in votes), n_items), n_items)
    tokens = [[c.completion_tokens for c in row.candidates if c.completion_tokens is not None] for row in rows]
    if all(len(known) == n for known in tokens):
        yield Figure("tokens an item", clustered_interval([float(sum(known)) for known in tokens]), n_items, "tokens")
    finishes = [[c.finished_s for c in row.candidates if c.finished_s is not None] for row in rows]
    if all(len(known) == n for known in finishes):
        yield Figure("time to the last candidate", clustered_interval([max(k) for k in finishes]), n_items, "seconds")
        yield Figure("time to the first candidate", clustered_interval([min(k) for k in finishes]), n_items, "seconds")
    firsts = [[c.first_token_s for c in row.candidates if c.first_token_s is not None] for row in rows]
    if all(firsts):
        yield Figure("time to the first token", clustered_interval([min(k) for k in firsts]), n_items, "seconds")


def _calibration(rows: Sequence[Row], votes: Sequence[Vote]) -> Iterator[Bin]:
    """Whether agreement tells right votes from wrong ones; votes without an answer are in no bin."""
    voted = [(vote.agreement, row.is_right(vote.answer)) for row, vote in zip(rows, votes, strict=True) if vote.answer]
    for low, high in zip(AGREEMENT_EDGES, (*AGREEMENT_EDGES[1:], 2.0), strict=True):
        inside = [(agreement, is_right) for agreement, is_right in voted if low <= agreement < high]
        if inside:
            mean = sum(agreement for agreement, _ in inside) / len(inside)
            yield Bin(low, len(inside), mean, wilson(sum(is_right for _, is_right in inside), len(inside)))


# --- the page --------------------------------------------------------------------------------


def as_markdown(measurement: Measurement) -> str:
    """Tables with their conditions underneath."""
    return "\n".join(_page(measurement))


def _page(it: Measurement) -> Iterator[str]:
    yield f"| {it.model} | value [95% interval] | over |"
    yield "| --- | --- | --- |"
    yield from (f"| {figure.name} | {figure} | {figure.n} items |" for figure in it.figures)
    if it.calibration:
        yield ""
        yield "| agreement | items | mean agreement | accuracy of the vote [95%] |"
        yield "| --- | --- | --- | --- |"
        yield from (
            f"| {_range(one.low)} | {one.n_items} | {100 * one.agreement:.1f} | {one.accuracy} |"
            for one in it.calibration
        )
    yield ""
    yield _conditions(it)


def _range(low: float) -> str:
    if low == AGREEMENT_EDGES[-1]:
        return "all agree"
    high = next(edge for edge in AGREEMENT_EDGES if edge > low)
    return f"{100 * low:g} to {100 * high:g}%"


def _conditions(it: Measurement) -> str:
    asked = (it.strategy or "several strategies") + (", forced" if it.forced else "")
    temperature = "" if it.temperature is None else f", temperature {it.temperature:g}"
    pairs = ", ".join(pair[:8] for pair in it.pair_ids) or "none known"
    return (
        f"Percent unless a unit is named. {it.n_items} items, {it.n} candidates each{temperature}; asked: {asked}; "
        f"pair {pairs}; seed {it.seed}. pass@k: 1 - C(n-c, k)/C(n, k); avg@{it.n} = pass@1; maj@k below n: the mean "
        "over sets of k candidates. Intervals: Wilson for right and wrong, else a bootstrap over items; training "
        f"seeds are not in them. {it.equality}"
    )
