"""Streams, cut anywhere: the same events, and a client's stream that ends as it should."""

from collections.abc import AsyncIterator, Iterator

import orjson
from hypothesis import example, given, settings
from hypothesis import strategies as st

from its_proxy.codesign.errors import UpstreamError
from its_proxy.protocol.sse import DONE, completion_events, event, read_events, relayed
from tests.examples import examples
from tests.fuzz.targets import sse

LINE_ENDS = st.sampled_from([b"\n", b"\r\n", b"\r"])
CHUNKS = st.text(max_size=20).map(lambda text: {"choices": [{"index": 0, "delta": {"content": text}}]})
FINISH = {"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}
COMMENTS = st.sampled_from([b"", b": ping", b"id: 7", b"retry: 10", b"event: x"])
LINES = st.binary(max_size=20) | st.sampled_from(
    [b"data: [DONE]", b"data:", b"data", b"data: {}", b'data: {"error": {}}',
     b'data: {"choices": [{"finish_reason": "stop"}]}']
)  # fmt: skip
NULL = b'"finish_reason":null'
# Whole events, and what is almost one.
KEYS = st.sampled_from(
    [
        NULL,
        b'"finish_reason": null',
        b'"finish_reason":"stop"',
        b'"finish\\u005freason":"stop"',
        b'"finish_reason":nul',
        b'"finish_reason" :null',
        b'"\\"finish_reason":null',
        b'"a":"\\n"',
        b'"a":"finish_reason"',
        b'"finish_reason":1',
        b'"finish_reason":\rnull',
        b'"a":{' + NULL + b"}",
    ]
)
CHOICES = st.lists(st.lists(KEYS, max_size=3).map(lambda keys: b"{" + b",".join(keys) + b"}"), max_size=2)
EVENTS = st.tuples(
    st.sampled_from([b"data: ", b"data:", b"data:  ", b" data: ", b"data: {}\n\ndata: ", b"data: {}\ndata: ",
                     b"data: {}\n\n\ndata: ", b"data: 1\n\ndata: ", b": data: ", b""]),
    st.sampled_from([b'{"choices":[%b]}', b'{"error":{},%b}', b'{"error":{},"choices":[%b]}', b"[%b]", b'{"a":[%b]} ',
                     b'{"choices":%b}', b'{"choices":[%b]', b'{\n"choices":[%b]}', b"[DONE]%b"]),
    CHOICES.map(b",".join),
    st.sampled_from([b"\n\n", b"\n", b"\r\n\r\n", b"\n\n\n", b"\n\r\n", b"\r\n", b""]),
).map(lambda parts: parts[0] + parts[1].replace(b"%b", parts[2]) + parts[3])  # fmt: skip
CUTS = st.lists(st.integers(1, 60), max_size=12)


def cut(data: bytes, sizes: list[int]) -> Iterator[bytes]:
    for size in sizes:
        yield data[:size]
        data = data[size:]
    yield data


async def arriving(pieces: Iterator[bytes]) -> AsyncIterator[bytes]:
    for piece in pieces:
        yield piece


def finished(events: AsyncIterator) -> tuple[list, type | None]:
    """What came of it, and the error that it ended with; nothing here ever waits."""

    async def told() -> tuple[list, type | None]:
        seen = []
        try:
            async for found in events:
                seen.append(found)
        except UpstreamError as error:
            return seen, type(error)
        return seen, None

    try:
        told().send(None)
    except StopIteration as end:
        return end.value
    raise AssertionError("it waited")


@st.composite
def sound_streams(draw) -> tuple[list[dict], bytes]:
    """Events of an upstream that keeps to the protocol, and its bytes."""
    end = draw(LINE_ENDS)
    events = [*draw(st.lists(CHUNKS, max_size=5)), FINISH]
    lines = []
    for told in events:
        lines += [draw(COMMENTS), b"data: " + orjson.dumps(told), b""]
    return events, end.join([*lines, b"data: [DONE]", b"", b""])


@settings(max_examples=examples(120), deadline=None)
@given(sound_streams(), CUTS)
def test_a_sound_stream_reads_the_same_however_it_is_cut_and_is_handed_on_whole(stream, cuts):
    events, data = stream
    assert finished(read_events(arriving(cut(data, cuts)))) == (events, None)
    written, error = finished(relayed(arriving(cut(data, cuts))))
    assert error is None
    assert b"".join(written).endswith(DONE)
    assert finished(read_events(arriving(cut(b"".join(written), cuts[::-1])))) == (events, None)


@settings(max_examples=examples(120), deadline=None)
@given(sound_streams(), CUTS, st.data())
def test_a_stream_that_breaks_before_its_end_is_told_and_never_ends_inside_an_event(stream, cuts, data):
    events, whole = stream
    finish = whole.index(orjson.dumps(FINISH)) + len(orjson.dumps(FINISH)) - 1
    broken = whole[: data.draw(st.integers(0, finish))]
    written, error = finished(relayed(arriving(cut(broken, cuts))))
    assert error is not None
    assert b"".join(written).endswith(b"\n\n")
    told, fault = finished(read_events(arriving(cut(b"".join(written), []))))
    assert (told, fault) == (events[: len(told)], None)


@settings(max_examples=examples(120), deadline=None)
@given(st.lists(EVENTS, max_size=4), st.booleans())
@example([b'data: {"choices":[{"finish\\u005freason":"stop"}]}\n\n'], False)
@example([b'data: {\r"choices":[]}\n\n'], True)
@example([b'data: {\n"choices":[]}\n\n'], True)
@example([b"data: {}\n\ndata: [DO", b"NE]\n\n"], False)
@example([b"data: {}\n\ndata: {", b"}\n\n"], True)
@example([b"data: {", b"data: {}\n\n"], True)
@example([b"data: {}\n\nX"], True)
def test_what_comes_as_whole_events_is_handed_on_as_what_is_cut_within_them(events, is_finished):
    events += [event(FINISH)] if is_finished else []
    pieces = [piece for told in events for piece in (told[:3], told[3:]) if piece]
    (within, error), *others = [finished(relayed(arriving(iter(cut)))) for cut in (pieces, events, [b"".join(events)])]
    assert [(b"".join(written), other) for written, other in others] == [(b"".join(within), error)] * 2


@settings(max_examples=examples(120), deadline=None)
@given(st.lists(LINES, max_size=10), LINE_ENDS, st.binary(max_size=20))
def test_any_lines_read_the_same_however_they_are_cut(lines, end, sizes):
    stream = end.join(lines)
    sse(sizes.ljust(len(stream) // 3 + 1, b"\x09")[: len(stream) // 3 + 1] + stream)


@settings(max_examples=examples(120), deadline=None)
@given(st.text(max_size=200), st.text(max_size=200), CUTS)
def test_a_completion_told_as_a_stream_is_the_completion(content, reasoning, cuts):
    message = {"role": "assistant", "content": content, "reasoning": reasoning}
    choice = {"index": 0, "message": message, "finish_reason": "stop"}
    completion = {"id": "c", "created": 1, "model": "m", "choices": [choice], "usage": {"total_tokens": 3}}
    stream = b"".join(completion_events(completion, include_usage=True)) + event({"choices": []}) + DONE
    told, error = finished(read_events(arriving(cut(stream, cuts))))
    assert error is None
    deltas = [choice["delta"] for found in told for choice in found["choices"]]
    for name, text in (("content", content), ("reasoning", reasoning)):
        assert "".join(delta.get(name, "") for delta in deltas) == text
