"""Does the live server still match the manifest? The token half: what each probe renders to, on the serving route.

The weight half compares teacher-forced log-probabilities; for weights in this process's own files a
digest says more. Until one of the two has spoken, a server is `unverified`, never `verified`.
"""

import asyncio
import json
import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from its_proxy.checkpoint import Checkpoint, check_weights
from its_proxy.codesign.errors import ManifestError, ModelUnavailable, UpstreamError, UpstreamRejected
from its_proxy.codesign.manifest import Probe
from its_proxy.upstreams.base import Body, Upstream

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
        if not any(card.get("id") == served_name for card in await upstream.models()):
            return _unlisted(upstream, served_name, is_local=is_local)
    except ManifestError as error:
        return Verdict("mismatch", str(error))
    except UpstreamError as error:
        return Verdict("pending", str(error))
    try:
        return await _check_probes(checkpoint, upstream, served_name, is_local=is_local)
    except UpstreamRejected as error:
        # 400: the template refuses the very messages that it was recorded with. Anything else may pass.
        return Verdict("mismatch" if error.status == 400 else "pending", f"a probe was refused: {error}")
    except UpstreamError as error:
        return Verdict("pending", str(error))


def _unlisted(upstream: Upstream, served_name: str, *, is_local: bool) -> Verdict:
    """A server may still be loading a model; this process has loaded all that it ever will."""
    if is_local:
        return Verdict("mismatch", f"the checkpoint of {served_name} could not be loaded; the log has the reason")
    return Verdict("pending", f"upstream {upstream.name} does not list {served_name}")


async def _check_probes(checkpoint: Checkpoint, upstream: Upstream, served_name: str, *, is_local: bool) -> Verdict:
    probes = checkpoint.manifest.probes[:MAX_PROBES]
    if not probes:
        return Verdict("unverified", "the manifest holds no probes")
    is_on_route = True
    for number, probe in enumerate(probes):
        body = _probe_body(checkpoint, served_name, probe)
        tokens = await _tokens_served(upstream, body, number)
        if tokens is None:
            is_on_route = False
            tokens = await _tokens_rendered(upstream, body)
        if tokens is None:
            return Verdict("unverified", "the upstream shows no tokens: template defaults unseen")
        if tokens != probe.prompt_token_ids:
            difference = _first_difference(tokens, probe)
            return Verdict("mismatch", f"probe {number} renders to other tokens than recorded{difference}")
    said = f"tokens of {len(probes)} probes are those recorded"
    if not is_on_route:
        return Verdict("unverified", f"{said}, by /tokenize: template defaults unseen")
    if is_local and checkpoint.manifest.provenance.get("weights_sha256"):
        return Verdict("verified", f"{said}, and so are the weights' digests")
    return Verdict("unverified", f"{said}; weights were not compared")


def _probe_body(checkpoint: Checkpoint, served_name: str, probe: Probe) -> dict[str, Any]:
    template_kwargs = checkpoint.manifest.pair.serve_with.chat_template_kwargs
    kwargs = {"chat_template_kwargs": template_kwargs} if template_kwargs else {}
    return {"model": served_name, "messages": probe.messages, **kwargs}


async def _tokens_served(upstream: Upstream, body: Body, number: int) -> list[Any] | None:
    """What the serving route itself makes of the messages; None where it does not show it."""
    body = {**body, "max_tokens": 1, "temperature": 0}
    request_id = f"its-handshake-{number}"
    try:
        completion = await upstream.complete({**body, "return_token_ids": True}, request_id)
    except UpstreamRejected as error:
        if error.status != 400:
            raise
        # A strict server refuses a field that it does not know, and so has said nothing about the messages yet.
        completion = await upstream.complete(body, request_id)
    tokens = completion.get("prompt_token_ids")
    return tokens if isinstance(tokens, list) else None


async def _tokens_rendered(upstream: Upstream, body: Body) -> list[Any] | None:
    """What `/tokenize` makes of the messages; None where there is no such route."""
    try:
        reply = await upstream.forward("POST", "tokenize", json.dumps(body).encode(), "application/json")
        document = json.loads(reply.body)
    except (UpstreamRejected, ValueError, RecursionError):
        return None
    tokens = document.get("tokens") if isinstance(document, dict) else None
    return tokens if isinstance(tokens, list) else None


def _first_difference(tokens: list[Any], probe: Probe) -> str:
    recorded = probe.prompt_token_ids
    place = next((k for k, (a, b) in enumerate(zip(tokens, recorded, strict=False)) if a != b), None)
    if place is None:
        return f" ({len(tokens)} tokens against {len(recorded)})"
    return f" (from token {place} of {len(recorded)} on)"
