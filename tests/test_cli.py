"""The its-proxy command, run as a process against a live server."""

import json
import sys

import pytest

from tests.command import ROOT, Ended, command, serve_command
from tests.scripted import Say
from tests.serving import manifest, serving, serving_script, write_checkpoint

HEAVY = ("torch", "transformers", "vllm", "litellm", "openai", "numpy")


@pytest.fixture
def checkpoint(tmp_path):
    return write_checkpoint(tmp_path / "checkpoint", manifest("random"))


def is_one_clear_line(ended: Ended, words: str) -> bool:
    assert ended.code == 1, ended
    assert ended.err.startswith("Error: ")
    assert words in ended.err
    return len(ended.err.splitlines()) == 1


class TestHelp:
    @pytest.mark.parametrize("name", [None, "serve", "ask", "explain", "models", "config"])
    async def test_every_command_explains_itself(self, name):
        ended = await command(*([name] if name else []), "--help")
        assert ended.code == 0
        assert "Usage: " in ended.out

    async def test_an_unknown_command_is_a_usage_error(self):
        assert (await command("sing")).code == 2

    async def test_neither_help_nor_serving_an_upstream_imports_anything_heavy(self):
        """The interpreter itself tells what it imported: `-X importtime` writes one line a module."""
        import asyncio
        import os

        environment = os.environ | {"PYTHONPATH": str(ROOT), "PYTHONPROFILEIMPORTTIME": "1"}
        help_command = (sys.executable, "-m", "its_proxy", "--help")
        process = await asyncio.create_subprocess_exec(
            *help_command, env=environment, stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.PIPE
        )
        _, imported = await process.communicate()
        assert b"its_proxy.cli" in imported
        assert not imported_of(imported.decode()) & {*HEAVY, "aiohttp"}
        async with serve_command("--upstream", "http://127.0.0.1:9/v1", PYTHONPROFILEIMPORTTIME="1") as server:
            ended = await server.end(15)
        assert not imported_of(ended.err) & {*HEAVY, "aiohttp"}


def imported_of(importtime: str) -> set[str]:
    """Top-level packages in what `-X importtime` wrote."""
    lines = [line for line in importtime.splitlines() if line.startswith("import time:")]
    return {line.rpartition("|")[2].strip().partition(".")[0] for line in lines}


class TestConfig:
    async def test_it_shows_every_setting_and_where_it_comes_from(self, tmp_path):
        file = tmp_path / "its.yaml"
        file.write_text("port: 9000\nupstreams:\n  gpu: {url: 'http://gpu:8000/v1', key_env: GPU_KEY}\n")
        ended = await command("config", "--config", file, "--max-n", 4, ITS_PROXY_VOTE_N="3", GPU_KEY="secret")
        assert ended.code == 0, ended.err
        rows = {line.split()[0]: line.split()[1:] for line in ended.out.splitlines() if line.strip()}
        assert rows["port"] == ["9000", "its.yaml:1"]
        assert rows["upstreams.gpu.url"] == ['"http://gpu:8000/v1"', "its.yaml:3"]
        assert rows["max_n"] == ["4", "--max-n"]
        assert rows["vote.n"] == ["3", "ITS_PROXY_VOTE_N"]
        assert rows["host"] == ['"127.0.0.1"', "default"]
        assert "secret" not in ended.out

    @pytest.mark.parametrize(
        ("text", "words"),
        [
            ("port: 80\nprot: 9\n", "its.yaml:2: prot: unknown key (did you mean port?)"),
            ("port: http\n", "its.yaml:1: port: "),
            ("port: 80\nport: 81\n", "its.yaml:2:1: not a settings file: port is set twice"),
            ("models:\n  qwen:\n    upstream: gpu\n", "its.yaml:3: models.qwen.upstream: no upstream is named 'gpu'"),
            ("host: [\n", "its.yaml:2:1: not a settings file"),
            ("host: 0.0.0.0\n", "its.yaml:1: host: '0.0.0.0' is open to others, and no keys are configured"),
        ],
    )
    async def test_a_bad_file_names_the_key_and_the_line(self, tmp_path, text, words):
        file = tmp_path / "its.yaml"
        file.write_text(text)
        assert is_one_clear_line(await command("config", "--config", file), words)

    async def test_a_bad_file_is_not_served(self, tmp_path):
        file = tmp_path / "its.yaml"
        file.write_text("prot: 9\n")
        assert is_one_clear_line(await command("serve", "--config", file), "its.yaml:1: prot: unknown key")

    async def test_a_file_that_is_not_there_is_named(self, tmp_path):
        assert is_one_clear_line(await command("config", "--config", tmp_path / "its.yaml"), "its.yaml: cannot be read")

    @pytest.mark.parametrize(
        ("arguments", "variables", "words"),
        [
            (["--port", "99999"], {}, "--port: "),
            (["--upstream", "gpu:8000"], {}, "--upstream: "),
            (["--served-name", "x"], {}, "--served-name: needs --model"),
            (["--upstream-key-env", "X"], {}, "--upstream-key-env: needs --upstream"),
            (["--upstream", "http://gpu/v1", "--upstream-key-env", "X"], {}, "not set or empty"),
            ([], {"ITS_PROXY_PORT": "http"}, "ITS_PROXY_PORT: "),
        ],
    )
    async def test_a_bad_flag_or_variable_is_named(self, arguments, variables, words):
        assert is_one_clear_line(await command("config", *arguments, **variables), words)


class TestAsk:
    async def test_it_shows_the_reply_and_the_vote(self, checkpoint):
        query = "What is 2 + 5? " + "Think of [bold] eggs. " * 10
        async with serving_script(Say("so it is [red]\\boxed{7}"), checkpoint) as (server, _):
            ended = await command("ask", query, "--model", "model", "--n", 3, "--url", server.url + "/")
        assert ended.code == 0, ended.err
        assert query in ended.out, "neither wrapped nor read as markup"
        assert "so it is [red]\\boxed{7}" in ended.out
        assert "agreement 1.00; 3 asked" in ended.out
        assert "strategy random" in ended.out

    async def test_a_model_without_a_manifest_is_asked_plainly(self):
        async with serving_script(Say("hello"), None) as (server, _):
            ended = await command("ask", "Hello?", "--model", "model", "--url", server.url)
        assert ended.code == 0, ended.err
        assert "hello" in ended.out
        assert "agreement" not in ended.out

    async def test_the_servers_own_word_is_the_error(self, checkpoint):
        async with serving_script(Say("hello"), checkpoint) as (server, _):
            ended = await command("ask", "Hello?", "--model", "nobody", "--url", server.url)
        assert is_one_clear_line(ended, "no model named 'nobody' is served here (served: model)")

    async def test_a_key_is_sent_and_its_lack_told(self, checkpoint):
        locked = {"keys": [{"name": "team", "env": "TEAM_KEY"}]}
        async with serving_script(Say("\\boxed{7}"), checkpoint, environ={"TEAM_KEY": "k"}, **locked) as (server, _):
            arguments = ("ask", "What is 2 + 5?", "--model", "model", "--url", server.url)
            assert (await command(*arguments, "--key", "k")).code == 0
            assert (await command(*arguments, ITS_KEY="k")).code == 0
            assert is_one_clear_line(await command(*arguments), "a valid API key is required")

    @pytest.mark.parametrize("url", ["http://127.0.0.1:9/v1", "nonsense", "http://[", "file:///"])
    async def test_where_no_server_answers_it_says_so(self, url):
        assert is_one_clear_line(await command("ask", "Hello?", "--url", url), "no its-proxy answers at")

    async def test_a_url_without_its_ends_is_told_of_them(self, checkpoint):
        async with serving_script(Say("hello"), checkpoint) as (server, _):
            for url in (server.url.removesuffix("/v1"), server.url.removeprefix("http://")):
                ended = await command("ask", "Hello?", "--model", "model", "--url", url)
                assert is_one_clear_line(ended, "its-proxy's URL is whole, as http://127.0.0.1:8080/v1")

    async def test_a_question_is_needed(self):
        ended = await command("ask")
        assert ended.code == 2
        assert "give a QUERY, or --demo" in ended.err


class TestExplain:
    async def test_it_shows_the_prompt_and_asks_nobody(self, checkpoint):
        async with serving_script(Say("hello"), checkpoint) as (server, upstream):
            arguments = ("explain", "What is 2 + 5?", "--model", "model", "--url", server.url)
            shown, document = await command(*arguments), await command(*arguments, "--json")
            assert upstream.bodies == []
        plan = json.loads(document.out)
        assert plan["members"][0]["messages"][0]["content"] in shown.out
        assert "strategy random, handshake unverified, 8 of 8 candidates" in shown.out


class TestModels:
    async def test_it_lists_models_with_their_state(self, checkpoint):
        async with serving_script(Say("hello"), checkpoint) as (server, _):
            shown = await command("models", "--url", server.url)
            document = await command("models", "--url", server.url, "--json")
        card = json.loads(document.out)["data"][0]
        assert card["id"] == "model"
        row = shown.out.splitlines()[1].split()
        assert row[:5] == ["model", "random", "8", card["its"]["pair_id"][:8], "unverified"]
        assert card["its"]["reason"] in shown.out

    async def test_an_empty_list_is_said_to_be_one(self):
        async with serving({"upstreams": {"gpu": {"url": "http://127.0.0.1:9/v1"}}}, wait=False) as server:
            shown = await command("models", "--url", server.url)
        assert (shown.code, shown.out) == (0, "")
        assert shown.err.startswith("no models: ")

    async def test_an_ensembles_states_are_all_shown(self, tmp_path):
        models = {}
        for name in ("one", "two"):
            write_checkpoint(tmp_path / name, manifest("random"))
            models[name] = {"upstream": "gpu", "checkpoint": tmp_path / name}
        settings = {"upstreams": {"gpu": {"url": "http://127.0.0.1:9/v1"}}, "models": models,
                    "ensembles": {"both": {"members": ["one", "two"]}}}  # fmt: skip
        async with serving(settings, wait=False) as server:
            shown = await command("models", "--url", server.url)
        assert shown.code == 0, shown.err
        assert "pending, pending" in shown.out
