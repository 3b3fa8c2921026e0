"""Routes of the upstream that are passed on: an allow-list, under the model's served name, replies byte for byte.

None of them goes past a strategy. A model with personas has no embeddings or scores of a text that it was never trained
to read alone; its tokenizer may be asked about texts, but not about chats, whose prompt would lack the persona.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import orjson

from its_proxy.codesign.errors import RequestError, StrategyNotApplicable
from its_proxy.exchange import Front
from its_proxy.protocol.body import read_body
from its_proxy.protocol.chat import client_max_tokens, read_model, refuse_denied
from its_proxy.protocol.limits import refuse_excess, refuse_many_tokens
from its_proxy.protocol.multipart import Form, read_form
from its_proxy.served import Served
from its_proxy.server.auth import Caller
from its_proxy.server.context import caller_of, door_of, front_of, observer_of, tenant_of, traits_of
from its_proxy.server.http.request import Request
from its_proxy.server.http.response import Response
from its_proxy.upstreams.base import applied, traced

JSON_ROUTES: Mapping[str, str] = {
    "/v1/embeddings": "embeddings",
    "/v1/rerank": "rerank",
    "/v1/score": "score",
    "/v1/audio/speech": "audio/speech",
    # Beside /v1, as vLLM has them.
    "/tokenize": "tokenize",
    "/detokenize": "detokenize",
}
"""Path here -> path at the upstream."""
FORM_ROUTES: Mapping[str, str] = {
    "/v1/audio/transcriptions": "audio/transcriptions",
    "/v1/audio/translations": "audio/translations",
}
_TOKENS = ("tokenize", "detokenize")


@dataclass(frozen=True, slots=True)
class _Passed:
    """`fields`: what a request says, of a form its texts; `renamed`: its bytes, for another name of its model."""

    path: str
    content_type: str
    fields: Mapping[str, Any]
    renamed: Callable[[str], bytes]


async def pass_json(request: Request) -> Response:
    caller = caller_of(request)
    body = read_body(await request.read())
    refuse_excess(body)
    refuse_many_tokens(client_max_tokens(body) or 0, request.context.settings.max_request_tokens)
    path = JSON_ROUTES[request.path]
    return await _pass(
        request, caller, _Passed(path, "application/json", body, lambda name: orjson.dumps({**body, "model": name}))
    )


async def pass_form(request: Request) -> Response:
    caller = caller_of(request)
    content_type = request.header(b"content-type") or ""
    form = read_form(await request.read(), content_type)
    passed = _Passed(FORM_ROUTES[request.path], content_type, _texts(form), lambda name: form.with_text("model", name))
    return await _pass(request, caller, passed)


def _texts(form: Form) -> dict[str, Any]:
    """By name; of the files their names alone."""
    return {name: form.text(name) for name in form.names}


async def _pass(request: Request, caller: Caller, passed: _Passed) -> Response:
    fields = passed.fields
    refuse_denied(fields)
    if "its" in fields:
        raise RequestError("this route neither rewrites nor votes", param="its", hint="use /v1/chat/completions")
    door = door_of(request, caller, caller.salt(tenant_of(request, caller, fields)))
    served, overrides = await request.context.catalog.resolve(read_model(fields), traits_of(fields, caller, None))
    request.model = served.name
    if overrides:
        raise RequestError("this route knows no model suffix", param="model", hint="use /v1/chat/completions")
    served.require_serving()
    front = front_of(request, caller)
    _refuse_strategy(passed, served, front)
    [member] = served.members()
    served.require_open()
    async with door.admitted([1]):
        call = observer_of(request).call(member, operation=passed.path)  # one of a closed set
        with call as calling, applied(front.mark), traced(calling.traceparent):
            data = passed.renamed(member.served_name)
            reply = await member.upstream.forward("POST", passed.path, data, passed.content_type)
    return Response(reply.body, reply.status, reply.content_type)


def _refuse_strategy(passed: _Passed, served: Served, front: Front) -> None:
    is_rewritten = front.has_applied(served)
    if served.is_ensemble:
        raise StrategyNotApplicable(f"{served.name} is several models", param="model", hint="ask one of them")
    has_personas = served.checkpoint is not None and served.checkpoint.serve.strategy.family != "none"
    if not has_personas or is_rewritten:
        return
    if passed.path not in _TOKENS:
        raise StrategyNotApplicable(
            f"{served.name} is asked through its strategy, which needs chat messages",
            param="model", hint="use /v1/chat/completions",
        )  # fmt: skip
    if "messages" in passed.fields:
        raise StrategyNotApplicable(
            f"the prompt of {served.name} holds a persona as well", param="messages",
            hint='/v1/chat/completions shows it: "its": {"explain": true}',
        )  # fmt: skip
