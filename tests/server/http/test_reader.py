"""Bytes become requests, however they are cut into pieces; and what may come of them is bounded."""

from dataclasses import dataclass, field

import pytest

from its_proxy.server.http.reader import MAX_FIELD_BYTES, MAX_FIELDS, MAX_HEAD_BYTES, Reader
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
