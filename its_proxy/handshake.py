"""Does the live server still match the manifest? The token half: what each probe renders to, on the serving route.

The weight half compares teacher-forced log-probabilities; for weights in this process's own files a
digest says more. Until one of the two has spoken, a server is `unverified`, never `verified`.
"""

import asyncio
import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from its_proxy.checkpoint import Checkpoint, check_weights
from its_proxy.codesign.errors import ItsError, ManifestError, ModelUnavailable, UpstreamBusy, UpstreamRejected
from its_proxy.codesign.errors import UpstreamError
from its_proxy.codesign.manifest import Probe
from its_proxy.upstreams.base import Upstream

State = Literal["pending", "verified", "unverified", "mismatch", "none"]
MAX_PROBES = 16
_FIRST_RETRY_S = 0.5
_LAST_RETRY_S = 30.0


@dataclass(frozen=True, slots=True)
class Verdict:
    """`none` stands for a model without a manifest: there is nothing to check."""

    state: State
    reason: str


PENDING = Verdict("pending", "not checked yet")
NO_MANIFEST = Verdict("none", "no manifest: passed through")


class Handshake:
    """The current verdict on one model at one upstream, kept up to date by `run`."""

    def __init__(self, verdict: Verdict = PENDING) -> None:
        self.verdict = verdict
        self.retry_in_s = _FIRST_RETRY_S

    @property
    def state(self) -> State:
        return self.verdict.state

    @property
    def is_serving(self) -> bool:
        return self.state in ("verified", "unverified", "none")

    def require_serving(self, model: str, *, verified: bool = False) -> None:
        """Raises ModelUnavailable unless the model may be asked; `verified`: unverified is not enough."""
        if self.state == "pending":
            raise ModelUnavailable(
                f"{model} is not ready: {self.verdict.reason}", code="model_pending", retry_after_s=self.retry_in_s
            )
        if self.state == "mismatch" or (verified and self.state == "unverified"):
            raise ModelUnavailable(
                f"{model} is not served: {self.verdict.reason}", code=f"model_{self.state}",
                hint="the checkpoint's manifest and the live server disagree",
            )  # fmt: skip

    async def run(
        self,
        checkpoint: Checkpoint,
        upstream: Upstream,
        served_name: str,
        *,
        is_local: bool,
        on_change: Callable[[Verdict], None] = lambda verdict: None,
    ) -> None:
        """Checks until there is a verdict, backing off while the upstream cannot be asked."""
        while True:
            self.verdict = await check(checkpoint, upstream, served_name, is_local=is_local)
            on_change(self.verdict)
            if self.state != "pending":
                return
            await asyncio.sleep(self.retry_in_s * random.uniform(0.75, 1.25))
            self.retry_in_s = min(2 * self.retry_in_s, _LAST_RETRY_S)


async def check(checkpoint: Checkpoint, upstream: Upstream, served_name: str, *, is_local: bool) -> Verdict:
    """One pass over the probes. `is_local`: the upstream reads the checkpoint's own weight files."""
    try:
        if is_local:
            await asyncio.to_thread(check_weights, checkpoint)
        cards = await upstream.models()
        if not any(card.get("id") == served_name for card in cards):
            return Verdict("pending", f"upstream {upstream.name} does not list {served_name}")
        probes = checkpoint.manifest.probes[:MAX_PROBES]
        if not probes:
            return Verdict("unverified", "the manifest holds no probes")
        for number, probe in enumerate(probes):
            verdict = await _check_tokens(checkpoint, upstream, served_name, number, probe)
            if verdict is not None:
                return verdict
    except ManifestError as error:
        return Verdict("mismatch", str(error))
    except UpstreamBusy as error:
        return Verdict("pending", str(error))
    except UpstreamRejected as error:
        return Verdict("mismatch" if error.status == 400 else "pending", f"the probe was refused: {error}")
    except UpstreamError as error:
        return Verdict("pending", str(error))
    if is_local and "weights_sha256" in checkpoint.manifest.provenance:
        return Verdict("verified", f"tokens of {len(probes)} probes and the weights' digests are those recorded")
    return Verdict("unverified", f"tokens of {len(probes)} probes are those recorded; weights were not compared")


async def _check_tokens(
    checkpoint: Checkpoint, upstream: Upstream, served_name: str, number: int, probe: Probe
) -> Verdict | None:
    body: dict[str, Any] = {
        "model": served_name,
        "messages": probe.messages,
        "max_tokens": 1,
        "temperature": 0,
        "return_token_ids": True,
    }
    template_kwargs = checkpoint.manifest.pair.serve_with.chat_template_kwargs
    if template_kwargs:
        body["chat_template_kwargs"] = template_kwargs
    completion = await upstream.complete(body, f"its-handshake-{number}")
    tokens = completion.get("prompt_token_ids")
    if not isinstance(tokens, list):
        return Verdict("unverified", "the upstream does not show its tokens: template defaults unseen")
    if tokens != probe.prompt_token_ids:
        return Verdict("mismatch", f"probe {number} renders to other tokens than recorded{_first_difference(tokens, probe)}")
    return None


def _first_difference(tokens: list[Any], probe: Probe) -> str:
    recorded = probe.prompt_token_ids
    place = next((k for k, (a, b) in enumerate(zip(tokens, recorded, strict=False)) if a != b), None)
    if place is None:
        return f" ({len(tokens)} tokens against {len(recorded)})"
    return f" (from token {place} of {len(recorded)} on)"


def describe(error: ItsError) -> Verdict:
    """The verdict on a model whose manifest could not even be opened."""
    return Verdict("mismatch", str(error))
