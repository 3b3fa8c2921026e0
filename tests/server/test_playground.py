"""The playground's files: whole, under a strict policy, open to anybody, and those of others as they were released."""

import re
from hashlib import sha256
from pathlib import Path

import pytest

from its_proxy.server import playground
from tests.scripted import Say
from tests.serving import serving_script

SERVER = Path(playground.__file__).parent
THIRD_PARTY = SERVER / "third_party"
PAGES = sorted(SERVER.glob("playground/*"))


def linked(text: str) -> set[str]:
    """What the page, its scripts and its styles load."""
    return {
        found.removeprefix("playground/").removeprefix("./")
        for found in re.findall(r'(?:src|href)="([^"]+)"|from "([^"]+)"', text)
        for found in found
        if found
    }


async def test_the_page_and_all_that_it_loads_are_served_without_a_key():
    keys = [{"name": "team", "sha256": "0" * 64}]
    async with serving_script(Say(), None, keys=keys) as (server, _):
        assert (await server.get("/v1/models")).status == 401
        page = await server.get("/playground")
        assert (page.status, page.headers["Content-Type"]) == (200, "text/html; charset=utf-8")
        waiting, seen = linked(page.raw.decode()), set[str]()
        while waiting:
            seen.add(name := waiting.pop())
            reply = await server.get(f"/playground/{name}")
            assert reply.status == 200, name
            if name.endswith(".js") and "katex" not in name:
                waiting |= linked(reply.raw.decode()) - seen
    assert {"app.js", "api.js", "vote.js", "style.css", "katex/katex.min.js", "katex/katex.min.css"} <= seen


async def test_nothing_from_elsewhere_and_nothing_inline_may_run():
    async with serving_script(Say(), None) as (server, _):
        for path in ("/playground", "/playground/app.js", "/playground/katex/fonts/KaTeX_Main-Regular.woff2"):
            headers = (await server.get(path)).headers
            policy = dict(part.strip().split(" ", 1) for part in headers["Content-Security-Policy"].split(";"))
            assert policy["default-src"] == "'none'"
            assert policy["script-src"] == policy["style-src"] == policy["connect-src"] == "'self'"
            assert headers["X-Content-Type-Options"] == "nosniff"
            assert headers["x-request-id"]
    assert not re.search(r"https?://(?!www\.w3\.org/2000/svg)", "".join(page.read_text("utf-8") for page in PAGES))


async def test_a_file_that_the_browser_has_is_not_sent_again():
    async with serving_script(Say(), None) as (server, _):
        first = await server.get("/playground/app.js")
        again = await server.get("/playground/app.js", **{"If-None-Match": first.headers["ETag"]})
        other = await server.get("/playground/app.js", **{"If-None-Match": '"other"'})
    assert first.headers["Cache-Control"] == "no-cache"
    assert (again.status, again.raw, again.headers["ETag"]) == (304, b"", first.headers["ETag"])
    assert (other.status, other.raw) == (200, first.raw)


@pytest.mark.parametrize("name", ["", "other.js", "../app.py", "%2e%2e/app.py", "katex/SHA256SUMS", "/etc/passwd"])
async def test_no_other_file_can_be_had(name):
    async with serving_script(Say(), None) as (server, _):
        reply = await server.get(f"/playground/{name}")
    assert (reply.status, reply.error["code"]) == (404, "not_found")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_no_text_is_taken_for_markup_and_nothing_is_stored(page):
    """Beside the policy, which a browser may not know in full."""
    text = page.read_text("utf-8")
    assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(", text)
    assert not re.search(r"localStorage|sessionStorage|indexedDB|cookie", text)
    assert not re.search(r" on\w+=\"|<style|style=", text)


def test_what_is_carried_of_others_is_as_it_was_released_and_no_file_more():
    folders = [folder for folder in THIRD_PARTY.iterdir() if folder.is_dir()]
    assert [folder.name for folder in folders] == ["katex"]
    for folder in folders:
        lines = (folder / "SHA256SUMS").read_text("utf-8").splitlines()
        listed = {name: digest for digest, name in (line.split("  ") for line in lines)}
        found = {file.relative_to(folder).as_posix(): file for file in folder.rglob("*") if file.is_file()}
        assert set(found) == {*listed, "SHA256SUMS"}
        for name, digest in listed.items():
            assert sha256(found[name].read_bytes()).hexdigest() == digest, name
        assert "LICENSE" in listed
        assert f"`{folder.name}/`" in (THIRD_PARTY / "README.md").read_text("utf-8")


def test_every_font_that_the_styles_name_first_is_there():
    styles = (THIRD_PARTY / "katex" / "katex.min.css").read_text("utf-8")
    fonts = re.findall(r"src:url\((fonts/[^)]+)\)", styles)
    assert len(fonts) == 20
    assert {f"katex/{font}" for font in fonts} <= set(playground.names())
