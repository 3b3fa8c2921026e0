"""GRID.yaml: which arms are trained on which base with which seeds, and how each is asked.

    spec = load_spec(Path("training/grids/demo-seen.yaml"))
    spec.arms["random"].strategy, spec.train_seeds

An arm is a named way to rewrite. Every arm is trained with every training seed, and asked in every way of `asked`
with every persona seed; ways are arms' names too, so `asked: [none]` means "as the arm none was".
"""

from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from its_proxy.codesign.errors import ConfigError, ManifestError
from its_proxy.codesign.manifest import VoteAdvice
from its_proxy.codesign.strategies import DEFAULT_TEMPLATE, strategy_named
from its_proxy.yaml_file import read_yaml


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Arm(_Strict):
    """`template` places the persona; `pool` is a file of personas, template personas where there is none."""

    strategy: str
    template: str = DEFAULT_TEMPLATE
    pool: str | None = None
    served_as: str | None = None
    """The way of asking that matches this arm, if it is not the arm's own: `mixed` is served as `random`."""


class Items(_Strict):
    """How many problems, and for a base of one's own from which file of items (`its-proxy evaluate`'s layouts)."""

    n: int = Field(ge=1)
    file: str | None = None


class GridBase(_Strict):
    """`demo`: one of `its-train demo`'s bases, fine-tuned by its recipe. Else `checkpoints` says where arms lie.

    In `checkpoints`, {arm} and {seed} stand for themselves; `folder` is the untouched base.
    """

    name: str
    demo: Literal["seen", "unseen"] | None = None
    folder: str | None = None
    checkpoints: str | None = None
    pretrain_steps: int | None = Field(None, ge=1)
    """Of a demo base, if not its recipe's."""
    reads: Literal["chat", "text"] = "chat"
    """How the untouched base is asked: by its chat template, or, if it knows none, as plain text and a line break."""

    @model_validator(mode="after")
    def _one_source(self) -> "GridBase":
        if (self.demo is None) == (self.checkpoints is None):
            raise ValueError("name either demo or checkpoints")
        return self


class Ensemble(_Strict):
    """Arms that vote together, each asked as it was trained. `n`: how many candidates each is asked for on test, for
    the tokens of all of them are to pay for a vote of one alone."""

    members: tuple[str, ...] = Field(min_length=2)
    n: int = Field(ge=1)


class GridSpec(_Strict):
    schema_version: Literal[1] = 1
    name: str = Field(pattern=r"^[a-z0-9][a-z0-9._-]*$")
    base: GridBase
    arms: dict[str, Arm] = Field(min_length=1)
    asked: tuple[str, ...] = Field(min_length=1)
    train_seeds: tuple[int, ...] = Field(min_length=1)
    persona_seeds: tuple[int, ...] = Field(min_length=1)
    """Of serving. The first is asked in every cell, the others in matched cells only."""
    validation: Items
    test: Items
    vote: VoteAdvice
    ensemble: Ensemble | None = None
    sampling_seed: int = 0

    @model_validator(mode="after")
    def _names(self) -> "GridSpec":
        ways = [*self.asked, *(arm.served_as for arm in self.arms.values() if arm.served_as)]
        for way in ways:
            if way not in self.arms:
                raise ValueError(f"asked {way!r}, which is no arm: {', '.join(self.arms)}")
        if self.ensemble is not None and (strangers := set(self.ensemble.members) - set(self.arms)):
            raise ValueError(f"ensemble: {', '.join(sorted(strangers))}: no such arm")
        if self.ensemble is not None and self.ensemble.n < self.vote.n:
            raise ValueError("ensemble.n is smaller than vote.n")
        if "base" in self.arms:
            raise ValueError("no arm may be called base: that is the untouched base's row")
        if self.vote.temperature is None or self.vote.max_tokens is None:
            raise ValueError("vote needs temperature and max_tokens")
        return self

    def matched(self, arm: str) -> str:
        """The way of asking that `arm` was trained for."""
        return self.arms[arm].served_as or arm

    def n_candidates(self, trained: str, asked: str, split: str, persona_seed: int) -> int:
        """How many candidates a cell is asked for."""
        if self.ensemble is None or trained not in self.ensemble.members:
            return self.vote.n
        is_compared = (asked, split, persona_seed) == (self.matched(trained), "test", self.persona_seeds[0])
        return self.ensemble.n if is_compared else self.vote.n

    def is_plain(self, arm: str) -> bool:
        """Whether the arm's strategy adds nothing to a query."""
        return strategy_named(self.arms[arm].strategy).family == "none"

    def one_sided(self, arm: str) -> list[str]:
        """The ways of asking that put a persona on one side only."""
        return [way for way in self.asked if self.is_plain(way) != self.is_plain(arm)]


def load_spec(path: Path) -> GridSpec:
    """Reads and checks a grid file. Raises ConfigError with one line that names the key."""
    document, _ = read_yaml(path)
    try:
        spec = GridSpec.model_validate(document)
    except ValidationError as error:
        first, *others = error.errors(include_url=False, include_input=False)
        more = f" (and {len(others)} more)" if others else ""
        place = ".".join(map(str, first["loc"])) or "document"
        said = "unknown key" if first["type"] == "extra_forbidden" else first["msg"].removeprefix("Value error, ")
        raise ConfigError(f"{path}: {place}: {said}{more}", hint="see training/grids/") from None
    for name, arm in spec.arms.items():
        try:
            strategy_named(arm.strategy)
        except ManifestError as error:
            raise ConfigError(f"{path}: arms.{name}: {error.message}", hint=error.hint) from None
    return spec
