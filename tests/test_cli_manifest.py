"""`its-proxy manifest`, run as a process against a live server."""

import asyncio
import json
import shlex
import shutil
import signal
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from click.testing import CliRunner

from its_proxy.checkpoint import open_checkpoint
from its_proxy.cli import main
from its_proxy.cli_manifest import read_queries, safe_name, unescaped
from its_proxy.codesign.errors import ConfigError
from its_proxy.codesign.personas import Persona, Pool, pool_jsonl
from its_proxy.codesign.strategies import Recipe, rewrite, strategy_named
from its_proxy.codesign.taxonomy import GENERAL, NAMES
from tests.command import Ended, command, ended, serve_command, start
from tests.scripted import Say, ScriptedUpstream, scripted_upstream
from tests.scripted_model import Model
from tests.serving import manifest, write_checkpoint

POOL = pool_jsonl([Persona(f"You know {domain} well, día a día.", domain) for domain in (*NAMES, GENERAL)])


def serves(body: dict[str, Any], number: int) -> Say:
    """Shows its tokens and log-probabilities, and answers everything else with 7."""
    if "prompt" in body or "return_token_ids" in body:
        return Model().say(body, number)
    return Say("It is \\boxed{7}", delay_s=0.005)


def is_one_clear_line(ended: Ended, words: str, code: int = 1) -> bool:
    assert ended.code == code, ended
    assert words in ended.err
    return ended.err.startswith("Error: ") and len(ended.err.splitlines()) == 1


def run(*arguments: object) -> Ended:
    """The command inside of this process, which is quicker to start."""
    done = CliRunner().invoke(main, [str(argument) for argument in arguments])
    return Ended(done.exit_code, done.stdout, done.stderr)


async def asked(url: str, model: str) -> dict[str, Any]:
    body = {"model": model, "messages": [{"role": "user", "content": "What is 2 + 5?"}]}
    async with aiohttp.ClientSession() as http:
        while True:
            async with http.post(f"{url}/chat/completions", json=body) as response:
                reply = await response.json()
            if response.status != 503:  # the handshake is under way
                return reply
            await asyncio.sleep(0.02)


async def init(upstream: ScriptedUpstream, *arguments: object, model: str = "model", **variables: str) -> Ended:
    return await command("manifest", "init", "--upstream", upstream.url, "--model", model, *arguments, **variables)


class TestInit:
    async def test_an_untouched_model_votes_in_two_commands(self, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        async with scripted_upstream(serves, ["meta/llama-3"]) as upstream:
            first = await init(upstream, model="meta/llama-3")
            assert first.code == 0, first
            [second] = first.out.splitlines()
            words = shlex.split(second)
            assert words[:2] == ["its-proxy", "serve"]
            assert words[-1] == "meta-llama-3.its"
            async with serve_command(*words[2:]) as server:
                reply = await asked(server.url, "meta/llama-3")
        assert "8 probes, 8 with log-probabilities" in first.err
        assert reply["its"]["votes"] == {"7": 8} or sum(reply["its"]["votes"].values()) >= 5
        assert (reply["its"]["strategy"], reply["its"]["handshake"]) == ("none", "verified")
        assert reply["its"]["answer"] == "7"

    async def test_a_server_that_shows_nothing_of_itself_votes_unverified(self, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        async with scripted_upstream(lambda body, number: Say("\\boxed{7}")) as upstream:
            first = await init(upstream)
            assert "note: the server shows no token ids" in first.err
            async with serve_command(*shlex.split(first.out)[2:]) as server:
                reply = await asked(server.url, "model")
        assert (reply["its"]["answer"], reply["its"]["handshake"]) == ("7", "unverified")

    async def test_the_second_command_repeats_names_and_the_keys_variable(self, tmp_path):
        async with scripted_upstream(serves, ["served"]) as upstream:
            out = tmp_path / "a folder"
            arguments = ("--served-name", "served", "--upstream-key-env", "GPU_KEY", "--out", out)
            first = await init(upstream, *arguments, model="public", GPU_KEY="secret")
            assert {headers["Authorization"] for headers in upstream.headers} == {"Bearer secret"}
        assert shlex.split(first.out)[2:] == [
            "--upstream", upstream.url, "--model", "public", "--served-name", "served",
            "--upstream-key-env", "GPU_KEY", "--checkpoint", str(out),
        ]  # fmt: skip
        assert "secret" not in first.out + first.err + (out / "its.json").read_text()

    async def test_advice_on_the_vote_is_written(self, tmp_path):
        async with scripted_upstream(serves) as upstream:
            arguments = ("--n", 5, "--temperature", 1.1, "--top-p", 0.9, "--max-tokens", 99, "--answer", "number")
            assert (await init(upstream, *arguments, "--out", tmp_path / "a")).code == 0
        vote = json.loads((tmp_path / "a" / "its.json").read_text())["vote"]
        assert vote == {"n": 5, "temperature": 1.1, "top_p": 0.9, "max_tokens": 99, "answer": "number", "stop": "exact"}

    async def test_a_manifest_that_is_there_is_kept_before_anything_is_asked(self, tmp_path):
        write_checkpoint(tmp_path, manifest("random"))
        before = (tmp_path / "its.json").read_bytes()
        async with scripted_upstream(serves) as upstream:
            assert is_one_clear_line(await init(upstream, "--out", tmp_path), "holds a manifest already (--force")
            assert upstream.bodies == []
            assert (tmp_path / "its.json").read_bytes() == before
            assert (await init(upstream, "--out", tmp_path, "--force")).code == 0
        assert open_checkpoint(tmp_path).manifest.origin == "declared"

    async def test_interrupted_it_leaves_nothing(self, tmp_path):
        def say(body: dict[str, Any], number: int) -> Say:
            return Say("x", delay_s=30) if number > 4 else serves(body, number)

        async with scripted_upstream(say) as upstream:
            process = await start("manifest", "init", "--upstream", upstream.url, "--model", "model", "--out",
                                  tmp_path / "model.its")  # fmt: skip
            await upstream.until(lambda: upstream.n_open == 1 and len(upstream.bodies) > 4, timeout_s=60)
            process.send_signal(signal.SIGINT)
            done = await ended(process)
            await upstream.until(lambda: upstream.n_open == 0)
        assert done.code != 0
        assert "Traceback" not in done.err
        assert list(tmp_path.iterdir()) == []

    @pytest.mark.parametrize(
        ("options", "words"),
        [
            ({}, "http://127.0.0.1:9/v1 cannot be reached"),
            ({"--upstream": "gpu:8000"}, "--upstream: should be an http://"),
            ({"--model": "m:its-8"}, "--model: "),
            ({"--upstream-key-env": "NO_KEY"}, "not set or empty"),
            ({"--trained": "random"}, "--trained random: needs --rows"),
            ({"--trained": "R"}, "--trained random: needs --rows"),
            ({"--trained": "magic"}, "unknown strategy 'magic'"),
            ({"--served-with": "random"}, "persona text on one side only"),
            ({"--template": "x"}, "--template: strategy 'none'"),
            ({"--pool": "pool.jsonl"}, "pool.jsonl: No such file"),
            ({"--n": 0}, "--n: "),
            ({"--temperature": "nan"}, "--temperature: "),
            ({"--chat-template-kwargs": "[]"}, "--chat-template-kwargs: should be a JSON object"),
            ({"--chat-template-kwargs": "{"}, "--chat-template-kwargs: not JSON"),
            ({"--queries": "gone.txt"}, "gone.txt: No such file"),
            ({"--rows": "gone.jsonl"}, "gone.jsonl: No such file"),
        ],
    )
    def test_what_cannot_be_done_is_one_clear_line(self, tmp_path, monkeypatch, options, words):
        monkeypatch.chdir(tmp_path)
        options = {"--upstream": "http://127.0.0.1:9/v1", "--model": "m", **options}
        arguments = [str(word) for option in options.items() for word in option]
        assert is_one_clear_line(run("manifest", "init", *arguments), words)
        assert list(tmp_path.iterdir()) == []

    async def test_a_model_that_the_upstream_does_not_list_is_refused(self, tmp_path):
        async with scripted_upstream(serves, ["llama"]) as upstream:
            assert is_one_clear_line(
                await init(upstream, "--out", tmp_path / "a"), "lists no model 'model' (it lists 'llama'"
            )

    async def test_own_queries_are_probed_with(self, tmp_path):
        (tmp_path / "queries.txt").write_text("One and one?\n\n  Two and two?  \n")
        async with scripted_upstream(serves) as upstream:
            assert (await init(upstream, "--out", tmp_path / "a", "--queries", tmp_path / "queries.txt")).code == 0
        assert [probe.query for probe in open_checkpoint(tmp_path / "a").manifest.probes] == [
            "One and one?",
            "Two and two?",
        ]


class TestRetrofit:
    @pytest.fixture
    def trained(self, tmp_path) -> Recipe:
        (tmp_path / "pool.jsonl").write_bytes(POOL)
        recipe = Recipe(strategy_named("random"), "{persona}\n--\n{query}", pool=Pool.from_jsonl(POOL), seed=3)
        queries = [f"What is {k} + 5?" for k in range(100)]
        rows = [
            {"q": q, "t": rewrite(recipe, [{"role": "user", "content": q}]).messages[0]["content"]} for q in queries
        ]
        (tmp_path / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        return recipe

    def arguments(self, folder: Path, **changes: object) -> list[object]:
        options = {
            "--trained": "random", "--template": r"{persona}\n--\n{query}", "--pool": folder / "pool.jsonl",
            "--rows": folder / "train.jsonl", "--query-field": "q", "--rewritten-field": "t", "--seed": 3,
            "--out": folder / "model.its", **changes,
        }  # fmt: skip
        return [word for option in options.items() for word in option]

    async def test_rows_that_fit_declare_the_strategy_with_its_pool(self, tmp_path, trained):
        async with scripted_upstream(serves) as upstream:
            done = await init(upstream, *self.arguments(tmp_path))
        assert done.code == 0, done
        assert "100 of 100 rows come out byte for byte" in done.err
        checkpoint = open_checkpoint(tmp_path / "model.its")
        assert checkpoint.serve == trained
        assert checkpoint.manifest.provenance["rows"]["n"] == 100
        assert (tmp_path / "model.its" / "its-personas.jsonl").read_bytes() == POOL
        assert "You know " in checkpoint.manifest.probes[0].messages[0]["content"]

    async def test_rows_that_do_not_fit_are_refused_before_the_server_is_asked(self, tmp_path, trained):
        async with scripted_upstream(serves) as upstream:
            done = await init(upstream, *self.arguments(tmp_path, **{"--seed": 4}))
            assert upstream.bodies == []
        assert is_one_clear_line(done, "of 100 rows come out as 'random' rewrites them here, 99% are needed")
        assert not (tmp_path / "model.its").exists()


class TestShowAndDiff:
    def test_a_page_tells_pair_probes_vote_and_measurements(self, tmp_path):
        row = {"benchmark": "gsm8k", "split": "test", "items": 9, "metric": "maj@8", "value": 0.5, "ci95": [0.2, 0.8]}
        write_checkpoint(tmp_path, manifest("random", evaluation=[row], provenance={"base_model": "qwen\x1b[31m"}))
        shown = run("manifest", "show", tmp_path)
        assert shown.code == 0, shown.err
        for words in (
            "random, version 1 (context)",
            "984 in 41 domains",
            "maj@8",
            "0.5 [0.2, 0.8] on 9 items of gsm8k",
        ):
            assert words in shown.out
        assert "qwen\\x1b[31m" in shown.out, "what a terminal would obey is spelled out"
        assert open_checkpoint(tmp_path).pair_id in shown.out
        assert (run("manifest", "show", tmp_path / "its.json")).out == shown.out
        document = json.loads((run("manifest", "show", tmp_path, "--json")).out)
        assert document.pop("pair_id") == open_checkpoint(tmp_path).pair_id
        assert document == json.loads((tmp_path / "its.json").read_text())

    def test_a_manifest_that_does_not_hold_is_not_shown(self, tmp_path):
        document = manifest("random")
        document["pair"]["serve_with"]["seed"] = 8
        write_checkpoint(tmp_path, document)
        assert is_one_clear_line(run("manifest", "show", tmp_path), "probe 0 is rewritten differently here")

    def test_equal_pairs_exit_0_other_pairs_1_and_trouble_2(self, tmp_path):
        one = write_checkpoint(tmp_path / "one", manifest("random"))
        more = {"n": 4, "temperature": 0.5, "answer": "number", "stop": "none"}
        revoted = write_checkpoint(tmp_path / "two", manifest("random", vote=more))
        other = write_checkpoint(tmp_path / "three", manifest("similar"))
        assert (run("manifest", "diff", one, one)).out.splitlines()[1:] == []
        same = run("manifest", "diff", one, revoted)
        assert same.code == 0
        assert "every request is rewritten alike" in same.out
        assert "vote.n: 8 | 4" in same.out
        assert "vote.top_p: 0.95 | not written" in same.out
        different = run("manifest", "diff", one, other, "--query", "How do I bake bread?")
        assert different.code == 1
        assert "pair.serve_with.strategy: random | similar" in different.out
        assert "a query is rewritten differently" in different.out
        assert different.out.count("How do I bake bread?") == 2
        assert is_one_clear_line(run("manifest", "diff", one, tmp_path / "gone"), "is not there", code=2)


class TestBundle:
    async def test_a_bundle_serves_as_the_folder_does(self, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        async with scripted_upstream(serves) as upstream:
            assert (await init(upstream)).code == 0
            done = run("manifest", "bundle", "model.its")
            assert done.code == 0, done.err
            assert "wrote model.bundle.json: pair " in done.err
            shutil.rmtree(tmp_path / "model.its")
            serving = ("--upstream", upstream.url, "--model", "model", "--checkpoint", "model.bundle.json")
            async with serve_command(*serving) as server:
                reply = await asked(server.url, "model")
            (tmp_path / "its.yaml").write_text(
                f"upstreams: {{gpu: {{url: '{upstream.url}'}}}}\n"
                "models: {model: {upstream: gpu, checkpoint: model.bundle.json}}\n"
            )
            async with serve_command("--config", "its.yaml") as server:
                again = await asked(server.url, "model")
        assert (reply["its"]["answer"], reply["its"]["handshake"]) == ("7", "verified")
        assert again["its"]["pair_id"] == reply["its"]["pair_id"]

    async def test_a_mounted_config_map_is_read_through_its_links(self, tmp_path):
        """Kubernetes mounts a ConfigMap as links into a folder that it swaps as a whole."""
        write_checkpoint(tmp_path / "model.its", manifest("random"))
        real = tmp_path / "mount" / "..2026_01_01"
        real.mkdir(parents=True)
        assert (run("manifest", "bundle", tmp_path / "model.its", "--out", real / "its.bundle.json")).code == 0
        (tmp_path / "mount" / "..data").symlink_to("..2026_01_01")
        (tmp_path / "mount" / "its.bundle.json").symlink_to("..data/its.bundle.json")
        shown = run("manifest", "show", tmp_path / "mount" / "its.bundle.json")
        assert shown.code == 0, shown.err

    async def test_one_that_no_config_map_holds_is_pointed_out(self, tmp_path):
        pool = pool_jsonl([Persona(f"{domain} " * 3000, domain) for domain in (*NAMES, GENERAL)])
        document = manifest("random", probes=[])
        for side in document["pair"].values():
            side["personas"] = {"source": "pool", "file": "p.jsonl", "sha256": Pool.from_jsonl(pool).sha256}
        write_checkpoint(tmp_path / "big", document)
        (tmp_path / "big" / "p.jsonl").write_bytes(pool)
        done = run("manifest", "bundle", tmp_path / "big", "--out", tmp_path / "b.json")
        assert done.code == 0, done
        assert "a ConfigMap holds at most 1,048,576 bytes" in done.err

    def test_a_file_that_is_no_bundle_is_not_written_over(self, tmp_path):
        folder = write_checkpoint(tmp_path / "model.its", manifest("random"))
        before = (folder / "its.json").read_bytes()
        assert is_one_clear_line(run("manifest", "bundle", folder, "--out", folder / "its.json"), "is no bundle")
        assert (folder / "its.json").read_bytes() == before
        for _ in range(2):
            assert run("manifest", "bundle", folder, "--out", tmp_path / "b.json").code == 0
        assert is_one_clear_line(
            run("manifest", "bundle", folder, "--out", tmp_path / "gone" / "b.json"), "cannot write"
        )

    async def test_the_embedded_engine_needs_the_folder(self, tmp_path):
        write_checkpoint(tmp_path / "model.its", manifest("random"))
        run("manifest", "bundle", tmp_path / "model.its", "--out", tmp_path / "b.json")
        done = await command("serve", "--port", 0, "--checkpoint", tmp_path / "b.json")
        assert is_one_clear_line(done, "b.json is not a folder (the embedded engine needs the weights, too)")


def test_the_help_of_every_command_says_what_it_does():
    for name in ([], ["init"], ["show"], ["diff"], ["bundle"]):
        done = run("manifest", *name, "--help")
        assert (done.code, "Usage: " in done.out) == (0, True)


@pytest.mark.parametrize(
    ("model", "folder"),
    [("llama", "llama"), ("meta/llama-3", "meta-llama-3"), ("../../etc", "etc"), ("...", "model"), ("a b\n", "a-b"),
     ("模型", "model"), ("x" * 200, "x" * 100), ("NAME@1234", "NAME-1234")],
)  # fmt: skip
def test_a_models_name_is_made_safe_as_a_folders(model, folder):
    assert safe_name(model) == folder


@pytest.mark.parametrize(
    ("typed", "meant"),
    [(r"{persona}\n\n{query}", "{persona}\n\n{query}"), ("{persona}\n{query}", "{persona}\n{query}"), (r"a\tb", "a\tb"),
     (r"a\\nb", r"a\nb"), (r"\x", r"\x"), ("\\", "\\")],
)  # fmt: skip
def test_a_templates_backslashes_mean_what_they_do_in_json(typed, meant):
    assert unescaped(typed) == meant


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "holds 0 queries"),
        (b"q\n" * 17, "holds 17 queries"),
        (b"\xff", "not UTF-8"),
        (b'{"query": "a"}\n{', "query 2: not JSON"),
        (b'{"query": "a"}\n{"x": 1}', "a row without a query"),
        (b"x" * (2**20 + 1), "larger than"),
    ],
)
def test_queries_that_cannot_be_read_are_refused(tmp_path, data, words):
    (tmp_path / "q").write_bytes(data)
    with pytest.raises(ConfigError, match=words):
        read_queries(tmp_path / "q")


def test_queries_are_lines_or_rows(tmp_path):
    (tmp_path / "q").write_text('{"query": "a"}\n{"question": "b\\nc"}\n')
    assert read_queries(tmp_path / "q") == ["a", "b\nc"]
