"""`its-proxy serve` as a process: what keeps it from starting, what ends it, and how it leaves."""

import asyncio
import json
import signal
import socket
from contextlib import asynccontextmanager
from urllib.parse import urlsplit

import aiohttp
import pytest

from its_proxy.codesign.strategies import Recipe, rewrite, strategy_named
from tests.command import Ended, command, serve_command
from tests.scripted import Say, scripted_upstream
from tests.serving import PROBE_QUERY, digest_of, manifest, serving, side, tokens_of, write_checkpoint

NOWHERE = "http://127.0.0.1:9/v1"
ASKED = {"model": "model", "messages": [{"role": "user", "content": "What is 2 + 5?"}]}


@asynccontextmanager
async def upstream_of(say, tokens=None):
    def script(body, number):
        return Say("x", finish_reason="length") if body.get("return_token_ids") else say

    async with scripted_upstream(script) as upstream:
        upstream.tokens = tokens or (lambda body: tokens_of(body["messages"]))
        yield upstream


def pool_pair(sha256):
    personas = {"source": "pool", "file": "its-personas.jsonl", "sha256": sha256, "domains": "taxonomy/1"}
    return {"trained_with": side("random", personas=personas), "serve_with": side("random", personas=personas)}


def rendered_otherwise():
    document = manifest("random")
    document["probes"][0]["messages"] = [{"role": "user", "content": "Another persona.\n\n" + PROBE_QUERY}]
    return document


POOL = b'{"domain": "cooking", "text": "You are a cook."}\n'
FAULTY = {
    "not JSON": (b"{", "not JSON"),
    "malformed": (json.dumps(manifest("random") | {"pair": {}}).encode(), "trained_with"),
    "an unknown key in the pair": (
        json.dumps(manifest("random") | {"pair": {"trained_with": side("random", tone="warm"),
                                                  "serve_with": side("random")}}).encode(), "tone: unknown key",
    ),
    "an unknown schema version": (json.dumps(manifest("random", schema_version=2)).encode(), "schema_version 2"),
    "one-sided": (json.dumps(manifest("random", "none")).encode(), "persona text on one side only"),
    "a wrong pool digest": (
        json.dumps(manifest("random", pair=pool_pair("0" * 64), probes=[])).encode(), "the pair names 00000000"),
    "a probe that renders differently": (json.dumps(rendered_otherwise()).encode(), "probe 0 is rewritten differently"),
}  # fmt: skip


def faulty_checkpoint(folder, data):
    folder.mkdir()
    (folder / "its.json").write_bytes(data)
    (folder / "its-personas.jsonl").write_bytes(POOL)
    return folder


def is_one_clear_line(ended: Ended, words: str) -> bool:
    """Exit code 1, and nothing on stderr but one `Error:` line with these words (and log events, which are JSON)."""
    said = [line for line in ended.err.splitlines() if not line.startswith("{")]
    assert ended.code == 1, ended
    assert len(said) == 1, ended.err
    assert said[0].startswith("Error: ")
    assert words in said[0], said[0]
    return "Traceback" not in ended.err


class TestStart:
    async def test_a_taken_port_is_one_clear_line(self):
        with socket.create_server(("127.0.0.1", 0)) as other:
            port = other.getsockname()[1]
            ended = await command("serve", "--upstream", NOWHERE, "--port", port)
        assert is_one_clear_line(ended, f"cannot listen on 127.0.0.1:{port}: address already in use")

    async def test_an_address_that_is_not_ours_is_one_clear_line(self):
        key = {"ITS_PROXY_CONFIG": "", "KEY": "k"}
        ended = await command("serve", "--upstream", NOWHERE, "--host", "192.0.2.1", **key)
        assert is_one_clear_line(ended, "keys")

    @pytest.mark.parametrize(("data", "words"), FAULTY.values(), ids=FAULTY.keys())
    async def test_a_faulty_checkpoint_is_one_clear_line(self, tmp_path, data, words):
        checkpoint = faulty_checkpoint(tmp_path / "faulty", data)
        ended = await command("serve", "--upstream", NOWHERE, "--model", "model", "--checkpoint", checkpoint)
        assert is_one_clear_line(ended, words)

    async def test_a_checkpoint_that_is_no_folder_is_one_clear_line(self, tmp_path):
        ended = await command("serve", "--upstream", NOWHERE, "--checkpoint", tmp_path / "nowhere")
        assert is_one_clear_line(ended, "nowhere is not there")

    async def test_a_mismatch_found_by_the_live_handshake_ends_a_strict_server(self, tmp_path):
        checkpoint = write_checkpoint(tmp_path / "checkpoint", manifest("random"))
        async with upstream_of(Say(), tokens=lambda body: [1, 2, 3]) as upstream:
            ended = await command("serve", "--port", 0, "--upstream", upstream.url, "--model", "model",
                                  "--checkpoint", checkpoint)  # fmt: skip
        assert ended.code == 1
        [line] = [line for line in ended.err.splitlines() if line.startswith("Error: ")]
        assert line.startswith("Error: model: probe 0 renders to other tokens than recorded")
        assert f"of {len(rewritten_probe())} on" in line
        assert "Traceback" not in ended.err

    async def test_the_same_mismatch_does_not_end_a_server_that_is_not_strict(self, tmp_path):
        checkpoint = write_checkpoint(tmp_path / "checkpoint", manifest("random"))
        async with upstream_of(Say(), tokens=lambda body: [1, 2, 3]) as upstream:
            arguments = ("--upstream", upstream.url, "--model", "model", "--checkpoint", checkpoint, "--no-strict")
            async with serve_command(*arguments) as server, aiohttp.ClientSession() as http:
                status, error = await ask_until(http, server.url, "model", lambda code: code != "model_pending")
        assert (status, error["code"]) == (503, "model_mismatch")

    @pytest.mark.parametrize(("data", "words"), FAULTY.values(), ids=FAULTY.keys())
    async def test_of_three_models_only_the_faulty_one_is_refused(self, tmp_path, data, words):
        faulty_checkpoint(tmp_path / "faulty", data)
        for name in ("one", "two"):
            write_checkpoint(tmp_path / name, manifest("random"))
        async with upstream_of(Say("\\boxed{7}")) as upstream:
            models = {name: {"upstream": "gpu", "served_name": "model", "checkpoint": tmp_path / name}
                      for name in ("one", "faulty", "two")}  # fmt: skip
            async with serving({"upstreams": {"gpu": {"url": upstream.url}}, "models": models}) as server:
                assert [(await server.chat(model=name))[0] for name in ("one", "two")] == [200, 200]
                reply = await server.ask(model="faulty")
        assert (reply.status, reply.error["code"]) == (503, "model_mismatch")
        assert words in reply.error["message"]

    async def test_a_file_with_a_faulty_model_starts_and_says_which(self, tmp_path):
        faulty_checkpoint(tmp_path / "faulty", b"{")
        config = tmp_path / "its.yaml"
        models = {"good": {"upstream": "gpu"}, "bad": {"upstream": "gpu", "checkpoint": "faulty"}}
        config.write_text(json.dumps({"upstreams": {"gpu": {"url": NOWHERE}}, "models": models}))
        async with serve_command("--config", config) as server:
            ended = await server.end(signal.SIGTERM)
        assert ended.code == 0
        (refused,) = [json.loads(line) for line in server.said.splitlines() if b"model refused" in line]
        assert refused["model"] == "bad"
        assert "its.json: not JSON" in refused["reason"]


def rewritten_probe():
    from its_proxy.codesign.personas import taxonomy_pool

    recipe = Recipe(strategy_named("random"), pool=taxonomy_pool(), seed=7)
    return tokens_of(rewrite(recipe, [{"role": "user", "content": PROBE_QUERY}]).messages)


async def ask_until(http, url, model, is_enough):
    """Status and error of the first reply whose error code is enough."""
    async with asyncio.timeout(20):
        while True:
            async with http.post(f"{url}/chat/completions", json=ASKED | {"model": model}) as reply:
                error = (await reply.json()).get("error")
                if is_enough(error and error["code"]):
                    return reply.status, error
            await asyncio.sleep(0.05)


class TestEnd:
    @pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
    async def test_a_signal_lets_requests_in_flight_finish(self, number):
        async with upstream_of(Say("hello", delay_s=0.5)) as upstream:
            async with serve_command("--upstream", upstream.url) as server, aiohttp.ClientSession() as http:
                asking = asyncio.create_task(http.post(f"{server.url}/chat/completions", json=ASKED))
                await upstream.until(lambda: len(upstream.bodies) == 1)
                ended = await server.end(number)
                reply = await asking
                assert reply.status == 200
                assert (await reply.json())["choices"][0]["message"]["content"] == "hello"
            assert (upstream.n_finished, upstream.n_cancelled) == (1, 0)
        assert ended.code == 0, ended.err
        assert "Traceback" not in ended.err

    async def test_a_request_that_outlives_the_drain_is_cancelled(self, tmp_path):
        async with upstream_of(Say("hello", delay_s=60)) as upstream:
            arguments = ("--upstream", upstream.url)
            async with serve_command(*arguments, ITS_PROXY_DRAIN_S="0.3") as server, aiohttp.ClientSession() as http:
                asking = asyncio.create_task(http.post(f"{server.url}/chat/completions", json=ASKED))
                await upstream.until(lambda: len(upstream.bodies) == 1)
                ended = await server.end(signal.SIGTERM)
                await upstream.until(lambda: upstream.n_cancelled == 1)
                with pytest.raises(aiohttp.ClientError):
                    await asking
        assert ended.code == 0, ended.err

    async def test_a_server_still_waiting_for_its_upstream_ends_at_once(self, tmp_path):
        checkpoint = write_checkpoint(tmp_path / "checkpoint", manifest("random"))
        arguments = ("--upstream", NOWHERE, "--model", "model", "--checkpoint", checkpoint)
        async with serve_command(*arguments) as server:
            ended = await server.end(signal.SIGTERM)
        assert ended.code == 0, ended.err
        assert "Traceback" not in ended.err


async def test_the_log_holds_no_prompt_no_answer_and_no_key(tmp_path):
    config = tmp_path / "its.yaml"
    async with upstream_of(Say("canary-answer")) as upstream:
        config.write_text(json.dumps({"upstreams": {"gpu": {"url": upstream.url, "key_env": "GPU_KEY"}},
                                      "keys": [{"name": "team", "sha256": digest_of(b"canary-key")}]}))  # fmt: skip
        async with serve_command("--config", config, GPU_KEY="canary-gpu") as server, aiohttp.ClientSession() as http:
            messages = [{"role": "user", "content": "canary-prompt"}]
            for key in ("canary-key", "canary-wrong"):
                headers = {"Authorization": f"Bearer {key}"}
                for body in ({"model": "model", "messages": messages}, {"model": "canary-model", "messages": messages}):
                    async with http.post(f"{server.url}/chat/completions", json=body, headers=headers) as reply:
                        await reply.read()
            await send_raw(server.url, b"GET /livez HTTP/1.1\r\nAuthorization: Bearer canary-\x01\r\n\r\n")
            await send_raw(server.url, b"GET /livez HTTP/1.1\r\nConnection: close\r\n\r\ncanary-prompt")
            ended = await server.end(signal.SIGTERM)
    events = [json.loads(line) for line in ended.err.splitlines() if line.startswith("{")]
    assert [event["code"] for event in events if event["event"] == "request"] == [200, 404, 401, 401, 400]
    assert "canary" not in ended.err


async def send_raw(url: str, data: bytes) -> None:
    address = urlsplit(url)
    reader, writer = await asyncio.open_connection(address.hostname, address.port)
    writer.write(data)
    await reader.read()
    writer.close()
    await writer.wait_closed()
