"""The embedded engine's reply, and its routes beside chat: every text here is sampled by the real thing."""

import json
import time
from collections import Counter
from pathlib import Path

import pytest

from its_proxy.codesign.errors import UpstreamRejected
from its_proxy.upstreams.embedded import EmbeddedUpstream
from its_proxy.upstreams.engine import Checkpoint
from tests.upstreams.embedded.asking import CONTEXT, QUESTION, ask_many, body, text_of

# -- the reply ---------------------------------------------------------------------------------------------------------


async def test_reply_is_a_whole_chat_completion(shared: EmbeddedUpstream) -> None:
    reply = await shared.complete(body(seed=1), "abc")
    assert reply["id"] == "chatcmpl-abc"
    assert reply["object"] == "chat.completion"
    assert abs(reply["created"] - time.time()) < 5
    assert reply["model"] == "tiny"
    [choice] = reply["choices"]
    assert choice["index"] == 0
    assert choice["message"]["role"] == "assistant"
    assert choice["logprobs"] is None
    usage = reply["usage"]
    assert usage["total_tokens"] == usage["prompt_tokens"] + usage["completion_tokens"]
    assert "prompt_token_ids" not in reply
    assert "prompt_logprobs" not in reply


async def test_finish_reason_is_true_and_the_context_is_the_default_limit(
    shared: EmbeddedUpstream, checkpoint: Checkpoint
) -> None:
    replies = await ask_many(shared, range(48), max_tokens=None, return_token_ids=True)
    reasons = Counter(reply["choices"][0]["finish_reason"] for reply in replies)
    assert set(reasons) == {"stop", "length"}
    for reply in replies:
        [choice] = reply["choices"]
        ended = choice["token_ids"][-1] in checkpoint.eos_ids
        assert choice["finish_reason"] == ("stop" if ended else "length")
        assert len(choice["token_ids"]) == reply["usage"]["completion_tokens"]
        if not ended:
            assert reply["usage"]["total_tokens"] == CONTEXT


async def test_max_tokens_limits_and_its_newer_name_wins(shared: EmbeddedUpstream) -> None:
    older = await shared.complete(body(seed=3, max_tokens=5), "r")
    newer = await shared.complete(body(seed=3, max_tokens=5, max_completion_tokens=7), "r")
    assert [reply["usage"]["completion_tokens"] for reply in (older, newer)] == [5, 7]
    assert older["choices"][0]["finish_reason"] == "length"


async def test_max_tokens_beyond_the_context_is_cut_to_it(shared: EmbeddedUpstream) -> None:
    replies = await ask_many(shared, range(8), max_tokens=100_000)
    totals = [r["usage"]["total_tokens"] for r in replies if r["choices"][0]["finish_reason"] == "length"]
    assert totals
    assert set(totals) == {CONTEXT}


async def test_n_candidates_of_one_call_are_those_of_n_calls(shared: EmbeddedUpstream) -> None:
    together = await shared.complete(body(seed=40, n=3), "r")
    apart = await ask_many(shared, range(40, 43))
    assert [choice["index"] for choice in together["choices"]] == [0, 1, 2]
    assert [choice["message"]["content"] for choice in together["choices"]] == [text_of(reply) for reply in apart]
    assert together["usage"]["completion_tokens"] == sum(reply["usage"]["completion_tokens"] for reply in apart)


async def test_prompt_is_what_the_tokenizer_itself_makes_of_the_messages(
    shared: EmbeddedUpstream, tiny_checkpoint: Path
) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(tiny_checkpoint)
    messages = [{"role": "system", "content": "Count 日本."}, *QUESTION]
    expected = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=False)
    reply = await shared.complete(body(messages=messages, return_token_ids=True), "r")
    assert reply["prompt_token_ids"] == expected
    assert reply["usage"]["prompt_tokens"] == len(expected)


async def test_text_parts_are_joined_by_a_line_break(shared: EmbeddedUpstream) -> None:
    parts = [{"type": "text", "text": "You are kind."}, {"type": "text", "text": "How many?"}]
    split = await shared.complete(body(messages=[{"role": "user", "content": parts}], return_token_ids=True), "r")
    whole = [{"role": "user", "content": "You are kind.\nHow many?"}]
    joined = await shared.complete(body(messages=whole, return_token_ids=True), "r")
    assert split["prompt_token_ids"] == joined["prompt_token_ids"]


async def test_chat_template_kwargs_reach_the_template(shared: EmbeddedUpstream, checkpoint: Checkpoint) -> None:
    reply = await shared.complete(body(chat_template_kwargs={"mood": "eggs"}, return_token_ids=True), "r")
    assert checkpoint.decode(reply["prompt_token_ids"], with_special=True).startswith("<|im_start|>system\neggs")


async def test_trailing_assistant_message_is_teacher_forced(shared: EmbeddedUpstream, checkpoint: Checkpoint) -> None:
    """The handshake's way to score a stored completion on the route that serves."""
    messages = [*QUESTION, {"role": "assistant", "content": "12+7=19"}]
    reply = await shared.complete(
        body(messages=messages, continue_final_message=True, add_generation_prompt=False, return_token_ids=True), "r"
    )
    prompt = checkpoint.decode(reply["prompt_token_ids"], with_special=True)
    assert prompt.endswith("<|im_start|>assistant\n12+7=19")


async def test_unknown_fields_and_nulls_are_ignored(shared: EmbeddedUpstream) -> None:
    plain = await shared.complete(body(seed=5), "r")
    decorated = await shared.complete(body(seed=5, stop=None, top_p=None, n=None, user="u", made_up=[1]), "r")
    assert text_of(decorated) == text_of(plain)


# -- the other routes --------------------------------------------------------------------------------------------------


async def test_model_cards_name_folder_and_context(shared: EmbeddedUpstream, tiny_checkpoint: Path) -> None:
    cards = await shared.models()
    assert [card["id"] for card in cards] == ["tiny", "other"]
    assert cards[0]["root"] == str(tiny_checkpoint)
    assert cards[0]["max_model_len"] == CONTEXT
    assert (cards[0]["object"], cards[0]["owned_by"], cards[0]["parent"]) == ("model", "its-proxy", None)


async def test_tokenize_gives_the_tokens_that_a_chat_reads(shared: EmbeddedUpstream) -> None:
    asked = json.dumps({"model": "tiny", "messages": QUESTION}).encode()
    reply = await shared.forward("POST", "tokenize", asked, "application/json")
    served = await shared.complete(body(return_token_ids=True), "r")
    assert reply.status == 200
    assert json.loads(reply.body) == {
        "count": served["usage"]["prompt_tokens"],
        "max_model_len": CONTEXT,
        "tokens": served["prompt_token_ids"],
    }


@pytest.mark.parametrize(
    ("method", "path", "payload", "status"),
    [
        ("POST", "embeddings", b"{}", 404),
        ("GET", "tokenize", b"", 404),
        ("POST", "tokenize", b"{", 400),
        ("POST", "tokenize", b"[]", 400),
        ("POST", "tokenize", b'{"model": "huge", "messages": []}', 404),
    ],
)
async def test_other_routes_are_refused(
    shared: EmbeddedUpstream, method: str, path: str, payload: bytes, status: int
) -> None:
    with pytest.raises(UpstreamRejected) as caught:
        await shared.forward(method, path, payload, "application/json")
    assert caught.value.status == status
