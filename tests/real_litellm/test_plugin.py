"""its-proxy inside LiteLLM, as docs/litellm-plugin.md has it: what only this door has."""

import asyncio

import pytest
import pytest_asyncio

from its_proxy.codesign.query import user_turns
from tests.real_litellm.script import QUERY, TOOLS, USAGE, messages
from tests.scripted import Say

pytestmark = pytest.mark.asyncio(loop_scope="session")
N = 8
STREAM = {"stream": True, "stream_options": {"include_usage": True}}
BOTH = pytest.mark.parametrize("how", [{}, STREAM], ids=["whole", "stream"])


@pytest_asyncio.fixture(loop_scope="session")
async def failing_b(plugin):
    """The second of three deployments answers nothing but 500; at the end it is asked again."""
    engine = plugin.others["b"]
    script, engine.script = engine.script, lambda body, number: Say(status=500)
    yield
    engine.script = script
    plugin.forget()
    async with asyncio.timeout(60):
        while plugin.n_asked()["b"] == 0:
            await asyncio.sleep(0.2)
            await plugin.ask(plugin.python, model="qwen-spread")


async def test_the_headers_of_a_vote_reach_the_client(plugin, client):
    told = (await plugin.ask(client)).headers
    assert (told["llm_provider-x-its-votes"], told["llm_provider-x-its-agreement"]) == ("8/8/8", "1.0000")


async def test_a_stream_tells_its_too(plugin, client):
    assert (await plugin.ask(client, **STREAM)).its["votes"] == {"7": N}


async def test_a_stream_of_several_choices_is_refused(plugin, client):
    reply = await plugin.ask(client, n=2, stream=True)
    assert (reply.status, reply.error) == (400, "BadRequestError")
    assert "LiteLLM streams one choice" in reply.message


@pytest.mark.parametrize("its", [{"candidates": True}, {"strategy": "none", "force": True}])
async def test_what_a_client_has_no_right_to_is_refused(plugin, client, its):
    reply = await plugin.ask(client, its=its)
    assert (reply.status, reply.error) == (403, "PermissionDeniedError")
    assert plugin.asked == []


async def test_no_client_may_say_that_its_query_is_rewritten(plugin, client):
    pair_id = (await plugin.ask(client)).its["pair_id"]
    reply = await plugin.ask(client, headers={"x-its-applied": pair_id})
    assert (reply.its["strategy"], reply.its["degraded"]) == ("random", "x-its-applied ignored")


@BOTH
async def test_three_deployments_share_a_vote(plugin, client, how):
    reply = await plugin.ask(client, model="qwen-spread", **how)
    assert (reply.text, reply.its["answer"]) == ("so it is \\boxed{7}", "7")
    assert (reply.its["n_started"], reply.its["target"]) == (N, "qwen-a, qwen-b, qwen-c")
    n_asked = plugin.n_asked()
    assert n_asked["gpu"] == 0
    assert sum(n_asked.values()) == N
    assert min(n_asked[host] for host in "abc") >= 2
    sent = [body for host in "abc" for body in plugin.others[host].bodies]
    assert len({body["seed"] for body in sent}) == N
    assert len({body["messages"][0]["content"] for body in sent}) == 1


@BOTH
async def test_one_of_three_deployments_may_fail(plugin, client, failing_b, how):
    reply = await plugin.ask(client, model="qwen-spread", **how)
    assert (reply.status, reply.its["answer"], reply.its["consensus"]) == (200, "7", True)
    # Once it has failed often enough, it is not asked any more: then nothing is lost.
    assert reply.its["lost"] == plugin.n_asked()["b"]


async def test_a_vote_over_deployments_is_charged_once(plugin):
    await plugin.litellm.forget_charges()
    reply = await plugin.ask(plugin.python, model="qwen-spread")
    [charge] = await plugin.litellm.charges(1)
    assert (charge["prompt_tokens"], charge["completion_tokens"]) == reply.usage == (N * USAGE[0], N * USAGE[1])
    assert charge["model_group"] == "qwen-spread"


async def test_two_users_are_two_tenants_at_every_deployment(plugin):
    salts = []
    for user in ("anna", "bert"):
        plugin.forget()
        await plugin.ask(plugin.python, model="qwen-spread", user=user)
        [salt] = {body["cache_salt"] for host in "abc" for body in plugin.others[host].bodies}
        salts.append(salt)
    assert salts[0] != salts[1]


@BOTH
async def test_the_candidates_at_all_deployments_are_cancelled_when_the_client_leaves(plugin, how):
    """20 of 20: ten of either kind."""
    hosts = [plugin.others[host] for host in "abc"]
    for _ in range(10):
        plugin.forget()
        query = messages(f"slowly: {QUERY}")
        call = asyncio.create_task(plugin.ask(plugin.python, model="qwen-spread", messages=query, **how))
        await hosts[0].until(lambda: sum(host.n_open for host in hosts) == N, 10)
        call.cancel()
        await hosts[0].until(lambda: not any(host.n_open for host in hosts))
        assert sum(host.n_cancelled for host in hosts) == N


async def test_a_clients_own_fields_cannot_lead_a_deployment_astray(plugin):
    """What LiteLLM's router would take as arguments of its own reaches the engine at most."""
    strange = {"mock_response": "spent nothing", "fallbacks": ["qwen-none"], "top_k": 3}
    raw = await plugin.raw(model="qwen-spread", extra_body=strange)
    assert b"spent nothing" not in raw
    bodies = [body for host in "abc" for body in plugin.others[host].bodies]
    assert len(bodies) == N
    assert {body["model"] for body in bodies} == {"qwen"}


@BOTH
async def test_an_ensemble_asks_each_member_through_its_own_manifest(plugin, client, how):
    reply = await plugin.ask(client, model="three", **how)
    members = {member["model"]: (member["strategy"], member["n"]) for member in reply.its["members"]}
    assert members == {"qwen-a": ("random", 3), "qwen-similar": ("similar", 3), "qwen-none": ("none", 3)}
    texts = {
        body["model"]: user_turns(body["messages"])[-1].text for host in "ab" for body in plugin.others[host].bodies
    }
    assert len(set(texts.values())) == 3
    assert texts["qwen-none"] == QUERY


async def test_an_ensembles_ballots_have_weights(plugin):
    reply = await plugin.ask(plugin.python, model="three")
    assert reply.its["votes"] == {"7": 3 * 1 + 3 * 2 + 3 * 1}


@BOTH
async def test_tools_are_asked_of_one_deployment(plugin, client, how):
    reply = await plugin.ask(client, model="qwen-spread", tools=TOOLS, **how)
    assert (reply.finish_reasons, [call["function"]["name"] for call in reply.calls]) == (["tool_calls"], ["add"])
    assert sum(plugin.n_asked().values()) == 1


@BOTH
@pytest.mark.parametrize("path", ["chat/completions", "messages"])
async def test_the_hook_rewrites_and_asks_once(plugin, client, path, how):
    options = {"max_tokens": 100} if path == "messages" else how
    voted = (await plugin.ask(plugin.python)).its
    rewritten = plugin.asked[0]["messages"]
    plugin.forget()
    reply = await plugin.ask(client, path, model="qwen-once", messages=messages(), **options)
    [body] = plugin.asked
    assert reply.status == 200
    assert body["messages"] == rewritten
    assert plugin.engine.headers[-1]["x-its-applied"] == voted["pair_id"]


@pytest.mark.parametrize(
    ("path", "fields"),
    [("responses", {"input": QUERY}), ("chat/completions", {"its": {"n": 3}}), ("completions", {"prompt": QUERY})],
)
async def test_the_hook_refuses_what_it_cannot_rewrite(plugin, client, path, fields):
    if path == "completions":
        url, headers = f"{plugin.litellm.url}/completions", {"Authorization": f"Bearer {plugin.key('anna')}"}
        async with plugin.litellm.http.post(url, json={"model": "qwen-once", **fields}, headers=headers) as reply:
            assert reply.status == 400
    else:
        assert (await plugin.ask(client, path, model="qwen-once", **fields)).status == 400
    assert plugin.asked == []
