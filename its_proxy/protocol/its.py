"""The `its` object, version 1: what a client may ask for, and what every voted reply tells."""

from functools import lru_cache
from typing import Annotated, Any, Literal

import orjson
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError
from typing_extensions import TypedDict  # pydantic reads typing's own from Python 3.12 on

from its_proxy.codesign.errors import RequestError
from its_proxy.voting.answers import AnswerKind
from its_proxy.voting.stop import StopName

VERSION = 1
MAX_KEPT_BYTES = 512
_PLAIN = frozenset((str, int, bool))
_MESSAGES = {"extra_forbidden": "unknown key", "model_type": "should be an object"}


class ItsRequest(BaseModel):
    """The body's `its`: overrides for one request, stripped before anything is forwarded.

    `candidates`: the reply reports every candidate, and a voted stream each one as it arrives (`ItsProgress`).
    `stream`: a voted stream tells the winner's words once the vote is decided; `leader`: before that the first
    candidate's thoughts, as they come.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    version: Literal[1] = 1
    n: Annotated[int, Field(ge=1)] | None = None
    vote: Literal["auto", "always", "off"] | None = None
    stop: StopName | None = None
    answer: AnswerKind | None = None
    min_agreement: Annotated[float, Field(gt=0, le=1)] | None = None
    on_no_answer: Literal["first", "error"] | None = None
    on_no_consensus: Literal["reply", "error"] | None = None
    sampling: Literal["recipe", "client"] = "recipe"
    strategy: str | None = None
    force: bool = False
    explain: bool = False
    candidates: bool = False
    stream: Literal["winner", "leader"] = "winner"


NOTHING_ASKED = ItsRequest()


class Cancelled(TypedDict):
    """Candidates that an early decision made needless.

    What closed calls had generated can only be estimated, unless they were streamed and counted
    (`usage_policy: exact`): then `completion_tokens` holds the count, and `usage` includes it.
    """

    candidates: int
    prompt_tokens: int
    completion_tokens_estimated: int
    completion_tokens: int | None


class MemberReport(TypedDict):
    """One member of an ensemble, asked through its own manifest."""

    model: str
    strategy: str | None
    pair_id: str | None
    handshake: str
    target: str
    n: int
    lost: int


class CandidateReport(TypedDict):
    """One candidate, on request (`its: {"candidates": true}`).

    Seconds count from the start of the query; `first_token_s` is told of a streamed candidate (`usage_policy: exact`),
    `finished_s` of one that was not cut off.
    """

    index: int
    seed: int
    member: str
    weight: int
    state: str
    text: str | None
    answer: str | None
    answer_kind: str
    finish_reason: str | None
    completion_tokens: int | None
    started_s: float | None
    first_token_s: float | None
    finished_s: float | None


class ItsProgress(TypedDict):
    """The vote so far: on request (`its: {"candidates": true}`) a voted stream tells it with every candidate that
    arrives, as `its.progress` of a chunk whose delta is empty.

    Answers count as equal by their normal form here; the last chunk's `its` has the vote as it was decided.
    """

    n: int
    n_started: int
    answer: str | None
    votes: dict[str, int]
    agreement: float
    candidate: CandidateReport


class EquivalenceReport(TypedDict):
    """How answers that are written differently were compared.

    By `form`, for the `reason` given: each normal form is an answer of its own. By `workers`: of so many `pairs` of
    forms that may mean the same, some were proven `equal`, which merged them, and some `different`. The `undecided`
    ones count as unequal, by why: `refused` (no mathematics, or with two readings), `unproven`, `timeout` (and its
    worker was killed), `exhausted` (its memory), `crashed`, `busy`, `unavailable`.
    """

    by: Literal["workers", "form"]
    reason: str | None
    pairs: int
    equal: int
    different: int
    undecided: dict[str, int]


class ItsReply(TypedDict):
    """What happened: how the query was asked, who voted what, and what was spent.

    `n_requested` is what n would have been with more room on this server; null where it was not reduced.
    `n_started` is how many of the n candidates a first wave and its top-ups came to. `stop` is the rule in
    force, null without a vote: under `beta` the answer may depend on which candidates came first.
    `equivalence` is null without a vote, too.
    """

    version: Literal[1]
    strategy: str | None
    pair_id: str | None
    handshake: str | None
    target: str | None
    n: int
    n_requested: int | None
    n_started: int
    answer: str | None
    answer_kind: str
    agreement: float
    votes: dict[str, int]
    abstained: dict[str, int]
    lost: int
    stop: str | None
    stopped: Literal["decided", "no_answer", "complete", "deadline"]
    tie: bool
    consensus: bool
    seed: int
    sampling: dict[str, Any]
    cancelled: Cancelled
    equivalence: EquivalenceReport | None
    usage_winner: dict[str, Any] | None
    forced: bool
    degraded: str | None
    members: list[MemberReport] | None
    candidates: list[CandidateReport] | None


def read_its(value: Any) -> ItsRequest:
    """Reads the body's `its`; raises RequestError naming the key."""
    if value is None:
        return NOTHING_ASKED
    try:
        written = _written(value)
        return ItsRequest.model_validate(value) if written is None else _read(written)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        param = ".".join(["its", *map(str, first["loc"])])[:100]
        known = ", ".join(ItsRequest.model_fields)
        message = _MESSAGES.get(first["type"], first["msg"])
        raise RequestError(f"{param}: {message}", param=param, hint=f"known keys: {known}") from None


def _written(value: Any) -> bytes | None:
    """To know it again by; None for what is not all plain, or too long to be kept."""
    if type(value) is not dict or not _PLAIN.issuperset(map(type, value.values())):
        return None
    try:
        written = orjson.dumps(value)
    except orjson.JSONEncodeError:
        return None
    return written if len(written) <= MAX_KEPT_BYTES else None


@lru_cache(maxsize=256)
def _read(written: bytes) -> ItsRequest:
    """Kept, because most clients ask for the same again and again. Raises ValidationError."""
    return ItsRequest.model_validate(orjson.loads(written))


def json_schema() -> dict[str, Any]:
    """What may be asked and what is told, as JSON Schema: `docs/its.schema.json`, and a test keeps the two equal."""
    description = "The `its` object of a request and of a reply, version 1"
    return {"$defs": definitions("#/$defs/{model}"), "title": "its", "description": description}


def definitions(ref_template: str) -> dict[str, Any]:
    """The schemas of ItsRequest, ItsReply and what they hold, by name; `ref_template` as in pydantic."""
    _, schema = TypeAdapter.json_schemas(
        [
            ("ItsRequest", "validation", TypeAdapter(ItsRequest)),
            ("ItsReply", "serialization", TypeAdapter(ItsReply)),
            ("ItsProgress", "serialization", TypeAdapter(ItsProgress)),
        ],
        ref_template=ref_template,
    )
    defined: dict[str, Any] = schema["$defs"]
    return defined
