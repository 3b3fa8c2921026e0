"""Rewriting, sampling and voting inside an `openai` client, in the caller's own process.

    from its_proxy.client import wrap

    client = wrap(openai.AsyncOpenAI(base_url="http://gpu:8000/v1"), checkpoint="Qwen-random/", model="qwen")
    await client.its.ready()                  # the handshake; raises where the server is not what its.json says
    reply = await client.chat.completions.create(model="qwen", messages=[...])
    reply.its["answer"]

A wrapped client is the caller's client with another way to send HTTP requests, so whatever becomes one, helpers and
raw responses included, comes to the same door (`door.py`).
"""

import its_proxy.client.versions  # noqa: F401  first, for one clear line instead of an AttributeError
from its_proxy.client.wrapping import AsyncWrapped, Wrapped, wrap

__all__ = ["AsyncWrapped", "Wrapped", "wrap"]
