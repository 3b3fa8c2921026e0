"""A public model name: what stands behind it, how it votes, and whether it can be asked now."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from math import ceil
from typing import Any

from pydantic import TypeAdapter, ValidationError

from its_proxy.checkpoint import Checkpoint
from its_proxy.codesign.errors import ConfigError
from its_proxy.plan import DEADLINE_S, Member, VoteRules
from its_proxy.route import Missing, Route, choose, longest_wait
from its_proxy.targets import Target
from its_proxy.upstreams.retries import SAVED_BETWEEN, RetryBudget

_RULES = TypeAdapter(VoteRules)


@dataclass(frozen=True, slots=True)
class Model:
    """One checkpoint at one or several targets. `weight` is what each of its ballots counts in an ensemble;
    `is_spread`: the candidates of one query go to all of the targets, not to the least busy one."""

    name: str
    checkpoint: Checkpoint | None
    targets: tuple[Target, ...]
    weight: int = 1
    is_spread: bool = False
    budget: RetryBudget = field(default_factory=lambda: RetryBudget(SAVED_BETWEEN))

    @property
    def is_serving(self) -> bool:
        return True in [target.is_serving for target in self.targets]

    def require_serving(self) -> None:
        """Raises ModelUnavailable with the reason that promises most: what is pending may still come."""
        if not self.is_serving:
            min(self.targets, key=lambda target: target.state != "pending").require_serving()

    @property
    def is_blocked(self) -> bool:
        return False not in [target.health.is_blocked for target in self.targets if target.is_serving]

    def member(self, salt: str | None) -> Member:
        """The model as one query asks it: by a route that begins at its least loaded target."""
        target = choose(self.targets)
        if target is not None:
            route = Route(target, self.targets, salt, self.is_spread, self.budget)
            return Member(self.name, route, target.served_name, self.checkpoint, route, self.weight)
        away = self.targets[0]
        missing = Missing(away.upstream.name, f"{self.name} serves nowhere: {away.verdict.reason}")
        return Member(self.name, missing, away.served_name, self.checkpoint, away, self.weight)


@dataclass(frozen=True, slots=True)
class Served:
    """One public model name: a model, or the members of an ensemble."""

    name: str
    models: tuple[Model, ...]
    rules: VoteRules

    @property
    def is_ensemble(self) -> bool:
        return len(self.models) > 1

    @property
    def checkpoint(self) -> Checkpoint | None:
        """The first model's: an ensemble has manifests throughout."""
        return self.models[0].checkpoint

    @property
    def targets(self) -> tuple[Target, ...]:
        return tuple(target for model in self.models for target in model.targets)

    @property
    def is_serving(self) -> bool:
        """Whether a vote can reach its quorum: an ensemble serves without a member or two."""
        if len(self.models) == 1:
            return self.models[0].is_serving
        serving = sum([model.is_serving for model in self.models])
        return serving > 0 and serving >= ceil(self.rules.quorum * len(self.models))

    def require_serving(self) -> None:
        if not self.is_serving:
            for model in self.models:
                model.require_serving()

    def require_open(self) -> None:
        """Raises UpstreamBusy where every target that serves is left alone for a while: asking would be in vain."""
        if False not in [model.is_blocked for model in self.models] and self.is_serving:
            raise longest_wait(self.targets)

    def members(self, salt: str | None = None) -> list[Member]:
        """As one query asks them, those that serve first: where no vote is held, the first is the one asked."""
        if len(self.models) == 1:
            return [self.models[0].member(salt)]
        return [model.member(salt) for model in sorted(self.models, key=lambda model: not model.is_serving)]


def passed_through(name: str, targets: Sequence[Target], deadline_s: float = DEADLINE_S) -> Served:
    """A model without a manifest: nothing to check, nothing to rewrite, no vote."""
    rules = VoteRules(mode="off", n=1, deadline_s=deadline_s)
    return Served(name, (Model(name, None, tuple(targets)),), rules)


def ensemble_of(name: str, members: Sequence[Served], weights: Sequence[int], *, n: int | None, max_n: int) -> Served:
    """Members share the candidates evenly: by default the first multiple of their count that is at least the first
    one's n. Raises ConfigError for members whose ballots could not be counted together."""
    known = [member for member in members if member.checkpoint is not None]
    kinds = {member.rules.answer for member in known}
    if len(kinds) > 1:
        raise ConfigError(
            f"ensemble {name}: its members answer in different kinds: {', '.join(sorted(kinds))}",
            hint="set vote.answer alike for all of them",
        )
    rules = (known or members)[0].rules
    n = n or min(-(-rules.n // len(members)) * len(members), max_n)
    models = tuple(replace(member.models[0], weight=weight) for member, weight in zip(members, weights, strict=True))
    return Served(name, models, replace(rules, n=n))


def check_vote(place: str, overrides: Mapping[str, Any]) -> None:
    """Raises ConfigError for what is no rule of a vote; `place` is where it was written."""
    known = sorted({field.name for field in fields(VoteRules)} - {"is_answer_fixed", "max_n"})
    for key in overrides:
        if key not in known:
            raise ConfigError(f"{place}.{key}: unknown key", hint=f"known keys: {', '.join(known)}")
    try:
        # As JSON: only there does strict mode read a dataclass from its fields.
        _RULES.validate_json(
            json.dumps({key: value for key, value in overrides.items() if value is not None}, default=str), strict=True
        )
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        raise ConfigError(f"{place}.{first['loc'][0]}: {first['msg']}") from None


def rules_for(checkpoint: Checkpoint, overrides: Mapping[str, Any], max_n: int) -> VoteRules:
    """The manifest's advice under the operator's overrides; `max_n` lowers an advised n, and refuses an asked one."""
    advice = checkpoint.manifest.vote
    rules: dict[str, Any] = {"max_n": max_n, "is_answer_fixed": overrides.get("answer") is not None}
    if advice is not None:
        rules |= {
            "n": min(advice.n, max_n),
            "stop": advice.stop,
            "answer": advice.answer,
            "min_agreement": advice.min_agreement,
        }
    return VoteRules(**rules | {key: value for key, value in overrides.items() if value is not None})
