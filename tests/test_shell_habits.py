"""What both commands do as any other command of a shell does: codes, colour, JSON, progress, completion."""

import asyncio
import io
import json
import os
import pty
import re
import signal
import sys

import pytest
from click.shell_completion import get_completion_class
from click.testing import CliRunner, Result

from its_proxy import cli, cli_ask
from its_proxy.server.build import DEMO
from its_training.cli import main as its_train
from tests.command import ROOT, command, start
from tests.rows import random_rows
from tests.scripted import Say
from tests.serving import manifest, serving_script, write_checkpoint

COLOUR = re.compile(r"\x1b\[[0-9;]*\b(3[0-7]|9[0-7]|38)[;m]")
STYLE = re.compile(r"\x1b\[")


@pytest.fixture
def checkpoint(tmp_path):
    return write_checkpoint(tmp_path / "checkpoint", manifest("random"))


@pytest.fixture
def candidates(tmp_path):
    file = tmp_path / "candidates.jsonl"
    file.write_text("".join(row.model_dump_json() + "\n" for row in random_rows(12, 4)))
    return file


def run(*arguments: object) -> Result:
    """The command inside this process: what it prints is no terminal's."""
    return CliRunner().invoke(cli.main, [str(argument) for argument in arguments], prog_name="its-proxy")


async def asked(*arguments: object) -> Result:
    """One that asks a server of this very loop."""
    return await asyncio.to_thread(run, *arguments)


async def at_a_terminal(*arguments, **variables):
    """What the command shows a person: stdout and stderr are a terminal of 200 columns."""
    leader, follower = pty.openpty()
    environment = {name: value for name, value in os.environ.items() if name not in ("NO_COLOR", "CI", "FORCE_COLOR")}
    environment |= {"PYTHONPATH": str(ROOT), "TERM": "xterm-256color", "COLUMNS": "200"} | variables
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "its_proxy", *map(str, arguments)), env=environment, stdout=follower, stderr=follower
    )
    os.close(follower)
    shown = await asyncio.to_thread(_read_all, leader)
    os.close(leader)
    assert await process.wait() == 0, shown
    return shown


def _read_all(descriptor):
    """Until nobody has the terminal open any more, which Linux tells as an error."""
    chunks = []
    try:
        while chunk := os.read(descriptor, 65536):
            chunks.append(chunk)
    except OSError:
        pass
    return b"".join(chunks).decode()


class TestColour:
    async def test_a_terminal_gets_it_unless_no_color_is_set(self, checkpoint):
        async with serving_script(Say("\\boxed{7}"), checkpoint) as (server, _):
            explain = ("explain", "What is 2 + 5?", "--model", "model", "--url", server.url)
            assert COLOUR.search(await at_a_terminal(*explain))
            assert not COLOUR.search(await at_a_terminal(*explain, NO_COLOR="1"))
            for arguments in (explain, ("ask", *explain[1:]), ("models", "--url", server.url)):
                assert not STYLE.search((await asked(*arguments)).output), arguments

    async def test_a_manifest_is_shown_alike(self):
        show = ("manifest", "show", DEMO / "demo-random")
        assert STYLE.search(await at_a_terminal(*show))
        assert not STYLE.search(await at_a_terminal(*show, NO_COLOR="1"))
        assert not STYLE.search(run(*show).output)

    async def test_the_vote_and_the_handshakes_are_coloured(self, checkpoint, monkeypatch):
        from rich.console import Console

        console = Console(force_terminal=True, color_system="truecolor", width=200, file=io.StringIO())
        monkeypatch.setattr(cli_ask, "console", lambda: console)
        async with serving_script(Say("\\boxed{7}"), checkpoint) as (server, _):
            await asked("ask", "What is 2 + 5?", "--model", "model", "--url", server.url)
            await asked("models", "--url", server.url)
        shown = console.file.getvalue()
        assert re.search(r"\x1b\[32m█+\x1b\[0m", shown), "the winner's bar, green"
        assert len(re.findall(r"\x1b\[33munverified", shown)) == 2


class TestProgress:
    async def test_it_is_for_terminals_alone(self, tmp_path, checkpoint):
        items = tmp_path / "items.jsonl"
        items.write_text('{"id": "a", "query": "What is 2 + 5?", "answer": "7"}\n')
        async with serving_script(Say("\\boxed{7}"), checkpoint) as (server, _):

            def told(out):
                return ("evaluate", items, "--out", tmp_path / out, "--model", "model", "--n", 2, "--url", server.url)

            assert "100%" in await at_a_terminal(*told("seen.jsonl"))
            ended = await command(*told("piped.jsonl"), FORCE_COLOR="1")
        assert ended.code == 0, ended.err
        assert "100%" not in ended.err


class TestJson:
    async def test_what_a_server_says_is_one_document(self, checkpoint):
        async with serving_script(Say("\\boxed{7}"), checkpoint) as (server, _):
            query = ("What is 2 + 5?", "--model", "model", "--url", server.url, "--json")
            assert json.loads((await command("ask", *query)).out)["its"]["answer"] == "7"
            assert json.loads((await command("explain", *query)).out)["object"] == "its.plan"
            assert json.loads((await command("models", *query[3:])).out)["data"][0]["id"] == "model"

    async def test_settings_are(self):
        document = json.loads(run("config", "--port", 9000, "--json").stdout)
        assert {"setting": "port", "value": 9000, "from": "--port"} in document["settings"]
        assert (document["version"], document["starts"]) == (1, None)
        engine = ("--engine", "vllm", "--engine-command", sys.executable)
        ended = await command("config", DEMO / "demo-random", *engine, "--json")
        assert json.loads(ended.out)["starts"][:2] == [sys.executable, "serve"]

    def test_manifests_and_their_differences_are(self):
        shown = json.loads(run("manifest", "show", DEMO / "demo-random", "--json").stdout)
        ended = run("manifest", "diff", DEMO / "demo-random", DEMO / "demo-none", "--json")
        different = json.loads(ended.stdout)
        assert (ended.exit_code, different["is_pair_equal"], different["pair_ids"][0]) == (1, False, shown["pair_id"])
        assert any(change["key"] == "pair.serve_with.strategy" and change["is_pair"] for change in different["changes"])

    def test_replays_and_gates_are(self, candidates, tmp_path):
        swept = json.loads(run("replay", candidates, "--json").stdout)
        assert {(each["n"], each["rule"]) for each in swept["settings"]} >= {(1, "exact"), (4, "none")}
        assert swept["items"] == 12
        other = tmp_path / "other.jsonl"
        other.write_text("".join(reversed(candidates.read_text().splitlines(keepends=True))))
        ended = run("gate", candidates, "--against", other, "--metric", "maj@4", "--margin", 50, "--json")
        document = json.loads(ended.stdout)
        assert (document["exit_code"], document["decision"]) == (ended.exit_code, "pass")


class TestCodes:
    """Those of the table in docs/command-line.md."""

    def test_0_is_done(self):
        assert run("config").exit_code == 0

    @pytest.mark.parametrize("arguments", [
        ("config", "--config", "nowhere.yaml"), ("serve", "--port", "99999"), ("models", "--url", "http://127.0.0.1:9/v1"),
        ("manifest", "show", "nowhere"), ("manifest", "bundle", "nowhere"), ("replay", "nowhere.jsonl"),
        ("manifest", "init", "--upstream", "gpu", "--model", "m"),
        ("evaluate", "nowhere.jsonl", "--out", "nowhere", "--model", "m"),
    ])  # fmt: skip
    def test_1_is_one_line_of_what_is_wrong_and_mostly_of_what_to_do(self, arguments):
        ended = run(*arguments)
        assert (ended.exit_code, ended.stdout) == (1, "")
        assert re.fullmatch(r"Error: .+\n", ended.stderr)

    @pytest.mark.parametrize("arguments", [
        ("sing",), ("config", "--sing"), ("ask",), ("ask", "x", "--n", "0"), ("gate", "a", "--against", "b"),
        ("doctor", "--config", "nowhere.yaml"), ("manifest", "diff", "nowhere", "nowhere"),
        ("gate", "nowhere", "--against", "nowhere", "--metric", "maj@8", "--margin", "2"),
    ])  # fmt: skip
    def test_2_is_a_command_that_cannot_be_used_so(self, arguments):
        ended = run(*arguments)
        assert (ended.exit_code, ended.stdout) == (2, "")
        assert "Error: " in ended.stderr

    def test_3_is_no_verdict(self):
        assert run("doctor", "--upstream", "http://127.0.0.1:9/v1", "--model", "m").exit_code == 3

    async def test_130_is_an_interruption(self, checkpoint):
        async with serving_script(Say("\\boxed{7}", delay_s=30), checkpoint) as (server, upstream):
            process = await start("ask", "What is 2 + 5?", "--model", "model", "--url", server.url)
            await upstream.until(lambda: bool(upstream.bodies), 60)
            process.send_signal(signal.SIGINT)
            out, err = await process.communicate()
        assert (process.returncode, out, err) == (130, b"", b"interrupted\n")


PROGRAMS = {"its-proxy": cli.main, "its-train": its_train}


def completion(shell, program):
    found = get_completion_class(shell)
    assert found is not None
    return found(PROGRAMS[program], {}, program, f"_{program.upper().replace('-', '_')}_COMPLETE")


class TestCompletion:
    @pytest.mark.parametrize(("program", "words", "begun", "offered"), [
        ("its-proxy", [], "se", ["serve"]),
        ("its-proxy", ["manifest"], "d", ["diff"]),
        ("its-proxy", ["serve", "--log-level"], "d", ["debug"]),
        ("its-proxy", ["doctor"], "--js", ["--json"]),
        ("its-train", [], "gr", ["grid"]),
        ("its-train", ["grid"], "re", ["recommend", "report"]),
    ])  # fmt: skip
    @pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
    def test_commands_options_and_choices_are_offered(self, shell, program, words, begun, offered):
        found = completion(shell, program).get_completions(words, begun)
        assert sorted(item.value for item in found) == offered

    @pytest.mark.parametrize("program", PROGRAMS)
    def test_the_documented_line_is_the_one_that_each_shell_evaluates(self, program):
        page = (ROOT / "docs/command-line.md").read_text("utf-8")
        for shell in ("bash", "zsh", "fish"):
            script = completion(shell, program)
            assert f"{script.complete_var}={shell}_complete" in script.source()
            assert f"_ITS_PROXY_COMPLETE={shell}_source its-proxy" in page

    async def test_a_real_command_answers_its_shell(self):
        environment = {"_ITS_PROXY_COMPLETE": "bash_complete", "COMP_WORDS": "its-proxy mod", "COMP_CWORD": "1"}
        code = "import sys; sys.argv = ['its-proxy']; from its_proxy.cli import main; main(prog_name='its-proxy')"
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-c", code),
            env=os.environ | environment | {"PYTHONPATH": str(ROOT)},
            stdout=asyncio.subprocess.PIPE,
        )
        out, _ = await process.communicate()
        assert out == b"plain,models\n"


@pytest.mark.parametrize(
    ("path", "is_found", "typed"),
    [
        (".venv/bin/its-proxy", False, ".venv/bin/its-proxy"),
        ("/somewhere/bin/its-proxy", True, "its-proxy"),
        ("/somewhere/its_proxy/__main__.py", False, "its-proxy"),
    ],
)
def test_a_command_to_type_next_is_one_that_the_shell_finds(monkeypatch, path, is_found, typed):
    monkeypatch.setattr(sys, "argv", [path, "serve"])
    monkeypatch.setattr("shutil.which", lambda name: f"/somewhere/bin/{name}" if is_found else None)
    assert cli.called() == typed
