"""What has become of a query: its candidates, each with what it is worth to a vote, and the vote over them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from its_proxy.codesign.errors import BadPayload, UpstreamError
from its_proxy.codesign.light import light
from its_proxy.equivalence.comparisons import NO_WORKERS, Comparisons
from its_proxy.plan import Plan
from its_proxy.upstreams.base import Completion
from its_proxy.voting.answers import Answer, AnswerKind
from its_proxy.voting.json_answers import IsValid
from its_proxy.voting.messages import read_message
from its_proxy.voting.tally import Vote

State = Literal["ok", "no_answer", "truncated", "lost", "cancelled"]
Stopped = Literal["decided", "no_answer", "complete", "deadline"]
USAGE_FIELDS = ("prompt_tokens", "completion_tokens", "total_tokens")
USAGE_DETAILS = ("prompt_tokens_details", "completion_tokens_details")
VALID_FINISHES = ("stop", "tool_calls")


@light
@dataclass(frozen=True, slots=True)
class Candidate:
    """One completion and what became of it. Times count from the start of the query, by a monotonic clock.

    `first_token_s` is known of a streamed candidate; `finished_s` is None for one that was cut off.
    `spent`: the last usage that was told of a call without a completion; None where nothing was told.
    """

    index: int
    seed: int
    weight: int
    state: State
    completion: Completion | None = None
    answer: Answer | None = None
    error: UpstreamError | None = None
    finished_s: float | None = None
    started_s: float = 0.0
    first_token_s: float | None = None
    spent: dict[str, Any] | None = None

    @property
    def is_valid(self) -> bool:
        """Finished truthfully: it counts for agreement, whether it votes or abstains."""
        return self.state in ("ok", "no_answer")

    @property
    def usage(self) -> Mapping[str, Any]:
        """What is told of its cost, whole or as far as it came; empty where nothing is."""
        usage = self.completion.get("usage") if self.completion is not None else None
        return usage if usage and isinstance(usage, dict) else self.spent or {}

    @property
    def lasted_s(self) -> float:
        return 0.0 if self.finished_s is None else self.finished_s - self.started_s

    @property
    def finish_reason(self) -> str | None:
        return self.completion["choices"][0].get("finish_reason") if self.completion else None

    @property
    def text(self) -> str | None:
        return self.completion["choices"][0]["message"].get("content") if self.completion else None


@light
@dataclass(frozen=True, slots=True)
class Outcome:
    """All candidates by index, the vote over them, and the one to reply with.

    `states`: how many are in which; `usage`: all that is told of their cost; `degradations`: what keeps the reply from
    being what was asked for, the first word of each of a closed set.
    """

    plan: Plan
    candidates: tuple[Candidate, ...]
    vote: Vote
    winner: Candidate
    stopped: Stopped
    seconds: float
    comparisons: Comparisons = NO_WORKERS
    states: Mapping[State, int] = field(init=False)
    usage: Mapping[str, Any] = field(init=False)
    degradations: Sequence[str] = field(init=False)

    def __post_init__(self) -> None:
        states: dict[State, int] = {}
        for candidate in self.candidates:
            states[candidate.state] = states.get(candidate.state, 0) + 1
        told = [candidate.usage for candidate in self.candidates]
        usage: dict[str, Any] = {}
        for name in USAGE_FIELDS:  # fewer than none are none
            usage[name] = sum([n for each in told if isinstance(n := each.get(name), int) and n > 0])
        for name in USAGE_DETAILS:
            if details := [found for each in told if isinstance(found := each.get(name), dict)]:
                usage[name] = _sum(details)
        degradations = self.plan.reservations
        if lost := states.get("lost"):
            degradations += (f"lost {lost}",)
        if self.stopped == "deadline":
            degradations += ("deadline",)
        object.__setattr__(self, "states", states)
        object.__setattr__(self, "usage", usage)
        object.__setattr__(self, "degradations", degradations)

    def in_state(self, *states: State) -> list[Candidate]:
        return [candidate for candidate in self.candidates if candidate.state in states]


def _sum(details: Sequence[Mapping[str, Any]]) -> dict[str, int]:
    total: dict[str, int] = {}
    for each in details:
        for name, tokens in each.items():
            if isinstance(tokens, int) and tokens >= 0:
                total[name] = total.get(name, 0) + tokens
    return total


def read_candidate(
    completion: Completion, kind: AnswerKind, is_valid: IsValid | None = None
) -> tuple[State, Answer | None]:
    """What a completion is worth to a vote: only a truthful end makes it eligible. Raises BadPayload."""
    try:
        choice = completion["choices"][0]
        message, finish_reason = choice["message"], choice["finish_reason"]
    except (KeyError, IndexError, TypeError):
        message = finish_reason = None
    if not isinstance(message, dict):
        raise BadPayload("the upstream sent a completion without a choice")
    if finish_reason is None:
        raise BadPayload("the upstream sent a completion that does not say how it ended")
    if finish_reason not in VALID_FINISHES:
        return "truncated", None
    answer = read_message(message, kind, is_valid)
    return ("ok", answer) if answer is not None else ("no_answer", None)


def generated_tokens(completion: Completion) -> int | None:
    """What the upstream says it generated; None where it says nothing, or a number that cannot be."""
    usage: Any = completion.get("usage")
    tokens = usage.get("completion_tokens") if isinstance(usage, dict) else None
    return tokens if isinstance(tokens, int) and tokens >= 0 else None
