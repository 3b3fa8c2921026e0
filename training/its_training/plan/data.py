"""How many rows and tokens an arm has: by the prepared data set, else by the recipe, else nobody knows."""

import json
from pathlib import Path

from its_proxy.codesign.errors import ConfigError
from its_training.plan.estimate import Rows
from its_training.recipe import Recipe
from its_training.record.opened import Arm


def rows_of(recipe: Recipe, dataset: Path | None) -> Rows | None:
    """`dataset`, if named, must be there; the recipe's own folder need not be. Raises ConfigError.

    Arms differ by their personas: the tokens are those of the arm that has most.
    """
    folder = dataset or Path(recipe.data.folder)
    if dataset is None and not folder.exists():
        return Rows(recipe.data.rows, None) if recipe.data.rows is not None else None
    counted = [_count(Arm(folder, name)) for name in recipe.data.arms]
    tokens = [rows.tokens for rows in counted if rows.tokens is not None]
    return Rows(counted[0].n, max(tokens) if len(tokens) == len(counted) else None)


def _count(arm: Arm) -> Rows:
    path = arm.folder / str(arm.sidecar()["arms"][arm.name].get("file"))
    try:
        rows = [json.loads(line) for line in path.read_bytes().splitlines()]
        counts = [row["tokens"] and row["tokens"]["prompt"] + row["tokens"]["completion"] for row in rows]
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}", hint=f"the rows of arm {arm.name!r}") from None
    except (ValueError, KeyError, TypeError):
        raise ConfigError(f"{path} holds no rows of its-train prepare", hint="prepare the data again") from None
    return Rows(len(rows), None if None in counts else sum(counts))
