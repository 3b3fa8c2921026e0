"""What a manifest's evaluation promises of the votes to come: a level that their mean agreement should hold.

    >>> evaluated_agreement(checkpoint.manifest)
    0.8646

Served agreement that stays below it says that the weights, the server or the queries are not those of the evaluation.
"""

from its_proxy.codesign.manifest import Evaluation, Manifest


def evaluated_agreement(manifest: Manifest) -> float | None:
    """The least over the benchmarks that were asked as the pair is served; None where nothing was measured.

    The recorded agreement, or, of a manifest from before it was recorded, pass@1: an item's leader has at least the
    share of candidates that the right answer has, so full votes agree at least that far on average.
    """
    rows = [row for row in manifest.evaluation if _is_as_served(row, manifest.pair.serve_with.strategy)]
    levels = []
    for place in {(row.benchmark, row.split) for row in rows}:
        values = {row.metric: row.value for row in rows if (row.benchmark, row.split) == place}
        level = values.get("agreement", values.get("pass@1"))
        if level is not None and 0 <= level <= 1:
            levels.append(level)
    return min(levels, default=None)


def _is_as_served(row: Evaluation, strategy: str) -> bool:
    told = row.model_extra or {}
    return told.get("asked", strategy) == strategy and not told.get("forced", False)
