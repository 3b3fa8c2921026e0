"""What a request may hold and ask for: beyond it, it would cost this server or the engine, and serve nobody."""

from collections.abc import Mapping
from typing import Any

from its_proxy.codesign.errors import RequestError

MAX_FIELDS = 256
MAX_PARTS = 2048
"""Of one message."""
MAX_STOP_CHARS = 1024
# Entries of a list or object, far more than an honest request has.
MOST_ENTRIES: Mapping[str, int] = {"messages": 2048, "tools": 1024, "functions": 1024, "logit_bias": 1024, "stop": 64}


def refuse_excess(body: Mapping[str, Any]) -> None:
    """By the lengths alone, before anything looks at what is in them. Raises RequestError naming the field."""
    if len(body) > MAX_FIELDS:
        raise RequestError(f"the body has more than {MAX_FIELDS} fields")
    for name in MOST_ENTRIES.keys() & body.keys():
        value, most = body[name], MOST_ENTRIES[name]
        if isinstance(value, list | dict) and len(value) > most:
            raise RequestError(f"{name} has {len(value)} entries, and at most {most} are allowed", param=name)
    stop = body.get("stop")
    for text in () if stop is None else stop if isinstance(stop, list) else (stop,):
        if isinstance(text, str) and len(text) > MAX_STOP_CHARS:
            raise RequestError(f"stop has a text of more than {MAX_STOP_CHARS} characters", param="stop")


def refuse_many_choices(body: Mapping[str, Any], most: int) -> None:
    """Choices that the upstream itself is asked for, by either of their names. Raises RequestError."""
    for name in ("n", "best_of"):
        value = body.get(name)
        if isinstance(value, int) and value > most:
            raise RequestError(
                f"{name} is {value}, and at most {most} are allowed here", param=name, code="n_too_large"
            )


def refuse_many_tokens(n_tokens: int, most: int) -> None:
    """`n_tokens`: of all candidates together, as far as the request says. Raises RequestError."""
    if n_tokens > most:
        raise RequestError(
            f"{n_tokens} tokens are asked for, candidates times max_tokens, and at most {most} are allowed here",
            param="max_tokens",
            code="too_many_tokens",
        )
