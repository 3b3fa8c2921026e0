"""What `its-proxy serve` before an HTTP upstream does not import: a server lives long, and keeps all that it has."""

import re
import signal
import subprocess
import sys

import aiohttp
from click.testing import CliRunner

from its_proxy.cli import main
from tests.command import serve_command
from tests.scripted import Say, scripted_upstream
from tests.serving import manifest, tokens_of, write_checkpoint

UNUSED = (
    "its_proxy.bundle",
    "its_proxy.candidates",
    "its_proxy.cli_ask",
    "its_proxy.cli_evaluate",
    "its_proxy.cli_manifest",
    "its_proxy.client",
    "its_proxy.declare",
    "its_proxy.doctor",
    "its_proxy.evaluate",
    "its_proxy.replay",
    "its_proxy.server.engine",
    "its_proxy.server.openapi",
    "its_proxy.statistics",
    "its_proxy.upstreams.embedded",
    "its_proxy.upstreams.engine",
    "its_proxy.yaml_file",
    "aiohttp",
    "attr",
    "difflib",
    "huggingface_hub",
    "jsonschema",
    "multiprocessing",
    "openai",
    "opentelemetry",
    "pygments",
    "rich.console",
    "statistics",
    "sympy",
    "torch",
    "transformers",
    "yaml",
)
"""Nor what comes with them. Whoever takes a name off this list adds to the memory of every server."""


async def imported(folder):
    """All that a server imported until it had answered a vote, and ended."""
    folder = write_checkpoint(folder, manifest("random"))
    said = Say("\\boxed{7}")
    async with scripted_upstream(lambda body, number: said) as upstream:
        upstream.tokens = lambda body: tokens_of(body["messages"])
        flags = ("--upstream", upstream.url, "--model", "model", "--checkpoint", folder)
        async with serve_command(*flags, PYTHONPROFILEIMPORTTIME="1") as server, aiohttp.ClientSession() as http:
            await upstream.until(lambda: len(upstream.bodies) > 0)
            body = {"model": "model", "messages": [{"role": "user", "content": "What is 2 + 5?"}]}
            status = 503
            while status == 503:  # until the handshake has a verdict
                async with http.post(f"{server.url}/chat/completions", json=body) as reply:
                    status = reply.status
                    assert status != 200 or (await reply.json())["its"]["answer"] == "7"
            ended = await server.end(signal.SIGTERM)
    assert (status, ended.code) == (200, 0), ended.err
    return set(re.findall(r"^import time:.*\|\s*(\S+)$", server.said.decode() + ended.err, re.MULTILINE))


async def test_a_server_imports_what_it_serves_with_and_no_more(tmp_path):
    names = await imported(tmp_path / "model")
    assert {"its_proxy.server.run", "its_proxy.exchange", "its_proxy.upstreams.http", "structlog"} <= names
    assert [name for name in UNUSED if name in names] == []


def test_rich_is_there_for_whoever_needs_it_after_the_server():
    code = "import its_proxy.server, structlog, rich.console"
    assert subprocess.run([sys.executable, "-c", code], timeout=60).returncode == 0


def test_commands_with_files_of_their_own_are_there_beside_the_others():
    listed = CliRunner().invoke(main, ["--help"]).output.partition("Commands:\n")[2]
    names = [line.split()[0] for line in listed.splitlines() if line.startswith("  ") and line[2] != " "]
    assert {"serve", "doctor", "ask", "evaluate", "manifest"} <= set(names)
    assert names == sorted(names)
    for name in names:
        shown = CliRunner().invoke(main, [name, "--help"])
        assert (shown.exit_code, f"Usage: main {name} " in shown.output) == (0, True)
