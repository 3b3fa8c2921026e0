"""Without a manifest, its-proxy changes nothing of what a real vLLM is asked and says."""

import aiohttp

from tests.serving import Reply

QUESTION = [{"role": "user", "content": "How many eggs are 3 eggs and 4 eggs?"}]
BODY = {"messages": QUESTION, "temperature": 0, "max_tokens": 24, "logprobs": True, "top_logprobs": 2}
OWN = ("id", "created")  # what differs between two replies to the same request


async def ask_directly(vllm, body, model=None):
    body = {"model": model or vllm.name, **body}
    async with aiohttp.ClientSession() as http, http.post(f"{vllm.url}/chat/completions", json=body) as reply:
        return Reply(reply.status, reply.headers, await reply.read())


def without_own(document):
    return {key: value for key, value in document.items() if key not in OWN}


async def test_a_reply_is_the_servers_own(proxy, vllm):
    direct = await ask_directly(vllm, BODY)
    through = await proxy.send("POST", "/v1/chat/completions", {"model": "plain", **BODY})
    assert through.status == direct.status == 200
    assert without_own(through.json) == without_own(direct.json)


async def test_a_stream_is_the_servers_own(proxy, vllm):
    body = {**BODY, "stream": True, "stream_options": {"include_usage": True}}
    direct = await ask_directly(vllm, body)
    through = await proxy.send("POST", "/v1/chat/completions", {"model": "plain", **body})
    assert [without_own(chunk) for chunk in through.chunks] == [without_own(chunk) for chunk in direct.chunks]
    assert through.chunks[-1]["usage"]["completion_tokens"] > 0


async def test_a_name_that_the_server_does_not_know_is_its_404(proxy, vllm):
    direct = await ask_directly(vllm, BODY, model="stranger")
    through = await proxy.send("POST", "/v1/chat/completions", {"model": "stranger", **BODY})
    assert (direct.status, direct.json["error"]["param"]) == (404, "model")
    assert through.status == 404
    assert through.error["type"] == "invalid_request_error"
