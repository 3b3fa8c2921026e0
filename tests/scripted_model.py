"""A scripted upstream's one model as vLLM would serve it: prompts rendered, log-probabilities, greedy replies.

model = Model(weights="sibling", noise=0.01)
async with scripted_upstream(model.script, ["demo"]) as upstream: ...
"""

import json
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from tests.scripted import Say, Script
from tests.serving import manifest, tokens_of

REPLY = "3+4=7\n\\boxed{7}"
COMPLETION = [ord(character) for character in REPLY]
WEIGHTS = ("this", "base", "sibling")


def logprobs_of(weights: str, tokens: list[int]) -> list[float]:
    """Stand-ins for what weights of this name give each token after the first: equal for equal prefixes."""
    return [
        round(-3 * random.Random(f"{weights} {place} {token}").random(), 4)
        for place, token in enumerate(tokens[1:], start=1)
    ]


def recorded(strategy: str = "random", *, noise: float = 0.02, **fields: Any) -> dict[str, Any]:
    """An `its.json` whose probe knows its completion, its reply, and three checkpoints' log-probabilities."""
    document = manifest(strategy, **fields)
    for probe in document["probes"]:
        tokens = [*probe["prompt_token_ids"], *COMPLETION]
        this, base, sibling = (logprobs_of(weights, tokens) for weights in WEIGHTS)
        probe["completion_token_ids"] = COMPLETION
        probe["logprobs"] = {"this": this, "base": base, "siblings": {"demo-sibling": sibling}, "noise": noise}
        probe["reply"] = {"content": REPLY, "reasoning": None}
    return document


def declared(**fields: Any) -> dict[str, Any]:
    """A declared one: it has no reference but the server's own, and knows how well that repeats itself."""
    document = recorded("none", origin="declared", **fields)
    for probe in document["probes"]:
        probe["logprobs"] = {"this": probe["logprobs"]["this"], "noise": 0.001}
    return document


@dataclass
class Model:
    """`weights` names whose log-probabilities it gives, `noise` nats off; `message` is its greedy reply."""

    weights: str = "this"
    noise: float = 0.0
    tokens: Callable[[list[dict[str, Any]]], list[int]] = tokens_of
    message: dict[str, Any] = field(default_factory=lambda: {"role": "assistant", "content": REPLY})
    completion: list[int] = field(default_factory=lambda: list(COMPLETION))
    answer_logprobs: Callable[[dict[str, Any], Any], Say] = lambda body, entries: said({"prompt_logprobs": entries})

    @property
    def script(self) -> Script:
        return self.say

    def say(self, body: dict[str, Any], number: int) -> Say:
        if "prompt" in body:
            return self.answer_logprobs(body, self.entries(body["prompt"]))
        choice = {"index": 0, "message": self.message, "token_ids": self.completion[: body["max_tokens"]]}
        return Say(raw=json.dumps({"choices": [choice], "prompt_token_ids": self.tokens(body["messages"])}).encode())

    def entries(self, tokens: list[int]) -> list[Any]:
        """vLLM's `prompt_logprobs`; the noise alternates in sign, so that its mean is nothing and its size is exact."""
        values = logprobs_of(self.weights, tokens)
        shifted = [min(0.0, value + (-1) ** place * self.noise) for place, value in enumerate(values)]
        pairs = zip(tokens[1:], shifted, strict=True)
        return [None, *({str(token): {"logprob": value, "rank": 1, "decoded_token": "x"}} for token, value in pairs)]


def said(choice: dict[str, Any]) -> Say:
    """A text completion with one choice."""
    return Say(raw=json.dumps({"object": "text_completion", "choices": [{"index": 0, "text": "x", **choice}]}).encode())
