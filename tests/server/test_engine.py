"""`its-proxy serve CHECKPOINT --engine vllm`, with a real process in vLLM's place that does what its flags say."""

import asyncio
import json
import os
import re
import shlex
import signal
import socket
import sys
import uuid
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import aiohttp
import pytest
from click.testing import CliRunner

from its_proxy.cli import main
from its_proxy.codesign.errors import ConfigError, ItsError
from its_proxy.codesign.manifest import parse_manifest
from its_proxy.server.engine import VllmEngine, checkpoint_and_name, find_command, plan_launch
from tests.command import command, ended
from tests.engine import STAND_IN, arguments_of, error_line, starting
from tests.processes import command_line, marked
from tests.scripted import Say, scripted_upstream
from tests.serving import manifest, write_checkpoint

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="looks for processes in /proc")

ASKED = {"messages": [{"role": "user", "content": "What is 2 + 5?"}], "max_tokens": 50}


@pytest.fixture
def checkpoint(tmp_path):
    return write_checkpoint(tmp_path / "qwen", manifest("random"))


@pytest.fixture
def plain(tmp_path):
    """A checkpoint without a manifest."""
    folder = tmp_path / "plain"
    folder.mkdir()
    return folder


async def get(url, path, **headers):
    async with aiohttp.ClientSession() as http, http.get(url.removesuffix("/v1") + path, headers=headers) as reply:
        return reply.status, await reply.json()


async def ask(url, **fields):
    async with (
        aiohttp.ClientSession() as http,
        http.post(f"{url}/chat/completions", json=ASKED | {"model": "qwen"} | fields) as reply,
    ):
        return reply.status, await reply.json(), reply.headers


class TestServing:
    async def test_the_engine_is_served_under_its_pair_and_voted(self, checkpoint):
        pair = parse_manifest((checkpoint / "its.json").read_bytes()).pair_id
        async with starting(checkpoint) as server:
            heard = await server.hear("its-proxy serves qwen at")
            assert f"--served-model-name qwen@{pair[:8]}" in heard
            while (await get(server.url, "/readyz"))[0] != 200:
                await asyncio.sleep(0.05)
            status, reply, _ = await ask(server.url)
            assert (status, reply["its"]["pair_id"], list(reply["its"]["votes"])) == (200, pair, ["7"])
            done = await server.end(signal.SIGTERM)
        assert done.code == 0, done.err

    async def test_without_a_manifest_the_name_is_the_folders_and_all_is_passed_through(self, plain):
        async with starting(plain) as server:
            assert "--served-model-name plain" in await server.hear("its-proxy serves plain at")
            status, reply, _ = await ask(server.url, model="plain")
            assert (status, reply["choices"][0]["message"]["content"]) == (200, "\\boxed{7}")
            assert "its" not in reply

    async def test_flags_go_to_the_engine_unchanged_and_ours_come_last(self, plain):
        flags = ("--say", "a b", "--start-s=0")
        async with starting(plain, *flags) as server:
            heard = await server.hear("its-proxy serves plain at")
        [given] = re.findall(r"vllm \| arguments: (.*)", heard)
        given = json.loads(given)
        assert given[:5] == ["serve", str(plain), *flags]
        assert given[5:7] == ["--host", "127.0.0.1"]

    async def test_nobody_else_on_the_machine_may_ask_the_engine(self, plain):
        async with starting(plain) as server:
            heard = await server.hear("its-proxy serves plain at")
            port = int(re.search(r"--port (\d+)", heard)[1])
            status, _ = await get(f"http://127.0.0.1:{port}", "/v1/models")
            assert status == 401
            engines = server.engines()
            keys = {key_of(pid) for pid in engines}
            assert len(engines) == 2, "the guard and what it guards"
            assert len(keys) == 1
            [key] = keys
            assert len(key) > 40
            assert key not in heard
            assert not any(key in word for pid in [server.process.pid, *engines] for word in command_line(pid))
            status, _ = await get(f"http://127.0.0.1:{port}", "/v1/models", Authorization=f"Bearer {key}")
            assert status == 200


def key_of(pid):
    variables = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    [key] = [each.partition(b"=")[2].decode() for each in variables if each.startswith(b"VLLM_API_KEY=")]
    return key


class TestReadiness:
    @pytest.mark.parametrize("kind", ["checkpoint", "plain"])
    async def test_while_it_loads_the_proxy_lives_and_says_how_far_it_is(self, kind, request, tmp_path):
        folder = request.getfixturevalue(kind)
        go = tmp_path / "go"
        loading = r"Loading safetensors checkpoint shards:  45% Completed | 5/11 [00:21<00:25]\n"
        async with starting(folder, "--wait-for", go, "--say", loading) as server:
            await server.hear("loading safetensors checkpoint shards 5/11")
            assert (await get(server.url, "/livez"))[0] == 200
            assert (await get(server.url, "/readyz"))[0] == 503
            status, reply, headers = await ask(server.url, model=folder.name)
            assert (status, reply["error"]["code"]) == (503, "model_pending")
            assert "vLLM is loading safetensors checkpoint shards 5/11" in reply["error"]["message"]
            assert int(headers["Retry-After"]) > 0
            go.touch()
            async with asyncio.timeout(20):
                while (await get(server.url, "/readyz"))[0] != 200:
                    await asyncio.sleep(0.05)
            assert (await ask(server.url, model=folder.name))[0] == 200

    async def test_settings_may_be_read_again_while_it_loads(self, checkpoint, tmp_path):
        go = tmp_path / "go"
        async with starting(checkpoint, "--wait-for", go) as server:
            server.process.send_signal(signal.SIGHUP)
            await server.hear('"reloaded"')
            assert (await ask(server.url))[1]["error"]["code"] == "model_pending"
            go.touch()
            async with asyncio.timeout(20):
                while (await ask(server.url))[0] != 200:
                    await asyncio.sleep(0.05)
            assert (await server.end(signal.SIGTERM)).code == 0

    async def test_another_model_does_not_wait_for_it(self, checkpoint, tmp_path):
        async with scripted_upstream(lambda body, number: Say("hello")) as other:
            config = tmp_path / "its.yaml"
            models = {"other": {"upstream": "gpu", "served_name": "model"}}
            config.write_text(json.dumps({"upstreams": {"gpu": {"url": other.url}}, "models": models}))
            async with starting(checkpoint, "--start-s", 1000, options=("--config", config)) as server:
                assert (await ask(server.url, model="other"))[0] == 200
                assert (await get(server.url, "/readyz"))[0] == 200
                assert (await ask(server.url))[1]["error"]["code"] == "model_pending"


class TestEnd:
    @pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
    async def test_a_signal_lets_requests_in_flight_finish_before_the_engine_ends(self, plain, number):
        async with starting(plain, "--reply-s", 1) as server:
            await server.hear("its-proxy serves plain at")
            asking = asyncio.create_task(ask(server.url, model="plain"))
            await asyncio.sleep(0.3)
            done = await server.end(number)
            status, reply, _ = await asking
        assert (status, reply["choices"][0]["message"]["content"]) == (200, "\\boxed{7}")
        assert done.code == 0, done.err

    async def test_a_terminals_interrupt_does_not_reach_the_engine(self, plain):
        async with starting(plain) as server:
            await server.hear("its-proxy serves plain at")
            groups = {os.getpgid(pid) for pid in server.engines()}
            assert os.getpgid(server.process.pid) not in groups

    @pytest.mark.parametrize(
        ("flags", "numbers", "code"),
        [(["--children"], [signal.SIGINT], 0), (["--children", "--stubborn"], [signal.SIGTERM, signal.SIGINT], 1)],
        ids=["one", "two"],
    )
    async def test_a_signal_while_it_loads_leaves_nothing(self, checkpoint, flags, numbers, code):
        async with starting(checkpoint, "--start-s", 1000, *flags) as server:
            await server.hear("vllm | children begun")
            done = await server.end(*numbers)
        assert done.code == code, done.err
        assert "Traceback" not in done.err

    async def test_a_signal_in_the_very_beginning_leaves_nothing(self, checkpoint):
        async with starting(checkpoint) as server:
            done = await server.end(signal.SIGTERM)
        assert done.code == 0, done.err

    async def test_children_that_hide_end_with_it(self, plain):
        async with starting(plain, "--children") as server:
            await server.hear("its-proxy serves plain at")
            assert len(server.engines()) == 5
            done = await server.end(signal.SIGTERM)
            assert server.engines() == []
        assert done.code == 0, done.err

    async def test_a_second_interrupt_ends_everything_at_once(self, plain):
        async with starting(plain, "--stubborn", "--children", "--reply-s", 1000) as server:
            await server.hear("its-proxy serves plain at")
            asking = asyncio.create_task(ask(server.url, model="plain"))
            await asyncio.sleep(0.3)
            done = await server.end(signal.SIGINT, signal.SIGINT)
            assert server.engines() == []
            with suppress(aiohttp.ClientError):
                assert (await asking)[0] == 502
        assert error_line(done) == "Error: ended at once by a further signal; what was in flight is lost"

    @pytest.mark.parametrize("is_ready", [True, False])
    async def test_a_killed_proxy_leaves_no_engine_behind(self, plain, is_ready):
        async with starting(plain, "--children", "--start-s", 0 if is_ready else 1000) as server:
            await server.hear("its-proxy serves plain at" if is_ready else "vllm | children begun")
            server.process.kill()
            await server.process.wait()
            await server.until_nobody_is_left()


class TestDeath:
    async def test_dying_at_the_start_it_tells_why_in_one_line(self, checkpoint):
        lines = (
            "(APIServer pid=7) INFO 11-21 09:44:01 [api.py:1] version 1.2.3",
            "(Worker pid=9) ERROR 11-21 09:44:01 [worker.py:7] Traceback (most recent call last):",
            '(Worker pid=9) ERROR 11-21 09:44:01 [worker.py:7]   File "worker.py", line 7, in load',
            "(Worker pid=9) ERROR 11-21 09:44:01 [worker.py:7]     raise ValueError(",
            "(Worker pid=9) ERROR 11-21 09:44:01 [worker.py:7] ValueError: no memory for 4000 GiB",
            "RuntimeError: Engine core initialization failed. See root cause above.",
        )
        flags = [word for line in lines for word in ("--say", line + r"\n")]
        async with starting(checkpoint, *flags, "--exit-code", 1) as server:
            done = await ended(server.process)
        assert error_line(done) == (
            "Error: vLLM ended with exit code 1 before it was ready: ValueError: no memory for 4000 GiB"
        )
        _, last = done.err.split("vLLM has ended; its last words, in short:\n")
        assert [line for line in last.splitlines() if line.startswith("vllm | ")][1:] == [
            "vllm | (Worker pid=9) ERROR 11-21 09:44:01 [worker.py:7] ValueError: no memory for 4000 GiB",
            "vllm | RuntimeError: Engine core initialization failed. See root cause above.",
        ]

    async def test_killed_later_it_ends_the_proxy_and_what_it_began(self, plain):
        async with starting(plain, "--children") as server:
            await server.hear("its-proxy serves plain at")
            [engine] = [pid for pid in server.engines() if "engine_process.py" in str(command_line(pid)[1:2])]
            os.kill(engine, signal.SIGKILL)
            done = await ended(server.process)
            assert server.engines() == []
            with pytest.raises(aiohttp.ClientConnectorError):
                await get(server.url, "/livez")
        assert "vLLM was killed by signal 9: " in error_line(done)
        assert "when memory runs out" in error_line(done)

    async def test_a_killed_guard_is_a_death_too_and_the_engine_does_not_stay(self, plain):
        async with starting(plain) as server:
            await server.hear("its-proxy serves plain at")
            [guard] = [pid for pid in server.engines() if "guard.py" in str(command_line(pid))]
            os.kill(guard, signal.SIGKILL)
            done = await ended(server.process)
        assert "killed by signal 9" in error_line(done)

    async def test_a_mismatch_ends_a_strict_server_and_its_engine(self, tmp_path):
        document = manifest("random")
        document["probes"][0]["prompt_token_ids"] = [1, 2, 3]
        checkpoint = write_checkpoint(tmp_path / "qwen", document)
        async with starting(checkpoint) as server:
            done = await ended(server.process)
        assert "renders to other tokens than recorded" in error_line(done)


class TestRefusals:
    async def test_a_taken_port_is_told_before_anything_is_started(self, checkpoint):
        with socket.create_server(("127.0.0.1", 0)) as other:
            port = other.getsockname()[1]
            done = await command("serve", "--port", port, *arguments_of(checkpoint, ()))
        assert (done.code, done.err) == (
            1,
            f"Error: cannot listen on 127.0.0.1:{port}: address already in use "
            "(another program has the port; choose one with --port)\n",
        )

    def test_a_command_that_is_not_there_is_told_with_a_hint(self, checkpoint):
        for variables, options in (
            ({}, ["--engine-command", "no-such"]),
            ({"ITS_PROXY_ENGINE_COMMAND": "no-such"}, []),
        ):
            told = refusal(["serve", str(checkpoint), "--engine", "vllm", *options], **variables)
            assert re.fullmatch(r"Error: no command 'no-such' in PATH or \S+ \(pip install vllm, or .*\)", told)

    @pytest.mark.parametrize(
        "flag", ["--host", "--port=3", "--uds", "--served-model-name", "--served_model_name=x", "--model", "--api-key",
                 "--headless", "--grpc", "--ssl-certfile"],
    )  # fmt: skip
    def test_flags_that_are_ours_are_refused(self, flag):
        with pytest.raises(ConfigError, match=f"{flag.partition('=')[0].replace('_', '-')} behind --: .*leave it out"):
            plan_launch("org/name", "name", ("--dtype", "auto", flag, "x"))

    @pytest.mark.parametrize(
        ("arguments", "words"),
        [
            (("--engine", "vllm"), "--engine vllm: needs CHECKPOINT"),
            (("--engine", "vllm", "--", "--enforce-eager"), "needs CHECKPOINT before the --"),
            (("nowhere/at/all", "--engine", "vllm"), "nowhere/at/all is not a folder"),
            (("org/name", "--engine", "vllm", "--upstream", "http://gpu/v1"), "--upstream: --engine vllm starts"),
            (("org/name", "--engine", "vllm", "--served-name", "x"), "--served-name: --engine vllm starts"),
            (("org/name", "--", "--enforce-eager"), "flags behind -- need --engine vllm"),
            (("a", "b"), "b: one CHECKPOINT is served"),
            (("a", "--checkpoint", "b"), "--checkpoint: CHECKPOINT is given already"),
            (("a", "--engine", "embedded", "--upstream", "http://gpu/v1"), "--engine embedded: needs no --upstream"),
            (("--engine-start-timeout-s", "-1"), "--engine-start-timeout-s: "),
        ],
    )
    def test_what_does_not_go_together_is_one_clear_line(self, arguments, words):
        assert words in refusal(["config", *arguments])

    def test_a_broken_manifest_is_told_before_anything_is_started(self, plain):
        (plain / "its.json").write_text("{")
        assert re.fullmatch(r"Error: .*its\.json: not JSON.*", refusal(["serve", str(plain), "--engine", "vllm"]))


def refusal(arguments, **variables):
    """The one line with which the command refuses; it runs in this process, where it starts nothing."""
    result = CliRunner().invoke(main, arguments, env=variables)
    assert result.exit_code == 1, result.output
    [line] = result.stderr.splitlines()
    return line


class TestConfig:
    def shown(self, *arguments):
        result = CliRunner().invoke(main, ["config", *map(str, arguments)])
        assert result.exit_code == 0, result.output
        return result.output

    def started(self, *arguments):
        [line] = [line for line in self.shown(*arguments).splitlines() if line.startswith("starts  ")]
        return shlex.split(line)[3:]

    def test_it_shows_what_would_be_started(self, checkpoint):
        words = self.started(*arguments_of(checkpoint, ("--dtype", "bfloat16")))
        pair = parse_manifest((checkpoint / "its.json").read_bytes()).pair_id
        assert words[:4] == ["serve", str(checkpoint), "--dtype", "bfloat16"]
        assert words[-1] == f"qwen@{pair[:8]}"

    def test_a_public_name_may_be_chosen(self, checkpoint):
        assert self.started(*arguments_of(checkpoint, (), ("--model", "best")))[-1].startswith("best@")

    def test_a_manifest_may_lie_elsewhere_than_the_weights(self, plain, checkpoint):
        words = self.started(*arguments_of(plain, (), ("--checkpoint", checkpoint)))
        assert words[1] == str(plain)
        assert words[-1].startswith("plain@")

    def test_a_checkpoint_alone_is_for_the_embedded_engine(self, checkpoint):
        alone = self.shown(checkpoint)
        assert alone == self.shown("--checkpoint", checkpoint) == self.shown(checkpoint, "--engine", "embedded")

    def test_a_checkpoint_may_stand_beside_an_upstream(self, checkpoint):
        upstream = ("--upstream", "http://127.0.0.1:9/v1")
        assert self.shown(checkpoint, *upstream) == self.shown("--checkpoint", checkpoint, *upstream)


class TestNames:
    def test_a_folder_lends_its_name_and_goes_whole(self, checkpoint, monkeypatch):
        monkeypatch.chdir(checkpoint)
        assert checkpoint_and_name(".") == (str(checkpoint), "qwen")

    @pytest.mark.parametrize("name", ["Qwen/Qwen3-0.6B", "gpt2"])
    def test_a_hub_id_goes_as_it_is(self, name, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        assert checkpoint_and_name(name) == (name, name)

    @pytest.mark.parametrize("text", ["/no/where", "../qwen", "a/b/c", "", "-x", "a b", "./x"])
    def test_anything_else_is_refused(self, text, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        with pytest.raises(ConfigError, match="is not a folder"):
            checkpoint_and_name(text)

    def test_a_command_may_be_words_or_a_path_with_spaces(self, tmp_path):
        program = tmp_path / "my vllm"
        program.write_text("#!/bin/sh\n")
        program.chmod(0o755)
        assert find_command(str(program)) == [str(program)]
        assert find_command(f"{sys.executable} -m x") == [sys.executable, "-m", "x"]
        with pytest.raises(ConfigError, match="no command ''"):
            find_command("")


class TestEngine:
    """The process alone, without a proxy before it."""

    @pytest.fixture(autouse=True)
    def variables(self, monkeypatch):
        self.mark = uuid.uuid4().hex
        monkeypatch.setenv("MARK", self.mark)
        monkeypatch.setenv("VLLM_API_KEY", "secret")

    @asynccontextmanager
    async def engine(self, folder, *flags, **options):
        self.heard = []
        launch = plan_launch(str(folder), "name", [str(flag) for flag in flags])
        async with VllmEngine(launch, STAND_IN, say=self.heard.append, **options) as engine:
            yield engine
        assert marked(self.mark) == []

    async def failure(self, folder, *flags, **options):
        async with self.engine(folder, *flags, **options) as engine:
            await engine.start()
            with pytest.raises(ItsError) as error:
                await engine.until_healthy()
        return str(error.value)

    async def test_it_is_healthy_until_it_ends(self, plain):
        async with self.engine(plain) as engine:
            await engine.start()
            await engine.until_healthy()
            ended = asyncio.create_task(engine.end())
            await engine.stop()
            assert str(await ended).startswith("vLLM ended with exit code 0")

    async def test_its_lines_are_shown_with_a_prefix_and_nothing_in_them_steers_the_terminal(self, plain):
        said = (r"\x1b[31mred\x1b[0m \x1b]0;title\x07\n", r"bar:  10% 1/10\rbar: 100% 10/10\r\n")
        async with self.engine(plain, *(word for line in said for word in ("--say", line))) as engine:
            await engine.start()
            await engine.until_healthy()
        assert "vllm | red �]0;title�" in self.heard
        assert "vllm | bar: 100% 10/10" in self.heard
        assert not any("\x1b" in line for line in self.heard)
        assert not any("GET /health" in line for line in self.heard), "our own calls are no news"

    async def test_a_flood_of_output_without_lines_is_bounded_and_harmless(self, plain):
        async with self.engine(plain, "--flood", 5_000_000) as engine:
            await engine.start()
            await engine.until_healthy()
        assert max(map(len, self.heard)) < 5_000

    async def test_who_does_not_listen_does_not_stop_it(self, plain):
        def refuse(line):
            raise BrokenPipeError

        launch = plan_launch(str(plain), "name", ["--flood", "1000000"])
        async with VllmEngine(launch, STAND_IN, say=refuse) as engine:
            await engine.start()
            await engine.until_healthy()

    async def test_a_start_that_takes_too_long_is_given_up(self, plain):
        told = await self.failure(plain, "--start-s", 1000, start_timeout_s=0.5)
        hint = "it was starting; --engine-start-timeout-s gives it more time"
        assert told == f"vLLM was not ready within 0.5 s ({hint})"

    @pytest.mark.parametrize(
        ("flags", "words"),
        [
            (["--no-such-flag"], "ended with exit code 2 before it was ready: unrecognized arguments: --no-such-flag"),
            (["--say", "no memory", "--exit-code", 1], "ended with exit code 1 before it was ready: no memory"),
            (["--say", r"it is done\n", "--exit-code", 0], "ended with exit code 0 before it was ready: it is done"),
        ],
    )
    async def test_why_it_ended_is_its_own_last_word(self, plain, flags, words):
        assert await self.failure(plain, *flags) == f"vLLM {words}"

    async def test_its_port_taken_meanwhile_is_told(self, plain):
        async with self.engine(plain) as engine:
            with socket.create_server(("127.0.0.1", engine.launch.port)):
                await engine.start()
                with pytest.raises(ItsError, match=r"OSError: .*[Aa]ddress already in use"):
                    await engine.until_healthy()

    async def test_stopping_what_was_never_started_is_nothing(self, plain):
        async with self.engine(plain):
            pass

    async def test_cancelling_a_stop_hurries_it(self, plain):
        async with self.engine(plain, "--children", "--stubborn") as engine:
            await engine.start()
            await engine.until_healthy()
            stopping = asyncio.create_task(engine.stop())
            await asyncio.sleep(0.2)
            stopping.cancel()
            with pytest.raises(asyncio.CancelledError):
                await stopping
            assert marked(self.mark) == []
