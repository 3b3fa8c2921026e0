"""What the embedded engine refuses, by the field's name."""

import math
from typing import Any

import pytest

from its_proxy.codesign.errors import UpstreamRejected
from its_proxy.upstreams.embedded import EmbeddedUpstream
from tests.upstreams.embedded.asking import CONTEXT, body, read_stream

IMAGE = {"type": "image_url", "image_url": {"url": "data:,"}}


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"temperature": -0.1}, "temperature"),
        ({"temperature": math.nan}, "temperature"),
        ({"temperature": math.inf}, "temperature"),
        ({"temperature": "warm"}, "temperature"),
        ({"temperature": True}, "temperature"),
        ({"top_p": 0}, "top_p"),
        ({"top_p": 1.01}, "top_p"),
        ({"top_k": -2}, "top_k"),
        ({"min_p": 2}, "min_p"),
        ({"seed": "7"}, "seed"),
        ({"seed": 2**64}, "seed"),
        ({"n": 0}, "n"),
        ({"n": 65}, "n"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_tokens": 1.5}, "max_tokens"),
        ({"max_completion_tokens": -1}, "max_completion_tokens"),
        ({"stop": ""}, "stop"),
        ({"stop": ["a", 3]}, "stop"),
        ({"stop": ["a"] * 17}, "stop"),
        ({"top_logprobs": 21}, "top_logprobs"),
        ({"prompt_logprobs": -1}, "prompt_logprobs"),
        ({"stream_options": []}, "stream_options"),
        ({"chat_template_kwargs": []}, "chat_template_kwargs"),
        ({"chat_template_kwargs": {"tokenize": True}}, "chat_template_kwargs"),
        ({"chat_template": "{{ 1 }}"}, "chat_template"),
        ({"continue_final_message": True}, "continue_final_message"),
        ({"messages": []}, "messages"),
        ({"messages": "hello"}, "messages"),
        ({"messages": ["hello"]}, "messages"),
        ({"messages": [{"role": "pirate", "content": "x"}]}, "messages"),
        ({"messages": [{"role": "user"}]}, "messages"),
        ({"messages": [{"role": "user", "content": 3}]}, "messages"),
        ({"messages": [{"role": "user", "content": [IMAGE]}]}, "messages"),
        ({"messages": [{"role": "user", "content": ["x"]}]}, "messages"),
        ({"messages": [{"role": "tool", "content": "x"}]}, "messages"),
        ({"messages": [{"role": "user", "content": "1" * CONTEXT}]}, "messages"),
        ({"messages": [{"role": "user", "content": "x" * 3_000_000}]}, "messages"),
        ({"messages": [{"role": "user", "content": "\ud800"}]}, "messages"),
        ({"model": None}, "model"),
    ],
    ids=lambda value: str(value)[:60],
)
async def test_bad_value_is_refused_by_name(shared: EmbeddedUpstream, fields: dict[str, Any], param: str) -> None:
    for ask in (lambda: shared.complete(body(**fields), "r"), lambda: read_stream(shared, **fields)):
        with pytest.raises(UpstreamRejected) as caught:
            await ask()
        assert (caught.value.status, caught.value.param) == (400, param)
        assert str(caught.value).startswith(param)
        assert len(str(caught.value)) < 200


async def test_template_s_own_words_reach_the_client(shared: EmbeddedUpstream) -> None:
    with pytest.raises(UpstreamRejected, match="a tool cannot begin"):
        await shared.complete(body(messages=[{"role": "tool", "content": "x"}]), "r")


async def test_prompt_log_probabilities_are_refused_on_a_stream(shared: EmbeddedUpstream) -> None:
    with pytest.raises(UpstreamRejected) as caught:
        await read_stream(shared, prompt_logprobs=0)
    assert caught.value.param == "prompt_logprobs"


async def test_unknown_model_is_a_404(shared: EmbeddedUpstream) -> None:
    with pytest.raises(UpstreamRejected) as caught:
        await shared.complete(body(model="huge"), "r")
    assert caught.value.status == 404
