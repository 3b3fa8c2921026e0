"""A LiteLLM proxy whose configuration is wrong in places: told at the start, and the other models serve."""

import asyncio
from typing import Any

import pytest
import pytest_asyncio
import yaml

from tests.real_litellm.clients import PythonClient
from tests.real_litellm.page import configurations
from tests.real_litellm.proxy import start_litellm
from tests.real_litellm.script import messages
from tests.real_litellm.worlds import KEYS, checkpoint, engine
from tests.serving import manifest, write_checkpoint

WRONG = {
    "missing": ({"manifest": "FOLDER/nowhere"}, "is not there"),
    "one-sided": ({"manifest": "FOLDER/one-sided"}, "one-sided"),
    "unsaid": (None, "no model_info.its"),
    "misspelt": ({"manifets": "FOLDER/qwen-random"}, "model_info.its.manifets: unknown key"),
    "lost-target": (
        {"members": [
            {"manifest": "FOLDER/qwen-random", "targets": ["plain"]},
            {"manifest": "FOLDER/qwen-none", "targets": ["lost"]},
        ]},
        "this router has no deployment 'lost'",
    ),
    "renders": ({"manifest": "FOLDER/qwen-random"}, "not served"),
    "unproved": ({"manifest": "FOLDER/qwen-random", "model": "qwen", "handshake": "require"}, "not served"),
    "away": ({"manifest": "FOLDER/qwen-random"}, "not ready"),
}  # fmt: skip


def deployment(name: str, model: str, url: str, its: Any = None) -> dict[str, Any]:
    params = {"model": model, "api_base": url, "api_key": "none"}
    return {"model_name": name, "litellm_params": params, "model_info": {"its": its} if its else {}}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def litellm(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bad")
    for strategy in ("random", "none"):
        checkpoint(folder, strategy)
    write_checkpoint(folder / "one-sided", manifest("random", served="none"))
    config = configurations("litellm-plugin.md")[0]
    async with engine("qwen") as upstream, engine("renders") as other:
        other.tokens = lambda body: [1, 2, 3]
        urls = {"renders": other.url, "away": "http://127.0.0.1:9/v1"}
        config["model_list"] = [
            deployment("qwen", "its/qwen", upstream.url, {"manifest": "FOLDER/qwen-random"}),
            deployment("plain", "hosted_vllm/qwen", upstream.url),
            *(deployment(name, f"its/{name}", urls.get(name, upstream.url), its) for name, (its, _) in WRONG.items()),
        ]
        config = yaml.safe_load(yaml.safe_dump(config).replace("FOLDER", str(folder)))
        async with start_litellm(config, folder, KEYS) as started:
            yield started


pytestmark = pytest.mark.asyncio(loop_scope="module")


async def ask(litellm, model):
    body = {"model": model, "messages": messages()}
    return await PythonClient().ask(litellm.url, "sk-user-anna", "chat/completions", body)


@pytest.mark.parametrize(("name", "told"), [(name, told) for name, (_, told) in WRONG.items()], ids=WRONG)
async def test_what_is_wrong_is_logged_at_the_start_and_told_to_clients(litellm, name, told):
    async with asyncio.timeout(20):
        while f"model {name} is not served: " not in litellm.log:
            await asyncio.sleep(0.1)
    [line] = [line for line in litellm.log.splitlines() if f"model {name} is not served: " in line]
    assert told in line
    reply = await ask(litellm, name)
    assert (reply.status, reply.error) == (503, "InternalServerError")
    assert told in reply.message


async def test_the_other_models_serve(litellm):
    assert (await ask(litellm, "qwen")).its["answer"] == "7"
    assert (await ask(litellm, "plain")).status == 200
