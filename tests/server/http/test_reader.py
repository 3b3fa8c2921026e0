"""Bytes become requests, however they are cut into pieces; and what may come of them is bounded."""

import itertools
from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from its_proxy.server.http.reader import MAX_FIELD_BYTES, MAX_FIELDS, MAX_HEAD_BYTES, MAX_UNKNOWN, Reader
from its_proxy.server.http.request import Request
from tests.wire import lines

PLAIN = b"POST /v1/x?y=1 HTTP/1.1\r\nHost: h\r\nX-A: one \r\nx-a: two\r\nContent-Length: 5\r\n\r\nhello"
CHUNKED = (
    b"POST /v1/x?y=1 HTTP/1.1\r\nHost: h\r\nX-A: one\r\nx-a: two\r\nTransfer-Encoding: Chunked\r\n\r\n"
    b"2;ext=1\r\nhe\r\n3\r\nllo\r\n0\r\nX-A: three\r\n\r\n"
)
UPGRADE = PLAIN.replace(
    b"Host", b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABk\r\nHost"
)
UPGRADE_CHUNKED = CHUNKED.replace(b"Host", b"Connection: Upgrade\r\nUpgrade: h2c\r\nHost")
BARE = b"GET /v1/x?y=1 HTTP/1.1\r\nHost: h\r\n\r\n"


@dataclass
class App:
    max_body_bytes: int = 1000
    is_ending: bool = False

    async def answer(self, request):
        raise AssertionError("nobody asks here")


@dataclass
class Taking:
    """A connection as far as a reader knows it."""

    room: int = 10
    app: App = field(default_factory=App)
    taken: list[Request] = field(default_factory=list)

    def take(self, request: Request) -> bool:
        if len(self.taken) == self.room:
            return False
        self.taken.append(request)
        return True


def reading(*pieces: bytes, room: int = 10) -> tuple[list[Request], list[bool], Reader]:
    connection = Taking(room)
    reader = Reader(connection)
    return connection.taken, [reader.feed(piece) for piece in pieces], reader


def in_pieces(data: bytes, size: int) -> list[bytes]:
    return [data[start : start + size] for start in range(0, len(data), size)]


@pytest.mark.parametrize("size", [1, 2, 7, 1000])
@pytest.mark.parametrize("sent", [PLAIN, CHUNKED, UPGRADE, UPGRADE_CHUNKED])
async def test_requests_are_the_same_in_whatever_pieces_they_come(sent, size):
    requests, were_read, reader = reading(*in_pieces(sent * 3, size))
    assert all(were_read)
    assert len(requests) == 3
    for request in requests:
        assert (request.method, request.target, request.path) == ("POST", "/v1/x?y=1", "/v1/x")
        assert (request.header(b"x-a"), request.is_repeated(b"x-a")) == ("one", True)
        assert not request.is_repeated(b"host")
        assert request.is_kept
        assert await request.read() == b"hello"
    assert reader.receiving is None


async def test_another_protocol_is_not_begun_and_the_request_is_as_any_other():
    [first, second], were_read, reader = reading(UPGRADE + BARE)
    assert (await first.read(), await second.read(), were_read) == (b"hello", b"", [True])
    assert not reader.is_over


@pytest.mark.parametrize("last", [b"Connection: close\r\n", b"Upgrade: h2c\r\nConnection: close, upgrade\r\n"])
async def test_behind_the_last_request_nothing_is_read_and_nothing_is_wrong(last):
    requests, were_read, reader = reading(BARE.replace(b"Host", last + b"Host"), BARE, b"\x00\xff")
    assert (len(requests), were_read, reader.is_over) == (1, [True] * 3, True)


async def test_an_old_client_is_answered_once_unless_it_wants_more():
    [request], _, reader = reading(b"GET / HTTP/1.0\r\n\r\n")
    assert (request.version, request.is_kept, reader.is_over) == ("1.0", False, True)
    [request], _, reader = reading(b"GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n")
    assert (request.is_kept, reader.is_over) == (True, False)


REFUSED = {
    "HTTP/0.9": b"GET /\r\n\r\n",
    "HTTP/2.0": b"GET / HTTP/2.0\r\nHost: h\r\n\r\n",
    "the preface of HTTP/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "an old client's chunks": CHUNKED.replace(b"HTTP/1.1", b"HTTP/1.0"),
    "another coding before chunked": CHUNKED.replace(b"Chunked", b"gzip, chunked"),
    "a length behind chunks": CHUNKED.replace(b"X-A: three", b"Content-Length: 9"),
    "CONNECT": b"CONNECT h:1 HTTP/1.1\r\nHost: h:1\r\n\r\n",
}


@pytest.mark.parametrize("sent", REFUSED.values(), ids=REFUSED.keys())
def test_what_is_not_spoken_here_is_unreadable(sent):
    assert reading(sent)[1] == [False]


@pytest.mark.parametrize(
    ("n_fields", "n_bytes", "is_read"),
    [
        (MAX_FIELDS, 1, True),
        (MAX_FIELDS + 1, 1, False),
        (1, MAX_FIELD_BYTES - 10, True),
        (1, MAX_FIELD_BYTES, False),
        (3, 8000, True),
        (5, 8000, False),
    ],
)
@pytest.mark.parametrize("size", [1000, 10**6])
def test_a_head_has_a_limit_of_fields_and_of_bytes_in_one_and_in_all(n_fields, n_bytes, is_read, size):
    fields = lines({f"x-{number:07}": "x" * n_bytes for number in range(n_fields)})
    requests, were_read, _ = reading(*in_pieces(b"GET / HTTP/1.1\r\n" + fields.encode() + b"\r\n", size))
    assert (len(requests) == 1, all(were_read)) == (is_read, is_read)


@pytest.mark.parametrize("at", [1, 40, MAX_HEAD_BYTES // 2, MAX_HEAD_BYTES])
async def test_a_head_that_begins_behind_another_request_is_measured_whole(at):
    field = b"x%d: " + b"x" * 2000 + b"\r\n"
    large = b"GET / HTTP/1.1\r\n" + b"".join(field % n for n in range(MAX_HEAD_BYTES // 1900)) + b"\r\n"
    requests, were_read, _ = reading(BARE + large[:at], large[at:])
    assert (len(requests), were_read[-1]) == (1, False)


@pytest.mark.parametrize("begun", [b"GET /" + b"x" * 9000, b"GET / HTTP/1.1\r\nx: " + b"x" * 2 * MAX_HEAD_BYTES])
def test_a_head_that_does_not_end_is_left_at_its_limit(begun):
    _, were_read, _ = reading(*in_pieces(begun, 1000))
    assert not all(were_read)
    assert were_read.index(False) <= MAX_HEAD_BYTES // 1000


@pytest.mark.parametrize("padding", [b"1;" + b"x" * 1000 + b"\r\ny\r\n", b"0\r\nx: " + b"x" * 100_000])
def test_chunks_that_are_nearly_all_framing_are_left(padding):
    head = b"POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n"
    _, were_read, _ = reading(head, *in_pieces(padding * 100, 1000))
    assert not all(were_read)
    assert were_read.index(False) <= 3 * MAX_HEAD_BYTES // 1000


async def test_the_end_of_a_long_body_is_no_head():
    body = b"x" * 900
    sent = b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: %d\r\n\r\n" % len(body) + body
    requests, were_read, _ = reading(*in_pieces(sent * 60 + BARE[:-2], 50_000), BARE[-2:], room=100)
    assert (len(requests), all(were_read)) == (61, True)


async def test_more_requests_than_there_is_room_for_are_left_to_another_connection():
    requests, were_read, reader = reading(BARE * 5, BARE, room=3)
    assert (len(requests), were_read, reader.is_over, reader.receiving) == (3, [True, True], True, None)


# -- heads that were read before ---------------------------------------------------------------------------------------


def known(head: bytes, body: bytes) -> bytes:
    return head.replace(b"LENGTH", b"%d" % len(body)) + body


SAME = (
    b"POST /v1/x?y=1 HTTP/1.1\r\nHost: h\r\nX-A: one\r\nContent-Length: LENGTH\r\n\r\n",
    b"POST /v1/x HTTP/1.1\r\ncontent-length:LENGTH\r\nhost: h\r\nx-a: content-length: 3\r\nX-A: two\r\n\r\n",
    b"PUT / HTTP/1.0\r\nConnection: keep-alive\r\nContent-Length: LENGTH\r\n\r\n",
)
OTHERWISE = (
    BARE, CHUNKED, UPGRADE, UPGRADE_CHUNKED, PLAIN,
    b"POST / HTTP/1.1\r\nHost: h\r\nConnection: close\r\nContent-Length: 2\r\n\r\nhe",
    b"POST / HTTP/1.1\r\nHost: h\r\nX-A: one\r\n two\r\nContent-Length: 2\r\n\r\nhe",
    b"POST / HTTP/1.1\nHost: h\nContent-Length: 25\n\n\r\nContent-Length: 3\r\n\r\nabc",
)  # fmt: skip


def told(requests: list[Request], were_read: list[bool], reader: Reader) -> object:
    """All that a connection and handlers get to know."""
    names = ("method", "target", "path", "version", "fields", "repeated", "is_kept", "is_whole", "n_bytes", "_failure")
    return (
        [([getattr(request, name) for name in names], b"".join(request._chunks)) for request in requests],
        (were_read, reader.n_requests, reader.is_over, reader.is_in_head),
        reader.receiving is not None and requests.index(reader.receiving),
    )


def fed(pieces: list[bytes], *, remembers: bool) -> object:
    connection = Taking(room=9)
    reader = Reader(connection)
    were_read = []
    for piece in pieces:
        if not remembers:
            reader._known = None
        were_read.append(reader.feed(piece))
        if not were_read[-1] or reader.is_over:
            break  # as a connection does
    return told(connection.taken, were_read, reader)


LENGTHS = st.sampled_from(
    [b"LENGTH", b"00LENGTH", b"+LENGTH", b" LENGTH", b"LENGTH ", b"-1", b"", b"1", b"LENGTH, 5", b"9" * 9, b"9" * 30]
)
BODIES = st.sampled_from([b"", b"a", b"hello", b"x" * 1001, b"\r\n\r\n", b"\r\nContent-Length: 5\r\n\r\n", SAME[0]])
SENT = st.one_of(
    st.builds(known, st.sampled_from(SAME), BODIES),
    st.builds(known, st.sampled_from(SAME), BODIES),
    st.builds(lambda head, spelled, body: known(head.replace(b"LENGTH", spelled), body),
              st.sampled_from(SAME), LENGTHS, BODIES),
    st.sampled_from([*OTHERWISE, b"\r\n", b"\r", b"\n", b"\r\n\r\n", b" ", b"POST", b"\x00"]),
)  # fmt: skip


@settings(max_examples=500, deadline=None)
@given(st.lists(SENT, min_size=1, max_size=12), st.data())
def test_a_head_that_was_read_before_is_read_as_the_parser_would(sent, data):
    """However what is sent is cut, or sent together, or damaged somewhere."""
    stream = b"".join(sent)
    ends = {sum(map(len, sent[:n])) for n in range(len(sent))}
    ends |= {start + sent[n].find(b"\r\n\r\n") + 4 for n, start in enumerate(sorted(ends)) if data.draw(st.booleans())}
    cuts = [end for end in sorted(ends) if data.draw(st.sampled_from([True, True, True, False]))]
    cuts += data.draw(st.lists(st.integers(0, len(stream)), max_size=2))
    at = data.draw(st.none() | st.integers(0, len(stream) - 1))
    if at is not None:
        stream = stream[:at] + bytes([data.draw(st.sampled_from(b"\r\n :0a\x00\xff"))]) + stream[at + 1 :]
    edges = sorted({0, *cuts, len(stream)})
    pieces = [stream[start:end] for start, end in itertools.pairwise(edges) if start < end]
    assert fed(pieces, remembers=True) == fed(pieces, remembers=False)


class Listening:
    """llhttp, and what it is told."""

    def __init__(self, parser) -> None:
        self._parser = parser
        self.told: list[bytes] = []

    def feed_data(self, data: bytes) -> None:
        self.told.append(data)
        self._parser.feed_data(data)

    def should_upgrade(self) -> bool:
        return self._parser.should_upgrade()


@pytest.mark.parametrize("head", SAME)
@pytest.mark.parametrize("is_cut", [False, True])
async def test_a_known_head_needs_no_parser_and_of_a_body_to_come_that_is_told_the_length(head, is_cut):
    connection = Taking()
    reader = Reader(connection)
    assert reader.feed(known(head, b"hello"))
    reader._parser = listening = Listening(reader._parser)
    for body in (b"a", b"x" * 999, b""):
        n_head = len(known(head, body)) - len(body)
        pieces = (known(head, body)[:n_head], body) if is_cut and body else (known(head, body),)
        assert all(reader.feed(piece) for piece in pieces)
        assert reader.receiving is None
        assert await connection.taken[-1].read() == body
        assert connection.taken[-1].fields == connection.taken[0].fields | {b"content-length": b"%d" % len(body)}
        told = [b"POST / HTTP/1.1\r\ncontent-length: %d\r\n\r\n" % len(body), body] if is_cut and body else []
        assert listening.told == told
        listening.told.clear()
    assert reader.n_requests == 4


def test_who_writes_another_head_each_time_is_not_remembered():
    heads = [known(SAME[0].replace(b"one", b"%d" % n), b"hello") for n in range(100)]
    requests, were_read, reader = reading(*heads, room=100)
    assert (len(requests), all(were_read)) == (100, True)
    assert requests[99].header(b"x-a") == "99"
    assert reader._n_unknown == MAX_UNKNOWN
