"""docs/quickstart.md: its commands in their order, before the demo and before a server of one's own."""

import json

from its_proxy.settings import load_settings
from tests.docs.blocks import Reader, blocks, commands, fenced, page, run_python
from tests.scripted import Say, scripted_upstream
from tests.serving import manifest, tokens_of, write_checkpoint

COMMANDS = commands("quickstart.md")
OF_THE_DEMO, OF_ONES_OWN, OF_A_CHECKPOINT = COMMANDS[:3], COMMANDS[3:7], COMMANDS[7:]
URL = "http://gpu:8000/v1"


def say(body, number):
    return Say("x", finish_reason="length") if body.get("return_token_ids") else Say("so it is \\boxed{7}")


async def test_the_demo_is_served_asked_and_explained(capsys):
    (code,) = blocks("quickstart.md", "python")
    of_the_readme = next(lines for language, lines in fenced(page("../README.md")) if language == "python")
    reader = Reader()
    serve, ask, explain = OF_THE_DEMO
    try:
        await reader.run(serve)
        asked, explained = await reader.run(ask), await reader.run(explain)
        for program in (of_the_readme, code):
            await run_python(program.replace("http://127.0.0.1:8080/v1", reader.serving.url))
    finally:
        await reader.leave()
    printed = blocks("quickstart.md", "text")[0].splitlines()
    for line in ("query", "reply of demo-random", "vote"):
        assert line in printed
        assert line in asked.out.splitlines()
    assert "handshake verified" in asked.out
    assert "You are" in explained.out
    told = [line for line in capsys.readouterr().out.splitlines() if "{" in line and "boxed" not in line]
    _, of_the_page = (line.split()[0] for line in told)
    for line in told:
        assert f"'{line.split()[0]}': " in line
    assert of_the_page == blocks("quickstart.md", "text")[1].splitlines()[-1].split()[0] == "24"


async def test_a_server_of_ones_own_is_passed_through_then_votes(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    async with scripted_upstream(say, ["llama"]) as upstream:
        upstream.tokens = lambda body: tokens_of(body["messages"])
        reader = Reader({URL: upstream.url})
        bare, init, serve, ask = OF_ONES_OWN
        try:
            await reader.run(bare)
            assert (await reader.run(ask)).code == 0
            assert (await reader.run(init)).code == 0
            assert (tmp_path / "llama.its" / "its.json").exists()
            await reader.run(serve)
            upstream.forget()
            asked = await reader.run(ask)
        finally:
            await reader.leave()
    assert "7  █" in asked.out
    assert len(upstream.bodies) == 8


async def test_a_checkpoint_is_shown_examined_and_served(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_checkpoint(tmp_path / "checkpoints/qwen-random", manifest("random"))
    write_checkpoint(tmp_path / "llama.its", manifest("none"))
    (settings,) = blocks("quickstart.md", "yaml")
    show, doctor, serve, config, serve_file = OF_A_CHECKPOINT
    async with scripted_upstream(say, ["qwen", "llama"]) as upstream:
        upstream.tokens = lambda body: tokens_of(body["messages"])
        (tmp_path / "its.yaml").write_text(settings.replace(URL, upstream.url))
        reader = Reader({URL: upstream.url})
        try:
            assert "random" in (await reader.run(show)).out
            examined = await reader.run(doctor)
            # The tokens are the recorded ones; these probes have no log-probabilities to compare.
            assert examined.code == 3, examined.err
            await reader.run(serve)
            assert (await reader.run(config)).code == 0
            await reader.run(serve_file)
            assert (await reader.run(["ask", "--model", "qwen", "What is 2 + 5?"])).code == 0
            assert (await reader.run(["models", "--json"])).code == 0
        finally:
            await reader.leave()
    assert load_settings(tmp_path / "its.yaml", {}, {}).models[1].vote.n == 5
    assert json.dumps(upstream.bodies[-1]["messages"]).count("You are") == 1
