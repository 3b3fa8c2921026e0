"""Declares a model that was not trained with its-train: a manifest whose probes are taken from the live server.

    declaration = Declaration("llama", Side(strategy="none"), Side(strategy="none"), VoteAdvice(n=8, temperature=0.8))
    declared = await declare(upstream, declaration)
    write_declared(Path("llama.its"), declared)

Nothing is guessed: what the server does not show is left out, and `declared.remarks` says so.
"""

import asyncio
import json
import os
import shutil
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from datetime import date
from hashlib import sha256
from itertools import combinations
from pathlib import Path
from typing import Any, TypeGuard

from pydantic import BaseModel

from its_proxy import __version__
from its_proxy.checkpoint import MAX_CONFIG_BYTES, open_checkpoint
from its_proxy.codesign.errors import BadPayload, ConfigError, ItsError, ManifestError, UpstreamError, UpstreamRejected
from its_proxy.codesign.manifest import (
    FILE_NAME,
    SCHEMA_VERSION,
    Logprobs,
    Manifest,
    Pair,
    Personas,
    Probe,
    ProbeReply,
    Side,
    VoteAdvice,
    check_pair_rule,
    parse_manifest,
    recipe_of,
)
from its_proxy.codesign.personas import Pool, taxonomy_pool
from its_proxy.codesign.strategies import Recipe, rewrite
from its_proxy.evidence import MAX_TOKENS
from its_proxy.handshake import MAX_PROBES
from its_proxy.probes import ask_logprobs
from its_proxy.seal import manifest_bytes, replace_file
from its_proxy.source import Files, Folder, read_file
from its_proxy.upstreams.base import Completion, Upstream

QUERIES = (
    "What is 17 + 25?",
    "Name the capital of Japan.",
    "Write a short line about rain.",
    "How do bees make honey?",
    "Translate 'good morning' into French.",
    "What does HTTP stand for?",
    "Give one rule of chess.",
    "Why is the sky blue?",
)
"""Short and neutral, of varied domains: what a probe asks matters less than that it is always the same."""

POOL_FILE = "its-personas.jsonl"
COMPLETION_TOKENS = 32
N_ROUNDS = 3
MAX_SCORED_TOKENS = 512
"""Longer probes are kept without log-probabilities: those cost the server memory for each token."""

_BESIDE_TOKENS = 64


@dataclass(frozen=True, slots=True)
class Declaration:
    """What an operator says of a model. `pool` is the file that both sides' personas are drawn from, if one is."""

    served_name: str
    trained_with: Side
    serve_with: Side
    vote: VoteAdvice
    queries: Sequence[str] = QUERIES
    pool: bytes | None = None
    provenance: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Declared:
    """The files to write, by name, the manifest's last; `remarks`, a line each: what the server did not show."""

    manifest: Manifest
    files: Mapping[str, bytes]
    remarks: tuple[str, ...]


async def declare(
    upstream: Upstream, declaration: Declaration, on_step: Callable[[str], None] = lambda what: None
) -> Declared:
    """Asks the live server, and puts the manifest together; writes nothing. `on_step` is told of every call.

    Raises ConfigError where the upstream does not list the model, ManifestError for sides that do not hold
    together, UpstreamError where the upstream cannot be asked.
    """
    check_pair_rule(Pair(trained_with=declaration.trained_with, serve_with=declaration.serve_with))
    recipe = recipe_of(declaration.serve_with, pool_of(declaration.serve_with, declaration.pool))
    card = _card(await upstream.models(), declaration.served_name)
    pair = _pair(declaration, _template_digest(card.get("root")))
    template_kwargs = pair.serve_with.chat_template_kwargs
    asker = _Asker(upstream, declaration.served_name, recipe, template_kwargs, on_step)
    probes, remark = await asker.probes(declaration.queries[:MAX_PROBES])
    document = {
        "schema_version": SCHEMA_VERSION,
        "origin": "declared",
        "pair": _plain(pair),
        "vote": _plain(declaration.vote),
        "probes": [_plain(probe) for probe in probes],
        "evaluation": [],
        "provenance": {
            "declared": {"served_name": declaration.served_name, "root": _text(card.get("root"))},
            **declaration.provenance,
            "versions": {"its-proxy": __version__},
        },
    }
    data = manifest_bytes(document)
    files = {FILE_NAME: data} if declaration.pool is None else {POOL_FILE: declaration.pool, FILE_NAME: data}
    return Declared(parse_manifest(data), files, (remark,) if remark else ())


def n_steps(declaration: Declaration) -> int:
    """How many steps `declare` tells of, on a server that shows everything."""
    return min(len(declaration.queries), MAX_PROBES) * (1 + N_ROUNDS)


def pool_of(side: Side, data: bytes | None) -> Pool | None:
    """The personas that a side draws from: those of the file, or our template personas, or none."""
    if side.personas is None:
        return None
    return taxonomy_pool() if data is None else Pool.from_jsonl(data)


def personas_of(pool: bytes | None) -> Personas:
    """How a side names them."""
    if pool is None:
        return Personas(source="taxonomy", sha256=taxonomy_pool().sha256, domains="taxonomy/1")
    return Personas(source="pool", file=POOL_FILE, sha256=sha256(pool).hexdigest(), domains="taxonomy/1")


def _pair(declaration: Declaration, template: str | None) -> Pair:
    sides = (declaration.trained_with, declaration.serve_with)
    trained, serve = (side.model_copy(update={"chat_template_sha256": template}) for side in sides)
    return Pair(trained_with=trained, serve_with=serve)


def _plain(model: BaseModel) -> dict[str, Any]:
    return model.model_dump(mode="json", exclude_unset=True)


def _card(cards: Sequence[Mapping[str, Any]], served_name: str) -> Mapping[str, Any]:
    for card in cards:
        if card.get("id") == served_name:
            if "its" in card:
                raise ConfigError("the upstream is an its-proxy itself", hint="name the server behind it")
            return card
    listed = ", ".join(ascii(card.get("id"))[:80] for card in cards[:8]) or "nothing"
    raise ConfigError(f"the upstream lists no model {served_name!r}", hint=f"it lists {listed}")


def _template_digest(root: object) -> str | None:
    """Of the chat template in the model's own folder, where that lies on this machine; else None: unknown."""
    if not isinstance(root, str) or not os.path.isabs(root):
        return None
    try:
        template = read_file(Path(root), "chat_template.jinja", MAX_CONFIG_BYTES)
    except (ManifestError, ValueError):
        return None
    return None if template is None else sha256(template).hexdigest()


# -- probes ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Asker:
    upstream: Upstream
    served_name: str
    serve: Recipe
    template_kwargs: dict[str, Any]
    on_step: Callable[[str], None]

    async def probes(self, queries: Sequence[str]) -> tuple[list[Probe], str]:
        """As much of each probe as the server shows, and a line on what it does not show."""
        probes = []
        for query in queries:
            probe = await self._probe(query)
            if isinstance(probe, str):
                return [], probe
            probes.append(probe)
        try:
            return await self._with_logprobs(probes), ""
        except (UpstreamRejected, BadPayload, ValueError) as error:
            said = error.message if isinstance(error, ItsError) else f"the upstream sent {error}"
            return probes, f"no log-probabilities ({said}): its weights will stay unverified"

    async def _probe(self, query: str) -> Probe | str:
        """One query's tokens and greedy reply; or a line that says why this server can have no probes."""
        self.on_step("tokens and replies")
        messages = [dict(message) for message in rewrite(self.serve, [{"role": "user", "content": query}]).messages]
        first = await self._complete(messages, max_tokens=1)
        tokens = first.get("prompt_token_ids")
        if not _are_token_ids(tokens):
            return "the server shows no token ids (is it vLLM?): no probes, so the model stays unverified, and votes"
        if _writes_date(first.get("prompt_text"), messages):
            return (
                "the chat template writes today's date into every prompt, so probes would not match tomorrow: none "
                "kept; fix the date with --chat-template-kwargs, if the template takes one"
            )
        probe = Probe(query=query, messages=messages, prompt_token_ids=list(tokens))
        n_free = min(COMPLETION_TOKENS, MAX_TOKENS - len(probe.prompt_token_ids))
        return await self._with_reply(probe, n_free) if n_free > 0 else probe

    async def _with_reply(self, probe: Probe, max_tokens: int) -> Probe:
        completion = await self._complete(probe.messages, max_tokens)
        if completion.get("prompt_token_ids") != probe.prompt_token_ids:
            raise ManifestError(
                "the server renders the same messages to other tokens a moment later",
                hint="do several servers with different models or templates stand behind this address?",
            )
        choice = completion["choices"][0]
        if not _are_token_ids(choice.get("token_ids")):
            return probe
        message = choice["message"]
        reasoning = message.get("reasoning") or message.get("reasoning_content")
        reply = ProbeReply(content=_text(message.get("content")), reasoning=_text(reasoning))
        return probe.model_copy(update={"completion_token_ids": choice["token_ids"], "reply": reply})

    async def _complete(self, messages: Sequence[Mapping[str, Any]], max_tokens: int) -> Completion:
        body: dict[str, Any] = {
            "model": self.served_name,
            "messages": messages,
            "max_tokens": max_tokens,
            "temperature": 0,
        }
        if self.template_kwargs:
            body["chat_template_kwargs"] = self.template_kwargs
        try:
            return await self.upstream.complete(
                {**body, "return_token_ids": True, "return_prompt_text": True}, "its-declare"
            )
        except UpstreamRejected as error:
            if error.status != 400:
                raise
            return await self.upstream.complete(body, "its-declare")  # a strict server refuses unknown fields

    async def _with_logprobs(self, probes: Sequence[Probe]) -> list[Probe]:
        """Three rounds: alone; beside generations that share the server's batches; alone again, in reverse order.

        How far they lie apart is the noise that a later handshake is judged by.
        """
        alone = [await self._logprobs(probe) for probe in probes]
        async with self._busy():
            beside = [await self._logprobs(probe) for probe in probes]
        again = [await self._logprobs(probe) for probe in reversed(probes)][::-1]
        return [
            probe.model_copy(update={"logprobs": Logprobs(this=rounds[0], noise=_noise(rounds))})
            if rounds[0]
            else probe
            for probe, *rounds in zip(probes, alone, beside, again, strict=True)
        ]

    async def _logprobs(self, probe: Probe) -> list[float]:
        self.on_step("log-probabilities")
        tokens = [*probe.prompt_token_ids, *probe.completion_token_ids]
        if not 1 < len(tokens) <= MAX_SCORED_TOKENS:
            return []
        return [round(value, 4) for value in await ask_logprobs(self.upstream, self.served_name, tokens)]

    @asynccontextmanager
    async def _busy(self) -> AsyncIterator[None]:
        """Two generations at any time while the block runs; what they say, or that they fail, does not matter."""

        async def generate(number: int) -> None:
            messages = [{"role": "user", "content": QUERIES[number]}]
            body = {"model": self.served_name, "messages": messages, "max_tokens": _BESIDE_TOKENS, "temperature": 1}
            with suppress(UpstreamError):
                while True:
                    await self.upstream.complete(body, f"its-declare-beside-{number}")

        tasks = [asyncio.create_task(generate(number)) for number in range(2)]
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)


def _are_token_ids(value: Any) -> TypeGuard[list[int]]:
    return isinstance(value, list) and bool(value) and all(type(token) is int and 0 <= token < 2**31 for token in value)


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) else None


def _noise(rounds: Sequence[Sequence[float]]) -> float:
    """The largest mean absolute difference, in nats, between any two rounds."""
    means = (
        sum(abs(a - b) for a, b in zip(one, other, strict=True)) / len(one)
        for one, other in combinations(rounds, 2)
        if one
    )
    return round(max(means, default=0.0), 6)


def _writes_date(prompt_text: Any, messages: Sequence[Mapping[str, Any]], today: date | None = None) -> bool:
    """Whether the rendered prompt holds today's date, in a common spelling, that no message holds."""
    if not isinstance(prompt_text, str):
        return False
    day = today or date.today()
    said = json.dumps(messages, ensure_ascii=False)
    spellings = ("%d %b %Y", "%d %B %Y", "%B %d, %Y", "%b %d, %Y", "%Y-%m-%d", "%d/%m/%Y", "%m/%d/%Y")
    return any(day.strftime(form) in prompt_text and day.strftime(form) not in said for form in spellings)


# -- files -------------------------------------------------------------------------------------------------------------


def write_declared(folder: Path, declared: Declared, *, force: bool = False) -> None:
    """Puts the files into `folder`, which is made if it is not there; the manifest comes last.

    Raises ConfigError where a manifest is there already (unless `force`) or nothing can be written, and
    ManifestError where the folder's own config.json or chat template belongs to another pair.
    """
    check_free(folder, force=force)
    own = {name: Folder(folder).read(name, MAX_CONFIG_BYTES) for name in ("config.json", "chat_template.jinja")}
    present = {name: data for name, data in own.items() if data is not None}
    open_checkpoint(Files(str(folder), {**present, **declared.files}))
    try:
        if folder.is_dir():
            for name, data in declared.files.items():
                replace_file(folder / name, data)
        else:
            _make_folder(folder, declared.files)
    except OSError as error:
        raise ConfigError(f"cannot write {folder}: {error.strerror}", hint="choose a writable --out") from None


def check_free(folder: Path, *, force: bool) -> None:
    """Raises ConfigError where a manifest is there already, unless `force`, or nothing can be written."""
    nearest = next(path for path in (folder, *folder.absolute().parents) if os.path.lexists(path))
    if not nearest.is_dir():
        raise ConfigError(f"{nearest} is not a folder", hint="--out names another one")
    if not os.access(nearest, os.W_OK | os.X_OK):
        raise ConfigError(f"cannot write {folder}: {nearest} is not ours to write", hint="choose a writable --out")
    if not force and os.path.lexists(folder / FILE_NAME):
        raise ConfigError(f"{folder} holds a manifest already", hint="--force replaces it, --out names another folder")


def _make_folder(folder: Path, files: Mapping[str, bytes]) -> None:
    """The folder appears by one rename, with all of its files."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    aside = folder.with_name(f".{folder.name}.{os.getpid()}.partial")
    try:
        aside.mkdir()
        for name, data in files.items():
            replace_file(aside / name, data)
        os.rename(aside, folder)
    finally:
        shutil.rmtree(aside, ignore_errors=True)
