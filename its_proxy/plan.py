"""One request and one served model -> one immutable plan: what is sent, how often, and how it is decided.

The plan is all that a request can influence, so requests cannot change each other's settings, and
`explain` shows a plan without carrying it out.
"""

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, Literal, Protocol

from its_proxy.checkpoint import Checkpoint
from its_proxy.codesign.errors import ManifestError, NotPermitted, RequestError, StrategyNotApplicable
from its_proxy.codesign.light import light
from its_proxy.codesign.personas import taxonomy_pool
from its_proxy.codesign.query import user_turns
from its_proxy.codesign.strategies import Recipe, Strategy, name_from_input, rewrite, strategy_named
from its_proxy.protocol.chat import SAMPLING_FIELDS, USUAL, ChatRequest, client_max_tokens, client_seed
from its_proxy.protocol.its import NOTHING_ASKED
from its_proxy.response_format import is_json, validity_of
from its_proxy.upstreams.base import Body, Upstream
from its_proxy.upstreams.written import Shared, SharedBody
from its_proxy.voting.answers import AnswerKind
from its_proxy.voting.expectation import TINY_MAX_TOKENS, asks_for_answer, expects_answer, is_housekeeping
from its_proxy.voting.json_answers import IsValid
from its_proxy.voting.stop import StopName, n_to_start

DEADLINE_S = 600.0
Mode = Literal["auto", "always", "off"]
# Set anew for each candidate, member or call; the sampling fields have an owner of their own.
_SAMPLING = frozenset(SAMPLING_FIELDS)
_OWN_FIELDS = _SAMPLING | {"model", "n", "seed", "stream", "stream_options"}
# What changes the prompt that a server renders, beside chat_template*, and the value that does not.
_RENDERING: Mapping[str, Any] = {
    "add_generation_prompt": True,
    "add_special_tokens": False,
    "continue_final_message": False,
    "documents": None,
    "reasoning_effort": None,
    "truncate_prompt_tokens": None,
}
_NOT_RENDERING = USUAL - _RENDERING.keys()


class HasState(Protocol):
    """The part of a handshake that a reply reports."""

    @property
    def state(self) -> str: ...


@dataclass(frozen=True, slots=True)
class VoteRules:
    """How a model votes: its manifest's advice under the operator's settings. `n` is candidates per query.

    `is_answer_fixed`: the operator chose the kind of answer, so no `response_format` changes it. `first`: how
    many candidates to begin with, "auto" for as few as could decide the vote; None for all. `usage_policy`:
    "exact" streams every candidate, so that the tokens of a cancelled one are known. `min_n`: what n may shrink to
    before a request is turned away for lack of room; None for never. `equivalence`: whether workers may prove that
    answers are equal which are written differently.

    Sampling is not among the rules: each member of an ensemble is sampled as its own manifest advises.
    """

    mode: Mode = "auto"
    n: int = 8
    max_n: int = 16
    stop: StopName = "exact"
    min_agreement: float | None = None
    answer: AnswerKind = "boxed"
    is_answer_fixed: bool = False
    first: int | Literal["auto"] | None = None
    on_no_answer: Literal["first", "error"] = "first"
    on_no_consensus: Literal["reply", "error"] = "reply"
    quorum: float = 0.5
    deadline_s: float = DEADLINE_S
    usage_policy: Literal["reported", "exact"] = "reported"
    min_n: int | None = None
    equivalence: Literal["auto", "off"] = "auto"


@light
@dataclass(frozen=True, slots=True)
class Member:
    """A model as it is asked: where it runs, under which name there, and how it was trained."""

    name: str
    upstream: Upstream
    served_name: str
    checkpoint: Checkpoint | None
    handshake: HasState
    weight: int = 1


@light
@dataclass(frozen=True, slots=True)
class PlannedMember:
    """A member with its rewritten request; `body` lacks only the candidate's seed. Candidates share its bytes.

    `max_tokens`: each candidate's cap, as the body has it.
    """

    member: Member
    strategy: str | None
    body: Body
    n: int
    is_forced: bool
    max_tokens: int | None = None


@light
@dataclass(frozen=True, slots=True)
class Plan:
    """`starts_with_one`: a first candidate alone tells whether a vote is worth its cost;
    `gives_up`: two candidates without an answer end the vote; `sampling` is empty where members differ in it;
    `n_first`: the first wave, topped up while the vote is undecided; `is_valid`: what JSON the client can use;
    `n_requested`: what n would have been with more room; `reservations`: what is not as the pair was trained, or not as
    its votes are meant to be, the first word of each of a closed set."""

    model: str
    members: tuple[PlannedMember, ...]
    rules: VoteRules
    n: int
    n_choices: int
    seed: int
    sampling: Mapping[str, Any]
    is_vote: bool
    starts_with_one: bool
    gives_up: bool
    is_forced: bool = False
    reservations: tuple[str, ...] = ()
    n_first: int | None = None
    is_valid: IsValid | None = None
    n_requested: int | None = None

    @property
    def wave(self) -> int:
        """How many candidates run side by side at first, once a vote is held."""
        return self.n_first or self.n

    def member_of(self, index: int) -> PlannedMember:
        """Candidates go round the members, so that a vote stopped early has heard all of them alike."""
        return self.members[index % len(self.members)]


def make_plan(
    request: ChatRequest, members: Sequence[Member], rules: VoteRules, rights: frozenset[str], model: str
) -> Plan:
    """Raises RequestError, NotPermitted or StrategyNotApplicable for what cannot be served as asked."""
    rules = _overridden(request, rules)
    if request.n > rules.max_n or (request.its.n or 0) > rules.max_n:
        raise _too_many(request, rules.max_n)
    question = _question(request) if rules.mode == "auto" else ""  # else nobody asks for it
    if rules.mode == "off" or rules.n == 1 or not _is_vote(request, rules, question):
        return _without_vote(request, members[0], rules, rights, model)
    n = max(rules.n, request.n)
    is_auto = rules.mode == "auto" and rules.stop != "none"
    is_valid = validity_of(request.body.get("response_format")) if rules.answer == "json" else None
    samplings = [_sampling(request, member, is_vote=True) for member in members]
    planned = [
        _planned(request, member, rights, samplings[position], _share(n, position, len(members)))
        for position, member in enumerate(members)
    ]
    return Plan(
        model,
        tuple(planned),
        rules,
        n,
        request.n,
        _base_seed(request),
        _common(samplings),
        is_vote=True,
        starts_with_one=is_auto and request.n == 1 and not _expects_answer(request, rules, question),
        # Two candidates that break the client's schema are no sign of chat: the next may keep it.
        gives_up=is_auto and is_valid is None,
        is_forced=True in [asked.is_forced for asked in planned],
        reservations=_reservations(request.body, planned),
        n_first=_n_first(rules, members, n, request.n),
        is_valid=is_valid,
    )


def _without_vote(request: ChatRequest, member: Member, rules: VoteRules, rights: frozenset[str], model: str) -> Plan:
    """As many candidates as the client wants choices, nearly always one, all of the first member."""
    sampling = _sampling(request, member, is_vote=False)
    planned = _planned(request, member, rights, sampling, request.n)
    return Plan(
        model,
        (planned,),
        rules,
        request.n,
        request.n,
        _base_seed(request),
        sampling,
        is_vote=False,
        starts_with_one=False,
        gives_up=False,
        is_forced=planned.is_forced,
        reservations=_reservations(request.body, (planned,)),
    )


def sizes(plan: Plan, request: ChatRequest) -> tuple[Plan, ...]:
    """The plan, and its smaller forms down to the operator's `min_n`, in case that there is no room for it.

    Members keep equal shares; of one model's candidates an odd number votes, for an even one more would only make
    ties. Who asks for a number (`its.n`) gets it or nothing, and never fewer than the choices that it wants back.
    """
    min_n = plan.rules.min_n
    if not plan.is_vote or min_n is None or request.its.n is not None:
        return (plan,)
    n_members, least = len(plan.members), max(min_n, plan.n_choices)
    smaller = [n for n in range(plan.n - 1, least - 1, -1) if _is_balanced(n, n_members, least)]
    return (plan, *(_shrunk(plan, n) for n in smaller))


def _is_balanced(n: int, n_members: int, least: int) -> bool:
    return n % n_members == 0 if n_members > 1 else n % 2 == 1 or n == least


def _shrunk(plan: Plan, n: int) -> Plan:
    members = [planned.member for planned in plan.members]
    shares = [_share(n, position, len(members)) for position in range(len(members))]
    return replace(
        plan,
        n=n,
        n_first=_n_first(plan.rules, members, n, plan.n_choices),
        members=tuple(replace(planned, n=k) for planned, k in zip(plan.members, shares, strict=True)),
        n_requested=plan.n,
        reservations=(*plan.reservations, f"reduced n to {n}"),
    )


def mistrusting(plan: Plan) -> Plan:
    """For a request of which a layer in front says that it has rewritten the query, and is not believed."""
    return replace(plan, reservations=(*plan.reservations, "x-its-applied ignored"))


def _reservations(body: Mapping[str, Any], members: Sequence[PlannedMember]) -> tuple[str, ...]:
    reservations = ["forced"] if True in [planned.is_forced for planned in members] else []
    if _carries_tools(body):
        # They stand in a prompt that was trained with personas and without tools.
        checkpoints = [planned.member.checkpoint for planned in members]
        if any(known is not None and known.serve.strategy.family != "none" for known in checkpoints):
            reservations.append("tools")
    return tuple(reservations)


def _n_first(rules: VoteRules, members: Sequence[Member], n: int, n_choices: int) -> int:
    """The first wave; never fewer than the choices that the client asked for."""
    n_first = rules.first if rules.first is not None and rules.stop != "none" else n
    if n_first == "auto":
        weights = [members[index % len(members)].weight for index in range(n)]
        n_first = n_to_start(rules.stop, [], 0, [], weights, rules.min_agreement)
    return min(n, max(n_first, n_choices))


def _overridden(request: ChatRequest, rules: VoteRules) -> VoteRules:
    its = request.its
    kind = its.answer or (_format_kind(request, rules) if "response_format" in request.body else None)
    if kind is None and its is NOTHING_ASKED:
        return rules
    asked = (its.vote, its.n, its.stop, kind, its.min_agreement, its.on_no_answer, its.on_no_consensus)
    return _changed(rules, asked)


_ASKED = ("mode", "n", "stop", "answer", "min_agreement", "on_no_answer", "on_no_consensus")


@lru_cache(maxsize=256)
def _changed(rules: VoteRules, asked: tuple[Any, ...]) -> VoteRules:
    """Kept, because most clients ask for the same again and again. `asked`: None for what is left as it is."""
    changes = zip(_ASKED, asked, strict=True)
    return replace(rules, **{key: value for key, value in changes if value is not None})


def _format_kind(request: ChatRequest, rules: VoteRules) -> AnswerKind | None:
    """Who asks for JSON expects a vote over JSON, unless the operator or the tools in the request say otherwise."""
    if rules.is_answer_fixed or not is_json(request.body.get("response_format")):
        return None
    is_calls = rules.answer == "tool_calls" and _has_tools(request)
    return None if is_calls else "json"


def _too_many(request: ChatRequest, most: int) -> RequestError:
    param, n = ("n", request.n) if request.n > most else ("its.n", request.its.n)
    return RequestError(f"{param} is {n}, and at most {most} are allowed here", param=param, code="n_too_large")


def _expects_answer(request: ChatRequest, rules: VoteRules, question: str) -> bool:
    """By the question itself, or by what the client says about it: n, a format, a kind of answer, tools to call,
    a system prompt that asks for a box."""
    form = request.body.get("response_format")
    if request.its.n is not None or request.its.answer is not None or rules.answer == "tool_calls":
        return True
    if isinstance(form, Mapping) and form.get("type") != "text":
        return True
    return expects_answer(question) or any(map(asks_for_answer, _system_texts(request)))


def _system_texts(request: ChatRequest) -> list[str]:
    systems = [message for message in request.messages if message["role"] in ("system", "developer")]
    return [turn.text for message in systems for turn in user_turns([{**message, "role": "user"}])]


def _question(request: ChatRequest) -> str:
    turns = user_turns(request.messages)
    return turns[-1].text if turns else ""


def _is_vote(request: ChatRequest, rules: VoteRules, question: str) -> bool:
    """By rules that do not forbid it."""
    if rules.mode == "always":
        return True
    cap = client_max_tokens(request.body)
    is_tiny = cap is not None and cap <= TINY_MAX_TOKENS
    # Tools to call and a vote over calls belong together; one without the other is an agent's turn, or plain chat.
    is_calls = rules.answer == "tool_calls"
    is_vote_on_other = not _has_tools(request) if is_calls else _carries_tools(request.body)
    return not (is_vote_on_other or is_tiny or is_housekeeping(question))


def _carries_tools(body: Mapping[str, Any]) -> bool:
    """By the field's new or old name."""
    return bool(body.get("tools") or body.get("functions"))


def _has_tools(request: ChatRequest) -> bool:
    return bool(request.body.get("tools")) and request.body.get("tool_choice") != "none"


def _base_seed(request: ChatRequest) -> int:
    seed = client_seed(request.body) if "seed" in request.body else None
    return random.getrandbits(31) if seed is None else seed


def _share(n: int, position: int, n_members: int) -> int:
    return len(range(position, n, n_members))


def _planned(
    request: ChatRequest, member: Member, rights: frozenset[str], sampling: Mapping[str, Any], n: int
) -> PlannedMember:
    checkpoint = member.checkpoint
    recipe, is_forced = _recipe(request, member, rights)
    if recipe is not None and recipe.strategy.family != "none" and not is_forced:
        _refuse_own_rendering(request.body)
    max_tokens = _max_tokens(request.body, checkpoint)
    fields = dict(request.body)
    for name in fields.keys() & _OWN_FIELDS:
        del fields[name]
    fields.update(sampling)
    if max_tokens is not None:
        # Under the name that the client used.
        names = [name for name in ("max_completion_tokens", "max_tokens") if fields.get(name) is not None]
        fields.update(dict.fromkeys(names or ["max_tokens"], max_tokens))
    if recipe is not None:
        fields["messages"] = rewrite(recipe, request.messages).messages
    if checkpoint is not None and (recorded := checkpoint.chat_template_kwargs):
        # The pair's own, under whatever the client may still add.
        fields["chat_template_kwargs"] = {**recorded, **(request.body.get("chat_template_kwargs") or {})}
    body = SharedBody(Shared(fields), {"model": member.served_name})
    return PlannedMember(member, recipe.strategy.name if recipe else None, body, n, is_forced, max_tokens)


def _recipe(request: ChatRequest, member: Member, rights: frozenset[str]) -> tuple[Recipe | None, bool]:
    """The recipe to serve with, and whether it is another than the recorded pair's."""
    checkpoint = member.checkpoint
    wanted = request.its.strategy
    if checkpoint is None:
        if wanted is not None:
            raise RequestError(f"{member.name} has no manifest, so no strategy applies", param="its.strategy",
                               hint="its-proxy never guesses one")  # fmt: skip
        return None, False
    recorded = checkpoint.serve
    if wanted is None or name_from_input(wanted) == recorded.strategy.name:
        return recorded, checkpoint.is_one_sided
    if not request.its.force:
        raise RequestError(
            f"{member.name} was recorded with strategy {recorded.strategy.name!r}, not {wanted!r}",
            param="its.strategy",
            hint='add "force": true to ask anyway; the reply will be marked',
        )
    if "force" not in rights:
        raise NotPermitted("forcing a strategy is not among this key's rights", param="its.force")
    return _forced_recipe(checkpoint, wanted), True


def _forced_recipe(checkpoint: Checkpoint, wanted: str) -> Recipe:
    """The recorded recipe with another strategy; a pair without personas borrows the template personas."""
    pool = checkpoint.serve.pool or checkpoint.trained.pool or taxonomy_pool()
    strategy = strategy_asked(wanted)
    try:
        return replace(checkpoint.serve, strategy=strategy, pool=pool)
    except ManifestError as error:  # the pool lacks domains that it draws from
        raise _asked_in_vain(error) from None


def strategy_asked(wanted: str) -> Strategy:
    """The strategy that a request names, in one of its spellings. Raises RequestError."""
    try:
        return strategy_named(name_from_input(wanted))
    except ManifestError as error:
        raise _asked_in_vain(error) from None


def _asked_in_vain(error: ManifestError) -> RequestError:
    return RequestError(error.message, param="its.strategy", hint=error.hint)


def _refuse_own_rendering(body: Mapping[str, Any]) -> None:
    if _NOT_RENDERING.issuperset(body):
        return  # as nearly all are
    for key, value in body.items():
        renders = key.startswith("chat_template") and value is not None
        if renders or (key in _RENDERING and value not in (None, [], _RENDERING[key])):
            raise StrategyNotApplicable(
                f"{key} would render a prompt that the pair does not know", param=key, hint="leave it out"
            )


def _sampling(request: ChatRequest, member: Member, *, is_vote: bool) -> Mapping[str, Any]:
    """Who owns temperature and its like: the manifest for a vote (a client library's default `temperature: 0`
    would turn it into n equal answers), the client where one candidate is asked or where it insists."""
    recorded: Mapping[str, Any] = member.checkpoint.sampling if member.checkpoint is not None else {}
    if _SAMPLING.isdisjoint(request.body) and request.its.sampling != "client":
        return recorded
    own = {key: value for key in SAMPLING_FIELDS if (value := request.body.get(key)) is not None}
    if request.its.sampling == "client":
        return own
    if is_vote:
        # Wholly: a client's top_k of 1 beside the recorded temperature would make n equal answers, too.
        return recorded or own
    return {**recorded, **own}


def _common(samplings: Sequence[Mapping[str, Any]]) -> Mapping[str, Any]:
    return {} if [sampling for sampling in samplings if sampling != samplings[0]] else samplings[0]


def _max_tokens(body: Mapping[str, Any], checkpoint: Checkpoint | None) -> int | None:
    """The smaller of both sides' caps."""
    own, advised = client_max_tokens(body), checkpoint.max_tokens if checkpoint is not None else None
    return min(own, advised) if own is not None and advised is not None else own if advised is None else advised
