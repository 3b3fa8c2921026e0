"""A command that takes vLLM's place where a benchmark itself is to be tried: same flags, same log lines, no model.

    python -m benchmarks.vllm_fleet --stand-in

It renders the probes of its checkpoint as recorded, shows no log-probabilities, and says the same to every query.
"""

import asyncio
import json
import random
import sys
from contextlib import suppress
from itertools import pairwise
from pathlib import Path

from aiohttp import web

DELAY_S = (0.02, 0.2)


def install(folder: Path) -> Path:
    """Writes an environment that `ITS_VLLM` may name."""
    (folder / "bin").mkdir(parents=True, exist_ok=True)
    python, vllm = folder / "bin/python", folder / "bin/vllm"
    python.unlink(missing_ok=True)
    python.symlink_to(sys.executable)
    vllm.write_text(f'#!/bin/sh\nexec {sys.executable} {Path(__file__).resolve()} "$@"\n')
    vllm.chmod(0o755)
    return folder.resolve()


class _Model:
    def __init__(self, checkpoint: Path, name: str) -> None:
        self.name = name
        probes = json.loads((checkpoint / "its.json").read_text())["probes"]
        self.tokens = {json.dumps(probe["messages"]): probe["prompt_token_ids"] for probe in probes}

    async def chat(self, request: web.Request) -> web.Response:
        body = await request.json()
        if body["model"] != self.name:
            return web.json_response({"error": {"message": "no such model", "code": 404}}, status=404)
        content = body["messages"][-1]["content"]
        prompt = f"<|im_start|>user\n{content}<|im_end|>\n<|im_start|>assistant\n"
        request_id = request.headers.get("X-Request-Id")
        print(f"Request chatcmpl-{request_id} details: prompt: {prompt!r}, prompt_token_ids: [1].", flush=True)
        if not body.get("return_token_ids"):
            await asyncio.sleep(random.uniform(*DELAY_S))
        message = {"role": "assistant", "content": "\\boxed{1}"}
        usage = {"prompt_tokens": 9, "completion_tokens": 9, "total_tokens": 18}
        choices = [{"index": 0, "message": message, "finish_reason": "stop"}]
        told = {"prompt_token_ids": self.tokens.get(json.dumps(body["messages"]), [1])}
        return web.json_response({"model": self.name, "choices": choices, "usage": usage, **told})

    async def models(self, request: web.Request) -> web.Response:
        return web.json_response({"data": [{"id": self.name, "object": "model", "owned_by": "vllm"}]})

    async def health(self, request: web.Request) -> web.Response:
        return web.Response()


def main(arguments: list[str]) -> None:
    flags = dict(pairwise(arguments))
    model = _Model(Path(flags["serve"]), flags["--served-model-name"])
    app = web.Application()
    app.router.add_post("/v1/chat/completions", model.chat)
    app.router.add_get("/v1/models", model.models)
    app.router.add_get("/health", model.health)
    with suppress(KeyboardInterrupt):
        web.run_app(app, host=flags["--host"], port=int(flags["--port"]), shutdown_timeout=1, print=None)


if __name__ == "__main__":
    main(sys.argv[1:])
