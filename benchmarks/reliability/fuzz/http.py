"""schemathesis against a real its-proxy, by its OpenAPI description: good and bad data, every route, with a key."""

import asyncio
import json
import os
import secrets
from collections import Counter
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from math import ceil
from pathlib import Path
from typing import Any

import aiohttp

from benchmarks.proxy import Proxy, start_proxy
from benchmarks.reliability.upstream import start_upstream
from benchmarks.reliability.world import N, models
from its_proxy.checkpoint import read_manifest
from its_proxy.server.openapi import description
from tests.serving import manifest, write_checkpoint

CHECKS = (
    "not_a_server_error", "status_code_conformance", "content_type_conformance", "response_headers_conformance",
    "response_schema_conformance", "unsupported_method", "allow_header_conformance", "ignored_auth",
    "request_is_named", "errors_have_openais_shape", "streams_end",
)  # fmt: skip
HOOKS = "benchmarks.reliability.fuzz.hooks"
NAMES = ("voted", "counted", "plain", "passed", "everyone", "voted:its-3", "plain:its-off", "nobody")
EXAMPLES = 1000
"""Of each route that takes anything, in one run; the first run tries every boundary as well."""
N_FUZZED = sum("requestBody" in operation or "{" in path
               for path, item in description()["paths"].items() for operation in item.values())  # fmt: skip
"""Routes that take anything: a body, or a name in their path."""
AT_ONCE = 4
"""Runs side by side: making a case costs more than answering it."""

_FREE: dict[str, Any] = {"type": ["object", "null"]}
_TOOL = {
    "type": "object",
    "required": ["type"],
    "properties": {
        "type": {"const": "function"},
        "function": {"type": "object", "properties": {"name": {"type": "string"}}},
    },
}
# Fields that are for the upstream to refuse, and that its-proxy looks at all the same.
_LOOKED_AT: dict[str, Any] = {
    "response_format": {"type": "object", "required": ["type", "json_schema"], "properties": {
        "type": {"enum": ["json_schema", "json_object", "text"]},
        "json_schema": {"type": "object", "properties": {"name": {"type": "string"}, "schema": {
            "type": "object", "properties": {
                "type": {"enum": ["object", "array", "string"]}, "properties": _FREE, "$ref": {"type": "string"},
                "pattern": {"type": "string"}, "required": {"type": "array"}}}}}}},
    "tools": {"type": "array", "items": _TOOL},
    "stop": {"type": ["string", "array", "null"]},
    "temperature": {"type": ["number", "null"]},
    "logit_bias": _FREE,
    "user": {"type": "string"},
}  # fmt: skip
_LOOKED_AT_IN_COMPLETIONS: dict[str, Any] = {
    **{name: _LOOKED_AT[name] for name in ("response_format", "stop", "temperature", "logit_bias", "user")},
    **{name: {"type": ["boolean", "null"]} for name in ("echo", "use_beam_search")},
    **{name: {"type": ["integer", "null"]} for name in ("best_of", "prompt_logprobs", "logprobs")},
    "suffix": {"type": ["string", "null"]},
}
_LOOKED_AT_IN_PASSED: dict[str, Any] = {
    **{name: _LOOKED_AT[name] for name in ("tools", "stop", "user")},
    "its": _FREE,
    "messages": {"type": ["array", "null"]},
    "prompt": {"type": ["string", "array"]},
    "max_tokens": {"type": ["integer", "null"]},
}
_LOOKED_AT_IN_UPLOADS: dict[str, Any] = {
    name: {"type": "string"} for name in ("its", "messages", "prompt", "language", "user", "stream")
}
_LOOKED_AT_IN_RESPONSES: dict[str, Any] = {
    "text": {"type": "object", "properties": {"format": _LOOKED_AT["response_format"]}},
    "tools": _LOOKED_AT["tools"],
    "include": {"type": "array", "items": {"type": "string"}},
    "reasoning": _FREE,
    "tool_choice": {"type": ["string", "object", "null"]},
}
_ITEM = {
    "type": "object",
    "required": ["type"],
    "properties": {
        "type": {"enum": ["message", "function_call", "function_call_output", "reasoning"]},
        "role": {"enum": ["user", "assistant", "system", "developer"]},
        "content": {"type": ["string", "array"]},
        "call_id": {"type": "string"},
        "output": {"type": ["string", "array"]},
    },
}


def document(pair_id: str) -> dict[str, Any]:
    """The published description, with the names that are served here, for others would all end as 404; and with the
    fields that lead deeper into the server."""
    described = description()
    schemas = described["components"]["schemas"]
    schemas["ModelName"] = {"type": "string", "enum": list(NAMES)}
    schemas["Message"]["properties"]["role"] = {"enum": ["user", "assistant", "system", "tool"]}
    schemas["ChatRequest"]["properties"] |= _LOOKED_AT
    schemas["ResponsesRequest"]["properties"] |= _LOOKED_AT_IN_RESPONSES
    schemas["CompletionRequest"]["properties"] |= _LOOKED_AT_IN_COMPLETIONS
    for name in ("PassedRequest", "EmbeddingRequest"):
        schemas[name]["properties"] |= _LOOKED_AT_IN_PASSED
    schemas["Upload"]["properties"] |= _LOOKED_AT_IN_UPLOADS
    schemas["ResponsesRequest"]["properties"]["input"]["anyOf"][1]["items"] = _ITEM
    for item in described["paths"].values():
        for operation in item.values():
            for header in operation.get("parameters", []):
                if header["name"] == "x-its-applied":
                    header["schema"] = {"type": "string", "enum": ["", pair_id]}
            # schemathesis reads every event of a stream, and what it gets then is no longer the text described.
            operation["responses"]["200"]["content"].pop("text/event-stream", None)
            if operation.get("requestBody"):
                operation["responses"]["200"]["content"]["text/event-stream"] = {}
    return described


@asynccontextmanager
async def served(folder: Path, key: str) -> AsyncIterator[Proxy]:
    """An its-proxy whose upstream does nothing wrong: whatever goes wrong is its own doing."""
    folder.mkdir(parents=True, exist_ok=True)
    plain = {"served_name": "model", "checkpoint": str(write_checkpoint(folder / "plain", manifest("none")))}
    async with start_upstream() as upstream:
        settings = {
            "upstreams": {"gpu": {"url": upstream.url}},
            "models": {
                **{name: model for name, model in models(folder).items() if model["upstream"] == "gpu"},
                "plain": {**plain, "upstream": "gpu"},
            },
            "ensembles": {"everyone": {"members": ["voted", "counted"]}},
            "keys": [{"name": "fuzz", "env": "ITS_FUZZ_KEY", "rights": ["force", "explain", "candidates", "front"]}],
            "max_n": N,
            "log_level": "error",
        }
        program = ("benchmarks.reliability.fuzz.watched", "--stalls", str(folder / "stalls.json"))
        async with start_proxy(settings, folder, {"ITS_FUZZ_KEY": key}, program) as proxy:
            await _until_served(proxy, key)
            yield proxy


async def _until_served(proxy: Proxy, key: str) -> None:
    async with aiohttp.ClientSession(headers={"Authorization": f"Bearer {key}"}) as http, asyncio.timeout(30):
        while True:
            async with http.get(f"{proxy.url}/models") as reply:
                if "pending" not in await reply.text():
                    return
            await asyncio.sleep(0.05)


async def fuzz(environment: Path, folder: Path, n_cases: int) -> dict[str, Any]:
    """Runs with the seeds 1, 2, ... until there are so many cases; what is in `folder` already counts.

    `environment` holds schemathesis. The figures, and under `findings` what any check complained of.
    """
    key = secrets.token_urlsafe()
    runs: list[dict[str, Any]] = []
    n_examples = min(EXAMPLES, n_cases // 20)
    async with served(folder / "server", key) as proxy:
        (folder / "openapi.json").write_text(json.dumps(document(_pair_id(folder / "server"))))
        room = asyncio.Semaphore(AT_ONCE)

        async def ran(seed: int) -> dict[str, Any]:
            async with room:
                return await _ran(environment, folder, proxy, key, seed, n_examples)

        while (n_missing := n_cases - sum(sum(run["counts"].values()) for run in runs)) > 0:
            n_runs = ceil(n_missing / (N_FUZZED * n_examples))
            runs += await asyncio.gather(*(ran(len(runs) + 1 + number) for number in range(n_runs)))
    return _figures(runs)


def _figures(runs: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    total: Counter[str] = Counter()
    for run in runs:
        total.update(run["counts"])
    statuses = {what.partition("/")[2].partition(" ")[2] for what in total}
    by_status = {
        status: sum(n for what, n in total.items() if what.endswith(f" {status}")) for status in sorted(statuses)
    }
    findings = [finding for run in runs for finding in run["findings"]]
    return {
        "requests": total.total(),
        "5xx": sum(n for status, n in by_status.items() if status.startswith("5")),
        "without a reply": by_status.get("no reply", 0),
        "complaints of a check": len(findings),
        "longest on the event loop, ms of processor time": max(run["stalls"]["worst_busy_ms"] for run in runs),
        "replies over 100 ms on the clock": sum(len(run["slow"]) for run in runs),
        "latest tick of the loop on the clock, ms": max(run["stalls"]["worst_clock_ms"] for run in runs),
        "runs": len(runs),
        "statuses": by_status,
        "findings": findings,
        "routes": dict(sorted(total.items())),
    }


def _pair_id(folder: Path) -> str:
    return read_manifest(folder / "checkpoint").pair_id


async def _ran(environment: Path, folder: Path, proxy: Proxy, key: str, seed: int, n_examples: int) -> dict[str, Any]:
    """What one run counted and found; run now where it has not been."""
    found = folder / f"run-{seed}.json"
    if not found.exists():
        await _run(environment, folder, proxy, key, seed, n_examples, found)
        # The stop-watch tells once a second; its worst is that of all runs before, too.
        await asyncio.sleep(1.5)
        stalls = json.loads((folder / "server/stalls.json").read_text())
        found.write_text(json.dumps({**json.loads(found.read_text()), "stalls": stalls}))
    run: dict[str, Any] = json.loads(found.read_text())
    return run


async def _run(
    environment: Path, folder: Path, proxy: Proxy, key: str, seed: int, n_examples: int, found: Path
) -> None:
    """One run of schemathesis, its words in a log; what it counted and found goes to `found` when it is over."""
    log, counts = folder / f"run-{seed}.log", folder / f"run-{seed}.counts"
    counts.unlink(missing_ok=True)
    with log.open("wb") as output:
        process = await asyncio.create_subprocess_exec(
            str(environment / "bin/schemathesis"), "run", str(folder / "openapi.json"),
            "--url", proxy.url.removesuffix("/v1"), "--header", f"Authorization: Bearer {key}",
            "--checks", ",".join(CHECKS), "--mode", "all",
            "--phases", "coverage,fuzzing" if seed == 1 else "fuzzing",
            "--max-examples", str(n_examples), "--seed", str(seed), "--generation-database", "none",
            "--continue-on-failure", "--request-timeout", "20", "--no-color",
            "--suppress-health-check", "all", "--warnings", "off",
            stdin=asyncio.subprocess.DEVNULL, stdout=output, stderr=output, cwd=folder,
            env=os.environ | {"SCHEMATHESIS_HOOKS": HOOKS, "ITS_FUZZ_COUNTS": str(counts)},
        )  # fmt: skip
        code = await process.wait()
    said = log.read_text("utf-8", "replace").replace(key, "KEY")
    log.write_text(said)
    if not counts.exists():
        raise RuntimeError(f"schemathesis ended with code {code} before its run was over: {log}")
    findings = [] if code == 0 else [f"seed {seed}, exit {code}: {line}" for line in _failures(said)]
    found.write_text(json.dumps({**json.loads(counts.read_text()), "findings": findings}))


def _failures(said: str) -> list[str]:
    """The lines that name a failure, each once; the last words where there are none."""
    lines = [line.strip() for line in said.splitlines()]
    return sorted({line for line in lines if line.startswith("- ")}) or lines[-5:]
