"""`its.json`, the manifest: what a checkpoint was trained with, and what it should be served with.

Data only, and strict inside `pair`: whoever cannot read a pair fully must not serve it.
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

    folder: FolderName
    sha256: Sha256


class WrittenBy(_Strict):
    model: str
    prompts: Prompts | None = None
    sampling: dict[str, Any] = {}
    date: str | None = None


class Personas(_Strict):
    """Where persona text comes from. `taxonomy` is our built-in templates; its digest pins their wording."""

    source: Literal["pool", "taxonomy", "writer"]
    file: FileName | None = None
    sha256: Sha256 | None = None
    domains: Literal["taxonomy/1"] = "taxonomy/1"
    written_by: WrittenBy | None = None


class Side(_Strict):
    """One side of a pair. `seed` is any integer; `template` holds {persona} and {query} once each."""

    strategy: str
    version: int = 1
    template: str = DEFAULT_TEMPLATE
    turns: Literal["all", "last"] = "all"
    personas: Personas | None = None
    system_prompt: str | None = None
    chat_template_sha256: Sha256 | None = None
    chat_template_kwargs: dict[str, Any] = {}
    seed: int = 0

    @property
    def family(self) -> str:
        return strategy_named(self.strategy, self.version).family


class Pair(_Strict):
    trained_with: Side
    serve_with: Side

    @property
    def id(self) -> str:
        """sha256 over the canonical JSON of the pair as written: what anyone can recompute from the file."""
        return digest(self.model_dump(mode="json", exclude_unset=True))


class VoteAdvice(_Strict):
    """What voting worked with in evaluation; an operator may change it without changing the pair."""

    n: int = Field(8, ge=1, le=1024)
    temperature: float | None = Field(None, ge=0)
    top_p: float | None = Field(None, gt=0, le=1)
    top_k: int | None = None
    min_p: float | None = Field(None, ge=0, le=1)
    max_tokens: int | None = Field(None, ge=1)
    answer: Literal["boxed", "number", "final_line", "letter", "json", "tool_calls"] = "boxed"
    stop: Literal["exact", "beta", "none"] = "exact"
    min_agreement: float | None = Field(None, gt=0, le=1)


class Logprobs(_Strict):
    """Teacher-forced log-probabilities, in nats, of a probe's tokens after the first, by checkpoint.

    `noise` is the largest mean absolute difference seen between two honest measurements of the same
    weights: repeats on one server, or one computation in another dtype.
    """

    this: list[float]
    base: list[float] = []
    siblings: dict[str, list[float]] = {}
    noise: float = Field(0.0, ge=0)


class ProbeReply(_Strict):
    """What the serving route makes of a probe's stored completion: its text without the end token, nothing moved.

    `reasoning` is what a reasoning parser takes out of `content`; null where there is none to take.
    """

    content: str | None
    reasoning: str | None = None


class Probe(_Strict):
    """A stored query with its rewrite (`messages`), the tokens it renders to, and the checkpoint's own words."""

    query: str
    messages: list[dict[str, Any]]
    prompt_token_ids: list[int]
    completion_token_ids: list[int] = []
    dtype: str | None = None
    logprobs: Logprobs | None = None
    reply: ProbeReply | None = None


class Evaluation(BaseModel):
    """One measured number with its conditions; further fields are the measurer's own."""

    model_config = ConfigDict(extra="allow", frozen=True)

    benchmark: str
    split: str
    items: int = Field(ge=1)
    metric: str
    value: float
    ci95: tuple[float, float] | None = None


class Manifest(_Strict):
    schema_version: Literal[1] = 1
    origin: Literal["recorded", "declared"]
    pair: Pair
    vote: VoteAdvice | None = None
    probes: list[Probe] = []
    evaluation: list[Evaluation] = []
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
