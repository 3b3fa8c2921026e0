"""docs/client.md: its code runs as it stands, and prints what it says."""

import ast
import asyncio
import inspect
import re
from contextlib import AsyncExitStack

import pytest

from tests.command import ROOT
from tests.scripted import Say, scripted_upstream
from tests.serving import manifest, tokens_of, write_checkpoint

PAGE = (ROOT / "docs" / "client.md").read_text("utf-8")
BLOCKS = re.findall(r"^```python\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)


def say(body, number):
    return Say("x", finish_reason="length") if body.get("return_token_ids") else Say("so it is \\boxed{7}")


async def run(code: str) -> dict:
    """As a notebook's cell, in a world of its own; one that blocks must not hold up the engine."""
    names: dict = {}
    compiled = compile(code, "client.md", "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
    if compiled.co_flags & inspect.CO_COROUTINE:
        await eval(compiled, names)
    else:
        await asyncio.to_thread(exec, compiled, names)
    return names


@pytest.mark.parametrize("code", BLOCKS, ids=range(1, 1 + len(BLOCKS)))
async def test_the_code_prints_what_the_page_says(tmp_path, capsys, code):
    async with AsyncExitStack() as stack:
        for host, models in (("gpu", ["qwen"]), ("gpus", ["qwen-random", "qwen-none"])):
            upstream = await stack.enter_async_context(scripted_upstream(say, models))
            upstream.tokens = lambda body: tokens_of(body["messages"])
            code = code.replace(f"http://{host}:8000/v1", upstream.url)
        for strategy in ("random", "none"):
            write_checkpoint(tmp_path / f"qwen-{strategy}", manifest(strategy))
        client = (await run(code.replace("/checkpoints", str(tmp_path))))["client"]
        if asyncio.iscoroutinefunction(client.close):
            await client.close()
    promised = re.findall(r"^ *print\(.*\)  # (.*)$", code, re.MULTILINE)
    assert promised
    assert capsys.readouterr().out.splitlines() == promised


def test_the_page_begins_with_the_shortest_configuration():
    assert len(BLOCKS) == 4
    assert len(BLOCKS[0].splitlines()) <= 9
