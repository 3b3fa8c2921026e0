"""What a reply looks like on the wire."""

import re
from datetime import UTC, datetime

import pytest

from its_proxy.server.http.response import SENT_AS_ONE_BYTES, Response, head, http_date


def test_a_reply_is_one_piece_with_its_length():
    [sent] = Response(b"{}", headers={"x-its-pair": "abc"}).pieces("id-1", "")
    first, *fields = sent.decode().split("\r\n")
    assert first == "HTTP/1.1 200 OK"
    assert re.fullmatch(r"Date: \w{3}, \d\d \w{3} \d{4} \d\d:\d\d:\d\d GMT", fields.pop(1))
    assert fields == [
        "Server: its-proxy", "x-request-id: id-1", "x-its-pair: abc", "Content-Type: application/json",
        "Content-Length: 2", "", "{}",
    ]  # fmt: skip


def test_a_long_body_is_not_copied():
    body = b"x" * (SENT_AS_ONE_BYTES + 1)
    begin, sent = Response(body).pieces("id-1", "")
    assert sent is body
    assert begin.endswith(b"\r\n\r\n")


@pytest.mark.parametrize("status", [204, 304])
def test_some_replies_have_no_body_and_no_length(status):
    [sent] = Response(b"x", status).pieces("id-1", "")
    assert b"Content-" not in sent
    assert sent.endswith(b"\r\n\r\n")


def test_the_head_alone_tells_the_length_of_what_would_follow():
    [sent] = Response(b"12345").pieces("id-1", "", is_head=True)
    assert b"Content-Length: 5\r\n" in sent
    assert sent.endswith(b"\r\n\r\n")


@pytest.mark.parametrize("text", ["a\r\nSet-Cookie: b", "a\nb", "a\rb", "a\r\n"])
def test_no_field_becomes_two(text):
    with pytest.raises(ValueError, match="holds a line end"):
        head(200, "id-1", {"x-its-degraded": text}, "")


def test_a_status_without_a_name_is_told_as_it_is():
    assert head(599, "id-1", {}, "").startswith(b"HTTP/1.1 599 \r\n")


@pytest.mark.parametrize("second", [0, 951_782_400, 1_700_000_000, 4_102_444_799])
def test_dates_are_written_as_http_wants_them(second):
    assert http_date(second) == datetime.fromtimestamp(second, UTC).strftime("%a, %d %b %Y %H:%M:%S GMT")
