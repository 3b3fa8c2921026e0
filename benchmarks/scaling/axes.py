"""What is made larger, one thing at a time, and what is asked at each size."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Any

from its_proxy.codesign import taxonomy
from its_proxy.codesign.personas import Persona, pool_jsonl, taxonomy_pool
from tests.scripted import Say
from tests.serving import manifest, side, write_checkpoint

QUERY = "Ann has 12 apples and buys 30 more at the market. How many apples are there now? "
POOL_SIZES = (10, 100, 1_000, 10_000, 100_000)
VOTE = {"n": 8, "temperature": 0.8, "top_p": 0.95, "max_tokens": 32_768, "answer": "boxed", "stop": "exact"}
Settings = dict[str, Any]


@dataclass(frozen=True)
class Ask:
    """One request: a chat with these fields, or a GET of `path`."""

    fields: Mapping[str, Any] = field(default_factory=dict)
    path: str | None = None
    key: str | None = None


@dataclass(frozen=True)
class Axis:
    """`settings` of a server whose models stand at the URL; `lines`: what is asked at a size, None where it cannot be.

    `is_built_once`: the server is the same at every size. `most_counted`: the largest whose steps are
    counted, which takes many times longer than running.
    """

    name: str
    unit: str
    sizes: Sequence[int]
    settings: Callable[[Path, str, int], Settings]
    lines: Mapping[str, Callable[[int], Ask | None]]
    is_built_once: bool = True
    most_counted: int | None = None


def answer(body: dict[str, Any], number: int) -> Say:
    """As many words as `max_tokens`, the last one the answer; a handshake's probe gets what it is for."""
    if body.get("return_token_ids"):
        return Say("x", finish_reason="length")
    n_tokens = int(body.get("max_tokens") or 10)
    return Say("word " * (n_tokens - 1) + "\\boxed{7}", completion_tokens=n_tokens)


def chat(content: str | None = None, model: str = "random", n_tokens: int = 10, **fields: Any) -> Ask:
    messages = [{"role": "user", "content": QUERY if content is None else content}]
    its = {} if model == "plain" else {"its": {"vote": "off"}}
    return Ask({"model": model, "messages": messages, "max_tokens": n_tokens, **its, **fields})


def vote(n: int, content: str | None = None, **fields: Any) -> Ask:
    """All n are asked and none is cancelled: the stop rule would make the cost a matter of luck."""
    return chat(content, its={"n": n, "vote": "always", "stop": "none"}, **fields)


def long_query(n_bytes: int) -> str:
    return (QUERY * (1 + n_bytes // len(QUERY)))[:n_bytes]


def history(n_turns: int, model: str) -> Ask:
    earlier = [
        message
        for n in range(n_turns - 1)
        for message in ({"role": "user", "content": f"{n}: {QUERY}"}, {"role": "assistant", "content": QUERY})
    ]
    asked = chat(model=model)
    return Ask({**asked.fields, "messages": [*earlier, {"role": "user", "content": QUERY}]})


def three_models(folder: Path, url: str, size: int) -> Settings:
    """`random` and `dissimilar` with the template personas, and `plain` without a manifest."""
    models = {name: {"upstream": "gpu", "served_name": "model", "checkpoint": str(_written(folder, name))}
              for name in ("random", "dissimilar")}  # fmt: skip
    plain = {"upstream": "gpu", "served_name": "model"}
    return {"upstreams": {"gpu": {"url": url}}, "models": {**models, "plain": plain}, "max_n": 64}


def many_models(folder: Path, url: str, size: int) -> Settings:
    checkpoint = str(_written(folder, "random"))
    models = {f"model {n}": {"upstream": "gpu", "served_name": "model", "checkpoint": checkpoint} for n in range(size)}
    return {"upstreams": {"gpu": {"url": url}}, "models": models}


def large_pool(folder: Path, url: str, size: int) -> Settings:
    """Three models that draw from one pool of this size; with fewer personas than domains only `random` can."""
    names = ("random", "similar", "dissimilar") if size > len(taxonomy.NAMES) else ("random",)
    data = pool_jsonl(personas(size))
    digest = {"source": "pool", "file": "its-personas.jsonl", "sha256": sha256(data).hexdigest()}
    models = {}
    for name in names:
        both = side(name, personas={**digest, "domains": taxonomy.VERSION})
        pair = {"trained_with": both, "serve_with": both}
        checkpoint = write_checkpoint(folder / f"{name} {size}", manifest(name, pair=pair, probes=[], vote=VOTE))
        (checkpoint / "its-personas.jsonl").write_bytes(data)
        models[name] = {"upstream": "gpu", "served_name": "model", "checkpoint": str(checkpoint)}
    return {"upstreams": {"gpu": {"url": url}}, "models": models}


def many_keys(folder: Path, url: str, size: int) -> Settings:
    keys = [{"name": f"team {n}", "sha256": sha256(f"key-{n}".encode()).hexdigest()} for n in range(size)]
    return {**three_models(folder, url, size), "keys": keys}


def _written(folder: Path, strategy: str) -> Path:
    return write_checkpoint(folder / strategy, manifest(strategy, vote=VOTE))


def personas(n: int) -> list[Persona]:
    """The template personas over and over, each with a number, domain after domain."""
    by_domain = taxonomy_pool().by_domain
    domains = (*taxonomy.NAMES, taxonomy.GENERAL)
    return [
        Persona(f"{by_domain[domain][number // len(domains) % len(by_domain[domain])].text} ({number})", domain)
        for number in range(n)
        for domain in (domains[number % len(domains)],)
    ]


def _drawn(model: str, size: int) -> Ask | None:
    return chat(model=model) if model == "random" or size > len(taxonomy.NAMES) else None


AXES = (
    Axis("candidates", "candidates of a query", (1, 2, 4, 8, 16, 32, 64), three_models, {"vote": vote}),
    Axis(
        "prompt",
        "bytes of the query",
        (100, 1_000, 10_000, 100_000, 1_000_000),
        three_models,
        {
            "passed through": lambda size: chat(long_query(size), "plain"),
            "random": lambda size: chat(long_query(size), "random"),
            "dissimilar": lambda size: chat(long_query(size), "dissimilar"),
            "vote of 8": lambda size: vote(8, long_query(size)),
        },
    ),
    Axis(
        "answer",
        "tokens of an answer",
        (10, 100, 1_000, 10_000, 32_000),
        three_models,
        {
            "random": lambda size: chat(n_tokens=size),
            "vote of 8": lambda size: vote(8, n_tokens=size),
            "stream passed through": lambda size: chat(model="plain", n_tokens=size, stream=True),
        },
        most_counted=10_000,
    ),
    Axis(
        "models",
        "models served",
        (1, 10, 100, 500),
        many_models,
        {
            "random": lambda size: chat(model=f"model {size - 1}"),
            "GET /v1/models": lambda size: Ask(path="/v1/models"),
            "GET /readyz": lambda size: Ask(path="/readyz"),
        },
        is_built_once=False,
    ),
    Axis(
        "pool",
        "personas in the pool",
        POOL_SIZES,
        large_pool,
        {name: partial(_drawn, name) for name in ("random", "similar", "dissimilar")},
        is_built_once=False,
    ),
    Axis(
        "keys",
        "API keys",
        (1, 10, 100, 1_000, 10_000),
        many_keys,
        {"random": lambda size: Ask(chat().fields, key=f"key-{size - 1}")},
        is_built_once=False,
    ),
    Axis(
        "history",
        "user turns of a conversation",
        (1, 3, 10, 30, 100),
        three_models,
        {"passed through": lambda size: history(size, "plain"), "random": lambda size: history(size, "random")},
    ),
)
