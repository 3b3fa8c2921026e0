"""The quality report of personas as a page of Markdown; what does not hold stands in its first lines."""

from collections.abc import Iterator, Sequence

from its_proxy.codesign import taxonomy
from its_proxy.statistics import Estimate
from its_training.personas.ledger import Totals
from its_training.personas.quality import ORDER, Compared, Lengths, Quality
from its_training.personas.sources import Source


def page(source: Source, quality: Quality, picture: str | None) -> str:
    parts = [f"# Quality of personas: {source.label}\n", *_verdict(quality)]
    if picture is not None:
        parts.append(f"\n![Similarity of personas to their queries, by strategy]({picture})\n")
    parts += [*_similarity(quality), *_lengths(quality), *_duplicates(quality), *_coverage(quality)]
    if source.totals is not None:
        parts += _writing(source.totals)
    return "\n".join(parts) + "\n"


def _verdict(quality: Quality) -> Iterator[str]:
    yield f"Expected order of similarity to the query: {' > '.join(ORDER)}.\n"
    if len(quality.compared) < len(ORDER) - 1:
        yield "**Not measured**: it needs personas of all three strategies beside the same queries.\n"
    for compared in quality.compared:
        yield f"- {compared.nearer} > {compared.farther}: **{compared.verdict}**"


def _similarity(quality: Quality) -> Iterator[str]:
    if not quality.measured:
        return
    yield "\n## Similarity of persona and query\n"
    yield (
        "By words: TF-IDF cosine over the queries and personas of this page. By domains: cosine of the taxonomy's "
        "keyword weights in both texts. Mean over queries with a 95% bootstrap interval; differences are paired by "
        "query. The taxonomy also chose the domains, so the second figure checks the texts and not that choice.\n"
    )
    rows = [[m.strategy, str(len(m.by_id)), str(m.n_distinct), _interval(m.by_words), _interval(m.by_domains)]
            for m in quality.measured]  # fmt: skip
    yield _table(("strategy", "queries", "distinct personas", "by words", "by domains"), rows)
    yield ""
    rows = [_compared(each) for each in quality.compared]
    if rows:
        yield _table(("difference", "queries", "by words", "by domains", "order"), rows)


def _compared(each: Compared) -> list[str]:
    return [f"{each.nearer} minus {each.farther}", str(each.n), _interval(each.by_words),
            _interval(each.by_domains), each.verdict]  # fmt: skip


def _lengths(quality: Quality) -> Iterator[str]:
    if not quality.measured:
        return
    yield "\n## Lengths\n"
    yield "Shortest / median / mean / longest.\n"
    rows = [[m.strategy, _spread(m.characters), _spread(m.words)] for m in quality.measured]
    yield _table(("strategy", "characters", "words"), rows)


def _duplicates(quality: Quality) -> Iterator[str]:
    found = quality.duplicates
    yield "\n## Duplicates\n"
    yield (
        f"Of {found.n_texts} texts, {found.n_exact} repeat another but for case and marks, and {found.n_near} more are "
        "near duplicates of an earlier one (Jaccard similarity of word pairs at least 0.8)."
    )
    for first, second in found.examples:
        yield f"\n- {_quoted(first)}\n- {_quoted(second)}"


def _coverage(quality: Quality) -> Iterator[str]:
    n_all = len(taxonomy.NAMES) + 1
    counts = quality.per_domain.values()
    yield "\n## Domains\n"
    if counts:
        yield f"{n_all - len(quality.missing)} of {n_all} domains have personas, {min(counts)} to {max(counts)} each."
    if quality.missing:
        yield f"\nMissing: {', '.join(quality.missing)}. Such a pool cannot serve `similar` or `dissimilar`."


def _writing(totals: Totals) -> Iterator[str]:
    yield "\n## Writing\n"
    yield (
        f"{totals.n_calls} calls ({totals.n_again} of them re-asks), {totals.n_accepted} personas accepted, "
        f"{totals.n_unwritten} tasks without one; {totals.prompt_tokens} prompt and {totals.completion_tokens} "
        "completion tokens.\n"
    )
    if totals.rejected:
        yield _table(("rejected", "replies"), [[reason, str(n)] for reason, n in totals.rejected.items()])


def _interval(estimate: Estimate) -> str:
    return f"{estimate.value:.4f} [{estimate.low:.4f}, {estimate.high:.4f}]"


def _spread(lengths: Lengths) -> str:
    return f"{lengths.shortest} / {lengths.median:g} / {lengths.mean:.1f} / {lengths.longest}"


def _quoted(text: str) -> str:
    """A persona is a stranger's text: as code, it cannot become markup of the page."""
    return f"`{text.replace('`', ' ')}`"


def _table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines)
