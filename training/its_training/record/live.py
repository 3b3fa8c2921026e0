"""Measures a derivative through the server that serves it: AWQ, GPTQ or FP8 weights that only its kernels compute with.

logprobs = asyncio.run(served_logprobs(Server("http://gpu:8000/v1", "qwen-awq"), probes, {}))
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from its_proxy.codesign.errors import BadPayload, ConfigError, UpstreamRejected
from its_proxy.codesign.manifest import Probe
from its_proxy.evidence import scored_tokens
from its_proxy.probes import ask_logprobs, ask_tokens
from its_proxy.upstreams.http import HttpUpstream
from its_training.record.probes import Show, told


@dataclass(frozen=True, slots=True)
class Server:
    """A vLLM server, and its name for the model. `key` goes into no file and no message."""

    url: str
    served_name: str
    key: str | None = None


async def served_logprobs(
    server: Server, probes: Sequence[Probe], template_kwargs: Mapping[str, Any], show: Show
) -> list[list[float]]:
    """What the server gives each probe's tokens, each asked once and alone.

    Raises ConfigError where it renders other tokens or shows too little, UpstreamError where it is not there.
    """
    upstream = HttpUpstream(server.url, server.url, key=server.key)
    try:
        cards = await upstream.models()
        if not any(card.get("id") == server.served_name for card in cards):
            listed = ", ".join(ascii(card.get("id"))[:80] for card in cards[:8]) or "nothing"
            raise ConfigError(f"the upstream lists no model {server.served_name!r}", hint=f"it lists {listed}")
        with show(f"probes of {server.served_name}") as advance:
            return [
                await _logprobs(upstream, server.served_name, probe, number, template_kwargs)
                for number, probe in enumerate(told(probes, advance))
            ]
    finally:
        await upstream.close()


async def _logprobs(
    upstream: HttpUpstream, served_name: str, probe: Probe, number: int, template_kwargs: Mapping[str, Any]
) -> list[float]:
    kwargs = {"chat_template_kwargs": dict(template_kwargs)} if template_kwargs else {}
    body = {"model": served_name, "messages": probe.messages, **kwargs}
    try:
        tokens, _ = await ask_tokens(upstream, body, number)
        if tokens is None:
            raise ConfigError("the upstream shows no tokens", hint="vLLM does; is something else in front of it?")
        if tokens != probe.prompt_token_ids:
            raise ConfigError(
                f"the upstream renders probe {number} to other tokens than recorded",
                hint="its tokenizer or chat template is another one: this is another model, not a derivative",
            )
        return [round(value, 4) for value in await ask_logprobs(upstream, served_name, scored_tokens(probe))]
    except (UpstreamRejected, BadPayload) as error:
        raise ConfigError(f"probe {number} was refused: {error.message}", hint=error.hint) from None
    except ValueError as error:
        raise ConfigError(f"probe {number}: the upstream sent {error}", hint="vLLM has prompt_logprobs") from None
