"""Bodies in pieces: the same JSON, and what several calls share is there once."""

import orjson
import pytest

from its_proxy.upstreams.written import Shared, SharedBody, over, pieces_of

MESSAGES = [{"role": "user", "content": "Hi"}]
OWN = {"both": {"model": "m", "seed": 1}, "an odd key": {'a"\\b': None}, "none": {}}
SHARED = {"usual": {"messages": MESSAGES, "tools": [{"a": 1}]}, "an odd key": {"é": "ü", '"': {}}, "none": {}}


@pytest.mark.parametrize("own", OWN.values(), ids=OWN.keys())
@pytest.mark.parametrize("shared", SHARED.values(), ids=SHARED.keys())
def test_the_pieces_together_are_the_body(own, shared):
    body = SharedBody(Shared(shared), own)
    assert body == {**own, **shared}
    assert len(body) == len(dict(body)) == len(own) + len(shared)
    assert orjson.loads(b"".join(pieces_of(body))) == body


def test_a_plain_mapping_is_one_piece():
    assert pieces_of({"model": "m", "messages": MESSAGES}) == [
        b'{"model":"m","messages":[{"role":"user","content":"Hi"}]}'
    ]


def test_candidates_share_the_text_of_what_they_have_in_common():
    first = SharedBody(Shared({"messages": MESSAGES}), {"seed": 1})
    second = over(first, {"seed": 2, "model": "m"})
    assert second == {"seed": 2, "model": "m", "messages": MESSAGES}
    assert first["seed"] == 1, "a body of its own"
    assert pieces_of(first)[1] is pieces_of(second)[1]


def test_what_is_put_over_a_shared_field_is_there_once():
    body = SharedBody(Shared({"messages": MESSAGES, "seed": 1}), {"model": "m"})
    changed = over(body, {"seed": 2})
    assert b"".join(pieces_of(changed)).count(b'"seed"') == 1
    assert changed == {"model": "m", "messages": MESSAGES, "seed": 2}
    assert over({"seed": 1}, {"seed": 2}) == {"seed": 2}


def test_a_field_that_is_not_there_is_a_key_error():
    with pytest.raises(KeyError):
        SharedBody(Shared({}), {})["model"]
    assert SharedBody(Shared({}), {}).get("model") is None
