"""The middleware around a scripted application: what it touches, what it leaves alone, and whom it lets leave."""

import asyncio
import json
import logging
from contextlib import asynccontextmanager
from hashlib import sha256
from importlib.util import find_spec

import pytest

from its_proxy.checkpoint import open_checkpoint
from its_proxy.codesign.errors import UpstreamUnreachable
from its_proxy.codesign.query import user_turns
from its_proxy.codesign.strategies import rewrite
from its_vllm import Middleware
from its_vllm.options import Options
from tests.plugins.its_vllm.asgi_client import Client, living
from tests.plugins.its_vllm.scripted_app import KEY, ScriptedApp, reply
from tests.serving import manifest, write_checkpoint

QUERY = "What is 2 + 5?"


def seven(body):
    return "\\boxed{7}"


@asynccontextmanager
async def serving(folder, document=None, *, answer=seven, options=None, **fields):
    """A client of `model`, whose root is the folder, and of `plain`, whose root has no manifest."""
    write_checkpoint(folder / "model", document or manifest("random"))
    (folder / "plain").mkdir(exist_ok=True)
    roots = {"model": str(folder / "model"), "plain": str(folder / "plain")}
    app = ScriptedApp(answer, roots, **fields)
    middleware = Middleware(app, options or Options())
    async with living(middleware, app):
        yield Client(middleware, app, app.key), app


async def test_a_query_is_rewritten_as_trained_and_voted_on(tmp_path):
    async with serving(tmp_path) as (client, app):
        heard = await client.chat(QUERY, seed=3, headers=[("x-request-id", "mine")])
    recipe = open_checkpoint(tmp_path / "model").serve
    [expected] = rewrite(recipe, [{"role": "user", "content": QUERY}]).messages
    assert [body["messages"] for body in app.bodies] == [[expected]] * 8
    assert sorted(body["seed"] for body in app.bodies) == list(range(3, 11))
    assert (heard.status, heard.headers["x-request-id"], heard.headers["x-its-votes"]) == (200, "mine", "8/8/8")
    its = heard.json["its"]
    assert (its["answer"], its["strategy"], its["handshake"]) == ("7", "random", "unverified")
    assert its["degraded"] is None
    assert {headers[b"x-request-id"] for headers, body in app.asked if body in app.bodies} == {
        f"mine-{k}".encode() for k in range(8)
    }


async def test_a_stream_ends_with_what_was_voted(tmp_path):
    async with serving(tmp_path) as (client, _):
        heard = await client.chat(QUERY, stream=True)
        alone = await client.chat(QUERY, stream=True, its={"vote": "off"})
    assert heard.headers["content-type"].startswith("text/event-stream")
    assert heard.raw.endswith(b"data: [DONE]\n\n")
    assert heard.events[-1]["its"]["votes"] == {"7": 8}
    assert heard.events[-1]["its"]["equivalence"]["by"] == ("workers" if find_spec("sympy") else "form")
    assert [event["choices"][0]["delta"].get("content") for event in alone.events] == ["", "\\boxed{7}", None]


async def test_other_routes_and_other_models_are_left_alone(tmp_path):
    async with serving(tmp_path) as (client, app):
        chat = await client.chat(QUERY, "plain", n=2, its="whatever", cache_salt="x")
        unknown = await client.chat(QUERY, "unknown")
        broken = await client.send("POST", "/v1/chat/completions", b"{nonsense")
        others = [await client.send(method, path, b"abc") for method, path in OTHERS]
    messages = [{"role": "user", "content": QUERY}]
    assert app.bodies[0] == {"model": "plain", "messages": messages, "n": 2, "its": "whatever", "cache_salt": "x"}
    assert "its" not in chat.json
    assert (unknown.status, unknown.json) == (404, {"error": {"message": "no unknown", "code": 404}})
    assert (broken.status, broken.json) == (400, {"error": {"message": "vLLM cannot read this"}})
    assert app.others == [(method, path, b"abc") for method, path in OTHERS]
    assert {other.status for other in others} == {404}


async def test_without_a_name_the_model_is_the_one_that_vllm_takes(tmp_path):
    async with serving(tmp_path) as (client, app):
        for model in (None, ""):
            heard = await client.chat(QUERY, model)
            assert (heard.json["its"]["strategy"], heard.json["model"]) == ("random", "model")
    assert {body["model"] for body in app.bodies} == {"model"}


async def test_an_adapter_that_vllm_loads_when_it_is_asked_for_is_asked_as_trained(tmp_path):
    folder = write_checkpoint(tmp_path / "adapter", manifest("similar"))
    async with serving(tmp_path, unlisted={"adapter": str(folder)}, key=KEY) as (client, app):
        client._key = "wrong"
        assert (await client.chat(QUERY, "adapter")).status == 401
        assert app.unlisted
        client._key = KEY
        heard = await client.chat(QUERY, "adapter")
    assert heard.json["its"]["strategy"] == "similar"


@pytest.mark.parametrize("odd", [b'"top_k": NaN', b'"seed": 99999999999999999999', b'"user": "a", "user": "b"'])
async def test_what_vllm_reads_and_we_do_not_is_never_answered_plain(tmp_path, odd):
    def body(model):
        return b'{"messages": [{"role": "user", "content": "2 + 5?"}], %s, "model": "%s"}' % (odd, model)

    async with serving(tmp_path) as (client, app):
        heard = await client.send("POST", "/v1/chat/completions", body(b"model"))
        plain = await client.send("POST", "/v1/chat/completions", body(b"plain"))
    assert (heard.status, heard.json["error"]["code"]) == (400, "invalid_json")
    assert (plain.status, len(app.bodies)) == (200, 1)


@pytest.mark.parametrize("is_known", [True, False])
async def test_a_large_body_is_read_for_those_whom_vllm_knows(tmp_path, is_known):
    async with serving(tmp_path, key=KEY) as (client, app):
        client._key = KEY if is_known else "wrong"
        heard = await client.chat(QUERY + " " * 3 * 2**20, its={"vote": "off"})
    assert (heard.status, len(app.bodies)) == ((200, 1) if is_known else (401, 0))


async def test_replies_are_asked_for_uncompressed(tmp_path):
    async with serving(tmp_path) as (client, app):
        await client.chat(QUERY, headers=[("accept-encoding", "gzip"), ("x-tenant", "a")])
    asked = [headers for headers, body in app.asked if body in app.bodies]
    assert all(b"accept-encoding" not in headers and headers[b"x-tenant"] == b"a" for headers in asked)


OTHERS = [
    ("POST", "/v1/completions"),
    ("POST", "/v1/responses"),
    ("GET", "/v1/chat/completions"),
    ("POST", "/detokenize"),
]


@pytest.mark.parametrize("fields", [{}, {"stream": True}, {"its": {"explain": True}}, {"model": "plain"}])
async def test_a_wrong_key_gets_vllms_own_answer_and_nothing_is_spent(tmp_path, fields):
    async with serving(tmp_path, key=KEY) as (client, app):
        client._key = "wrong"
        heard = await client.chat(QUERY, **fields)
    assert (heard.status, heard.json) == (401, {"error": "Unauthorized"})
    assert app.bodies == []


async def test_the_handshake_uses_vllms_own_key(tmp_path):
    async with serving(tmp_path, key=KEY) as (client, app):
        heard = await client.chat(QUERY)
    assert heard.status == 200
    assert all(headers[b"authorization"] == f"Bearer {KEY}".encode() for headers, _ in app.asked)


async def test_vllms_refusals_pass_as_they_are(tmp_path):
    refusal = {"error": {"message": "too long", "type": "BadRequestError", "param": None, "code": 400}}
    async with serving(tmp_path, answer=lambda body: (400, refusal)) as (client, _):
        for fields in ({}, {"stream": True}, {"its": {"vote": "off"}, "stream": True}):
            heard = await client.chat(QUERY, **fields)
            assert (heard.status, heard.json) == (400, refusal)


async def test_lost_candidates_do_not_lose_the_vote(tmp_path):
    numbers = iter(range(100))
    async with serving(tmp_path, answer=lambda body: (500, {}) if next(numbers) == 2 else "\\boxed{7}") as (client, _):
        heard = await client.chat(QUERY, its={"stop": "none"})
    assert (heard.json["its"]["votes"], heard.json["its"]["lost"]) == ({"7": 7}, 1)


async def test_a_mismatch_is_told_at_the_start_and_answered_by_503(tmp_path, caplog):
    document = manifest("random")
    document["probes"][0]["prompt_token_ids"] = [1, 2, 3]
    with caplog.at_level(logging.INFO, logger="vllm.its_vllm"):
        async with serving(tmp_path, document) as (client, app):
            while "mismatch" not in caplog.text:
                await asyncio.sleep(0.01)
            heard, plain = await client.chat(QUERY), await client.chat(QUERY, "plain")
    assert (heard.status, heard.json["error"]["code"]) == (503, "model_mismatch")
    assert plain.status == 200
    assert len(app.bodies) == 1


async def test_a_broken_manifest_is_told_at_the_start_and_never_served_plain(tmp_path, caplog):
    document = manifest("random")
    document["pair"]["serve_with"]["strategy"] = "nonsense"
    with caplog.at_level(logging.INFO, logger="vllm.its_vllm"):
        async with serving(tmp_path, document) as (client, app):
            while "is refused" not in caplog.text:
                await asyncio.sleep(0.01)
            heard = await client.chat(QUERY)
    assert "model is refused" in caplog.text
    assert "plain: no manifest" in caplog.text
    assert (heard.status, app.bodies) == (503, [])


async def test_a_hub_that_cannot_be_asked_is_told_at_the_start_and_nothing_is_answered_plain(
    tmp_path, caplog, monkeypatch
):
    class Unreachable:
        def snapshot(self, repository, revision):
            raise UpstreamUnreachable(f"the Hub cannot be asked for {repository}")

    monkeypatch.setattr("its_vllm.models.Hub", Unreachable)
    app = ScriptedApp(seven, {"model": "org/name"})
    middleware = Middleware(app, Options())
    async with living(middleware, app):
        while "the Hub cannot be asked for org/name" not in caplog.text:
            await asyncio.sleep(0.01)
        heard = await Client(middleware, app).chat(QUERY)
    assert (heard.status, heard.json["error"]["code"], app.bodies) == (503, "model_pending", [])


async def test_a_list_that_cannot_be_had_at_the_start_is_asked_for_again(tmp_path, monkeypatch):
    monkeypatch.setattr("its_proxy.open_upstream.LIST_TTL_S", 0.02)
    folder, failures = write_checkpoint(tmp_path / "model", manifest("random")), iter([True])
    app = ScriptedApp(seven, {"model": str(folder)})

    async def loading(scope, receive, send):
        is_list = scope.get("path") == "/v1/models"
        await (reply(send, 503, {}) if is_list and next(failures, False) else app(scope, receive, send))

    middleware = Middleware(loading, Options())
    async with living(middleware, app):
        await asyncio.sleep(0.01)
        heard = await Client(middleware, app).chat(QUERY)
    assert heard.json["its"]["answer"] == "7"


@pytest.mark.parametrize("fields", [{}, {"stream": True}, {"its": {"vote": "off"}}])
async def test_a_client_who_leaves_leaves_nothing_running(tmp_path, fields):
    async with serving(tmp_path, delay_s=30) as (client, app):
        body = {"model": "model", "messages": [{"role": "user", "content": QUERY}], **fields}
        n = 1 if "its" in fields else 8
        for _ in range(20):
            leave = asyncio.Event()
            asking = asyncio.create_task(
                client.send("POST", "/v1/chat/completions", json.dumps(body).encode(), leave=leave)
            )
            while app.n_running < n:
                await asyncio.sleep(0.001)
            leave.set()
            await asyncio.wait_for(asking, 2)
            await asyncio.sleep(0)
            assert app.n_running == 0


async def test_a_layer_in_front_is_believed_where_vllm_has_no_keys(tmp_path):
    async with serving(tmp_path) as (client, app):
        pair_id = open_checkpoint(tmp_path / "model").pair_id
        heard = await client.chat(QUERY, headers=[("x-its-applied", pair_id)])
        other = await client.chat(QUERY, headers=[("x-its-applied", "0" * 64)])
    assert "its" not in heard.json
    assert [user_turns(body["messages"])[0].text for body in app.bodies] == [QUERY]
    assert (other.status, other.json["error"]["code"]) == (400, "pair_mismatch")
    assert all(b"x-its-applied" not in headers for headers, _ in app.asked)


async def test_a_layer_between_may_empty_what_clients_say_of_a_front(tmp_path):
    async with serving(tmp_path) as (client, app):
        heard = await client.chat(QUERY, headers=[("x-its-applied", "")])
    assert (heard.json["its"]["degraded"], len(app.bodies)) == (None, 8)


@pytest.mark.parametrize("is_front", [True, False])
async def test_with_keys_only_a_fronts_word_counts(tmp_path, is_front):
    digest = sha256(KEY.encode()).hexdigest()
    options = Options(front_keys=frozenset({digest} if is_front else {"0" * 64}))
    async with serving(tmp_path, key=KEY, options=options) as (client, app):
        pair_id = open_checkpoint(tmp_path / "model").pair_id
        heard = await client.chat(QUERY, headers=[("x-its-applied", pair_id)])
    if is_front:
        assert ("its" in heard.json, len(app.bodies)) == (False, 1)
    else:
        assert (heard.json["its"]["degraded"], len(app.bodies)) == ("x-its-applied ignored", 8)


@pytest.mark.parametrize(("options", "status"), [(Options(), 403), (Options(rights=frozenset({"explain"})), 200)])
async def test_with_keys_overrides_take_a_right(tmp_path, options, status):
    async with serving(tmp_path, key=KEY, options=options) as (client, app):
        heard = await client.chat(QUERY, its={"explain": True})
    assert (heard.status, app.bodies) == (status, [])


async def test_a_model_that_comes_later_is_found(tmp_path, monkeypatch):
    monkeypatch.setattr("its_proxy.open_upstream.LIST_TTL_S", 0.02)
    async with serving(tmp_path) as (client, app):
        write_checkpoint(tmp_path / "later", manifest("similar"))
        app.roots["later"] = str(tmp_path / "later")
        await asyncio.sleep(0.05)
        heard = await client.chat(QUERY, "later")
    assert heard.json["its"]["strategy"] == "similar"


async def test_an_adapter_is_asked_by_its_own_manifest_as_soon_as_it_has_come(tmp_path):
    """Also when it takes the place of another: the list of models is not waited for."""
    adapter = json.dumps({"lora_name": "adapter", "lora_path": str(tmp_path / "adapter")}).encode()
    async with serving(tmp_path) as (client, _):
        for strategy in ("similar", "dissimilar"):
            assert (await client.chat(QUERY)).json["its"]["strategy"] == "random"
            write_checkpoint(tmp_path / "adapter", manifest(strategy))
            assert (await client.send("POST", "/v1/load_lora_adapter", adapter)).status == 200
            assert (await client.chat(QUERY, "adapter")).json["its"]["strategy"] == strategy


async def test_settings_that_are_wrong_keep_vllm_from_starting(tmp_path, monkeypatch):
    monkeypatch.setenv("ITS_VLLM_RIGHTS", "explain,fly")
    app, told = ScriptedApp(seven, {}), []

    async def receive():
        return {"type": "lifespan.startup"}

    async def send(message):
        told.append(message)

    await Middleware(app)({"type": "lifespan", "app": app}, receive, send)
    assert [message["type"] for message in told] == ["lifespan.startup.failed"]
    assert told[0]["message"].startswith("its_vllm: ITS_VLLM_RIGHTS: unknown right 'fly'")


async def test_a_server_that_tells_of_no_start_is_served_all_the_same(tmp_path):
    folder = write_checkpoint(tmp_path / "model", manifest("random"))
    app = ScriptedApp(seven, {"model": str(folder)})
    middleware = Middleware(app, Options())
    heard = await Client(middleware, app).chat(QUERY)
    await middleware._models.close()
    assert heard.json["its"]["answer"] == "7"


async def test_a_request_beyond_the_operators_n_is_refused(tmp_path):
    async with serving(tmp_path, options=Options(max_n=4)) as (client, _):
        lowered, refused = await client.chat(QUERY), await client.chat(QUERY, its={"n": 5})
    assert (lowered.json["its"]["n"], refused.status, refused.json["error"]["code"]) == (4, 400, "n_too_large")
