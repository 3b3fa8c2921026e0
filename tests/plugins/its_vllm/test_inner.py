"""An application as an upstream: its failures become ours, and its refusals keep their bytes."""

import asyncio

import pytest

from its_proxy.codesign.errors import BadPayload, UpstreamBusy, UpstreamError
from its_vllm.inner import InnerApp, Refused
from tests.plugins.its_vllm.scripted_app import reply

SCOPE = {"type": "http", "headers": [(b"host", b"localhost")]}
BODY = {"model": "model", "messages": []}


def answering(status, document):
    async def app(scope, receive, send):
        await reply(send, status, document)

    return InnerApp(app, SCOPE)


async def failing(scope, receive, send):
    raise RuntimeError("a defect of vLLM")


async def breaking_off(scope, receive, send):
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"data: half", "more_body": True})


async def test_a_refusal_keeps_its_status_and_bytes():
    with pytest.raises(Refused) as refused:
        await answering(422, {"detail": "no"}).complete(BODY, "r")
    assert (refused.value.status, refused.value.reply.body) == (422, b'{"detail": "no"}')


@pytest.mark.parametrize("status", [429, 503])
async def test_a_busy_application_may_be_asked_again(status):
    with pytest.raises(UpstreamBusy) as busy:
        await answering(status, {}).complete(BODY, "r")
    assert busy.value.status == status


@pytest.mark.parametrize("document", [[], {"choices": []}, "text"])
async def test_what_is_no_completion_is_refused(document):
    with pytest.raises(BadPayload):
        await answering(200, document).complete(BODY, "r")


@pytest.mark.parametrize("app", [failing, breaking_off])
async def test_an_application_that_fails_ends_the_call(app):
    with pytest.raises(UpstreamError, match="vLLM"):
        await InnerApp(app, SCOPE).complete(BODY, "r")


async def test_a_stream_that_breaks_off_is_told_where_it_ends():
    async with InnerApp(breaking_off, SCOPE).stream(BODY, "r") as chunks:
        assert await anext(chunks) == b"data: half"
        with pytest.raises(UpstreamError, match="in the middle"):
            await anext(chunks)


async def test_a_stream_that_nobody_reads_is_not_kept_in_memory_and_ends(monkeypatch):
    monkeypatch.setattr("its_vllm.inner.GRACE_S", 0.01)
    n_sent = 0

    async def endless(scope, receive, send):
        nonlocal n_sent
        await send({"type": "http.response.start", "status": 200, "headers": []})
        while True:
            await send({"type": "http.response.body", "body": b"data: {}", "more_body": True})
            n_sent += 1

    async with InnerApp(endless, SCOPE).stream(BODY, "r"):
        for _ in range(1000):
            await asyncio.sleep(0)
        assert n_sent < 100
    n_ever_sent = n_sent
    await asyncio.sleep(0.01)
    assert n_sent == n_ever_sent


@pytest.mark.parametrize(("parent", "root"), [(None, "org/name@v2"), ("base", "org/name")])
async def test_a_base_model_of_the_hub_has_the_revision_that_vllm_was_started_with(parent, root):
    async def app(scope, receive, send):
        await reply(send, 200, {"data": [{"id": "model", "root": "org/name", "parent": parent}]})

    [card] = await InnerApp(app, SCOPE, "v2").models()
    assert card["root"] == root
