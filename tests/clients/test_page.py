"""The code of docs/clients.md as it stands there, with this server's address, key and model in place of the page's."""

import json
import re
import shutil
from pathlib import Path

import pytest

import its_proxy
from tests.clients.environments import environment
from tests.clients.page import PAGE
from tests.clients.program import FOLDER, run
from tests.clients.world import KEY, QUERY

TASKS = FOLDER.parent / "tasks"
# Section -> environment, and what a person has in the folder before.
SECTIONS = {
    "OpenAI's package for Python": "openai",
    "OpenAI's package for JavaScript": "npm",
    "LangChain": "langchain",
    "LlamaIndex": "llama-index",
    "LiteLLM's SDK": "litellm",
    "instructor": "instructor",
    "pydantic-ai": "pydantic-ai",
    "llm": "llm",
    "lm-evaluation-harness": "lm-eval",
    "inspect-ai": "inspect",
    "aider": "aider",
    "vllm bench serve": "vllm",
}
NEEDS_MORE = {"lm_eval": ["--include_path", str(TASKS)], "aider": ["--yes-always", "--no-git"]}
pytestmark = pytest.mark.asyncio(loop_scope="session")


def sections() -> dict[str, list[tuple[str, str]]]:
    """Heading -> its blocks, as (language, code)."""
    found = {}
    for part in re.split(r"^## ", PAGE.read_text("utf-8"), flags=re.MULTILINE)[1:]:
        heading, _, text = part.partition("\n")
        found[heading] = re.findall(r"^```(\w+)\n(.*?)^```$", text, flags=re.MULTILINE | re.DOTALL)
    return found


async def test_every_section_is_run():
    assert list(sections()) == list(SECTIONS)
    assert all(sections().values())


@pytest.mark.parametrize("heading", SECTIONS)
async def test_the_code_of_a_section(heading, world, tmp_path):
    installed = environment(SECTIONS[heading])
    _furnish(tmp_path)
    blocks = [(language, _here(code, world)) for language, code in sections()[heading]]
    for language, code in blocks:
        if language == "yaml":
            (tmp_path / "extra-openai-models.yaml").write_text(code)
        elif language == "python":
            await _python(installed, code, tmp_path)
        elif language == "js":
            await _node(installed, code, tmp_path)
        else:
            await _shell(installed, code, tmp_path)
    assert world.asked


def _here(code: str, world) -> str:
    address = code.replace("http://127.0.0.1:8080", world.root).replace("of-a-client", KEY)
    return re.sub(r"\bqwen\b", "voted", address).replace(
        "its_proxy/demo", str(Path(its_proxy.__file__).parent / "demo")
    )


def _furnish(folder: Path) -> None:
    """What the commands read, where a person would have it."""
    shutil.copy(TASKS / "inspect_sums.py", folder)
    (folder / "items.jsonl").write_text(json.dumps({"query": QUERY, "answer": "7"}) + "\n")
    turns = [{"value": QUERY}, {"value": "It is seven."}]
    (folder / "sharegpt.json").write_text(json.dumps([{"conversations": turns}]))


async def _python(installed, code: str, folder: Path) -> None:
    said = await run(installed.python, "-c", code, cwd=folder, OPENAI_API_KEY=KEY)
    assert "7" in said.out


async def _node(installed, code: str, folder: Path) -> None:
    (folder / "node_modules").symlink_to(installed.folder / "node_modules")
    (folder / "ask.mjs").write_text(code)
    assert "7" in (await run("node", "ask.mjs", cwd=folder, OPENAI_API_KEY=KEY)).out


async def _shell(installed, code: str, folder: Path) -> None:
    """With the environment's programs on its path, and with what keeps a command from asking a person."""
    for program, options in NEEDS_MORE.items():
        code = re.sub(rf"^{program} ", f"{program} {' '.join(options)} ", code)
    path = f"{installed.folder / 'bin'}:/usr/bin:/bin"
    home = {"PATH": path, "HOME": str(folder), "LLM_USER_PATH": str(folder), "HF_HOME": str(folder / "hf")}
    await run("bash", "-euc", code, cwd=folder, OPENAI_API_KEY=KEY, **home)
