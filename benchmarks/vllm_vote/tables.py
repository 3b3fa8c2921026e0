"""Numbers as Markdown."""

from collections.abc import Mapping, Sequence

from its_proxy.statistics import Estimate


def table(rows: Sequence[Mapping[str, object]]) -> str:
    """One line a row; the columns are the keys of the first."""
    if not rows:
        return "Nothing."
    columns = list(rows[0])
    lines = [columns, ["---"] * len(columns), *([str(row[column]) for column in columns] for row in rows)]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines)


def plain(estimate: Estimate, digits: int = 1) -> str:
    """A value that is no proportion, such as tokens, with its interval."""
    value, low, high = (f"{part:.{digits}f}" for part in estimate)
    return f"{value} [{low}, {high}]"


def quantile(values: Sequence[float], share: float) -> float:
    """The smallest value that at least this share of all do not exceed."""
    ordered = sorted(values)
    return ordered[max(0, -int(-share * len(ordered) // 1) - 1)]
