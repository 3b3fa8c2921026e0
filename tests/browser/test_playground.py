"""The playground in a real browser: it asks, shows the vote as it is held, compares, and says what went wrong."""

import asyncio

import pytest
from axe_playwright_python.async_playwright import Axe
from playwright.async_api import expect

from tests.browser.conftest import QUERY, world
from tests.scripted import Say
from tests.serving import manifest, serving, write_checkpoint

SEVEN, FIVE = "2 + 5 makes $7$, so \\boxed{7}", "I count \\boxed{5}"
SERIES = "What is the sum of 1/k^2 over all k = 1, 2, 3, ...? Put the answer into \\boxed{}."
EULER = (
    "Euler found that $$\\sum_{k=1}^{\\infty} \\frac{1}{k^2} = \\frac{\\pi^2}{6},$$ by writing $\\frac{\\sin x}{x}$ "
    "as a product over its roots.\n\nThe answer is \\boxed{\\frac{\\pi^2}{6}}."
)
ROUNDED = "The first terms $1 + \\frac14 + \\frac19 + \\dots$ come near \\boxed{1.64}."
KEY = "secret-of-the-test"
FOCUSED = "document.activeElement.labels?.[0]?.textContent || document.activeElement.textContent"


def thinking(text: str, *thoughts: str, gate: asyncio.Event | None = None) -> Say:
    pieces = [{"reasoning": thought} for thought in thoughts]
    return Say(text, pieces=[*pieces, *([gate] if gate else [])])


async def test_a_vote_grows_before_ones_eyes_and_says_who_won_and_what_it_saved(tmp_path, browse):
    gates = [asyncio.Event() for _ in range(8)]
    says = [Say(text, gate=gate) for text, gate in zip([SEVEN, FIVE, *[SEVEN] * 6], gates, strict=True)]
    first = thinking(SEVEN, "Two apples, ", "and five more.", gate=gates[0])
    async with world(tmp_path, first, *says[1:]) as stage:
        page = await browse(stage.url)
        await page.ask()
        await expect(page.page.get_by_role("region", name="Thoughts of the first")).to_have_text(
            "Two apples, and five more."
        )
        await expect(page.candidates).to_have_count(8)
        await expect(page.bars).to_have_count(0)
        gates[1].set()
        await expect(page.bars).to_have_count(1)
        await expect(page.status).to_have_text("1 of 8 candidates are here. 5 leads with 1, agreement 100 %.")
        for n_sevens, gate in enumerate(gates[2:5], start=1):
            gate.set()
            await expect(page.bars.nth(1)).to_contain_text(str(n_sevens))
        await expect(page.status).to_contain_text("7 leads with 3")
        await expect(page.page.get_by_role("button", name="Stop")).to_be_visible()
        await page.picture("playground-vote")
        gates[0].set()
        gates[5].set()
        await expect(page.status).to_have_text("The vote is decided: 7.")
        await expect(page.vote).to_contain_text("5 of 6 valid candidates, agreement 83 %")
        await expect(page.vote).to_contain_text("Decided early: 2 of 8 candidates not needed")
        await expect(page.candidates.filter(has_text="not needed")).to_have_count(2)
        await expect(page.page.locator("#reply .katex")).to_have_count(2)
        await stage.upstream.until(lambda: stage.upstream.n_open == 0)


async def test_the_persona_is_marked_and_the_querys_own_words_are_not(tmp_path, browse):
    async with world(tmp_path, Say(SEVEN)) as stage:
        page = await browse(stage.url)
        await page.ask()
        await expect(page.status).to_contain_text("decided")
        mark = page.sent.locator("mark")
        await expect(mark).to_have_count(1)
        persona = await mark.inner_text()
        (body, *_) = stage.upstream.bodies
        assert body["messages"][-1]["content"] == f"{persona}\n\n{QUERY}"
        await expect(page.sent).to_contain_text("strategy random")


@pytest.mark.parametrize(
    ("beside", "text", "words"),
    [
        ("asked once, no vote", SEVEN, "the same answer as the vote"),
        ("asked once, no persona", FIVE, "the vote reads otherwise"),
        ("llama", FIVE, "Another model, passed through"),
    ],
)
async def test_the_same_question_is_asked_plainly_beside_it(tmp_path, browse, beside, text, words):
    async with world(tmp_path, Say(SEVEN)) as stage:
        stage.stage.plain = Say(FIVE)
        page = await browse(stage.url)
        await page.ask(beside=beside)
        await expect(page.plain).to_contain_text(words)
        await expect(page.plain.locator("#plain-reply .mord.text, #plain-reply .katex").first).to_be_visible()
        await expect(page.plain).to_contain_text(text.partition("\\")[0].partition("$")[0].strip())


async def test_what_has_no_manifest_is_passed_through_and_said_to_be(tmp_path, browse):
    async with world(tmp_path, Say(SEVEN)) as stage:
        stage.stage.plain = Say(FIVE)
        page = await browse(stage.url)
        await page.ask(model="llama")
        await expect(page.page.locator("#reply")).to_contain_text("I count")
        await expect(page.strategy).to_be_disabled()
        await expect(page.sent).to_contain_text("This model has no manifest")
        assert [body["messages"][-1]["content"] for body in stage.upstream.bodies] == [QUERY]


async def test_chat_is_answered_without_a_vote_and_the_page_says_why(tmp_path, browse):
    async with world(tmp_path, Say("I am a model.")) as stage:
        page = await browse(stage.url)
        await page.ask("Hello, who are you?")
        await expect(page.status).to_have_text("The reply is here.")
        await expect(page.vote).to_contain_text("No vote, as the first reply holds no short answer: 7 of 8 candidates")
        await expect(page.candidates.filter(has_text="never asked")).to_have_count(7)
        await expect(page.page.locator("#reply")).to_contain_text("I am a model.")


async def test_another_strategy_can_be_forced_and_is_marked(tmp_path, browse):
    async with world(tmp_path, Say(SEVEN)) as stage:
        page = await browse(stage.url)
        await expect(page.model).to_have_value("qwen")
        await page.strategy.select_option("none")
        await page.ask()
        await page.strategy.select_option(label="none, forced")
        await page.page.get_by_role("button", name="Ask").click()
        await expect(page.sent).to_contain_text("Nothing is added")
        await expect(page.sent).to_contain_text("forced")


async def test_where_the_server_is_gone_one_line_says_so_and_the_page_goes_on(tmp_path, browse):
    async with world(tmp_path, Say(SEVEN)) as stage:
        page = await browse(stage.url)
        await page.ask()
        await expect(page.status).to_contain_text("decided")
    await page.page.get_by_role("button", name="Ask").click()
    await expect(page.trouble).to_contain_text("cannot be reached")
    await expect(page.trouble).to_contain_text("Start its-proxy again")
    await expect(page.vote).to_be_hidden()
    await expect(page.page.get_by_role("button", name="Ask")).to_be_enabled()
    await page.picture("playground-gone")


async def test_a_server_that_goes_in_the_middle_of_a_vote_leaves_nobody_waiting(tmp_path, browse):
    never = asyncio.Event()
    async with world(tmp_path, thinking(SEVEN, "Two apples", gate=never), Say(SEVEN, gate=never)) as stage:
        page = await browse(stage.url)
        await page.ask()
        await expect(page.page.locator("#thoughts")).to_have_text("Two apples")
    await expect(page.trouble).to_be_visible()
    await expect(page.page.get_by_role("button", name="Ask")).to_be_visible()
    await expect(page.page.locator('[data-state="waiting"]')).to_have_count(0)


async def test_a_key_is_asked_for_and_goes_nowhere_but_into_requests(tmp_path, browse):
    keys = [{"name": "team", "env": "TEAM_KEY", "rights": []}]
    async with world(tmp_path, Say(SEVEN), keys=keys, environ={"TEAM_KEY": KEY}) as stage:
        page = await browse(stage.url)
        await expect(page.trouble).to_contain_text("Enter the key above")
        await expect(page.page.get_by_label("API key")).to_be_focused()
        await page.page.keyboard.type(KEY)
        await page.page.keyboard.press("Enter")
        await page.ask()
        await expect(page.status).to_have_text("The vote is decided: 7.")
        await expect(page.sent).to_contain_text("may not have the rewrite explained")
        kept = await page.page.evaluate("[localStorage.length, sessionStorage.length, document.cookie, location.href]")
        assert kept == [0, 0, "", stage.url]


async def test_a_model_that_is_still_checked_says_when_to_ask_again(tmp_path, browse):
    checkpoint = write_checkpoint(tmp_path, manifest("random"))
    nowhere = {"upstreams": {"gpu": {"url": "http://127.0.0.1:9/v1"}}}
    models = {"models": {"qwen": {"upstream": "gpu", "checkpoint": checkpoint}}}
    async with serving(nowhere | models, wait=False) as server:
        page = await browse(server.url.removesuffix("/v1") + "/playground")
        await page.ask(beside="asked once, no vote")
        await expect(page.page.locator("#handshake")).to_contain_text("being checked")
        await expect(page.trouble).to_contain_text("It is still being checked: ask again in")
        await expect(page.page.get_by_role("button", name="Ask")).to_be_visible()


async def test_a_key_that_may_not_force_is_told_so_and_offered_it_no_more(tmp_path, browse):
    keys = [{"name": "team", "env": "TEAM_KEY", "rights": ["explain", "candidates"]}]
    async with world(tmp_path, Say(SEVEN), keys=keys, environ={"TEAM_KEY": KEY}) as stage:
        page = await browse(stage.url)
        await page.page.get_by_label("API key").fill(KEY)
        await page.page.keyboard.press("Enter")
        await expect(page.model).to_have_value("qwen")
        await page.strategy.select_option("none")
        await page.ask()
        await expect(page.trouble).to_contain_text("This key may not do that")
        await expect(page.strategy).to_be_disabled()
        await page.page.get_by_role("button", name="Ask").click()
        await expect(page.status).to_have_text("The vote is decided: 7.")


async def test_of_an_ensemble_every_members_own_rewrite_is_shown(tmp_path, browse):
    ensemble = {"ensembles": {"both": {"members": ["qwen", "same"]}}}
    async with world(tmp_path, Say(SEVEN), **ensemble) as stage:
        page = await browse(stage.url)
        await page.ask(model="both", beside="asked once, no vote")
        await expect(page.status).to_have_text("The vote is decided: 7.")
        await expect(page.sent.locator("mark")).to_have_count(2)
        await expect(page.plain).to_contain_text("by the first member")
        await expect(page.candidates.filter(has_text="same").first).to_be_visible()


async def test_a_late_failure_is_told(tmp_path, browse, held):
    broken = thinking("", "hm", gate=held)
    broken.finish_reason = None
    async with world(tmp_path, broken, Say(status=500, gate=held)) as stage:
        page = await browse(stage.url)
        await page.ask()
        await expect(page.page.locator("#thoughts")).to_have_text("hm")
        held.set()
        await expect(page.trouble).to_contain_text("below the quorum")


async def test_escape_stops_it_and_cancels_every_candidate(tmp_path, browse):
    never = asyncio.Event()
    async with world(tmp_path, thinking(SEVEN, "hm", gate=never), Say(SEVEN, gate=never)) as stage:
        page = await browse(stage.url)
        await page.ask()
        await expect(page.page.locator("#thoughts")).to_have_text("hm")
        await page.page.keyboard.press("Escape")
        await expect(page.status).to_have_text("Stopped: every candidate was cancelled.")
        await stage.upstream.until(lambda: stage.upstream.n_cancelled == 8)


async def test_it_can_be_used_by_the_keyboard_alone(tmp_path, browse):
    async with world(tmp_path, Say(SEVEN)) as stage:
        page = await browse(stage.url)
        await expect(page.model).to_have_value("qwen")
        names = []
        for _ in range(8):
            await page.page.keyboard.press("Tab")
            names.append(await page.page.evaluate(FOCUSED))
        assert names == ["API key", "Theme", "Query", "Model", "Strategy", "Candidates", "Beside it", "Ask"]
        await page.query.focus()
        await page.page.keyboard.type(QUERY)
        await page.page.keyboard.press("Control+Enter")
        await expect(page.status).to_contain_text("decided")
        await page.candidates.locator("summary").first.focus()
        await page.page.keyboard.press("Enter")
        await expect(page.candidates.locator(".text").first).to_be_visible()


@pytest.mark.parametrize("scheme", ["light", "dark"])
async def test_axe_finds_nothing_to_complain_about(tmp_path, browse, scheme):
    """Contrast, names, roles, order: before a question, and with everything on the page."""
    first = thinking(EULER, "The Basel problem: compare the product of sin x over x with its series.")
    gate = asyncio.Event()
    says = [Say(ROUNDED), *[Say(EULER)] * 3, Say("It converges, slowly."), *[Say(EULER, gate=gate)] * 2]
    async with world(tmp_path, first, *says) as stage:
        stage.stage.query, stage.stage.plain = SERIES, Say(ROUNDED)
        page = await browse(stage.url, color_scheme=scheme, reduced_motion="reduce", bypass_csp=True)
        await expect(page.model).to_have_value("qwen")
        await expect(page.beside).to_have_value("once")
        assert await violations(page) == []
        await page.ask(SERIES, beside="asked once, no persona")
        await expect(page.status).to_contain_text("decided")
        await expect(page.plain).to_contain_text("tokens")
        await page.candidates.locator("summary").first.click()
        assert await violations(page) == []
        await page.picture(f"playground-{scheme}")


async def violations(page) -> list[str]:
    found = await Axe().run(page.page)
    return [f"{one['id']}: {node['html'][:120]}" for one in found.response["violations"] for node in one["nodes"]]


async def test_the_theme_can_be_chosen(tmp_path, browse):
    async with world(tmp_path, Say(SEVEN)) as stage:
        page = await browse(stage.url, color_scheme="light")
        paper = "getComputedStyle(document.body).backgroundColor"
        light = await page.page.evaluate(paper)
        await page.page.get_by_label("Theme").select_option("dark")
        dark = await page.page.evaluate(paper)
        await page.page.get_by_label("Theme").select_option("light")
        assert await page.page.evaluate(paper) == light != dark


@pytest.mark.parametrize("width", [360, 768])
async def test_a_narrow_window_needs_no_scrolling_sideways(tmp_path, browse, width):
    async with world(tmp_path, Say(SEVEN)) as stage:
        page = await browse(stage.url)
        await page.page.set_viewport_size({"width": width, "height": 800})
        await page.ask(beside="asked once, no vote")
        await expect(page.status).to_contain_text("decided")
        assert await page.page.evaluate("document.documentElement.scrollWidth") <= width


async def test_an_answer_never_becomes_markup(tmp_path, browse):
    nasty = '<img src=x onerror="document.title=1"> $\\href{javascript:alert(1)}{x}$ \\boxed{<b>7</b>}'
    async with world(tmp_path, Say(nasty)) as stage:
        page = await browse(stage.url)
        await page.ask()
        await expect(page.page.locator("#reply")).to_contain_text("<img src=x")
        assert await page.page.locator("main :is(img, a, iframe, script)").count() == 0
