"""`its-proxy doctor`: what it examines, says and exits with."""

import asyncio
import io
import json
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from its_proxy.checkpoint import Checkpoint, open_checkpoint
from its_proxy.doctor import Diagnosis, diagnose, document_of, exit_code, tables
from its_proxy.handshake import NO_MANIFEST, Check, Report, Verdict
from its_proxy.server.build import DEMO, build_context
from its_proxy.settings import load_settings
from its_proxy.targets import Policy, Target
from its_proxy.upstreams.http import HttpUpstream
from tests.command import command, ended, start
from tests.scripted import ScriptedUpstream, scripted_upstream
from tests.scripted_model import Model, recorded
from tests.serving import manifest, write_checkpoint


@pytest.fixture
def folder(tmp_path) -> Path:
    return write_checkpoint(tmp_path / "model", recorded())


@pytest.fixture
def checkpoint(folder) -> Checkpoint:
    return open_checkpoint(folder)


@asynccontextmanager
async def at(model: Any, names: list[str] | None = None) -> AsyncIterator[tuple[HttpUpstream, ScriptedUpstream]]:
    script = model.script if isinstance(model, Model) else model
    async with scripted_upstream(script, names) as scripted:
        upstream = HttpUpstream("gpu", scripted.url)
        try:
            yield upstream, scripted
        finally:
            await upstream.close()


def states(diagnosis: Diagnosis) -> dict[str, str]:
    return {check.name: check.state for check in diagnosis.report.checks}


def diagnosed(state: str, *checks: Check, model: str = "model", target: str = "gpu") -> Diagnosis:
    return Diagnosis(model, target, model, None, None, Report(Verdict(state, "why"), checks))


# -- examining ---------------------------------------------------------------------------------------------------------


async def test_every_check_of_a_verified_model_is_told(checkpoint):
    async with at(Model()) as (upstream, _):
        [diagnosis] = await diagnose([Target("model", upstream, "model", checkpoint)])
    assert diagnosis.state == "verified"
    assert states(diagnosis) == dict.fromkeys(("manifest", "listed", "tokens", "weights", "reply"), "ok")
    assert (diagnosis.pair_id, diagnosis.strategy) == (checkpoint.pair_id, "random")
    assert diagnosis.report.checks[0].evidence == f"pair {checkpoint.pair_id[:8]}, recorded, strategy random"


async def test_a_siblings_weights_are_named(checkpoint):
    async with at(Model("sibling")) as (upstream, _):
        [diagnosis] = await diagnose([Target("model", upstream, "model", checkpoint)])
    assert diagnosis.state == "mismatch"
    assert "the weights of demo-sibling" in diagnosis.report.verdict.reason


async def test_a_forced_one_sided_pair_is_marked(tmp_path):
    folder = write_checkpoint(tmp_path, recorded("random", served="none"))
    async with at(Model()) as (upstream, _):
        target = Target("model", upstream, "model", open_checkpoint(folder, allow_one_sided=True))
        [diagnosis] = await diagnose([target])
    assert diagnosis.report.checks[0].evidence.endswith("strategy none, one-sided and forced")


async def test_weights_are_skipped_where_the_settings_or_the_caller_say_so(checkpoint):
    async with at(Model()) as (upstream, scripted):
        [by_settings] = await diagnose([Target("model", upstream, "model", checkpoint, policy=Policy(weights="skip"))])
        [by_caller] = await diagnose([Target("model", upstream, "model", checkpoint)], skip_weights=True)
    assert states(by_settings)["weights"] == states(by_caller)["weights"] == "skipped"
    assert by_caller.state == "unverified"
    assert not any("prompt" in body for body in scripted.bodies)


async def test_a_refused_manifest_is_a_mismatch_with_its_reason(checkpoint):
    refused = Verdict("mismatch", "its.json: unknown key (a newer version?)")
    async with at(Model()) as (upstream, scripted):
        [diagnosis] = await diagnose([Target("model", upstream, "model", None, verdict=refused)])
    assert diagnosis.report == Report(refused, (Check("manifest", "failed", refused.reason),))
    assert scripted.bodies == []


@pytest.mark.parametrize(("names", "state", "listed"), [(["model"], "none", "ok"), (["another"], "pending", "unknown")])
async def test_a_model_without_a_manifest_gets_advice_and_is_looked_for(names, state, listed):
    async with at(Model(), names) as (upstream, scripted):
        [diagnosis] = await diagnose([Target("model", upstream, "model", None)])
    assert (diagnosis.state, states(diagnosis)) == (state, {"manifest": "skipped", "listed": listed})
    assert "its-proxy manifest init" in diagnosis.report.checks[0].hint
    assert scripted.bodies == []


async def test_a_server_without_a_model_list_is_passed_through(unused_tcp_port):
    async with at(Model()) as (_, scripted):
        elsewhere = HttpUpstream("gpu", scripted.url.removesuffix("/v1"))
        nobody = HttpUpstream("gpu", f"http://127.0.0.1:{unused_tcp_port}")
        [diagnosis] = await diagnose([Target("model", elsewhere, "model", None)])
        [unreachable] = await diagnose([Target("model", nobody, "model", None)])
        await elsewhere.close()
    assert diagnosis.report.verdict == NO_MANIFEST
    assert unreachable.state == "pending"


async def test_an_upstream_that_does_not_answer_holds_up_no_other(checkpoint):
    async with at(Model()) as (slow, _), at(Model()) as (fast, _):
        listed, is_fast_done = slow.models, asyncio.Event()

        async def list_at_last() -> Any:
            await is_fast_done.wait()
            return await listed()

        slow.models = list_at_last
        targets = [Target("slow", slow, "model", checkpoint), Target("fast", fast, "model", checkpoint)]
        async with asyncio.timeout(20):
            diagnoses = await diagnose(targets, on_done=lambda done: is_fast_done.set())
    assert [(diagnosis.model, diagnosis.state) for diagnosis in diagnoses] == [
        ("slow", "verified"),
        ("fast", "verified"),
    ]


async def test_pending_targets_are_waited_for(checkpoint):
    async with at(Model(), ["another"]) as (upstream, scripted):
        target = Target("model", upstream, "model", checkpoint)
        [at_once] = await diagnose([target])
        waiting = asyncio.create_task(diagnose([target], timeout_s=30))
        await asyncio.sleep(0.05)
        scripted.models.append("model")
        [waited] = await waiting
    assert (at_once.state, waited.state) == ("pending", "verified")


async def test_what_is_still_pending_at_the_end_is_told(checkpoint):
    done: list[Diagnosis] = []
    async with at(Model(), ["another"]) as (upstream, _):
        target = Target("model", upstream, "model", checkpoint)
        diagnoses = await diagnose([target], timeout_s=0.05, on_done=done.append)
    assert diagnoses == done
    assert done[0].state == "pending"


# -- telling -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("states", "code"), [
    ([], 0), (["verified"], 0), (["none"], 0), (["verified", "none"], 0), (["verified", "unverified"], 3),
    (["pending"], 3), (["mismatch"], 1), (["pending", "mismatch", "verified"], 1),
])  # fmt: skip
def test_the_exit_code_is_the_worst_state(states, code):
    assert exit_code(diagnosed(state) for state in states) == code


def test_the_document_groups_targets_by_model():
    one = diagnosed("verified", Check("listed", "ok", "there"), target="a")
    document = document_of([one, diagnosed("pending", target="b"), diagnosed("none", model="other")])
    assert (document["version"], document["exit_code"]) == (1, 3)
    assert [model["model"] for model in document["models"]] == ["model", "other"]
    assert document["models"][0]["targets"] == [
        {
            "target": "a",
            "served_name": "model",
            "state": "verified",
            "reason": "why",
            "checks": [{"name": "listed", "state": "ok", "evidence": "there", "hint": ""}],
        },
        {"target": "b", "served_name": "model", "state": "pending", "reason": "why", "checks": []},
    ]
    assert json.loads(json.dumps(document)) == document


def test_a_table_shows_every_check_and_takes_nothing_for_markup():
    failed = Check("weights", "failed", "[bold]2 nats[/bold] :smile: \x1b[31m", "serve [red]this[/red]")
    out = io.StringIO()
    for table in tables([diagnosed("mismatch", failed, model="[blink]m")]):
        Console(file=out, width=200).print(table)
    shown = out.getvalue()
    assert "[blink]m at gpu: mismatch" in shown
    assert "[bold]2 nats[/bold] :smile:" in shown
    assert "serve [red]this[/red]" in shown
    assert "\x1b" not in shown


# -- the command -------------------------------------------------------------------------------------------------------


async def test_the_command_exits_0_for_verified_and_says_so_in_json(folder):
    async with at(Model()) as (_, scripted):
        done = await command("doctor", "--upstream", scripted.url, "--checkpoint", folder, "--json")
        told = await command("doctor", "--upstream", scripted.url, "--checkpoint", folder)
    document = json.loads(done.out)
    assert (done.code, done.err) == (0, "")
    assert document["models"][0]["targets"][0]["state"] == "verified"
    assert told.code == 0
    assert "model at default: verified" in told.out


@pytest.mark.parametrize(("model", "code"), [(Model("sibling"), 1), (Model(noise=0.04), 3)])
async def test_the_command_exits_1_for_a_mismatch_and_3_for_unverified(folder, model, code):
    async with at(model) as (_, scripted):
        assert (await command("doctor", "--upstream", scripted.url, "--checkpoint", folder)).code == code


async def test_a_manifest_that_is_refused_is_shown_as_a_mismatch(tmp_path):
    folder = write_checkpoint(tmp_path / "model", manifest("random", schema_version=99))
    async with at(Model()) as (_, scripted):
        done = await command("doctor", "--upstream", scripted.url, "--checkpoint", folder, "--json")
    [target] = json.loads(done.out)["models"][0]["targets"]
    assert (done.code, target["state"]) == (1, "mismatch")
    assert "schema_version 99 cannot be read here" in target["reason"]


async def test_an_upstream_alone_is_asked_what_it_lists(unused_tcp_port):
    async with at(Model(), ["one", "two"]) as (_, scripted):
        done = await command("doctor", "--upstream", scripted.url, "--json")
    assert done.code == 0
    assert [model["model"] for model in json.loads(done.out)["models"]] == ["one", "two"]
    done = await command("doctor", "--upstream", f"http://127.0.0.1:{unused_tcp_port}/v1")
    assert (done.code, done.err) == (3, "Error: upstream default cannot be reached (is it running?)\n")


@pytest.mark.parametrize("arguments", [("--config", "/nonexistent.yaml"), ("--timeout", "-1"), ("--upstream", "gpu")])
async def test_settings_that_cannot_be_used_exit_2(arguments):
    done = await command("doctor", *arguments)
    assert done.code == 2
    assert done.out == ""


async def test_an_interrupt_ends_it_at_once_in_one_line(folder):
    async with at(Model(), ["another"]) as (_, scripted):
        process = await start("doctor", "--upstream", scripted.url, "--checkpoint", folder, "--timeout", 60)
        while not scripted.n_listed:
            await asyncio.sleep(0.01)
        process.send_signal(signal.SIGINT)
        done = await ended(process)
    assert (done.code, done.out, done.err) == (130, "", "interrupted\n")


async def test_the_packaged_demo_is_verified():
    """Where digests speak, no log-probabilities are needed."""
    pytest.importorskip("torch")
    catalog = build_context(load_settings(None, {}, {}), {}).catalog
    try:
        found = {diagnosis.model: diagnosis for diagnosis in await diagnose(catalog.targets())}
    finally:
        await catalog.close()
    assert set(found) == {path.name for path in DEMO.glob("demo-*")}
    asked = dict.fromkeys(("manifest", "files", "listed", "tokens", "reply"), "ok") | {"weights": "skipped"}
    assert all(states(diagnosis) == asked for diagnosis in found.values())
