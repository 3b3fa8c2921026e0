"""`its.json`, the manifest: what a checkpoint was trained with, and what it should be served with.

Data only, and strict inside `pair`: whoever cannot read a pair fully must not serve it.

A comment above a key goes for the keys below it, too, up to the next one: docs/reference/manifest.md is made of them.
"""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError

from its_proxy.codesign.canonical import digest, strict_json
from its_proxy.codesign.errors import ManifestError, OneSidedPair, UnknownSchema
from its_proxy.codesign.personas import Pool
from its_proxy.codesign.strategies import DEFAULT_TEMPLATE, Recipe, strategy_named

FILE_NAME = "its.json"
SCHEMA_VERSION = 1

Sha256 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
# Plain names beside the manifest: no folders up, no absolute path, nothing hidden.
FileName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_][A-Za-z0-9._-]{0,127}$")]
FolderName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_][A-Za-z0-9._-]{0,127}/?$")]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class Prompts(_Strict):
    """The verbatim prompts that a pool was written with; the digest is over the folder's files in name order."""

    # A folder beside the manifest.
    folder: FolderName
    # Digest over its files.
    sha256: Sha256


class WrittenBy(_Strict):
    """The language model that wrote a pool."""

    # Its name.
    model: str
    # What it was asked.
    prompts: Prompts | None = None
    # How it was asked: temperature, seed and the like.
    sampling: dict[str, Any] = {}
    # When.
    date: str | None = None


class Personas(_Strict):
    """Where persona text comes from. `taxonomy` is our built-in templates; its digest pins their wording."""

    # A frozen file, our built-in templates, or a live writer.
    source: Literal["pool", "taxonomy", "writer"]
    # The pool's file, beside the manifest.
    file: FileName | None = None
    # The digest of the pool, or of the templates.
    sha256: Sha256 | None = None
    # The list of domains that personas belong to.
    domains: Literal["taxonomy/1"] = "taxonomy/1"
    # Who wrote the pool.
    written_by: WrittenBy | None = None


class Side(_Strict):
    """One side of a pair. `seed` is any integer; `template` holds {persona} and {query} once each."""

    # Name and version of the rule that rewrites a query.
    strategy: str
    version: int = 1
    # How persona and query are joined.
    template: str = DEFAULT_TEMPLATE
    # Which user turns are rewritten.
    turns: Literal["all", "last"] = "all"
    # Where persona text comes from; null for `none`.
    personas: Personas | None = None
    # The system prompt where a client sends none.
    system_prompt: str | None = None
    # The digest of the chat template, and what is passed to it.
    chat_template_sha256: Sha256 | None = None
    chat_template_kwargs: dict[str, Any] = {}
    # Of the draws.
    seed: int = 0

    @property
    def family(self) -> str:
        return strategy_named(self.strategy, self.version).family


class Pair(_Strict):
    """Both sides; the pair id is the digest of the pair as written."""

    # How the training rows were rewritten.
    trained_with: Side
    # How queries are.
    serve_with: Side

    @property
    def id(self) -> str:
        """sha256 over the canonical JSON of the pair as written: what anyone can recompute from the file."""
        return digest(self.model_dump(mode="json", exclude_unset=True))


class VoteAdvice(_Strict):
    """What voting worked with in evaluation; an operator may change it without changing the pair."""

    # Candidates of a query.
    n: int = Field(8, ge=1, le=1024)
    # How candidates are sampled; null leaves it to the server.
    temperature: float | None = Field(None, ge=0)
    top_p: float | None = Field(None, gt=0, le=1)
    top_k: int | None = None
    min_p: float | None = Field(None, ge=0, le=1)
    # Most tokens of a candidate; a client's own limit holds where it is smaller.
    max_tokens: int | None = Field(None, ge=1)
    # How the answer is written.
    answer: Literal["boxed", "number", "final_line", "letter", "json", "tool_calls"] = "boxed"
    # When enough candidates have come: "exact" gives the full vote's answer, "beta" is sure enough.
    stop: Literal["exact", "beta", "none"] = "exact"
    # The leader's share of the valid candidates below which there is no consensus.
    min_agreement: float | None = Field(None, gt=0, le=1)

    @property
    def sampling(self) -> dict[str, float]:
        """How candidates are sampled, as far as it says."""
        return self.model_dump(include={"temperature", "top_p", "top_k", "min_p"}, exclude_none=True)


class Logprobs(_Strict):
    """Teacher-forced log-probabilities, in nats, of a probe's tokens after the first, by checkpoint.

    `noise` is the largest mean absolute difference seen between two honest measurements of the same
    weights: repeats on one server, or one computation in another dtype.
    """

    # By this checkpoint, by its base, and by others trained beside it.
    this: list[float]
    base: list[float] = []
    siblings: dict[str, list[float]] = {}
    # What honest measurements differ by.
    noise: float = Field(0.0, ge=0)


class ProbeReply(_Strict):
    """What the serving route makes of a probe's stored completion: its text without the end token, nothing moved.

    `reasoning` is what a reasoning parser takes out of `content`; null where there is none to take.
    """

    # The reply's text, and its reasoning apart.
    content: str | None
    reasoning: str | None = None


class Probe(_Strict):
    """A stored query with its rewrite (`messages`), the tokens it renders to, and the checkpoint's own words."""

    # Before and after rewriting.
    query: str
    messages: list[dict[str, Any]]
    # The tokens that the messages render to.
    prompt_token_ids: list[int]
    # What the checkpoint went on with.
    completion_token_ids: list[int] = []
    # What the log-probabilities were computed in.
    dtype: str | None = None
    # How likely each token is, by checkpoint.
    logprobs: Logprobs | None = None
    # What the serving route makes of the completion.
    reply: ProbeReply | None = None


class Evaluation(BaseModel):
    """One measured number with its conditions; further fields are the measurer's own."""

    model_config = ConfigDict(extra="allow", frozen=True)

    # What was asked, and how many items of it.
    benchmark: str
    split: str
    items: int = Field(ge=1)
    # Such as pass@1, maj@8.
    metric: str
    # The figure, with its 95% interval.
    value: float
    ci95: tuple[float, float] | None = None


class Manifest(_Strict):
    """What a checkpoint carries, as `its.json` beside its weights."""

    # Of this document; others are refused.
    schema_version: Literal[1] = 1
    # By its-train, or of a model that was not trained with it.
    origin: Literal["recorded", "declared"]
    # What was trained, and what is served.
    pair: Pair
    # What voting worked with; an operator may change it.
    vote: VoteAdvice | None = None
    # What the handshake asks.
    probes: list[Probe] = []
    # What was measured.
    evaluation: list[Evaluation] = []
    # Where all of it comes from; keys are free.
    provenance: dict[str, Any] = {}

    @property
    def pair_id(self) -> str:
        return self.pair.id


def parse_manifest(data: bytes) -> Manifest:
    """Reads and checks the bytes of an `its.json`; every refusal is one line that names the key."""
    try:
        document = strict_json(data)
    except ValueError as error:
        raise ManifestError(f"{FILE_NAME}: {error}") from None
    if not isinstance(document, dict):
        raise ManifestError(f"{FILE_NAME}: not a JSON object")
    version = document.get("schema_version")
    if version != SCHEMA_VERSION or isinstance(version, bool):
        raise UnknownSchema(
            f"{FILE_NAME}: schema_version {_brief(version)} cannot be read here",
            hint=f"this its-proxy reads {SCHEMA_VERSION}; upgrade it, or record the checkpoint again",
        )
    try:
        manifest = Manifest.model_validate_json(data)
    except ValidationError as error:
        raise ManifestError(f"{FILE_NAME}: {_first_problem(error)}") from None
    _check_side("trained_with", manifest.pair.trained_with)
    _check_side("serve_with", manifest.pair.serve_with)
    return manifest


def _brief(value: Any) -> str:
    return f"of type {type(value).__name__}" if isinstance(value, dict | list) else repr(value)[:40]


def _first_problem(error: ValidationError) -> str:
    first, *others = error.errors(include_url=False, include_input=False)
    more = f" (and {len(others)} more)" if others else ""
    # The keys are the file's: one that holds a line break is spelled out, so that a refusal stays one line.
    place = ".".join(key if key.isprintable() else repr(key) for key in map(str, first["loc"])) or "document"
    if first["type"] == "extra_forbidden":
        return f"{place}: unknown key{more}; written by a newer version, or a typing error"
    return f"{place}: {first['msg']}{more}"


def _check_side(name: str, side: Side) -> None:
    try:
        recipe_of(side, None)
    except ManifestError as error:
        raise ManifestError(f"{FILE_NAME}: pair.{name}: {error.message}", hint=error.hint) from None
    personas = side.personas
    if personas is None:
        if side.family == "none":
            return
        raise ManifestError(f"{FILE_NAME}: pair.{name}: strategy {side.strategy!r} needs personas")
    if personas.source == "pool" and (personas.file is None or personas.sha256 is None):
        raise ManifestError(f"{FILE_NAME}: pair.{name}.personas: a pool needs file and sha256")
    if personas.source == "taxonomy" and personas.sha256 is None:
        raise ManifestError(f"{FILE_NAME}: pair.{name}.personas: the taxonomy needs sha256")


def check_pair_rule(pair: Pair) -> None:
    """Same family on both sides; `mixed`, trained on half plain rows, may be served plain. Else OneSidedPair."""
    trained, served = pair.trained_with, pair.serve_with
    if trained.family == served.family or (trained.strategy == "mixed" and served.family == "none"):
        return
    raise OneSidedPair(
        f"trained with {trained.strategy!r}, served with {served.strategy!r}: persona text on one side only",
        hint="one side alone hurts; record a matching pair, or set force_pair and see every reply marked",
    )


def recipe_of(side: Side, pool: Pool | None) -> Recipe:
    """The side with its pool opened, ready to rewrite."""
    strategy = strategy_named(side.strategy, side.version)
    return Recipe(strategy, side.template, side.turns, pool, side.system_prompt, side.seed)
