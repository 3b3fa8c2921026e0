"""Whose weights are these? A server's teacher-forced log-probabilities against those that a manifest records.

Pure: a reply's bytes in, log-probabilities, distances and a finding out. A distance is the mean absolute
difference of a token's log-probability, in nats. Measured on vLLM 0.32 with the demo checkpoints:

    the same weights in bfloat16, float16, float32    0.013, 0.002, 0.000 from the float32 reference
    each tensor perturbed by 1% of its spread         0.024 to 0.034
    a sibling fine-tuned on the same rows             0.43 to 0.91
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import isfinite
from typing import Any, Literal, TypeAlias

import orjson

from its_proxy.codesign.manifest import Logprobs, Probe

MAX_TOKENS = 128
"""Of one probe, prompt and completion together: servers spend memory on each."""

RATIO = 2.0
"""How many times farther than the nearest reference the next one must lie to tell them apart."""

NOISE_FACTOR = 1.75
"""An honest server lies at most 1.3 times the recorded noise away, weights perturbed by 1% at least 1.9 times."""

NOISE_FLOOR = 0.04
"""Nats that another dtype may cost, for manifests that could not measure it: three times what it cost the demo."""

FAR_FACTOR = 5.0
"""Beyond so many bounds, weights are other ones than recorded, whatever they are."""

_MAX_REPLY_BYTES = 2**20
_LOWEST, _HIGHEST = -9_000.0, 1e-3  # vLLM writes -9999 for minus infinity

Finding: TypeAlias = Literal["this", "another", "near", "other", "undecided"]
"""Whose weights: `this` checkpoint's; `another` recorded one's; `near` this one, but not near enough; `other` than
this, of which nothing else is known; `undecided` between references."""


@dataclass(frozen=True, slots=True)
class Scored:
    """A probe and what the server gives each of its tokens after the first, of as many as were asked for."""

    probe: Probe
    logprobs: Sequence[float]


@dataclass(frozen=True, slots=True)
class Comparison:
    """Distances over `n_tokens`: to `this` checkpoint's reference and to each of the `others`.

    `bound` is the most that an honest server shows; beyond `far`, weights are certainly other ones.
    """

    n_tokens: int
    this: float
    others: Mapping[str, float]
    bound: float
    far: float

    @property
    def nearest_other(self) -> tuple[str, float] | None:
        return min(self.others.items(), key=lambda item: item[1], default=None)

    @property
    def finding(self) -> Finding:
        """Near this checkpoint is not enough: weights that no reference covers must not pass for it."""
        is_near = self.this <= self.bound
        if self.nearest_other is None:
            return "this" if is_near else "other" if self.this > self.far else "near"
        other = self.nearest_other[1]
        if self.this >= RATIO * other:
            return "undecided" if is_near else "another"
        if self.this > self.far:
            return "other"
        if other < RATIO * self.this:
            return "undecided"
        return "this" if is_near else "near"


def scored_tokens(probe: Probe, room: int = MAX_TOKENS) -> list[int]:
    """The tokens that are teacher-forced: prompt and stored completion, cut to what may be asked for."""
    return [*probe.prompt_token_ids, *probe.completion_token_ids][: max(0, min(room, MAX_TOKENS))]


def has_reference(probe: Probe) -> bool:
    """Whether the probe records this checkpoint's log-probabilities for all tokens that may be asked for."""
    n_tokens = len(scored_tokens(probe))
    return probe.logprobs is not None and n_tokens > 1 and len(probe.logprobs.this) >= n_tokens - 1


def compare(scored: Sequence[Scored], *, is_declared: bool) -> Comparison:
    """Distances to the references that every probe records, pooled over tokens; all must pass `has_reference`.

    A declared manifest knows only how far a server lies from itself, not what another dtype costs.
    """
    recorded = [(one, _references(one.probe)) for one in scored]
    names = [name for name in recorded[0][1] if all(name in references for _, references in recorded)]
    distances = {
        name: _mean(
            abs(served - reference)
            for one, references in recorded
            for served, reference in zip(one.logprobs, references[name], strict=False)
        )
        for name in names
    }
    noise = NOISE_FACTOR * _mean(_logprobs(one.probe).noise for one in scored for _ in one.logprobs)
    lenient = max(NOISE_FLOOR, noise)
    return Comparison(
        n_tokens=sum(len(one.logprobs) for one in scored),
        this=distances.pop("this"),
        others=distances,
        bound=lenient if is_declared or noise == 0 else noise,
        far=FAR_FACTOR * lenient,
    )


def read_prompt_logprobs(body: bytes, tokens: Sequence[int]) -> list[float]:
    """vLLM's reply to a completion with `prompt_logprobs` -> the log-probability of each token after the first.

    Raises ValueError with one line for whatever is not exactly that.
    """
    if len(body) > _MAX_REPLY_BYTES:
        raise ValueError(f"{len(body)} bytes for {len(tokens)} tokens")
    try:
        document = orjson.loads(body)
    except orjson.JSONDecodeError:
        raise ValueError("something that is not JSON") from None
    choices = document.get("choices") if isinstance(document, dict) else None
    choice = choices[0] if isinstance(choices, list) and choices else None
    entries = choice.get("prompt_logprobs") if isinstance(choice, dict) else None
    if not isinstance(entries, list):
        raise ValueError("no log-probabilities of the prompt")
    if len(entries) != len(tokens):
        raise ValueError(f"{len(entries)} log-probabilities for {len(tokens)} tokens")
    return [_logprob(entry, token) for entry, token in zip(entries[1:], tokens[1:], strict=True)]


def _logprob(entry: Any, token: int) -> float:
    detail = entry.get(str(token)) if isinstance(entry, dict) else None
    value = detail.get("logprob") if isinstance(detail, dict) else None
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError("a token without a log-probability")
    if not isfinite(value) or not _LOWEST < value < _HIGHEST:
        raise ValueError(f"a log-probability of {value:.4g}")
    return float(value)


def _references(probe: Probe) -> dict[str, list[float]]:
    """Those as long as this checkpoint's, by name; no sibling can take its name or the base's."""
    logprobs = _logprobs(probe)
    named = {**logprobs.siblings, "base": logprobs.base, "this": logprobs.this}
    return {name: values for name, values in named.items() if len(values) == len(logprobs.this)}


def _logprobs(probe: Probe) -> Logprobs:
    assert probe.logprobs is not None
    return probe.logprobs


def _mean(values: Iterable[float]) -> float:
    listed = list(values)
    return sum(listed) / len(listed)
