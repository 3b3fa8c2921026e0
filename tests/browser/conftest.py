"""A real Chromium before a real its-proxy, whose upstream says what a test lets it."""

import asyncio
import os
import shutil
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from playwright.async_api import Locator, Page, async_playwright, expect

from tests.scripted import Say, ScriptedUpstream, scripted_upstream
from tests.serving import Server, manifest, serving, tokens_of, write_checkpoint

CHROMIUM = ("chromium", "chromium-browser", "google-chrome")
QUERY = "Tom has 2 apples and buys 5 more. How many apples has he now?"


def chromium() -> str:
    wanted = [os.environ["ITS_CHROMIUM"]] if os.environ.get("ITS_CHROMIUM") else CHROMIUM
    return next(path for name in wanted if (path := shutil.which(name)) is not None)


@dataclass
class Stage:
    """What the upstream says, in the order in which it is asked: candidate after candidate of a vote, the first one
    as a stream. `plain`: what it says to any question that no persona stands before."""

    candidates: list[Say] = field(default_factory=list)
    plain: Say = field(default_factory=lambda: Say("\\boxed{5}"))
    query: str = QUERY
    n_asked: int = 0

    def answer(self, body: dict[str, Any], number: int) -> Say:
        if body.get("return_token_ids"):
            return Say("x", finish_reason="length")
        if body["messages"][-1]["content"] == self.query:
            return self.plain
        say = self.candidates[0] if body.get("stream") else self.candidates[min(1 + self.n_asked, self.n - 1)]
        self.n_asked += 0 if body.get("stream") else 1
        return say

    @property
    def n(self) -> int:
        return len(self.candidates)


@dataclass
class World:
    """`qwen` is served through its manifest, `same` too, and `llama` has none."""

    server: Server
    upstream: ScriptedUpstream
    stage: Stage

    @property
    def url(self) -> str:
        return self.server.url.removesuffix("/v1") + "/playground"


@asynccontextmanager
async def world(
    folder: Path, *candidates: Say, environ: dict[str, str] | None = None, **settings: Any
) -> AsyncIterator[World]:
    stage = Stage(list(candidates))
    checkpoint = write_checkpoint(folder / "qwen", manifest("random"))
    async with scripted_upstream(stage.answer, ["qwen", "llama"]) as upstream:
        upstream.tokens = lambda body: tokens_of(body["messages"])
        qwen = {"upstream": "gpu", "checkpoint": checkpoint, "served_name": "qwen"}
        models = {"qwen": qwen, "same": qwen, "llama": {"upstream": "gpu"}}
        settings = {"upstreams": {"gpu": {"url": upstream.url}}, "models": models} | settings
        async with serving(settings, environ) as server:
            upstream.forget()
            yield World(server, upstream, stage)


@dataclass
class Playground:
    """The open page, by what a person sees or hears of it."""

    page: Page
    complaints: list[str] = field(default_factory=list)

    async def open(self, url: str) -> None:
        await self.page.goto(url)

    async def ask(self, query: str = QUERY, *, model: str = "qwen", beside: str = "nothing") -> None:
        await expect(self.model).to_have_value("qwen")
        await self.model.select_option(model)
        await self.beside.select_option(label=beside)
        await self.query.fill(query)
        await self.page.get_by_role("button", name="Ask").click()

    @property
    def query(self) -> Locator:
        return self.page.get_by_role("textbox", name="Query")

    @property
    def model(self) -> Locator:
        return self.page.get_by_role("combobox", name="Model")

    @property
    def strategy(self) -> Locator:
        return self.page.get_by_role("combobox", name="Strategy")

    @property
    def beside(self) -> Locator:
        return self.page.get_by_role("combobox", name="Beside it")

    @property
    def sent(self) -> Locator:
        return self.page.get_by_role("region", name="What the model reads")

    @property
    def vote(self) -> Locator:
        return self.page.get_by_role("region", name="The vote")

    @property
    def plain(self) -> Locator:
        return self.page.locator("#plain")

    @property
    def bars(self) -> Locator:
        return self.page.get_by_role("list", name="Votes by answer").get_by_role("listitem")

    @property
    def candidates(self) -> Locator:
        return self.page.get_by_role("list", name="Candidates", exact=True).get_by_role("listitem")

    @property
    def status(self) -> Locator:
        return self.page.locator("#status")

    @property
    def trouble(self) -> Locator:
        return self.page.get_by_role("alert")

    async def picture(self, name: str) -> None:
        """Into the folder that ITS_PICTURES names, where the documentation has its pictures from."""
        if folder := os.environ.get("ITS_PICTURES"):
            await self.page.evaluate("document.fonts.ready")
            await self.page.screenshot(path=Path(folder, f"{name}.png"), full_page=True, animations="disabled")


@pytest.fixture
async def browse() -> AsyncIterator[Callable[..., Any]]:
    """Opens pages in a fresh browser. Whatever a page throws, or its security policy blocks, fails the test."""
    opened: list[Playground] = []

    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=chromium(), args=["--no-sandbox"])

        async def browse(url: str, **options: Any) -> Playground:
            context = await browser.new_context(viewport={"width": 1280, "height": 800}, **options)
            playground = Playground(await context.new_page())
            playground.page.set_default_timeout(10_000)
            playground.page.on("pageerror", lambda error: playground.complaints.append(str(error)))
            playground.page.on("console", lambda said: _complain(playground, said.type, said.text))
            opened.append(playground)
            await playground.open(url)
            return playground

        yield browse
        for playground in opened:
            await playground.page.close()
        await browser.close()
    assert [complaint for playground in opened for complaint in playground.complaints] == []


def _complain(playground: Playground, kind: str, text: str) -> None:
    if kind in ("error", "warning") and not text.startswith("Failed to load resource"):
        playground.complaints.append(text)


@pytest.fixture
def held() -> asyncio.Event:
    """Whatever waits for it says nothing until a test lets it."""
    return asyncio.Event()
