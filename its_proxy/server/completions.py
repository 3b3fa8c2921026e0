"""`POST /v1/completions`: voted on where the model's strategy is `none`, passed on where it has no manifest."""

from dataclasses import replace

from its_proxy.codesign.errors import StrategyNotApplicable
from its_proxy.exchange import Front
from its_proxy.plan import Member, strategy_asked
from its_proxy.protocol.body import read_body
from its_proxy.protocol.chat import ChatRequest, client_max_tokens
from its_proxy.protocol.completions import may_be_voted, n_asked, read_completion
from its_proxy.protocol.limits import refuse_many_choices, refuse_many_tokens
from its_proxy.served import Served
from its_proxy.server.chat import Asked, converse
from its_proxy.server.context import caller_of
from its_proxy.server.dialect import TextDialect
from its_proxy.server.http.request import Request
from its_proxy.server.http.response import Response, Stream
from its_proxy.settings import Settings
from its_proxy.upstreams.texts import TextUpstream


async def completions(request: Request) -> Response | Stream:
    caller = caller_of(request)
    chat = read_completion(read_body(await request.read()))
    _refuse_costly(chat, request.context.settings)
    request.dialect = TextDialect()
    return await converse(request, caller, chat, as_text)


def as_text(chat: ChatRequest, asked: Asked, front: Front) -> Asked:
    """The model as a prompt asks it. Raises StrategyNotApplicable where personas would have to be added to it."""
    served, members = asked
    if served.checkpoint is None or front.has_applied(served):
        return asked
    for member in members:
        _refuse_strategy(chat, served, member)
    if may_be_voted(chat.body):
        rules = replace(served.rules, usage_policy="reported")  # counting along reads the events of a chat
        return replace(served, rules=rules), [replace(m, upstream=TextUpstream(m.upstream)) for m in members]
    if served.is_ensemble:
        raise StrategyNotApplicable(
            f"{served.name} votes over one prompt, as a text", param="prompt", hint="ask one of its members"
        )
    # Several prompts, tokens, echoes and the like are no query to vote on: they go on as they came.
    return replace(served, models=tuple(replace(model, checkpoint=None) for model in served.models)), members


def _refuse_strategy(chat: ChatRequest, served: Served, member: Member) -> None:
    recorded = member.checkpoint.serve.strategy if member.checkpoint is not None else None
    wanted = chat.its.strategy
    strategy = strategy_asked(wanted) if wanted is not None else recorded
    if strategy is not None and strategy.family != "none":
        raise StrategyNotApplicable(
            f"{served.name} is asked through its strategy, which needs chat messages",
            param="model", hint="use /v1/chat/completions",
        )  # fmt: skip


def _refuse_costly(chat: ChatRequest, settings: Settings) -> None:
    refuse_many_choices(chat.body, settings.max_n)
    refuse_many_tokens(n_asked(chat.body) * (client_max_tokens(chat.body) or 0), settings.max_request_tokens)
