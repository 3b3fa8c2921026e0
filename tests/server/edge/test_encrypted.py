"""The same limits where TLS is spoken, and TLS itself."""

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from its_proxy.settings import load_settings
from tests.certificates import Certificate, make_certificate
from tests.scripted import Say, ScriptedUpstream, scripted_upstream
from tests.serving import Server, model_settings, serving, serving_script
from tests.wire import connected, post

HEAD = b"POST /v1/chat/completions HTTP/1.1\r\nHost: h\r\n"
LIVE = b"GET /livez HTTP/1.1\r\nHost: h\r\n\r\n"
QUESTION = {"model": "model", "messages": [{"role": "user", "content": "Hi"}]}
LONG = {"header_s": 60.0, "body_s": 60.0, "write_idle_s": 60.0, "keepalive_s": 60.0}


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Certificate:
    return make_certificate(tmp_path_factory.mktemp("tls"))


@asynccontextmanager
async def server_with(
    certificate: Certificate, say: Say | None = None, **limits: Any
) -> AsyncIterator[tuple[Server, ScriptedUpstream]]:
    async with serving_script(say or Say(), None, **{**LONG, **certificate.settings, **limits}) as pair:
        yield pair


def count(server: Server, name: str, **labels: str) -> float | None:
    return server.context.metrics.registry.get_sample_value(f"its_proxy_{name}", labels)


async def until(condition: Any, timeout_s: float = 10.0) -> None:
    async with asyncio.timeout(timeout_s):
        while not condition():
            await asyncio.sleep(0.005)


async def test_a_request_is_answered(certificate):
    async with server_with(certificate) as (server, _), connected(server.url, certificate.trust) as wire:
        wire.send(post(QUESTION))
        assert (await wire.reply()).status == 200


async def test_slow_headers_have_their_time(certificate):
    trust = certificate.trust
    async with server_with(certificate, header_s=0.3) as (server, _), connected(server.url, trust) as wire:
        wire.send(HEAD)
        assert (await wire.reply()).status == 408
        assert await wire.rest() == b""


async def test_a_slow_handshake_has_no_more(certificate):
    async with server_with(certificate, header_s=0.3) as (server, _), connected(server.url) as wire:
        wire.send(b"\x16\x03\x01")  # the beginning of a hello
        assert await wire.rest() == b""
        await until(lambda: count(server, "open_connections") == 0)


async def test_plain_http_is_not_understood(certificate):
    async with server_with(certificate) as (server, _), connected(server.url) as wire:
        wire.send(LIVE)
        assert b"HTTP/1.1" not in await wire.rest()
        await until(lambda: count(server, "open_connections") == 0)


async def test_who_reads_nothing_is_closed_and_its_upstream_call_cancelled(certificate):
    endless = Say("word " * 2_000_000)
    async with (
        server_with(certificate, endless, write_idle_s=0.3) as (server, upstream),
        connected(server.url, certificate.trust, limit=1024) as wire,
    ):
        wire.send(post({**QUESTION, "stream": True}))
        await upstream.until(lambda: upstream.n_cancelled == 1, 20)
        assert count(server, "slow_client_closed_total") == 1


@pytest.mark.parametrize("fields", [{}, {"stream": True}])
async def test_who_leaves_cancels_its_upstream_call(certificate, fields):
    async with server_with(certificate, Say(delay_s=600.0)) as (server, upstream):
        for round_ in range(1, 6):
            async with connected(server.url, certificate.trust) as wire:
                wire.send(post({**QUESTION, **fields}))
                await upstream.until(lambda: upstream.n_open == 1)
            await upstream.until(lambda n=round_: upstream.n_cancelled == n)


async def test_nothing_older_than_tls_1_2_is_spoken(certificate):
    async with server_with(certificate) as (server, _):
        assert server.context.tls is not None
        assert server.context.tls.minimum_version == ssl.TLSVersion.TLSv1_2


async def test_a_new_certificate_is_taken_by_a_reload_and_nobody_is_disturbed(tmp_path):
    served = make_certificate(tmp_path / "old")
    old, new = served.trust, make_certificate(tmp_path / "new")
    async with scripted_upstream(lambda body, number: Say()) as upstream:
        flags = model_settings(upstream.url, None) | served.settings
        settings = load_settings(None, {}, flags)
        async with serving(flags, read=lambda: settings) as server, connected(server.url, old) as wire:
            served.cert.write_bytes(new.cert.read_bytes())
            server.reload()  # half a change: the key is still the old one
            async with connected(server.url, old) as before:
                before.send(LIVE)
                assert (await before.reply()).status == 200
            served.key.write_bytes(new.key.read_bytes())
            server.reload()
            async with connected(server.url, new.trust) as after:
                after.send(LIVE)
                assert (await after.reply()).status == 200
            wire.send(LIVE)
            assert (await wire.reply()).status == 200
