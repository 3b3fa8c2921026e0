"""Stop strings and characters, wherever the borders of tokens lie."""

import itertools

from hypothesis import given
from hypothesis import strategies as st

from its_proxy.upstreams.embedded import EmbeddedUpstream
from its_proxy.upstreams.engine import Checkpoint
from its_proxy.upstreams.rows import Detokenizer, StopScanner
from tests.upstreams.embedded.asking import body, text_of


async def test_stop_string_is_found_across_token_borders(shared: EmbeddedUpstream, checkpoint: Checkpoint) -> None:
    n_split = 0
    for seed in range(12):
        whole = await shared.complete(body(seed=seed, return_token_ids=True), "r")
        text = text_of(whole)
        stop = text[7:10]
        cut = await shared.complete(body(seed=seed, stop=stop, return_token_ids=True), "r")
        assert text_of(cut) == text[: text.index(stop)]
        assert cut["choices"][0]["finish_reason"] == "stop"
        token_ids = cut["choices"][0]["token_ids"]
        assert token_ids == whole["choices"][0]["token_ids"][: len(token_ids)]
        n_split += not any(stop in checkpoint.decode([token_id]) for token_id in token_ids)
    assert n_split > 6


@given(
    text=st.text("ab", max_size=30),
    stops=st.lists(st.text("ab", min_size=1, max_size=5), max_size=3),
    cuts=st.lists(st.integers(0, 30), max_size=8),
)
def test_stop_scanner_gives_the_text_before_the_first_stop_however_it_arrives(
    text: str, stops: list[str], cuts: list[int]
) -> None:
    borders = [0, *sorted(min(cut, len(text)) for cut in cuts), len(text)]
    pieces = [text[start:end] for start, end in itertools.pairwise(borders)]
    scanner, shown, is_stopped = StopScanner(stops), "", False
    for place, piece in enumerate(pieces):
        released, is_stopped = scanner.push(piece, is_last=place == len(pieces) - 1)
        shown += released
        if is_stopped:
            break
    ends = [text.find(stop) for stop in stops if stop in text]
    assert is_stopped == bool(ends)
    if not ends:
        assert shown == text
    else:
        assert any(text.startswith(shown + stop) for stop in stops)


@given(data=st.data())
def test_detokenizer_pieces_add_up_to_the_whole_text(data: st.DataObject, checkpoint: Checkpoint) -> None:
    n_tokens = checkpoint.vocab_size
    text_ids = st.text(min_size=1, max_size=12).map(lambda text: list(checkpoint.encode(text)))
    token_ids = data.draw(st.one_of(text_ids, st.lists(st.integers(0, n_tokens - 1), max_size=20)))
    detokenizer = Detokenizer(checkpoint.decode)
    pieces = [detokenizer.push(token_id) for token_id in token_ids]
    assert "".join(pieces) + detokenizer.flush() == checkpoint.decode(token_ids)


@given(text=st.text(st.characters(exclude_characters="\ufffd", exclude_categories=["Cs"]), max_size=12))
def test_detokenizer_never_gives_half_a_character(text: str, checkpoint: Checkpoint) -> None:
    detokenizer = Detokenizer(checkpoint.decode)
    token_ids = list(checkpoint.encode(text))
    pieces = [detokenizer.push(token_id) for token_id in token_ids]
    assert not any("\ufffd" in piece for piece in pieces)
    # Nothing waits for a flush. Not `text` itself: a special token in it is decoded to nothing.
    assert "".join(pieces) == checkpoint.decode(token_ids)
