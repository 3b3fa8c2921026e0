"""The handshake and `its-proxy doctor` before a real vLLM that serves demo-random."""

import asyncio
import json

import pytest

from its_proxy.checkpoint import open_checkpoint
from its_proxy.handshake import Report, examine
from its_proxy.upstreams.http import HttpUpstream
from tests.command import command
from tests.real_vllm.conftest import DEMO, QUERIES
from tests.real_vllm.server import VllmServer
from tests.serving import write_checkpoint

CHECKS = ("listed", "tokens", "weights", "reply")


async def report_on(vllm: VllmServer, folder, name: str = "") -> Report:
    upstream = HttpUpstream("gpu", vllm.url)
    try:
        return await examine(open_checkpoint(folder), upstream, name or vllm.name, is_local=False)
    finally:
        await upstream.close()


def states(report: Report) -> dict[str, str]:
    return {check.name: check.state for check in report.checks}


async def test_doctor_verifies_the_checkpoint_that_is_served(vllm, checkpoint):
    done = await command(
        "doctor", "--upstream", vllm.url, "--checkpoint", checkpoint, "--served-name", vllm.name, "--json"
    )
    [target] = json.loads(done.out)["models"][0]["targets"]
    assert (done.code, target["state"]) == (0, "verified")
    assert {check["name"]: check["state"] for check in target["checks"]} == dict.fromkeys(("manifest", *CHECKS), "ok")


@pytest.mark.parametrize("arm", ["none", "similar", "dissimilar"])
async def test_a_siblings_manifest_is_a_mismatch_that_names_what_is_served(vllm, arm):
    """Their tokenizers and templates are the same, so it is the weights that tell."""
    report = await report_on(vllm, DEMO / f"demo-{arm}")
    assert states(report) == {"listed": "ok", "tokens": "ok", "weights": "failed", "reply": "skipped"}
    assert report.verdict.reason.startswith("the weights of demo-random, ")


async def test_doctor_exits_1_for_a_siblings_folder(vllm):
    folder = DEMO / "demo-similar"
    done = await command("doctor", "--upstream", vllm.url, "--checkpoint", folder, "--served-name", vllm.name)
    assert done.code == 1
    assert "the weights of demo-random" in done.out


async def test_another_pair_of_the_name_is_pending_and_says_which_is_listed(vllm, checkpoint):
    report = await report_on(vllm, checkpoint, "demo-random@00000000")
    assert report.verdict.state == "pending"
    assert report.verdict.reason.endswith(f"does not list demo-random@00000000, but {vllm.name}")


async def test_what_was_recorded_with_another_template_is_a_mismatch_though_the_weights_are_right(
    vllm, checkpoint, tmp_path
):
    document = json.loads((checkpoint / "its.json").read_text())
    for probe in document["probes"]:
        probe["prompt_token_ids"].insert(1, probe["prompt_token_ids"].pop(0))
    report = await report_on(vllm, write_checkpoint(tmp_path, document))
    assert report.verdict.state == "mismatch"
    assert "from token 0 of 78 on; 8 of 8 probes do" in report.verdict.reason


@pytest.mark.parametrize(
    ("recorded", "what"),
    [
        ({"content": "\\boxed{46}", "reasoning": "37+36=73\n73-27=46"}, "the reasoning is not parsed out"),
        ({"content": "37+36=73\n73-27=46", "reasoning": None}, "cut or rewritten"),
    ],
)
async def test_a_reply_of_another_shape_than_recorded_is_a_mismatch(vllm, checkpoint, tmp_path, recorded, what):
    """Of the first probe; the server has no reasoning parser."""
    document = json.loads((checkpoint / "its.json").read_text())
    document["probes"][0]["reply"] = recorded
    report = await report_on(vllm, write_checkpoint(tmp_path, document))
    assert states(report) == {"listed": "ok", "tokens": "ok", "weights": "ok", "reply": "failed"}
    assert what in report.verdict.reason


async def test_checks_beside_traffic_come_out_as_without_it(vllm, checkpoint, proxy):
    """Shared batches and a warm prefix cache change the arithmetic a little, never the verdict."""
    quiet = await report_on(vllm, checkpoint)
    # Few enough to be prefilled whole: this CPU build ends when a prompt with a seed is prefilled in parts.
    asked = asyncio.gather(*(proxy.ask(query, its={"stop": "none"}) for query in QUERIES[:2]))
    busy = [await report_on(vllm, checkpoint) for _ in range(3)]
    assert {reply.status for reply in await asked} == {200}
    assert [report.verdict.state for report in (quiet, *busy)] == ["verified"] * 4
