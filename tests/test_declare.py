"""Declared manifests: what a live server shows of itself, and how it is written."""

import json
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import date
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from its_proxy.checkpoint import open_checkpoint
from its_proxy.codesign.errors import ConfigError, ManifestError, OneSidedPair, UpstreamError, UpstreamUnreachable
from its_proxy.codesign.manifest import Side, VoteAdvice
from its_proxy.codesign.personas import Persona, pool_jsonl
from its_proxy.codesign.taxonomy import GENERAL, NAMES
from its_proxy.declare import Declaration, Declared, declare, n_steps, personas_of, write_declared
from its_proxy.handshake import examine
from its_proxy.probing import COMPLETION_TOKENS, QUERIES, _noise, _writes_date
from its_proxy.upstreams.http import HttpUpstream
from tests.scripted import Say, Script, ScriptedUpstream, scripted_upstream
from tests.scripted_model import COMPLETION, REPLY, Model, logprobs_of
from tests.serving import manifest, tokens_of, write_checkpoint

PLAIN = Side(strategy="none", version=1)
POOL = pool_jsonl([Persona(f"You know {domain} well.", domain) for domain in (*NAMES, GENERAL)])
VOTE = VoteAdvice(n=8, temperature=0.8)


@asynccontextmanager
async def at(script: Script, **card_fields: Any) -> AsyncIterator[tuple[HttpUpstream, ScriptedUpstream]]:
    async with scripted_upstream(script) as scripted:
        scripted.card_fields = card_fields
        upstream = HttpUpstream("gpu", scripted.url)
        try:
            yield upstream, scripted
        finally:
            await upstream.close()


async def declared_by(script: Script, declaration: Declaration | None = None, **card_fields: Any) -> Declared:
    async with at(script, **card_fields) as (upstream, _):
        return await declare(upstream, declaration or Declaration("model", PLAIN, PLAIN, VOTE))


def generating(model: Model) -> Script:
    """A model that also generates, as fast as it is asked, for those who do not want to see tokens."""

    def say(body: dict[str, Any], number: int) -> Say:
        is_probe = "prompt" in body or "return_token_ids" in body
        return model.say(body, number) if is_probe else Say("x", delay_s=0.005)

    return say


# -- what is taken -----------------------------------------------------------------------------------------------------


async def test_a_server_that_shows_everything_gives_whole_probes():
    declared = await declared_by(generating(Model()))
    assert declared.remarks == ()
    assert declared.manifest.origin == "declared"
    assert [probe.query for probe in declared.manifest.probes] == list(QUERIES)
    for probe in declared.manifest.probes:
        assert probe.messages == [{"role": "user", "content": probe.query}]
        assert probe.prompt_token_ids == tokens_of(probe.messages)
        assert probe.completion_token_ids == COMPLETION
        assert probe.reply is not None
        assert (probe.reply.content, probe.reply.reasoning) == (REPLY, None)
        assert probe.logprobs is not None
        assert probe.logprobs.this == logprobs_of("this", [*probe.prompt_token_ids, *COMPLETION])
        assert probe.logprobs.noise == 0
        assert probe.dtype is None


async def test_a_declared_checkpoint_is_verified_by_its_own_server_and_by_no_other(tmp_path):
    write_declared(tmp_path / "model.its", await declared_by(generating(Model())))
    checkpoint = open_checkpoint(tmp_path / "model.its")
    async with at(Model().script) as (upstream, _):
        report = await examine(checkpoint, upstream, "model", is_local=False)
    assert (report.verdict.state, "unchanged since declared" in report.verdict.reason) == ("verified", True)
    async with at(Model("base").script) as (upstream, _):
        assert (await examine(checkpoint, upstream, "model", is_local=False)).verdict.state != "verified"


async def test_probes_are_short_greedy_and_asked_for_log_probabilities_one_at_a_time():
    n_scoring, most = 0, 0

    async with at(generating(Model())) as (upstream, scripted):
        forward = upstream.forward

        async def counted(*arguments: Any) -> Any:
            nonlocal n_scoring, most
            n_scoring += 1
            most = max(most, n_scoring)
            try:
                return await forward(*arguments)
            finally:
                n_scoring -= 1

        upstream.forward = counted  # type: ignore[method-assign]
        await declare(upstream, Declaration("model", PLAIN, PLAIN, VOTE))
    scored = [body for body in scripted.bodies if "prompt" in body]
    asked = [body for body in scripted.bodies if "return_token_ids" in body]
    beside = [body for body in scripted.bodies if body not in scored and body not in asked]
    assert most == 1
    assert len(scored) == 3 * len(QUERIES)
    assert all(len(body["prompt"]) <= 128 for body in scored)
    assert len(asked) == 2 * len(QUERIES)
    assert {body["temperature"] for body in (*scored, *asked)} == {0}
    assert all(len(tokens_of(body["messages"])) + body["max_tokens"] <= 128 for body in asked)
    assert beside, "a round runs beside generations"
    assert [body["prompt"] for body in scored[-8:]] == [body["prompt"] for body in scored[:8]][::-1]


async def test_the_noise_is_the_largest_mean_difference_between_rounds():
    drifting = Model()

    def say(body: dict[str, Any], number: int) -> Say:
        if "prompt" in body:
            drifting.noise += 0.001
        return generating(drifting)(body, number)

    declared = await declared_by(say)
    first, last = declared.manifest.probes[0].logprobs, declared.manifest.probes[-1].logprobs
    assert first is not None
    assert last is not None
    assert first.noise > last.noise > 0.002, "the first probe's rounds lie farthest apart"
    assert _noise([[-1.0, -2.0], [-1.0, -2.5], [-1.25, -2.0]]) == 0.375
    assert _noise([[], [], []]) == 0


async def test_every_step_is_told():
    steps: list[str] = []
    declaration = Declaration("model", PLAIN, PLAIN, VOTE, queries=("One?", "Two?"))
    async with at(generating(Model())) as (upstream, _):
        await declare(upstream, declaration, steps.append)
    assert len(steps) == n_steps(declaration) == 8


async def test_reasoning_that_the_server_sets_apart_is_recorded_apart():
    message = {"role": "assistant", "content": None, "reasoning_content": "Let me think"}
    declared = await declared_by(generating(Model(message=message)))
    reply = declared.manifest.probes[0].reply
    assert reply is not None
    assert (reply.content, reply.reasoning) == (None, "Let me think")


async def test_a_long_prompt_is_probed_without_completion_and_a_very_long_one_without_log_probabilities():
    queries = ("x" * 128, "x" * 600)
    declared = await declared_by(generating(Model()), Declaration("model", PLAIN, PLAIN, VOTE, queries=queries))
    long, longer = declared.manifest.probes
    assert (long.completion_token_ids, long.reply, longer.completion_token_ids) == ([], None, [])
    assert long.logprobs is not None
    assert len(long.logprobs.this) == 127
    assert longer.logprobs is None


# -- what a server does not show ---------------------------------------------------------------------------------------


async def test_a_server_without_token_ids_gives_no_probes_and_says_so(tmp_path):
    async def declared_at(script: Script) -> Declared:
        async with at(script) as (upstream, scripted):
            declared = await declare(upstream, Declaration("model", PLAIN, PLAIN, VOTE))
            assert len(scripted.bodies) <= 2, "there is no use in asking on"
        return declared

    for script in (lambda body, number: Say("hi"), strict):
        declared = await declared_at(script)
        [remark] = declared.remarks
        assert "shows no token ids" in remark
        assert declared.manifest.probes == []
        assert declared.manifest.vote is not None
        assert declared.manifest.vote.n == 8


def strict(body: dict[str, Any], number: int) -> Say:
    return Say(status=400) if "return_token_ids" in body else Say("hi")


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (lambda body, entries: Say(status=404), "answered 404"),
        (lambda body, entries: Say(status=500), "answered 500"),
        (lambda body, entries: Say(raw=b"{"), "not JSON"),
        (lambda body, entries: Say(raw=b'{"choices": [{"text": "x"}]}'), "no log-probabilities of the prompt"),
    ],
)
async def test_a_server_without_log_probabilities_gives_probes_without_them(answer, words):
    declared = await declared_by(generating(Model(answer_logprobs=answer)))
    [remark] = declared.remarks
    assert words in remark
    assert "weights will stay unverified" in remark
    assert len(declared.manifest.probes) == len(QUERIES)
    assert all(probe.logprobs is None and probe.prompt_token_ids for probe in declared.manifest.probes)


async def test_a_template_that_writes_todays_date_would_be_a_mismatch_tomorrow_so_no_probe_is_kept():
    dated = f"<|system|>Today Date: {date.today().strftime('%d %b %Y')}"

    def say(body: dict[str, Any], number: int) -> Say:
        said = generating(Model())(body, number)
        if said.raw is not None and "messages" in body:
            said.raw = json.dumps(json.loads(said.raw) | {"prompt_text": dated}).encode()
        return said

    declared = await declared_by(say)
    [remark] = declared.remarks
    assert "today's date" in remark
    assert "--chat-template-kwargs" in remark
    assert declared.manifest.probes == []


def test_a_date_counts_only_where_the_template_wrote_it():
    day = date(2026, 7, 4)
    asked = [{"role": "user", "content": "Is it 2026-07-04?"}]
    assert _writes_date("... 04 Jul 2026 ...", asked, day)
    assert _writes_date("... July 04, 2026 ...", asked, day)
    assert not _writes_date("user: Is it 2026-07-04?", asked, day)
    assert not _writes_date("... 04 Jul 2025 ...", asked, day)
    assert not _writes_date(None, asked, day)


async def test_replicas_that_render_differently_are_refused():
    def say(body: dict[str, Any], number: int) -> Say:
        model = Model(tokens=lambda messages: [*tokens_of(messages), number])
        return generating(model)(body, number)

    with pytest.raises(ManifestError, match="to other tokens a moment later"):
        await declared_by(say)


async def test_a_model_that_is_not_listed_is_refused_naming_those_that_are():
    with pytest.raises(ConfigError, match=r"no model 'other' \(it lists 'model'\)"):
        await declared_by(generating(Model()), Declaration("other", PLAIN, PLAIN, VOTE))


async def test_an_its_proxy_is_not_taken_for_a_server():
    with pytest.raises(ConfigError, match=r"is an its-proxy itself \(name the server behind it\)"):
        await declared_by(generating(Model()), its={"handshake": "none"})


async def test_a_server_that_is_not_there_is_an_error():
    upstream = HttpUpstream("gpu", "http://127.0.0.1:9/v1")
    with pytest.raises(UpstreamUnreachable):
        await declare(upstream, Declaration("model", PLAIN, PLAIN, VOTE))
    await upstream.close()


async def test_a_server_that_fails_while_it_is_asked_is_an_error():
    with pytest.raises(UpstreamError):
        await declared_by(lambda body, number: Say(status=500))


# -- what is declared --------------------------------------------------------------------------------------------------


async def test_persona_probes_are_rewritten_and_the_pool_travels_along(tmp_path):
    side = Side(strategy="random", version=1, seed=7, personas=personas_of(POOL))
    declaration = Declaration("model", side, side, VOTE, pool=POOL, provenance={"rows": {"n": 3}})
    declared = await declared_by(generating(Model()), declaration)
    assert list(declared.files) == ["its-personas.jsonl", "its.json"]
    write_declared(tmp_path / "model.its", declared)
    checkpoint = open_checkpoint(tmp_path / "model.its")
    assert (tmp_path / "model.its" / "its-personas.jsonl").read_bytes() == POOL
    assert checkpoint.manifest.probes[0].messages[0]["content"].startswith("You know ")
    assert checkpoint.manifest.provenance["rows"] == {"n": 3}
    assert checkpoint.manifest.provenance["declared"] == {"served_name": "model", "root": None}


async def test_one_side_alone_is_refused():
    side = Side(strategy="random", version=1, personas=personas_of(None))
    with pytest.raises(OneSidedPair):
        await declared_by(generating(Model()), Declaration("model", PLAIN, side, VOTE))


async def test_template_kwargs_are_declared_and_sent():
    side = PLAIN.model_copy(update={"chat_template_kwargs": {"enable_thinking": False}})
    async with at(generating(Model())) as (upstream, scripted):
        declared = await declare(upstream, Declaration("model", side, side, VOTE))
    asked = [body for body in scripted.bodies if "return_token_ids" in body]
    assert all(body["chat_template_kwargs"] == {"enable_thinking": False} for body in asked)
    assert declared.manifest.pair.serve_with.chat_template_kwargs == {"enable_thinking": False}


async def test_the_chat_template_is_named_where_the_models_own_folder_lies_here(tmp_path):
    (tmp_path / "chat_template.jinja").write_bytes(b"{{ messages }}")
    for root, digest in (
        (str(tmp_path), sha256(b"{{ messages }}").hexdigest()),
        (str(tmp_path / "gone"), None),
        ("org/name", None),
        ("./tiny", None),
        (None, None),
        (7, None),
        ("/\0", None),
    ):
        declared = await declared_by(generating(Model()), root=root)
        assert declared.manifest.pair.serve_with.chat_template_sha256 == digest
        assert declared.manifest.pair.trained_with.chat_template_sha256 == digest


# -- writing -----------------------------------------------------------------------------------------------------------


@pytest.fixture
async def declared() -> Declared:
    return await declared_by(generating(Model()))


def files_in(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


async def test_a_new_folder_appears_whole(tmp_path, declared):
    write_declared(tmp_path / "deep" / "model.its", declared)
    assert files_in(tmp_path) == {"deep/model.its/its.json": declared.files["its.json"]}


async def test_a_manifest_that_is_there_is_kept_unless_forced(tmp_path, declared):
    write_checkpoint(tmp_path, manifest("random"))
    before = files_in(tmp_path)
    with pytest.raises(ConfigError, match="holds a manifest already"):
        write_declared(tmp_path, declared)
    assert files_in(tmp_path) == before
    write_declared(tmp_path, declared, force=True)
    assert open_checkpoint(tmp_path).manifest == declared.manifest
    (tmp_path / "its.json").unlink()
    (tmp_path / "its.json").symlink_to(tmp_path / "nowhere")
    with pytest.raises(ConfigError, match="holds a manifest already"):
        write_declared(tmp_path, declared)


async def test_a_manifest_that_the_folders_own_pointer_contradicts_is_not_written(tmp_path, declared):
    (tmp_path / "config.json").write_text(json.dumps({"its": {"schema_version": 1, "pair_id": "0" * 64}}))
    before = files_in(tmp_path)
    with pytest.raises(ManifestError, match="points to pair 00000000"):
        write_declared(tmp_path, declared)
    assert files_in(tmp_path) == before


@pytest.mark.parametrize("has_folder", [False, True])
@pytest.mark.parametrize("ending", [KeyboardInterrupt, OSError("No space left on device")])
async def test_nothing_is_left_half_written(tmp_path, declared, monkeypatch, has_folder, ending):
    folder = tmp_path / "model.its"
    if has_folder:
        folder.mkdir()

    def fail(descriptor: int) -> None:
        raise ending

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises((KeyboardInterrupt, ConfigError)):
        write_declared(folder, declared)
    assert list(tmp_path.rglob("*")) == ([folder] if has_folder else [])


async def test_where_nothing_can_be_written_one_line_says_so(tmp_path, declared):
    (tmp_path / "file").touch()
    for folder in (tmp_path / "file", tmp_path / "file" / "model.its", tmp_path / "file" / "deep" / "model.its"):
        with pytest.raises(ConfigError, match="file is not a folder"):
            write_declared(folder, declared)


async def test_a_manifest_that_does_not_open_is_not_written(tmp_path, declared):
    broken = replace(declared, files={"its.json": b"{}"})
    with pytest.raises(ManifestError):
        write_declared(tmp_path / "model.its", broken)
    assert list(tmp_path.iterdir()) == []


def test_the_built_in_queries_are_few_and_short():
    assert len(QUERIES) == 8
    assert all(len(query) <= 40 for query in QUERIES)
    assert COMPLETION_TOKENS + 40 < 128
