"""`wrap`: a copy of the caller's client whose chat completions are rewritten, sampled and voted on."""

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeAlias, TypeVar, overload

import openai

from its_proxy.background import BackgroundLoop
from its_proxy.checkpoint import Checkpoint, open_checkpoint
from its_proxy.client.door import NO_REPLY, Door, past_strategy
from its_proxy.client.transports import async_http, sync_http
from its_proxy.client.upstream import ClientUpstream
from its_proxy.codesign.errors import ConfigError
from its_proxy.served import Served, check_vote, ensemble_of
from its_proxy.service import MAX_N, served_at

_Client = TypeVar("_Client", "AsyncWrapped", "Wrapped")
Checkpoints: TypeAlias = str | Path | Mapping[str, str | Path]
"""One checkpoint's folder, its its.json or its bundle; or, for an ensemble, each member's by its name at the server."""


class AsyncIts:
    """What a wrapped client has beside `openai`'s own: `client.its`."""

    def __init__(self, door: Door) -> None:
        self._door = door

    async def ready(self) -> None:
        """Proves the checkpoint against the live server. Raises ItsError where they disagree, or it is away."""
        await self._door.ready()


class Its:
    """The same for a client that blocks."""

    def __init__(self, door: Door, background: BackgroundLoop) -> None:
        self._door = door
        self._background = background

    def ready(self) -> None:
        """As `AsyncIts.ready`."""
        self._background.run(self._door.ready())


def _asks_past_chat(name: str) -> Any:
    """A part of a client that asks by other routes, or by no HTTP request at all."""

    def find(client: Any) -> Any:
        if client._door.has_strategy:
            raise past_strategy(f"client.{name}")
        return getattr(super(type(client)._wrapped, client), name)

    return property(find)


class AsyncWrapped(openai.AsyncOpenAI):
    """A wrapped AsyncOpenAI."""

    its: AsyncIts
    _door: Door
    _wrapped: type

    beta = _asks_past_chat("beta")
    realtime = _asks_past_chat("realtime")
    responses = _asks_past_chat("responses")

    async def request(self, *args: Any, **options: Any) -> Any:
        with _as_openai_tells():
            return await super().request(*args, **options)

    def copy(self, **options: Any) -> "AsyncWrapped":
        return _still_wrapped(self, super().copy, options)

    with_options = copy


class Wrapped(openai.OpenAI):
    """A wrapped OpenAI."""

    its: Its
    _door: Door
    _wrapped: type

    beta = _asks_past_chat("beta")
    realtime = _asks_past_chat("realtime")
    responses = _asks_past_chat("responses")

    def request(self, *args: Any, **options: Any) -> Any:
        with _as_openai_tells():
            return super().request(*args, **options)

    def copy(self, **options: Any) -> "Wrapped":
        return _still_wrapped(self, super().copy, options)

    with_options = copy


AsyncWrapped._wrapped, Wrapped._wrapped = AsyncWrapped, Wrapped


@overload
def wrap(
    client: openai.AsyncOpenAI,
    *,
    checkpoint: Checkpoints,
    model: str | None = None,
    vote: Mapping[str, Any] = {},
    max_n: int = MAX_N,
) -> AsyncWrapped: ...
@overload
def wrap(
    client: openai.OpenAI,
    *,
    checkpoint: Checkpoints,
    model: str | None = None,
    vote: Mapping[str, Any] = {},
    max_n: int = MAX_N,
    async_client: openai.AsyncOpenAI | None = None,
) -> Wrapped: ...
def wrap(
    client: openai.OpenAI | openai.AsyncOpenAI,
    *,
    checkpoint: Checkpoints,
    model: str | None = None,
    vote: Mapping[str, Any] = {},
    max_n: int = MAX_N,
    async_client: openai.AsyncOpenAI | None = None,
) -> Any:
    """The client with votes in its chat completions; closing it closes the one it was made of.

    `model`: its name at the server; left out, the only one there. For an ensemble, the name that it is asked by.
    `vote`: what overrides the manifest's advice ({"n": 4}). `async_client`: what candidates of a client that blocks
    are asked by, where it has an HTTP client of the caller's own.
    Raises the ManifestError family, and ConfigError for what cannot be wrapped so.
    """
    if isinstance(client, AsyncWrapped | Wrapped):
        raise ConfigError("this client is wrapped already", hint="wrap the client that it was made of")
    check_vote("vote", vote)
    opened = _open(checkpoint)
    candidates = client if isinstance(client, openai.AsyncOpenAI) else async_client or _twin(client)
    if candidates.base_url != client.base_url:
        raise ConfigError(f"async_client asks {candidates.base_url}, and the client {client.base_url}")
    upstream = ClientUpstream(candidates)

    def serve(name: str) -> Served:
        named = {name: opened} if isinstance(opened, Checkpoint) else opened
        members = [served_at(upstream, member, at, vote=vote, max_n=max_n) for member, at in named.items()]
        weights = [1] * len(members)
        return members[0] if len(members) == 1 else ensemble_of(name, members, weights, n=vote.get("n"), max_n=max_n)

    door = Door(upstream, serve, _public_name(opened, model), has_strategy=_has_strategy(opened))
    if isinstance(client, openai.AsyncOpenAI):
        return _wrapped(client, AsyncWrapped, async_http(client, door), door, AsyncIts(door))
    background = BackgroundLoop("its_proxy.client")
    return _wrapped(client, Wrapped, sync_http(client, door, background, candidates), door, Its(door, background))


def _open(checkpoint: Checkpoints) -> Checkpoint | dict[str, Checkpoint]:
    if isinstance(checkpoint, str | Path):
        return open_checkpoint(Path(checkpoint))
    if not checkpoint:
        raise ConfigError("no checkpoint", hint="wrap(..., checkpoint=FOLDER), the one that holds its.json")
    return {name: open_checkpoint(Path(path)) for name, path in checkpoint.items()}


def _public_name(opened: Checkpoint | Mapping[str, Checkpoint], model: str | None) -> str | None:
    if isinstance(opened, Checkpoint) or model is not None:
        return model
    if len(opened) > 1:
        raise ConfigError("an ensemble needs a name to be asked by", hint="wrap(..., model=NAME)")
    return next(iter(opened))


def _has_strategy(opened: Checkpoint | Mapping[str, Checkpoint]) -> bool:
    checkpoints = [opened] if isinstance(opened, Checkpoint) else opened.values()
    return any(checkpoint.serve.strategy.family != "none" for checkpoint in checkpoints)


def _wrapped(client: Any, base: type, http_client: Any, door: Door, its: AsyncIts | Its) -> Any:
    """A copy of the client, of a class of its own below the client's: an AzureOpenAI stays one."""
    wrapped = client.copy(http_client=http_client)
    wrapped.__class__ = type(type(client).__name__, (base, type(client)), {})
    wrapped._door, wrapped.its = door, its
    return wrapped


def _still_wrapped(client: _Client, copy: Callable[..., Any], options: Mapping[str, Any]) -> _Client:
    if options.get("http_client") is not None:
        hint = "wrap a client that has it already"
        raise ConfigError("another HTTP client would ask plain queries", hint=hint)
    copied: _Client = copy(**options)
    copied._door, copied.its = client._door, client.its
    return copied


def _twin(client: openai.OpenAI) -> openai.AsyncOpenAI:
    """What asks for the candidates of a client that blocks: in a loop of its own, so that each can be cancelled."""
    has_own_http = type(client._client).__name__ != "SyncHttpxClientWrapper"
    has_own_auth = any(getattr(client, name, None) is not None for name in ("_provider", "workload_identity"))
    if type(client) is not openai.OpenAI or has_own_http or has_own_auth:
        raise ConfigError(
            "this client's class, HTTP client or credentials cannot be carried over to one that does not block",
            hint="wrap(..., async_client=openai.AsyncOpenAI(...)) with the same settings",
        )
    return openai.AsyncOpenAI(
        # Candidates carry the key of the caller's request; this one is for the handshake.
        api_key=_awaited(client._api_key_provider) if client._api_key_provider else client.api_key,
        organization=client.organization,
        project=client.project,
        base_url=client.base_url,
        timeout=client.timeout,
        default_headers=client._custom_headers,
        default_query=client._custom_query,
    )


def _awaited(key: Callable[[], str]) -> Callable[[], Awaitable[str]]:
    async def fresh() -> str:
        return await asyncio.to_thread(key)

    return fresh


@contextmanager
def _as_openai_tells() -> Iterator[None]:
    """What would have been no reply at all without the wrap is none with it."""
    try:
        yield
    except openai.APIStatusError as error:
        no_reply = error.response.headers.get(NO_REPLY)
        if no_reply == "timeout":
            raise openai.APITimeoutError(request=error.request) from error
        if no_reply == "connection":
            raise openai.APIConnectionError(message=error.message, request=error.request) from error
        raise
