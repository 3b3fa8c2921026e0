"""Writes a grid's page: the tables, what one side alone costs, what `mixed` costs, the choice, the vote of three."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from its_proxy.candidates import Row
from its_proxy.codesign.errors import ConfigError
from its_proxy.statistics import Estimate
from its_training.grid.cells import BASE, Grid
from its_training.grid.choose import Choice, recommend
from its_training.grid.ensemble import EnsembleResult, ensemble
from its_training.grid.equal_tokens import Way
from its_training.grid.hierarchy import Measured, measured
from its_training.grid.values import Measure, difference, greedy, majority, pass_at_1, tokens_of, values

CONTENDERS_SHOWN = 12


@dataclass(frozen=True)
class Table:
    """One metric of every cell of a split; `rows` and `columns` in the spec's order, the base last."""

    rows: tuple[str, ...]
    columns: tuple[str, ...]
    cells: Mapping[Way, Measured]


def table(grid: Grid, split: str, measure: Measure) -> Table:
    rows = tuple(name for name in (*grid.spec.arms, BASE) if any(cell.trained == name for cell in grid.cells))
    found = {}
    for row in rows:
        for column in grid.spec.asked:
            if (measurements := values(grid, row, column, split, measure)) is not None:
                found[Way(row, column)] = measured(measurements)
    if not found:
        raise ConfigError(f"no cell was measured on {split}", hint="its-train grid run goes on where it stopped")
    return Table(rows, grid.spec.asked, found)


def page(grid: Grid, date: str, picture: str) -> str:
    """The whole page, as Markdown; `picture` is the heat map's file name."""
    parts = [
        f"# Grid `{grid.spec.name}`: every arm asked every way",
        _conditions(grid, date),
        f"![heat map of pass@1]({picture})",
        _how_to_read(grid),
        *(_score_sections(grid)),
        _components_section(grid),
        _one_sided_section(grid),
        _against_none_section(grid),
        _mixed_section(grid),
        _choice_section(grid),
        _ensemble_section(grid),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _conditions(grid: Grid, date: str) -> str:
    spec, vote = grid.spec, grid.spec.vote
    train_seeds = sorted({cell.train_seed for cell in grid.cells if cell.train_seed is not None})
    persona_seeds = sorted({cell.persona_seed for cell in grid.cells})
    versions = ", ".join(f"{name} {version}" for name, version in grid.conditions.get("versions", {}).items())
    return " ".join(
        [
            f"Command: `{grid.conditions.get('command', 'unknown')}`. Written {date}. Base `{spec.base.name}`;",
            f"training seeds {_list(train_seeds)} (each names the training problems, their order and their",
            f"personas), persona seeds of serving {_list(persona_seeds)}, sampling seed {spec.sampling_seed}.",
            f"{spec.test.n:,} held-out test problems and {spec.validation.n:,} validation problems a cell, {vote.n}",
            f"candidates at temperature {vote.temperature:g}, top_p {vote.top_p or 1:g}, at most {vote.max_tokens}",
            f"tokens, and one greedy reply. {len(grid.files)} candidates files.",
            f"Engine: {grid.conditions.get('engine', 'as the files say')}. Versions: {versions or 'unknown'}.",
        ]
    )


def _list(seeds: Sequence[int]) -> str:
    return ", ".join(map(str, seeds))


def _how_to_read(grid: Grid) -> str:
    text = (
        "Numbers are percent or points with 95% intervals over training seeds and items together (crossed bootstrap, "
        "widened for few seeds); * marks intervals of fewer than three training seeds: this checkpoint only. Template "
        "personas. Differences are paired: same items, same training seeds. Framed cells are asked as trained, empty "
        "ones were not measured."
    )
    if grid.spec.base.reads == "text" and any(cell.trained == BASE for cell in grid.cells):
        text += (
            " The untouched base knows no chat template, so it reads the rewritten query as plain text and a line "
            "break, as in its pre-training."
        )
    return text


def _score_sections(grid: Grid) -> Iterator[str]:
    for name, measure in ((f"maj@{grid.spec.vote.n}", majority), ("pass@1", pass_at_1), ("greedy", greedy)):
        found = table(grid, "test", measure)
        header = ["trained on", *(f"asked {column}" for column in found.columns)]
        lines = [[row, *(str(found.cells.get(Way(row, column), "")) for column in found.columns)] for row in found.rows]
        yield f"## {name}, test\n\n{markdown(header, lines)}"


def _components_section(grid: Grid) -> str:
    header = ["asked as trained", "training seeds", "training SD", "persona SD", "item SD", "rest SD", "tokens an item"]
    lines = []
    for arm in grid.spec.arms:
        way = Way(arm, grid.spec.matched(arm))
        found = values(grid, way.trained, way.asked, "test", pass_at_1)
        if found is None:
            continue
        parts = measured(found).components
        spent = values(grid, way.trained, way.asked, "test", _all_tokens)
        spreads = (parts.train, parts.persona, parts.item, parts.rest)
        lines.append(
            [arm, str(len(found.train_seeds)), *map(_sd, spreads), f"{spent.mean:.0f}" if spent is not None else ""]
        )
    return (
        "## What varies: components of pass@1\n\n"
        "Standard deviations in points of one level of each factor: a checkpoint between training seeds, a shift "
        "common to all items between persona seeds, an item, and the rest, which holds the drawing of candidates and "
        "of personas for single items. Tokens: the prompt once and all candidates.\n\n" + markdown(header, lines)
    )


def _all_tokens(row: Row) -> float:
    return float(tokens_of(row, row.candidates))


def _sd(value: float | None) -> str:
    return "one seed" if value is None else f"{100 * value:.1f}"


def _one_sided_section(grid: Grid) -> str:
    """A persona on one side only, against the same checkpoint asked as it was trained."""
    pairs = [
        (f"{arm}: asked {grid.spec.matched(arm)} - asked {way}", Way(arm, grid.spec.matched(arm)), Way(arm, way))
        for arm in grid.spec.arms
        for way in grid.spec.one_sided(arm)
    ]
    return "## What one side alone costs: asked as trained minus otherwise\n\n" + _differences(grid, pairs)


def _against_none_section(grid: Grid) -> str:
    null = Way("none", "none")
    pairs = [
        (f"{arm} asked {grid.spec.matched(arm)} - none asked none", Way(arm, grid.spec.matched(arm)), null)
        for arm in grid.spec.arms
        if arm != "none"
    ]
    if values(grid, BASE, "none", "test", pass_at_1) is not None:
        pairs.append(("untouched base asked none - none asked none", Way(BASE, "none"), null))
    if "random-after" in grid.spec.arms:
        before = Way("random", "random")
        pairs.append(
            ("random-after asked random-after - random asked random", Way("random-after", "random-after"), before)
        )
    return (
        "## Asked as trained, against plain training and plain asking, and placement\n\n"
        "At equal numbers of candidates; personas cost prompt tokens on top.\n\n" + _differences(grid, pairs)
    )


def _mixed_section(grid: Grid) -> str:
    if "mixed" not in grid.spec.arms:
        return ""
    mixed = Way("mixed", grid.spec.matched("mixed"))
    pairs = [
        ("mixed asked none - none asked none", Way("mixed", "none"), Way("none", "none")),
        (f"mixed asked {mixed.asked} - {mixed.asked} asked {mixed.asked}", mixed, Way(mixed.asked, mixed.asked)),
        (f"mixed: asked {mixed.asked} - asked none", mixed, Way("mixed", "none")),
    ]
    return (
        "## What does the bypass-safe `mixed` arm cost?\n\n"
        "Half of its training rows are plain, so a query that bypasses the proxy is not one-sided.\n\n"
        + _differences(grid, pairs)
    )


def _differences(grid: Grid, pairs: Sequence[tuple[str, Way, Way]]) -> str:
    lines = []
    for name, first, second in pairs:
        found = [_difference(grid, first, second, measure) for measure in (pass_at_1, majority, greedy)]
        if any(found):
            lines.append([name, *(points(one) if one is not None else "not measured" for one in found)])
    return markdown(["paired difference, test", "pass@1", f"maj@{grid.spec.vote.n}", "greedy"], lines)


def _difference(grid: Grid, first: Way, second: Way, measure: Measure) -> Measured | None:
    one = values(grid, first.trained, first.asked, "test", measure)
    other = values(grid, second.trained, second.asked, "test", measure)
    return measured(difference(one, other)) if one is not None and other is not None else None


def points(measurement: Measured) -> str:
    value, low, high = (100 * part for part in measurement.estimate)
    return f"{value:+.1f} [{low:+.1f}, {high:+.1f}]{'*' if measurement.note else ''}"


def _choice_section(grid: Grid) -> str:
    try:
        choice = recommend(grid)
    except ConfigError as error:
        return f"## Which arm, served how?\n\nNot asked: {error}."
    return f"## Which arm, served how? Chosen on validation\n\n{choice_text(choice)}"


def choice_text(choice: Choice) -> str:
    """The verdict in a sentence, and the best contenders with their bounds."""
    note = f" ({choice.note})" if choice.note else ""
    head = (
        f"**{choice.sentence}**{note}. {choice.n_items} validation problems, {choice.n_train_seeds} training seeds; "
        "the bounds hold for all pairs at once (95%)."
    )
    lines = [[str(one.way), f"{one.n:.1f}", _gain(one.gain)] for one in choice.contenders[:CONTENDERS_SHOWN]]
    table = markdown(["pair", "candidates for the budget", "gain over none asked as none"], lines)
    n_more = len(choice.contenders) - len(lines)
    rest = f"\n\n{n_more} more pairs gain less." if n_more > 0 else ""
    return f"{head}\n\n{table}{rest}"


def _gain(gain: Estimate) -> str:
    value, low, high = (100 * part for part in gain)
    return f"{value:+.1f} [{low:+.1f}, {high:+.1f}]"


def _ensemble_section(grid: Grid) -> str:
    if grid.spec.ensemble is None:
        return ""
    head = "## The vote of the ensemble\n\n"
    try:
        result = ensemble(grid, grid.spec.ensemble)
    except ConfigError as error:
        return f"{head}Not measured: {error}."
    return head + ensemble_text(result, grid.spec.vote.n)


def ensemble_text(result: EnsembleResult, n: int) -> str:
    alone = ", ".join(f"{way.trained} {measurement}" for way, measurement in result.alone.items())
    lines = [
        [
            f"{len(result.members)} x {one.n_each}",
            f"{one.n_single:.1f}" + (", all there are, for fewer tokens" if one.is_short else ""),
            str(one.ensemble),
            str(one.single),
            points(one.gain),
        ]
        for one in result.versus
    ]
    return (
        f"Members, each through its own strategy, maj@{n} on test: {alone}. Best member, chosen on validation: "
        f"{result.best.trained}. Against its self-consistency at equal total tokens:\n\n"
        + markdown(["candidates", "of the best member", "vote of all", "best member alone", "gain"], lines)
    )


def markdown(header: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    rows = [header, ["---"] * len(header), *lines]
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)
