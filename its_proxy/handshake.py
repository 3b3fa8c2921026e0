"""Does the live server still match the manifest? Each question is a check with its evidence; together, a verdict.

files    weight files that this process can read too have the recorded digests
listed   the server lists the model
tokens   every probe renders to the recorded tokens, on the serving route itself
weights  log-probabilities lie nearest to this checkpoint's, as near as arithmetic lets them
reply    a probe's completion comes back as the recorded text: no parser moved, cut or dropped it
"""

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from its_proxy.checkpoint import Checkpoint, check_weights
from its_proxy.codesign.errors import BadPayload, ManifestError, UpstreamError, UpstreamRejected
from its_proxy.codesign.manifest import Probe, ProbeReply
from its_proxy.evidence import MAX_TOKENS, Comparison, Scored, compare, has_reference, scored_tokens
from its_proxy.probes import ask_logprobs, ask_reply, ask_tokens
from its_proxy.upstreams.base import Upstream, applied
from its_proxy.voting.answers import after_reasoning

State = Literal["pending", "verified", "unverified", "mismatch", "none"]
CheckState: TypeAlias = Literal["ok", "failed", "unknown", "skipped"]
WeightsPolicy: TypeAlias = Literal["check", "skip"]
MAX_PROBES = 16
_REPLIES_COMPARED, _REPLIES_ASKED = 2, 4


@dataclass(frozen=True, slots=True)
class Verdict:
    """`none` stands for a model without a manifest: there is nothing to check."""

    state: State
    reason: str


PENDING = Verdict("pending", "not checked yet")
NO_MANIFEST = Verdict("none", "no manifest: passed through, neither rewritten nor voted")


@dataclass(frozen=True, slots=True)
class Check:
    """One question and its answer. `unknown`: it could not be told; `skipped`: there was no need to ask."""

    name: str
    state: CheckState
    evidence: str
    hint: str = ""


@dataclass(frozen=True, slots=True)
class Report:
    """A verdict and what it rests on, in the order in which it was asked."""

    verdict: Verdict
    checks: tuple[Check, ...]


async def examine(
    checkpoint: Checkpoint,
    upstream: Upstream,
    served_name: str,
    *,
    is_local: bool,
    weights: WeightsPolicy = "check",
) -> Report:
    """Asks everything once, one call at a time; never raises for what the server does.

    `is_local`: the server reads the checkpoint's own files, so their digests are checked. `weights="skip"`
    spares the server the log-probabilities; without digests it is then unverified at best.
    """
    checks: list[Check] = []
    try:
        with applied(checkpoint.pair_id):  # the probes are stored as rewritten
            async for check in _checks(checkpoint, upstream, served_name, is_local=is_local, weights=weights):
                checks.append(check)
    except UpstreamError as error:
        checks.append(Check("upstream", "unknown", error.message, error.hint))
    return Report(verdict_of(checks), tuple(checks))


def verdict_of(checks: Sequence[Check]) -> Verdict:
    """A failed check is a mismatch, whatever else is known; a server that cannot be asked now is pending.

    Verified takes tokens seen on the serving route, and weights known by log-probabilities or, where the
    server shows none, by their files. The reply's shape can only fail: greedy decoding may take another turn.
    """
    known = {check.name: check for check in checks}
    for check in checks:
        if check.state == "failed":
            return Verdict("mismatch", f"{check.evidence} ({check.hint})" if check.hint else check.evidence)
    for check in checks:
        if check.name in ("upstream", "listed") and check.state == "unknown":
            return Verdict("pending", check.evidence)
    tokens, weights, files = known["tokens"], known["weights"], known.get("files")
    if tokens.state != "ok":
        return Verdict("unverified", tokens.evidence)
    if weights.state == "ok":
        return Verdict("verified", f"{tokens.evidence}; {weights.evidence}")
    if weights.state == "skipped" and files is not None and files.state == "ok":
        return Verdict("verified", f"{tokens.evidence}; {files.evidence}")
    return Verdict("unverified", f"{tokens.evidence}; {weights.evidence}")


async def _checks(
    checkpoint: Checkpoint, upstream: Upstream, served_name: str, *, is_local: bool, weights: WeightsPolicy
) -> AsyncIterator[Check]:
    """Every check in order; ends early where the next ones could not tell anything."""
    files = await asyncio.to_thread(_check_files, checkpoint) if is_local else None
    if files is not None:
        yield files
        if files.state == "failed":
            return
    listed, room = await check_listed(upstream, served_name, is_local=is_local)
    yield listed
    if listed.state != "ok":
        return
    target = _Target(checkpoint, upstream, served_name, room)
    tokens = await target.check_tokens()
    yield tokens
    has_digests = files is not None and files.state == "ok"
    compared = await target.check_weights(has_digests=has_digests) if weights == "check" else _WEIGHTS_SKIPPED
    yield compared
    if tokens.state == "ok" and compared.state != "failed":
        yield await target.check_reply()
    else:
        yield Check("reply", "skipped", "the prompt or the weights are not known to be those recorded")


_WEIGHTS_SKIPPED = Check("weights", "skipped", "weights not compared, as asked")


def _check_files(checkpoint: Checkpoint) -> Check:
    try:
        check_weights(checkpoint)
    except ManifestError as error:
        return Check("files", "failed", error.message, error.hint)
    n_files = len(checkpoint.manifest.provenance.get("weights_sha256", {}))
    if not n_files:
        return Check("files", "unknown", "the manifest names no weight file")
    return Check("files", "ok", f"{_count(n_files, 'weight file')} as recorded, by digest")


async def check_listed(upstream: Upstream, served_name: str, *, is_local: bool) -> tuple[Check, int | None]:
    """Whether the model is there, and how many tokens its context holds, where its card says so."""
    cards = await upstream.models()
    card = _card(cards, served_name)
    if card is not None:
        return Check("listed", "ok", f"upstream {upstream.name} lists {served_name}"), _room(card, cards)
    if is_local:
        # A server may still be loading a model; this process has loaded all that it ever will.
        evidence = f"the checkpoint of {served_name} could not be loaded; the log has the reason"
        return Check("listed", "failed", evidence), None
    others = _other_pairs(served_name, cards)
    evidence = f"upstream {upstream.name} does not list {served_name}" + (f", but {others}" if others else "")
    return Check("listed", "unknown", evidence, "is it still loading, or served under another name?"), None


def _card(cards: Sequence[Mapping[str, Any]], name: Any) -> Mapping[str, Any] | None:
    return next((card for card in cards if card.get("id") == name), None)


def _room(card: Mapping[str, Any], cards: Sequence[Mapping[str, Any]]) -> int | None:
    """vLLM tells the length for a base model alone; an adapter's is its parent's."""
    for one in (card, _card(cards, card.get("parent")) or {}):
        room = one.get("max_model_len")
        if isinstance(room, int) and not isinstance(room, bool):
            return room
    return None


def _other_pairs(served_name: str, cards: Sequence[Mapping[str, Any]]) -> str:
    """For `NAME@<pair id>`: which other pairs of NAME are listed, as many as a line holds."""
    name, at, _ = served_name.rpartition("@")
    ids = [card["id"] for card in cards if isinstance(card.get("id"), str)]
    others = [other for other in ids if at and other.rpartition("@")[0] == name and other.isprintable()]
    return ", ".join(others[:4])[:300]


@dataclass(frozen=True, slots=True)
class _Target:
    """One model at one server, asked about its probes. `room`: the tokens that its context holds, if it says so."""

    checkpoint: Checkpoint
    upstream: Upstream
    served_name: str
    room: int | None

    @property
    def probes(self) -> list[Probe]:
        """The first few, of which the server's context holds the prompt and a token more."""
        probes = self.checkpoint.manifest.probes[:MAX_PROBES]
        return [probe for probe in probes if self.room is None or len(probe.prompt_token_ids) < self.room]

    def body(self, probe: Probe) -> dict[str, Any]:
        template_kwargs = self.checkpoint.manifest.pair.serve_with.chat_template_kwargs
        kwargs = {"chat_template_kwargs": template_kwargs} if template_kwargs else {}
        return {"model": self.served_name, "messages": probe.messages, **kwargs}

    async def check_tokens(self) -> Check:
        if not self.checkpoint.manifest.probes:
            return Check("tokens", "unknown", "the manifest holds no probes", "record the checkpoint again")
        if not self.probes:
            return Check("tokens", "unknown", f"no probe fits the server's context of {self.room} tokens")
        differences: list[str] = []
        is_all_on_route = True
        for number, probe in enumerate(self.probes):
            try:
                tokens, is_on_route = await ask_tokens(self.upstream, self.body(probe), number)
            except UpstreamRejected as error:
                if error.status != 400:
                    raise  # may pass; a template that refuses the very messages it was recorded with will not
                return Check("tokens", "failed", f"probe {number} was refused: {error.message}", error.hint)
            if tokens is None:
                return Check("tokens", "unknown", "the upstream shows no tokens: template defaults unseen")
            if tokens != probe.prompt_token_ids:
                differences.append(f"probe {number} renders to other tokens than recorded, {_place(tokens, probe)}")
            is_all_on_route = is_all_on_route and is_on_route
        return _judge_tokens(differences, len(self.probes), is_on_route=is_all_on_route)

    async def check_weights(self, *, has_digests: bool) -> Check:
        """`has_digests`: the files are known to be the right ones; then only a contradiction counts."""
        asked = [(probe, self._tokens(probe)) for probe in self.probes if has_reference(probe)]
        asked = [(probe, tokens) for probe, tokens in asked if len(tokens) > 1]
        scored: list[Scored] = []
        problem = "" if asked else "the manifest records no log-probabilities"
        hint = "do /v1/completions and prompt_logprobs work there?" if asked else "record the checkpoint again"
        try:
            for probe, tokens in asked:
                scored.append(Scored(probe, await ask_logprobs(self.upstream, self.served_name, tokens)))
        except (UpstreamRejected, BadPayload) as error:
            problem = error.message
        except ValueError as error:
            problem = f"the upstream sent {error}"
        if not problem:
            found = compare(scored, is_declared=self.checkpoint.manifest.origin == "declared")
            return _judge_weights(found, self.checkpoint.manifest.origin, has_digests=has_digests)
        if has_digests:
            return Check("weights", "skipped", "the files' digests tell")
        return Check("weights", "unknown", f"weights not compared: {problem}", hint)

    def _tokens(self, probe: Probe) -> list[int]:
        return scored_tokens(probe) if self.room is None else scored_tokens(probe, self.room - 1)

    def _has_room_for_reply(self, probe: Probe) -> bool:
        n_tokens = len(probe.completion_token_ids)
        fits = self.room is None or len(probe.prompt_token_ids) + n_tokens <= self.room
        return 0 < n_tokens <= MAX_TOKENS and fits

    async def check_reply(self) -> Check:
        told = [(probe, probe.reply) for probe in self.probes if probe.reply and self._has_room_for_reply(probe)]
        if not told:
            return Check("reply", "skipped", "the manifest records no reply that the server has room for")
        n_compared = 0
        for number, (probe, recorded) in enumerate(told[:_REPLIES_ASKED]):
            try:
                message = await ask_reply(self.upstream, self.body(probe), probe, number)
            except (UpstreamRejected, BadPayload) as error:
                return Check("reply", "unknown", f"replies not compared: {error.message}")
            if message is None:
                continue
            if difference := _difference(message, recorded):
                return Check("reply", "failed", difference, "is its --reasoning-parser the one recorded with?")
            n_compared += 1
            if n_compared == _REPLIES_COMPARED:
                break
        if not n_compared:
            return Check("reply", "unknown", "replies not compared: other tokens than recorded were generated")
        return Check("reply", "ok", f"{_count(n_compared, 'greedy reply', 'greedy replies')} as recorded")


def _judge_tokens(differences: Sequence[str], n_probes: int, *, is_on_route: bool) -> Check:
    if differences:
        evidence = f"{differences[0]}; {len(differences)} of {_count(n_probes, 'probe')} do"
        hint = "the chat template, its default kwargs or system prompt, or the tokenizer is another one"
        return Check("tokens", "failed", evidence, hint)
    said = f"tokens of {_count(n_probes, 'probe')} as recorded"
    if not is_on_route:
        return Check("tokens", "unknown", f"{said}, by /tokenize: template defaults unseen")
    return Check("tokens", "ok", said)


def _place(tokens: Sequence[Any], probe: Probe) -> str:
    recorded = probe.prompt_token_ids
    for place, (token, expected) in enumerate(zip(tokens, recorded, strict=False)):
        if token != expected:
            return f"from token {place} of {len(recorded)} on"
    return f"{len(tokens)} tokens against {len(recorded)}"


def _judge_weights(found: Comparison, origin: str, *, has_digests: bool) -> Check:
    figures = (
        f"{found.this:.4f} nats a token from this checkpoint over {found.n_tokens} tokens, bound {found.bound:.4f}"
    )
    name, distance = found.nearest_other or ("", 0.0)
    if name:
        figures += f"; {distance:.4f} from {name}"
    if has_digests and found.this <= found.bound:
        return Check("weights", "ok", f"weights as recorded, {figures}")
    if found.finding == "this":
        said = "weights unchanged since declared" if origin == "declared" else "weights as recorded"
        return Check("weights", "ok", f"{said}, {figures}")
    if found.finding == "another":
        said = "the weights of" if distance <= found.bound else "weights nearer to"
        return Check("weights", "failed", f"{said} {name}, {figures}", "serve the checkpoint that its.json belongs to")
    if found.finding == "other":
        said = "weights changed since declared" if origin == "declared" else "other weights than recorded"
        return Check("weights", "failed", f"{said}, {figures}", "serve the recorded ones, or record these")
    if found.finding == "near":
        evidence = f"weights farther from those recorded than an honest server's noise, {figures}"
        return Check("weights", "unknown", evidence, "quantised, merged or changed? record what is served")
    return Check("weights", "unknown", f"no power to tell the weights apart, {figures}")


def _difference(message: Mapping[str, Any], recorded: ProbeReply) -> str | None:
    """What a server did to the text. Space is not compared: parsers and detokenizers trim it as they like.

    Where no thoughts are recorded, it is what a vote reads that counts: they may be parsed out, or stand before it.
    """
    has_thoughts = recorded.reasoning is not None
    content = _letters(message.get("content"), whole=has_thoughts)
    content_then = _letters(recorded.content, whole=has_thoughts)
    reasoning = _letters(message.get("reasoning") or message.get("reasoning_content"))
    reasoning_then = _letters(recorded.reasoning)
    if content == content_then and (reasoning == reasoning_then or not has_thoughts):
        return None
    figures = (
        f"the recorded tokens came back as {len(content)} characters of content and {len(reasoning)} of reasoning, "
        f"recorded are {len(content_then)} and {len(reasoning_then)}"
    )
    if reasoning and not reasoning_then:
        return f"a reasoning parser took text out of the reply: {figures}"
    if reasoning_then and not reasoning:
        return f"the reasoning is not parsed out of the reply, or dropped: {figures}"
    return f"the reply was cut or rewritten: {figures}"


def _letters(text: Any, *, whole: bool = True) -> str:
    """Without its space; unless `whole`, what follows its reasoning part."""
    text = after_reasoning(text) if isinstance(text, str) and not whole else text
    return "".join(text.split()) if isinstance(text, str) else ""


def _count(n: int, one: str, many: str = "") -> str:
    return f"{n} {one if n == 1 else many or one + 's'}"
