"""docs/streams.md and docs/playground.md: the streams they show are what a server tells, their pictures are there."""

import asyncio
import json
import re
from pathlib import Path

import pytest

from tests.scripted import Say
from tests.serving import manifest, serving_script, write_checkpoint

DOCS = Path(__file__).parents[2] / "docs"
LIVE, PROGRESS = re.findall(r"```\n(.*?)```", (DOCS / "streams.md").read_text("utf-8"), re.DOTALL)
SEED = 100


def deltas_of(block: str) -> list[dict]:
    return [json.loads(delta) for delta in re.findall(r'"delta": (\{.*?\}),', block)]


async def test_a_live_stream_tells_what_the_page_shows(tmp_path):
    _, *thoughts, answer, _ = shown = deltas_of(LIVE)
    held = asyncio.Event()
    first = Say(answer["content"], pieces=[thoughts[0], held, thoughts[1]])

    def script(body, number):
        return first if body["seed"] == SEED else Say(answer["content"], gate=held)

    body = {"model": "model", "messages": [{"role": "user", "content": "What is 2 + 5?"}], "stream": True, "seed": SEED}
    async with (
        serving_script(script, write_checkpoint(tmp_path, manifest())) as (server, _),
        server.http.post(f"{server.url}/chat/completions", json=body | {"its": {"stream": "leader"}}) as reply,
    ):
        begun = await reply.content.readuntil(json.dumps(thoughts[0]["reasoning"]).encode())
        held.set()
        raw = (begun + await reply.read()).decode()
    lines = [line.removeprefix("data: ") for line in raw.splitlines() if line.startswith("data: ")]
    told = [json.loads(line)["choices"][0]["delta"] for line in lines[:-1]]
    assert [{key: text.strip() for key, text in delta.items()} for delta in told] == [
        {key: text.strip() for key, text in delta.items()} for delta in shown
    ]
    assert lines[-1] == "[DONE]"


async def test_a_step_of_progress_has_the_fields_that_the_page_shows(tmp_path):
    async with serving_script(Say("\\boxed{7}"), write_checkpoint(tmp_path, manifest())) as (server, _):
        chunks = (await server.ask(stream=True, its={"candidates": True})).chunks
    its = next(chunk["its"] for chunk in chunks if "its" in chunk)
    assert deltas_of(PROGRESS) == [{}]
    keys = set(re.findall(r'"(\w+)": ', PROGRESS[PROGRESS.index('"progress"') :]))
    assert keys == {*its["progress"], "index", "7", "5"}
    assert {"index", "answer"} <= set(its["progress"]["candidate"])


@pytest.mark.parametrize("page", ["streams.md", "playground.md"])
def test_what_the_page_points_to_is_there(page):
    linked = re.findall(r"\]\(([^)#]+)\)", (DOCS / page).read_text("utf-8"))
    assert linked
    for name in linked:
        assert (DOCS / name).exists(), name
        assert not name.endswith(".png") or (DOCS / name).stat().st_size < 300_000
