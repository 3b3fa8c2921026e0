"""What the server's routes take and tell, as an OpenAPI 3.1 description: `docs/openapi.json`, written by `make schema`.

It says what its-proxy itself checks or promises. Whatever else a request holds is forwarded to the upstream as it is,
and what else a reply holds is the upstream's, so both stay open to more fields.
"""

from typing import Any, TypeAlias

from its_proxy import __version__
from its_proxy.protocol.chat import DENIED
from its_proxy.protocol.its import definitions
from its_proxy.protocol.limits import MAX_FIELDS, MAX_PARTS, MOST_ENTRIES
from its_proxy.server.passed import FORM_ROUTES, JSON_ROUTES

Json: TypeAlias = dict[str, Any]

_REFS = "#/components/schemas/{model}"
_TEXT: Json = {"type": "string"}
_POSITIVE: Json = {"type": ["integer", "null"], "minimum": 1}
_ITS_HEADERS = ("x-its-pair", "x-its-votes", "x-its-agreement", "x-its-degraded")
_HEADERS = {
    "x-request-id": "The client's own id where it is harmless (64 letters, digits, `-` or `_`), else a fresh one.",
    "x-its-pair": "The first 16 characters of the pair id, of every member of an ensemble.",
    "x-its-votes": "valid/received/requested candidates.",
    "x-its-agreement": "The winner's share of the valid candidates.",
    "x-its-degraded": "What is not as it was trained or asked: lost candidates, a forced strategy, the deadline.",
    "Retry-After": "Whole seconds, jittered.",
    "WWW-Authenticate": "`Bearer`.",
    "x-should-retry": "`false` where asking again only costs.",
}
_REFUSALS = {
    400: "The request cannot be served as asked; `param` names the field.",
    401: "No API key, or an unknown one.",
    403: "An override that this key may not use.",
    404: "No such model.",
    408: "The body did not arrive in time.",
    413: "The body is too large.",
    415: "A compressed body.",
    422: "No vote: `no_vote` or `no_consensus`, where the request insists on one.",
    429: "Too many requests, here or at the upstream.",
    500: "A defect of its-proxy.",
    502: "The upstream failed, or answered what is no reply.",
    503: "Not served now: pending, mismatched, busy, or too many clients.",
    504: "The upstream, or the deadline, was not met.",
}
_UPSTREAMS_OWN = {"4XX": "The upstream's own status, kept.", "5XX": "The upstream's own status, kept."}
_OF_HEADERS = (429, 503)


def description() -> Json:
    """The whole document."""
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "its-proxy",
            "version": __version__,
            "summary": "An OpenAI-compatible proxy that applies a checkpoint's recorded input strategy, and votes.",
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "servers": [{"url": "http://127.0.0.1:8080"}],
        "security": [{"key": []}],
        "paths": _paths(),
        "components": {
            "securitySchemes": {"key": {"type": "http", "scheme": "bearer", "description": "Where keys are set."}},
            "headers": {name: {"description": text, "schema": _TEXT} for name, text in _HEADERS.items()},
            "schemas": _schemas(),
        },
    }


def _paths() -> Json:
    name = {"name": "name", "in": "path", "required": True, "schema": {"$ref": _REFS.format(model="ModelName")}}
    return {
        "/v1/chat/completions": {"post": _asking("chat completion", "ChatRequest", "ChatReply", is_streamed=True)},
        "/v1/responses": {"post": _asking("response", "ResponsesRequest", "OpenObject", is_streamed=True)},
        "/v1/completions": {
            "post": _asking("text completion", "CompletionRequest", "CompletionReply", is_streamed=True)
        },
        **{path: {"post": _passing(path)} for path in (*JSON_ROUTES, *FORM_ROUTES)},
        "/v1/models": {"get": _reading("every name that may be asked for", "ModelList", [401])},
        "/v1/models/{name}": {"get": {**_reading("one model", "Model", [401, 404]), "parameters": [name]}},
        "/metrics": {
            "get": {
                "summary": "Prometheus metrics",
                "operationId": "metrics",
                "responses": {"200": _reply("The exposition.", {"text/plain": {"schema": _TEXT}}), **_errors([401])},
            }
        },
        "/playground": {"get": _page("playground", "text/html")},
        "/playground/{name}": {
            "get": {
                **_page("playground_file", "*/*"),
                "parameters": [{"name": "name", "in": "path", "required": True, "schema": _TEXT}],
            }
        },
        **{path: {"get": _open(path)} for path in ("/livez", "/health", "/readyz")},
    }


def _asking(what: str, asked: str, told: str, *, is_streamed: bool = False) -> Json:
    """A route that reaches an upstream."""
    content: Json = {"application/json": {"schema": {"$ref": _REFS.format(model=told)}}}
    if is_streamed:
        content["text/event-stream"] = {}
    return {
        "summary": f"One {what}",
        "operationId": asked.removesuffix("Request").lower(),
        "parameters": [
            {"name": "x-request-id", "in": "header", "schema": _TEXT},
            {"name": "x-its-applied", "in": "header", "schema": _TEXT,
             "description": "The pair that a trusted layer in front has applied."},
        ],
        "requestBody": {
            "required": True,
            "content": {"application/json": {"schema": {"$ref": _REFS.format(model=asked)}}},
        },
        "responses": {
            "200": _reply("The reply.", content, _ITS_HEADERS if is_streamed else ()),
            **_errors(_REFUSALS),
            **{status: _error(text) for status, text in _UPSTREAMS_OWN.items()},
        },
    }  # fmt: skip


def _passing(path: str) -> Json:
    """A route that is passed on: what it answers is the upstream's."""
    name = path.removeprefix("/v1/").replace("/", "_")
    is_form = path in FORM_ROUTES
    asked = "Upload" if is_form else "EmbeddingRequest" if name == "embeddings" else "PassedRequest"
    described = _asking(f"{name.replace('_', ' ')}, passed on", asked, "OpenObject")
    taken = {"multipart/form-data" if is_form else "application/json": {"schema": {"$ref": _REFS.format(model=asked)}}}
    return {**described, "operationId": name, "requestBody": {"required": True, "content": taken}}


def _reading(what: str, told: str, statuses: list[int]) -> Json:
    content = {"application/json": {"schema": {"$ref": _REFS.format(model=told)}}}
    return {
        "summary": what.capitalize(),
        "operationId": told.lower(),
        "responses": {"200": _reply("The reply.", content), **_errors(statuses)},
    }


def _open(path: str) -> Json:
    """Without a key, and good for a connection beyond the limit."""
    content = {"application/json": {"schema": {"$ref": _REFS.format(model="Status")}}}
    told = {"200": _reply("Yes.", content)} | ({"503": _reply("No.", content)} if path == "/readyz" else {})
    return {"summary": f"Is it {path[1:]}?", "operationId": path[1:], "security": [], "responses": told}


def _page(name: str, media_type: str) -> Json:
    """Without a key: it holds nothing."""
    told = {"200": _reply("A file as it is in the package.", {media_type: {}}), **_errors([404])}
    return {"summary": "The playground, or a file of it", "operationId": name, "security": [], "responses": told}


def _errors(statuses: Any) -> Json:
    """Every route may also meet a request that is none (400), a full house (503), or a defect (500)."""
    return {str(status): _error(_REFUSALS[status], status) for status in sorted({400, 500, 503, *statuses})}


def _error(text: str, status: int = 0) -> Json:
    content = {"application/json": {"schema": {"$ref": _REFS.format(model="Error")}}}
    headers = ["x-should-retry"] + ["Retry-After"] * (status in _OF_HEADERS) + ["WWW-Authenticate"] * (status == 401)
    return _reply(text, content, headers)


def _reply(text: str, content: Json, headers: Any = ()) -> Json:
    names = ("x-request-id", *headers)
    return {
        "description": text,
        "headers": {name: {"$ref": f"#/components/headers/{name}"} for name in names},
        "content": content,
    }


# -- schemas -----------------------------------------------------------------------------------------------------------


def _schemas() -> Json:
    return {
        **definitions(_REFS),
        "ModelName": {**_TEXT, "minLength": 1, "description": "As `/v1/models` lists it, or with a suffix: `:its-8`."},
        "ChatRequest": _chat_request(),
        "Message": _message(),
        "ResponsesRequest": _responses_request(),
        "CompletionRequest": _completion_request(),
        "PassedRequest": _request({}, []),
        "Upload": _request({"file": {"type": "string", "format": "binary"}}, []),
        "EmbeddingRequest": _request({"input": {"description": "Text, token ids, or a list of either."}}, ["input"]),
        "CompletionReply": {"oneOf": [{"$ref": _REFS.format(model=name)} for name in ("TextCompletion", "Plan")]},
        "TextCompletion": _text_completion(),
        "ChatReply": {"oneOf": [{"$ref": _REFS.format(model=name)} for name in ("ChatCompletion", "Plan")]},
        "ChatCompletion": _chat_completion(),
        "Plan": _object({"object": {"const": "its.plan"}, "model": _TEXT, "n": {"type": "integer"}}, closed=False),
        "Model": _object({"id": _TEXT, "object": {"const": "model"}, "created": {"type": "integer"},
                          "owned_by": _TEXT, "its": {"type": "object"}}, closed=False),
        "ModelList": _object({"object": {"const": "list"},
                              "data": {"type": "array", "items": {"$ref": _REFS.format(model="Model")}}}),
        "Status": _object({"status": {"enum": ["alive", "ready", "not ready"]}}, closed=False),
        "OpenObject": {"type": "object"},
        "Error": _object({"error": _object({"message": _TEXT, "type": _TEXT, "param": {"type": ["string", "null"]},
                                            "code": {"type": ["string", "null"]}})}),
    }  # fmt: skip


def _object(properties: Json, *, closed: bool = True) -> Json:
    more = {"additionalProperties": False} if closed else {}
    return {"type": "object", "properties": properties, "required": list(properties), **more}


def _request(properties: Json, required: list[str]) -> Json:
    denied = "|".join([*DENIED, "kv_.*", ".*_transfer_params"])
    return {
        "type": "object",
        "properties": {"model": {"$ref": _REFS.format(model="ModelName")}, **properties},
        "required": ["model", *required],
        "patternProperties": {f"^(?:{denied})$": False},
        "maxProperties": MAX_FIELDS,
    }


def _chat_request() -> Json:
    its = {"anyOf": [{"$ref": _REFS.format(model="ItsRequest")}, {"type": "null"}]}
    messages = {"type": "array", "minItems": 1, "maxItems": MOST_ENTRIES["messages"],
                "items": {"$ref": _REFS.format(model="Message")}}  # fmt: skip
    fields: Json = {
        "messages": messages,
        "stream": {"type": ["boolean", "null"]},
        "stream_options": {"type": ["object", "null"], "properties": {"include_usage": {"type": ["boolean", "null"]}}},
        "n": _POSITIVE,
        "max_tokens": _POSITIVE,
        "max_completion_tokens": _POSITIVE,
        "seed": {"type": ["integer", "null"], "minimum": -(2**62), "maximum": 2**62 - 1},
        "chat_template_kwargs": {"type": ["object", "null"]},
        "its": its,
    }
    return _request(fields, ["messages"])


def _completion_request() -> Json:
    fields: Json = {
        "prompt": {"type": ["string", "array"], "minItems": 1, "description": "Text, token ids, or a list of either."},
        "stream": {"type": ["boolean", "null"]},
        "n": _POSITIVE,
        "max_tokens": _POSITIVE,
        "its": {"anyOf": [{"$ref": _REFS.format(model="ItsRequest")}, {"type": "null"}]},
    }
    return _request(fields, ["prompt"])


def _message() -> Json:
    parts = {"type": "array", "maxItems": MAX_PARTS, "items": {"type": "object"}}
    content = {"anyOf": [_TEXT, parts, {"type": "null"}]}
    return {"type": "object", "properties": {"role": _TEXT, "content": content}, "required": ["role"]}


def _responses_request() -> Json:
    items = {"type": "array", "minItems": 1, "items": {"type": "object"}}
    fields: Json = {
        "input": {"anyOf": [_TEXT, items]},
        "instructions": {"type": ["string", "null"]},
        "stream": {"type": ["boolean", "null"]},
        "max_output_tokens": _POSITIVE,
        "its": {"anyOf": [{"$ref": _REFS.format(model="ItsRequest")}, {"type": "null"}]},
    }
    return _request(fields, ["input"])


def _chat_completion() -> Json:
    choice = _object({"index": {"type": "integer"}, "message": {"type": "object"}}, closed=False)
    fields = {"id": _TEXT, "object": {"const": "chat.completion"}, "created": {"type": "integer"}, "model": _TEXT,
              "choices": {"type": "array", "minItems": 1, "items": choice}}  # fmt: skip
    document = _object(fields, closed=False)
    document["properties"]["its"] = {"$ref": _REFS.format(model="ItsReply")}
    return document


def _text_completion() -> Json:
    choice = _object({"index": {"type": "integer"}, "text": _TEXT}, closed=False)
    fields = {"object": {"const": "text_completion"}, "choices": {"type": "array", "minItems": 1, "items": choice}}
    document = _object(fields, closed=False)
    document["properties"]["its"] = {"$ref": _REFS.format(model="ItsReply")}
    return document
