"""Settings read again while serving: what changes is in force for new queries, and nothing in flight is disturbed."""

import asyncio
import json
import signal
from contextlib import asynccontextmanager
from types import SimpleNamespace

import pytest
import yaml

from benchmarks.reliability import reloads
from its_proxy.server.build import build_context
from its_proxy.server.reload import Reloader
from its_proxy.settings import load_settings
from tests.command import command, ended, start
from tests.scripted import Say, scripted_upstream
from tests.serving import manifest, serving, tokens_of, write_checkpoint


def say(body, number):
    return Say("x" if body.get("return_token_ids") else "\\boxed{1}", finish_reason="stop")


@asynccontextmanager
async def reloadable(folder, script=say):
    """A server whose settings lie in a dict, `reload` to read them again, and its two upstreams."""
    checkpoint = write_checkpoint(folder / "a", manifest("random"))
    async with scripted_upstream(script) as one, scripted_upstream(script) as two:
        for upstream in (one, two):
            upstream.tokens = lambda body: tokens_of(body["messages"])
        settings = {
            "upstreams": {"one": {"url": one.url}},
            "models": {"model": {"upstream": "one", "checkpoint": checkpoint}},
            "drain_s": 0.1,
        }
        async with serving(settings) as server:
            failures = []
            reloader = Reloader(server.context, lambda: load_settings(None, {}, settings), failures.append)
            yield SimpleNamespace(
                server=server, settings=settings, reload=reloader.reload, one=one, two=two, failures=failures
            )
            await reloader.stop()


async def test_what_has_not_changed_keeps_its_verdict_and_its_connections(tmp_path):
    async with reloadable(tmp_path) as here:
        catalog = here.server.context.catalog
        [target] = catalog.targets()
        here.settings["aliases"] = {"best": {"models": {"model": 1}}}
        here.reload()
        assert here.server.context.catalog is not catalog
        assert list(here.server.context.catalog.targets()) == [target]
        assert target.state == "unverified", "served without a gap"
        assert (await here.server.chat(model="best"))[0] == 200


async def test_only_what_an_examination_depends_on_calls_for_a_new_one(tmp_path):
    async with reloadable(tmp_path) as here:
        [target] = here.server.context.catalog.targets()
        n_asked = len(here.one.bodies)
        here.settings["upstreams"]["one"]["drain"] = True
        here.reload()
        await asyncio.sleep(0.1)
        assert (target.policy.is_drained, len(here.one.bodies)) == (True, n_asked)
        here.settings["models"]["model"]["weights"] = "skip"
        here.reload()
        await here.one.until(lambda: len(here.one.bodies) > n_asked)


async def test_a_drained_upstream_gets_no_new_query_and_ends_those_it_has(tmp_path):
    hold = asyncio.Event()

    def script(body, number):
        return Say("x" if body.get("return_token_ids") else "\\boxed{1}", delay_s=0.0 if hold.is_set() else 0.5)

    async with reloadable(tmp_path, script) as here:
        here.settings["upstreams"]["two"] = {"url": here.two.url}
        here.settings["models"]["model"]["upstream"] = ["one", "two"]
        here.reload()
        await here.server.ready()
        here.settings["upstreams"]["one"]["drain"] = True
        for upstream in (here.one, here.two):
            upstream.forget()
        slow = [asyncio.create_task(here.server.chat()) for _ in range(6)]
        await here.one.until(lambda: len(here.one.bodies) + len(here.two.bodies) == 6 * 8)
        here.reload()
        [one, two] = here.server.context.catalog.targets()
        asked = len(here.one.bodies)
        assert one.n_in_flight > 0, "the running queries are still counted"
        hold.set()
        assert [(await here.server.chat())[1]["its"]["target"] for _ in range(6)] == ["two"] * 6
        assert [status for status, _ in await asyncio.gather(*slow)] == [200] * 6
        assert (one.n_in_flight, two.n_in_flight) == (0, 0)
        chats = [body for body in here.one.bodies[asked:] if not body.get("return_token_ids")]
        assert chats == []


async def test_an_upstream_that_is_left_out_is_closed_once_its_queries_have_ended(tmp_path):
    def script(body, number):
        return Say("x" if body.get("return_token_ids") else "\\boxed{1}", delay_s=0.3)

    async with reloadable(tmp_path, script) as here:
        [gone] = here.server.context.catalog.upstreams
        slow = asyncio.create_task(here.server.chat())
        await here.one.until(lambda: here.one.n_open > 0)
        del here.settings["upstreams"]["one"]
        here.settings["upstreams"]["two"] = {"url": here.two.url}
        here.settings["models"]["model"]["upstream"] = "two"
        here.reload()
        status, reply = await slow
        assert (status, reply["its"]["target"]) == (200, "one")
        await here.one.until(lambda: gone._transport._is_closed)
        await here.server.ready()
        assert (await here.server.chat())[1]["its"]["target"] == "two"


@pytest.mark.parametrize(
    "change",
    [
        lambda settings: settings.update(port=9),
        lambda settings: settings["models"]["model"].update(upstream="nowhere"),
        lambda settings: settings.update(vote={"n": 99}),
    ],
)
async def test_wrong_settings_change_nothing(tmp_path, change):
    async with reloadable(tmp_path) as here:
        catalog = here.server.context.catalog
        change(here.settings)
        here.reload()
        assert here.server.context.catalog is catalog
        assert (await here.server.chat())[0] == 200
        assert here.failures == []


def test_embedded_models_cannot_change_while_they_run(tmp_path):
    context = build_context(load_settings(None, {}, {}))
    wanted = load_settings(None, {}, {"models": {"m": {"checkpoint": write_checkpoint(tmp_path / "m", manifest())}}})
    before = context.catalog
    Reloader(context, lambda: wanted, lambda failure: None).reload()
    assert context.catalog is before


async def test_keys_are_read_again_too(tmp_path):
    async with reloadable(tmp_path) as here:
        digest = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"
        here.settings["keys"] = [{"name": "team", "sha256": digest}]
        here.reload()
        assert (await here.server.ask()).status == 401
        assert (await here.server.ask(key="test")).status == 200


async def test_sighup_reads_the_file_again(tmp_path):
    write_checkpoint(tmp_path / "a", manifest("random"))
    async with scripted_upstream(say) as upstream:
        upstream.tokens = lambda body: tokens_of(body["messages"])
        document = {
            "upstreams": {"gpu": {"url": upstream.url}},
            "models": {"model": {"upstream": "gpu", "checkpoint": "a"}},
        }
        file = tmp_path / "its.yaml"
        file.write_text(yaml.safe_dump(document))
        process = await start("serve", "--config", file, "--port", 0)
        try:
            said = b""
            while b"its-proxy serves" not in said:
                said += await asyncio.wait_for(process.stderr.readline(), 30)
            url = said.split()[-1].decode()
            file.write_text(yaml.safe_dump({**document, "aliases": {"best": {"models": {"model": 1}}}}))
            process.send_signal(signal.SIGHUP)
            while b'"reloaded"' not in said:
                said += await asyncio.wait_for(process.stderr.readline(), 30)
            listed = await command("models", "--url", url, "--json")
            assert "best" in [card["id"] for card in json.loads(listed.out)["data"]]
            file.write_text("models: [")
            process.send_signal(signal.SIGHUP)
            while b"reload refused" not in said:
                said += await asyncio.wait_for(process.stderr.readline(), 30)
            file.write_text(yaml.safe_dump({**document, "log_level": "error"}))
            process.send_signal(signal.SIGHUP)
            while json.loads((await command("models", "--url", url, "--json")).out)["data"][-1]["id"] == "best":
                pass
            await command("models", "--url", url)
        finally:
            process.send_signal(signal.SIGTERM)
            out = await ended(process)
        assert out.code == 0
        assert '"reloaded"' not in out.err, "the level has changed with the rest"
        assert '"ending"' not in out.err


async def test_ten_reloads_a_second_fail_nobody_and_mix_no_pairs(tmp_path):
    """The short form of benchmarks/reliability/reloads.py."""
    figures = await reloads.measure(3.0, 20, tmp_path)
    assert (figures["failed"], figures["mixed"]) == (0, 0), figures["ends"]
    assert set(figures["reloads"]) == {"done"}
    assert figures["reloads"]["done"] > 5
    assert min(figures["answered by"].values()) > 0
