"""What goes wrong is told by openai's own classes."""

import asyncio
import os
import re
import subprocess
import sys

import openai
import pytest

from its_proxy.client import wrap
from its_proxy.codesign.errors import ConfigError, ManifestError, ModelUnavailable
from tests.client.wrapped import ASK, MESSAGES, checkpoint, client_at, engine, wrapped
from tests.command import ROOT
from tests.scripted import Say
from tests.serving import manifest, write_checkpoint


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (400, openai.BadRequestError), (401, openai.AuthenticationError), (403, openai.PermissionDeniedError),
        (404, openai.NotFoundError), (429, openai.RateLimitError), (500, openai.InternalServerError),
        (503, openai.InternalServerError), (504, openai.InternalServerError),
    ],
)  # fmt: skip
async def test_the_servers_refusals_are_those_of_the_client_alone(tmp_path, status, kind):
    async with wrapped(tmp_path, max_retries=0) as (client, upstream):
        alone = client_at(upstream, max_retries=0)
        with pytest.raises(kind) as plain:
            await alone.chat.completions.create(**ASK, user=f"fail {status}")
        with pytest.raises(kind) as told:
            await client.chat.completions.create(**ASK, user=f"fail {status}")
        await alone.close()
    assert told.value.status_code == plain.value.status_code == status
    assert told.value.message == plain.value.message
    assert told.value.request_id


async def test_a_failed_vote_is_not_repeated_but_a_refused_one_is(tmp_path):
    async with wrapped(tmp_path) as (client, upstream):  # `openai` repeats twice by default
        with pytest.raises(openai.InternalServerError):
            await client.chat.completions.create(**ASK, user="fail 500", extra_body={"its": {"n": 4, "stop": "none"}})
        # Beside the vote's own calls there may be a probe already: the server that fails is examined again.
        assert sum(body.get("user") == "fail 500" for body in upstream.bodies) == 4
        upstream.forget()
        with pytest.raises(openai.RateLimitError):
            await client.with_options(max_retries=1).chat.completions.create(**ASK, user="fail 429")
        assert sum(body.get("user") == "fail 429" for body in upstream.bodies) == 16


async def test_a_timeout_is_a_timeout_and_is_not_repeated(tmp_path):
    async with wrapped(tmp_path) as (client, upstream):
        with pytest.raises(openai.APITimeoutError):
            await client.with_options(timeout=0.2).chat.completions.create(**ASK, user="wait 30")
        assert sum(body.get("user") == "wait 30" for body in upstream.bodies) == 8
        await upstream.until(lambda: upstream.n_cancelled == 8)


async def test_a_server_that_is_away_is_a_connection_error_before_and_after_the_handshake(tmp_path):
    folder = checkpoint(tmp_path)
    async with engine() as upstream:
        client = wrap(client_at(upstream, max_retries=0), checkpoint=folder, model="model")
        late = wrap(client_at(upstream, max_retries=0), checkpoint=folder, model="model")
        await client.its.ready()
    async with client, late:
        for one in (client, late):
            with pytest.raises(openai.APIConnectionError) as away:
                await one.chat.completions.create(**ASK)
            assert not isinstance(away.value, openai.APITimeoutError)
        with pytest.raises(ModelUnavailable, match="cannot be reached"):
            await late.its.ready()


async def test_a_wrong_key_is_told_as_such_at_the_first_request(tmp_path):
    def stranger(body, number):
        return Say(status=401)

    async with (
        engine(stranger) as upstream,
        wrap(client_at(upstream), checkpoint=checkpoint(tmp_path), model="model") as client,
    ):
        with pytest.raises(openai.AuthenticationError):
            await client.chat.completions.create(**ASK)
        assert len(upstream.bodies) == 1


async def test_a_server_that_is_not_what_the_manifest_says_answers_nothing(tmp_path):
    async with engine() as upstream:
        upstream.tokens = lambda body: [1, 2, 3]
        async with wrap(client_at(upstream), checkpoint=checkpoint(tmp_path)) as client:
            with pytest.raises(ModelUnavailable, match="other tokens than recorded"):
                await client.its.ready()
            upstream.forget()
            with pytest.raises(openai.InternalServerError) as refused:
                await client.chat.completions.create(**ASK)
    assert refused.value.code == "model_mismatch"
    assert upstream.bodies == []


async def test_our_own_refusals_are_openais_classes(tmp_path):
    async with wrapped(tmp_path) as (client, _):
        with pytest.raises(openai.UnprocessableEntityError) as no_vote:
            await client.chat.completions.create(
                **ASK, response_format={"type": "json_object"},
                extra_body={"its": {"on_no_answer": "error", "answer": "letter", "vote": "always"}},
            )  # fmt: skip
        with pytest.raises(openai.BadRequestError) as unknown:
            await client.chat.completions.create(**ASK, extra_body={"its": {"no_such": 1}})
        with pytest.raises(openai.BadRequestError) as template:
            await client.chat.completions.create(**ASK, extra_body={"chat_template": "{{ x }}"})
    assert no_vote.value.code == "no_vote"
    assert unknown.value.param == "its.no_such"
    assert template.value.code == "strategy_not_applicable"


async def test_an_error_in_the_middle_of_a_stream_is_raised(tmp_path, monkeypatch):
    monkeypatch.setattr("its_proxy.exchange.STREAM_BEGINS_S", 0.0)
    async with wrapped(tmp_path) as (client, _):
        stream = await client.chat.completions.create(**ASK, stream=True, user="fail 500")
        with pytest.raises(openai.APIError, match="answered 500"):
            async for _ in stream:
                pass


def test_what_is_wrong_with_a_checkpoint_is_told_by_wrap_itself(tmp_path):
    client = openai.AsyncOpenAI(base_url="http://127.0.0.1:9/v1", api_key="k")
    good = checkpoint(tmp_path)
    write_checkpoint(tmp_path / "one-sided", manifest("random", "none"))
    write_checkpoint(tmp_path / "broken", manifest())
    (tmp_path / "broken" / "its.json").write_text("{")
    for name, message in (("nowhere", "is not there"), ("one-sided", "persona"), ("broken", "not JSON")):
        with pytest.raises(ManifestError, match=message):
            wrap(client, checkpoint=tmp_path / name)
    with pytest.raises(ConfigError, match=r"vote\.no_such: unknown key"):
        wrap(client, checkpoint=good, vote={"no_such": 1})
    with pytest.raises(ConfigError, match="an ensemble needs a name"):
        wrap(client, checkpoint={"a": good, "b": good})
    with pytest.raises(ConfigError, match="wrapped already"):
        wrap(wrap(client, checkpoint=good / "its.json"), checkpoint=good)


async def test_an_ensemble_asks_each_member_by_its_own_manifest(tmp_path):
    members = {"a": checkpoint(tmp_path, "random"), "b": checkpoint(tmp_path, "none")}
    async with (
        engine(models=["a", "b"]) as upstream,
        wrap(client_at(upstream), checkpoint=members, model="both", vote={"n": 4, "stop": "none"}) as client,
    ):
        await client.its.ready()
        upstream.forget()
        completion = await client.chat.completions.create(model="both", messages=MESSAGES)
    assert [(member["model"], member["n"]) for member in completion.its["members"]] == [("a", 2), ("b", 2)]
    plain = {body["model"]: body["messages"] == MESSAGES for body in upstream.bodies}
    assert plain == {"a": False, "b": True}


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"openai.py": ""}, r"openai\.py hides the installed package openai \(rename it\)"),
        ({"openai/notes.txt": ""}, ""),
        ({"openai.py": "AsyncOpenAI, __version__ = None, '1.99.0'"}, r"openai 1\.99\.0 is not supported"),
        ({"openai.py": "raise ModuleNotFoundError(name='openai')"}, r"openai is not installed \(pip install"),
    ],
)
def test_another_openai_than_ours_is_told_when_the_wrapper_is_imported(tmp_path, files, message):
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    variables = os.environ | {"PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}"}
    done = subprocess.run(
        [sys.executable, "-c", "import its_proxy.client"], env=variables, capture_output=True, text=True, timeout=60
    )
    assert (done.returncode == 0) is (message == "")
    assert re.search(message, done.stderr)


async def asked_on_and_on(client):
    while True:
        await client.chat.completions.create(**ASK)
        await asyncio.sleep(0.05)


async def test_another_checkpoint_under_the_old_name_is_noticed_without_a_call_that_fails(tmp_path, monkeypatch):
    monkeypatch.setattr("its_proxy.client.upstream.ClientUpstream.poll_s", 0.05)
    async with wrapped(tmp_path) as (client, upstream):
        await asyncio.sleep(0.2)  # the list has been seen as it was
        upstream.tokens, upstream.card_fields = lambda body: [1, 2, 3], {"root": "/another"}
        with pytest.raises(openai.InternalServerError, match="other tokens than recorded"):
            await asyncio.wait_for(asked_on_and_on(client), 10)
