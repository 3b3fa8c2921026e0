"""Both doors in LiteLLM's SDK: `litellm.acompletion` and `litellm.Router`, asynchronous and synchronous."""

import asyncio
import gc
import re
import warnings
from contextlib import asynccontextmanager, suppress

import pytest

from its_proxy.checkpoint import open_checkpoint
from its_proxy.codesign.errors import ConfigError
from its_proxy.codesign.strategies import rewrite
from tests.real_litellm.page import code
from tests.real_litellm.script import CALL, QUERY, TOOLS, messages
from tests.real_litellm.worlds import checkpoint, engine
from tests.serving import model_settings, serving

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # LiteLLM's own
    import litellm
    from litellm.exceptions import MidStreamFallbackError
    from litellm.llms.custom_llm import CustomLLMError
    from litellm.proxy.types_utils.utils import get_instance_fn
    from litellm.types.utils import CallTypes

    import its_litellm

N = 8
OFF = {"vote": "off"}
pytestmark = pytest.mark.filterwarnings("ignore")  # LiteLLM's own, which also leaves sessions of its own open


@pytest.fixture(scope="module", autouse=True)
def background():
    """What the synchronous door leaves running ends with the process: here, with the module."""
    yield
    its_litellm.handler._background.close()


@pytest.fixture(autouse=True)
def doors(monkeypatch):
    """As docs/litellm-plugin.md registers them."""
    monkeypatch.setattr(litellm, "custom_provider_map", [{"provider": "its", "custom_handler": its_litellm.handler}])
    litellm.utils.custom_llm_setup()
    yield
    its_litellm.handler.router = None


@asynccontextmanager
async def asking(folder):
    """An engine, and how one deployment of the provider is asked."""
    async with engine("qwen") as upstream:
        info = {"its": {"manifest": str(checkpoint(folder, "random"))}}
        yield upstream, {"model": "its/qwen", "api_base": upstream.url, "api_key": "none", "model_info": info}
        await its_litellm.handler.close()


def router_over(folder, url, **info):
    """A router with one deployment of the provider's and two of vLLM's."""
    its = {"manifest": str(checkpoint(folder, "random")), **info}
    vllm = {"model": "hosted_vllm/qwen", "api_base": url, "api_key": "none"}
    return litellm.Router(
        model_list=[
            {"model_name": "qwen", "litellm_params": {**vllm, "model": "its/qwen"}, "model_info": {"its": its}},
            {"model_name": "a", "litellm_params": vllm},
            {"model_name": "b", "litellm_params": vllm},
            {"model_name": "once", "litellm_params": vllm, "model_info": {"its": its}},
        ],
        num_retries=0,
    )


async def test_a_completion_is_rewritten_as_training_does(tmp_path):
    async with asking(tmp_path) as (upstream, call):
        reply = await litellm.acompletion(**call, messages=messages())
        expected = rewrite(open_checkpoint(tmp_path / "qwen-random").serve, messages()).messages
    assert (reply.its["answer"], reply.usage.completion_tokens) == ("7", N * 10)
    assert [body["messages"] for body in upstream.bodies[-N:]] == [expected] * N


async def test_a_stream_keeps_reasoning_usage_and_its(tmp_path):
    async with asking(tmp_path) as (_, call):
        stream = await litellm.acompletion(
            **call, messages=messages(), stream=True, stream_options={"include_usage": True}
        )
        chunks = [chunk async for chunk in stream]
    assert "".join(getattr(c.choices[0].delta, "reasoning_content", None) or "" for c in chunks) == "I add them up."
    assert "".join(c.choices[0].delta.content or "" for c in chunks) == "so it is \\boxed{7}"
    assert [c.its["answer"] for c in chunks if hasattr(c, "its")] == ["7"]
    assert [c.usage.completion_tokens for c in chunks if getattr(c, "usage", None)] == [N * 10]


async def test_a_stream_without_a_finish_is_an_error_and_no_stop(tmp_path):
    async with asking(tmp_path) as (_, call):
        with pytest.raises(MidStreamFallbackError, match="in the middle"):
            async for _ in await litellm.acompletion(**call, messages=messages(f"cut: {QUERY}"), stream=True, its=OFF):
                pass


async def test_a_single_stream_keeps_what_the_engine_tells(tmp_path):
    async with asking(tmp_path) as (_, call):
        stream = await litellm.acompletion(**call, messages=messages(), stream=True, its=OFF)
        chunks = [chunk async for chunk in stream]
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks).strip() == "so it is \\boxed{7}"
    assert [chunk.choices[0].finish_reason for chunk in chunks][-1] == "stop"
    assert len({chunk.id for chunk in chunks}) == 1


async def test_the_synchronous_door_votes_too(tmp_path):
    async with asking(tmp_path) as (upstream, call):
        reply = await asyncio.to_thread(litellm.completion, **call, messages=messages())
        texts = {body["messages"][0]["content"] for body in upstream.bodies[-N:]}
    assert reply.its["votes"] == {"7": N}
    assert QUERY not in texts


async def test_the_synchronous_stream_is_the_winners(tmp_path):
    def read(call):
        return list(litellm.completion(**call, messages=messages(), stream=True))

    async with asking(tmp_path) as (_, call):
        chunks = await asyncio.to_thread(read, call)
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == "so it is \\boxed{7}"
    assert [chunk.its["answer"] for chunk in chunks if hasattr(chunk, "its")] == ["7"]


async def test_a_synchronous_stream_that_is_left_ends_its_candidates(tmp_path):
    def leave(call):
        stream = litellm.completion(**call, messages=messages(f"patiently: {QUERY}"), stream=True, its=OFF)
        del stream

    async with asking(tmp_path) as (upstream, call):
        await asyncio.to_thread(leave, call)
        await upstream.until(lambda: upstream.n_open == 0)


async def test_errors_are_litellms_own_classes(tmp_path):
    async with asking(tmp_path) as (_, call):
        with pytest.raises(litellm.BadRequestError, match="unknown key"):
            await litellm.acompletion(**call, messages=messages(), its={"votes": 3})
        with pytest.raises(litellm.ServiceUnavailableError, match=r"no model_info\.its"):
            await litellm.acompletion(**{**call, "model_info": None}, messages=messages())
        with pytest.raises(litellm.NotFoundError):
            await litellm.acompletion(**call, messages=messages(f"fail 404: {QUERY}"))


async def test_tools_come_back_as_litellms_objects(tmp_path):
    async with asking(tmp_path) as (_, call):
        reply = await litellm.acompletion(**call, messages=messages(), tools=TOOLS)
    assert reply.choices[0].finish_reason == "tool_calls"
    assert reply.choices[0].message.tool_calls[0].function.name == CALL["function"]["name"]


def test_each_event_loop_has_connections_of_its_own_and_leaves_none_behind(tmp_path):
    """asyncio.run, three times: a session left open would be a ResourceWarning."""

    async def ask():
        async with engine("qwen") as upstream:
            info = {"its": {"manifest": str(checkpoint(tmp_path, "random"))}}
            call = {"model": "its/qwen", "api_base": upstream.url, "api_key": "none"}
            with pytest.raises(litellm.ServiceUnavailableError, match="no manifest for qwen"):
                await litellm.acompletion(**call, model_info={"its": {"roots": ["/"]}}, messages=messages())
            return (await litellm.acompletion(**call, model_info=info, messages=messages())).its["answer"]

    n_loops = len(its_litellm.handler.services._loops)
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        assert [asyncio.run(ask()) for _ in range(3)] == ["7", "7", "7"]
        gc.collect()
    assert [str(warning.message) for warning in told if "Unclosed" in str(warning.message)] == []
    assert len(its_litellm.handler.services._loops) == n_loops


@pytest.mark.parametrize("targets", [{}, {"targets": ["a", "b"]}], ids=["one server", "two deployments"])
async def test_a_router_votes_asynchronously_and_synchronously(tmp_path, targets):
    async with engine("qwen") as upstream:
        router = its_litellm.handler.router = router_over(tmp_path, upstream.url, **targets)
        reply = await router.acompletion(model="qwen", messages=messages())
        again = await asyncio.to_thread(router.completion, model="qwen", messages=messages())
        await its_litellm.handler.close()
    assert reply.its["votes"] == again.its["votes"] == {"7": N}
    assert reply.its["target"] == (", ".join(targets["targets"]) if targets else "qwen")


async def test_the_hook_rewrites_in_a_router_and_refuses_its_synchronous_calls(tmp_path, monkeypatch):
    monkeypatch.setattr(litellm, "callbacks", [its_litellm.rewrite])
    async with engine("qwen") as upstream:
        router = router_over(tmp_path, upstream.url)
        await router.acompletion(model="once", messages=messages())
        [body] = upstream.bodies[-1:]
        n_asked = len(upstream.bodies)
        with pytest.raises(litellm.BadRequestError, match="no synchronous call is rewritten"):
            await asyncio.to_thread(router.completion, model="once", messages=messages())
        assert len(upstream.bodies) == n_asked
        await its_litellm.rewrite.services.close()
    assert body["messages"][0]["content"].endswith(f"\n\n{QUERY}")
    assert body["messages"][0]["content"] != QUERY


async def test_the_hook_takes_a_name_with_an_organisation_for_the_whole_name(tmp_path):
    async with engine("org/qwen") as upstream:
        info = {"its": {"manifest": str(checkpoint(tmp_path, "random"))}}
        call = {"model": "hosted_vllm/org/qwen", "api_base": upstream.url, "model_info": info, "messages": messages()}
        changed = await its_litellm.rewrite.async_pre_call_deployment_hook(call, CallTypes.acompletion)
        await its_litellm.rewrite.services.close()
    assert changed["messages"][0]["content"].endswith(f"\n\n{QUERY}")


async def asked_on_and_on(ask):
    while True:
        await ask()
        await asyncio.sleep(0.05)


async def test_another_checkpoint_at_a_deployment_is_noticed_without_a_call_that_fails(tmp_path, monkeypatch):
    monkeypatch.setattr("its_litellm.router.RouterUpstream.poll_s", 0.05)
    async with engine("qwen") as upstream:
        its_litellm.handler.router = router = router_over(tmp_path, upstream.url, targets=["a"])
        await router.acompletion(model="qwen", messages=messages())
        await asyncio.sleep(0.2)  # the list has been seen as it was
        upstream.tokens, upstream.card_fields = lambda body: [1, 2, 3], {"root": "/another"}
        with pytest.raises(litellm.ServiceUnavailableError, match="model_mismatch"):
            await asyncio.wait_for(asked_on_and_on(lambda: router.acompletion(model="qwen", messages=messages())), 10)
        await its_litellm.handler.close()


async def test_the_hook_lets_no_other_call_carry_a_query_past_it(tmp_path):
    """Every kind of call that LiteLLM knows, and one that it may come to know."""
    kinds = [*CallTypes, None]
    passed = []
    async with engine("qwen") as upstream:
        info = {"its": {"manifest": str(checkpoint(tmp_path, "random"))}}
        call = {"model": "openai/qwen", "api_base": upstream.url, "model_info": info, "messages": messages()}
        for kind in kinds:
            with suppress(CustomLLMError):
                changed = await its_litellm.rewrite.async_pre_call_deployment_hook(dict(call), kind)
                passed += [kind.value] if changed is None else []
        await its_litellm.rewrite.services.close()
    assert {kind.removeprefix("a") for kind in passed} == {"embedding", "moderation", "rerank", "transcription"}


async def test_a_dead_deployment_does_not_lose_the_vote(tmp_path):
    async with engine("qwen") as upstream:
        router = router_over(tmp_path, upstream.url, targets=["a", "dead"])
        dead = {"model": "hosted_vllm/qwen", "api_base": "http://127.0.0.1:9/v1", "api_key": "none"}
        router.add_deployment(litellm.Deployment(model_name="dead", litellm_params=dead))
        its_litellm.handler.router = router
        reply = await router.acompletion(model="qwen", messages=messages())
        await its_litellm.handler.close()
    assert reply.its["votes"] == {"7": N}


async def test_every_deployment_of_a_group_is_a_target(tmp_path):
    async with engine("qwen") as one, engine("qwen") as two:
        router = router_over(tmp_path, one.url, targets=["a"])
        more = {"model": "hosted_vllm/qwen", "api_base": two.url, "api_key": "none"}
        router.add_deployment(litellm.Deployment(model_name="a", litellm_params=more))
        its_litellm.handler.router = router
        reply = await router.acompletion(model="qwen", messages=messages())
        await its_litellm.handler.close()
        assert (len(one.bodies) > 2, len(two.bodies) > 2) == (True, True)
    assert reply.its["target"] == "a/0, a/1"


@pytest.mark.parametrize(
    ("targets", "told"), [(["lost"], "this router has no deployment 'lost'"), (["qwen"], "qwen votes itself")]
)
async def test_targets_that_cannot_be_voted_over_are_named(tmp_path, targets, told):
    its_litellm.handler.router = router_over(tmp_path, "http://127.0.0.1:9/v1", targets=targets)
    with pytest.raises(litellm.ServiceUnavailableError, match=told):
        await its_litellm.handler.router.acompletion(model="qwen", messages=messages())
    await its_litellm.handler.close()


async def test_a_server_that_renders_otherwise_is_not_asked(tmp_path):
    async with asking(tmp_path) as (upstream, call):
        upstream.tokens = lambda body: [1, 2, 3]
        with pytest.raises(litellm.ServiceUnavailableError, match="not served"):
            await litellm.acompletion(**call, messages=messages())
        assert all(body.get("return_token_ids") for body in upstream.bodies)


async def test_the_manifest_may_be_found_by_the_servers_own_word(tmp_path):
    async with asking(tmp_path) as (upstream, call):
        upstream.add_model("qwen", root=tmp_path / "qwen-random")
        found = {**call, "model_info": {"its": {"roots": [str(tmp_path)]}}}
        assert (await litellm.acompletion(**found, messages=messages())).its["strategy"] == "random"
        elsewhere = {**call, "model_info": {"its": {"roots": [str(tmp_path / "elsewhere")]}}}
        with pytest.raises(litellm.ServiceUnavailableError, match="outside of the folders"):
            await litellm.acompletion(**elsewhere, messages=messages())


async def test_layers_that_stack_rewrite_once_and_vote_once(tmp_path):
    """The provider before an its-proxy of the same checkpoint, which believes it on a loopback address without keys."""
    async with engine("model") as upstream:
        folder = checkpoint(tmp_path, "random")
        async with serving(model_settings(upstream.url, folder)) as server:
            upstream.forget()
            call = {"model": "its/model", "api_base": server.url, "api_key": "none"}
            reply = await litellm.acompletion(
                **call, model_info={"its": {"manifest": str(folder)}}, messages=messages()
            )
            await its_litellm.handler.close()
        asked = [body for body in upstream.bodies if not body.get("return_token_ids")]
    assert reply.its["votes"] == {"7": N}
    assert [body["messages"] for body in asked] == [rewrite(open_checkpoint(folder).serve, messages()).messages] * N


async def test_the_pages_code_runs(tmp_path, capsys):
    folder, names = checkpoint(tmp_path, "random"), {}
    async with engine("qwen") as upstream:
        for block in code("litellm-plugin.md"):
            block = re.sub(r"http://\w+:8000/v1", upstream.url, block).replace("/checkpoints/qwen-random", str(folder))
            await asyncio.to_thread(exec, block, names)
    assert capsys.readouterr().out == f"so it is \\boxed{{7}} {{'7': {N}}}\n"
    assert names["reply"].its["target"] == "qwen-a, qwen-b"


def test_litellm_imports_a_file_beside_its_configuration_first(tmp_path):
    """Which is why `python -m its_litellm` looks for one."""
    (tmp_path / "its_litellm.py").write_text("handler = 'a stranger'")
    assert get_instance_fn("its_litellm.handler", str(tmp_path / "config.yaml")) == "a stranger"


def test_a_litellm_out_of_range_is_refused_when_the_doors_are_asked_for(monkeypatch):
    with monkeypatch.context() as patched:
        patched.setattr("its_litellm.versions.version", lambda name: "1.82.8")
        patched.setattr("its_litellm._doors", its_litellm._doors.__wrapped__)
        with pytest.raises(ConfigError, match=r"litellm 1\.82\.8 is outside of the range"):
            get_instance_fn("its_litellm.handler", None)
