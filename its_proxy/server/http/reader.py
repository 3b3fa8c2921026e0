"""Reads requests out of a connection's bytes, and only what every other reader would read the same.

llhttp (httptools), strict as it comes, refuses what is ambiguous about lines, lengths and chunks. It knows no limits,
keeps what is said twice, and lets through a few versions and codings that are none of ours: that is refused here.
"""

from collections.abc import Collection
from typing import TYPE_CHECKING

import httptools

from its_proxy.server.http.known import KnownHead, known_head
from its_proxy.server.http.request import Request

if TYPE_CHECKING:
    from its_proxy.server.http.connection import Connection

MAX_HEAD_BYTES = 32 * 1024
"""Of the request line and all headers together; also of what frames a body, beyond its share of it."""
MAX_FIELD_BYTES = 8190
MAX_FIELDS = 128
MAX_FRAMING = 16
"""Bytes of chunk sizes, extensions and trailers for each byte of a body."""
MAX_UNKNOWN = 16
"""In a row: who writes another head each time is not remembered any more."""


class Unreadable(Exception):
    """Raised inside of llhttp's callbacks, which it ends."""


class Reader:
    """`receiving`: the request whose body is coming. `is_over`: no request follows the last one, by its own wish."""

    def __init__(self, connection: "Connection") -> None:
        self._parser = httptools.HttpRequestParser(self)
        self._connection = connection
        self.n_requests = 0
        self._n_chunk = self._n_seen = 0
        self.is_over = False
        self.receiving: Request | None = None
        self._known: KnownHead | None = None
        self._n_unknown = 0
        self._begins_with = b""
        self.on_message_begin()
        self.is_in_head = False  # not yet

    def feed(self, data: bytes) -> bool:
        """Whether it could be read; after what could not, nothing is."""
        is_between = not (self.is_in_head or self.receiving is not None or self.is_over)
        if is_between and self._known is not None and self._feed_known(self._known, data):
            return True
        self._begins_with = data if is_between else b""
        n_before, body = self.n_requests, self.receiving
        self._n_chunk = len(data)
        self._n_seen += len(data)
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            return self._ignore_upgrade(data[upgrade.args[0] :])
        except httptools.HttpParserError:
            return self.is_over
        if body is not None:
            return self.receiving is not body or self._is_worth_its_framing(body, len(data))
        if self.is_in_head and self.n_requests == n_before:
            self._n_head_bytes += len(data)
        return self._n_head_bytes <= MAX_HEAD_BYTES

    def _feed_known(self, known: KnownHead, data: bytes) -> bool:
        """Whether it begins with the known head, which then needs no parser; nor does a body that is whole with it."""
        parts = known.parts_of(data)
        if parts is None:
            self._n_unknown += 1
            return False
        self._n_unknown = 0
        digits, body = parts
        fields = {**known.fields, b"content-length": digits}
        request = self._take(known.method, known.target, known.version, fields, known.repeated, is_kept=True)
        if request is None:
            return True  # it is over
        if len(body) < int(digits):
            self.receiving = request
            self._parser.feed_data(b"POST / HTTP/1.1\r\n" + request.framing() + b"\r\n" + body)
        else:
            request.feed(body)
            request.end()
        return True

    def close(self) -> None:
        """Parts it from llhttp and the connection, which know it: only the collector would break such circles."""
        del self._parser, self._connection, self.receiving

    def _ignore_upgrade(self, rest: bytes) -> bool:
        """No other protocol is spoken here, so that the request is one as any other. llhttp would not read its body:
        another one is told the length and reads on."""
        assert self.receiving is not None
        self._parser = httptools.HttpRequestParser(self)
        return self.feed(b"POST / HTTP/1.1\r\n" + self.receiving.framing() + b"\r\n" + rest)

    def _is_worth_its_framing(self, body: Request, n_bytes: int) -> bool:
        self._n_body_bytes += n_bytes
        return self._n_body_bytes <= MAX_HEAD_BYTES + MAX_FRAMING * body.n_bytes

    # -- llhttp's callbacks --------------------------------------------------------------------------------------------

    def on_message_begin(self) -> None:
        if self.is_over:
            raise Unreadable
        self.is_in_head = True
        self._target = b""
        self._fields: list[tuple[bytes, bytes]] = []
        self._n_head_bytes = self._n_body_bytes = 0
        self._n_seen = self._n_chunk  # perhaps less than all of it

    def on_url(self, target: bytes) -> None:
        self._target += target
        if len(self._target) > MAX_FIELD_BYTES:
            raise Unreadable

    def on_header(self, name: bytes, value: bytes) -> None:
        if self.receiving is not None:
            return  # a trailer: nothing that is decided by it
        self._fields.append((name, value))
        if len(self._fields) > MAX_FIELDS:
            raise Unreadable

    def on_headers_complete(self) -> None:
        self.is_in_head = False
        self._n_head_bytes = 0
        if self.receiving is not None:
            return  # told again, see _ignore_upgrade
        if self._n_seen > MAX_FIELD_BYTES:  # else nothing in it can be too large
            self._refuse_large_fields()
        version = self._parser.get_http_version()
        fields, repeated = self._by_name()
        coding = fields.get(b"transfer-encoding")
        # An old client that chunks has a front that misunderstands one of the two.
        if version != "1.1" and (version != "1.0" or coding is not None):
            raise Unreadable
        if coding is not None and coding.rstrip(b" \t").lower() != b"chunked":
            raise Unreadable
        method = self._parser.get_method().decode()
        if method == "CONNECT":
            raise Unreadable
        is_kept = self._parser.should_keep_alive()
        request = self._take(method, self._target.decode("latin-1"), version, fields, repeated, is_kept=is_kept)
        if request is None:
            raise Unreadable
        self.receiving = request
        if self._n_unknown >= MAX_UNKNOWN:
            self._known = None
        elif self._begins_with and is_kept:
            self._known = known_head(self._begins_with, len(self._fields), request) or self._known
        self._begins_with = b""
        self._fields.clear()

    def _take(
        self,
        method: str,
        target: str,
        version: str,
        fields: dict[bytes, bytes],
        repeated: Collection[bytes],
        *,
        is_kept: bool,
    ) -> Request | None:
        """None where there is no room for it: what is here already is answered, and the last answer says that it is."""
        self.n_requests += 1
        request = Request(self._connection, method, target, version, fields, repeated, is_kept)
        if self._connection.take(request):
            return request
        self.is_over = True
        return None

    def _refuse_large_fields(self) -> None:
        n_bytes = [len(name) + len(value) for name, value in self._fields]
        if max(n_bytes, default=0) > MAX_FIELD_BYTES or sum(n_bytes) > MAX_HEAD_BYTES:
            raise Unreadable

    def _by_name(self) -> tuple[dict[bytes, bytes], Collection[bytes]]:
        """By the name in lower case, of a repeated field the first; and the names of those."""
        fields = {name.lower(): value for name, value in self._fields}
        if len(fields) == len(self._fields):
            return fields, ()
        names = [name.lower() for name, _ in self._fields]
        first = {name.lower(): value for name, value in reversed(self._fields)}
        return {name: first[name] for name in fields}, {name for name in names if names.count(name) > 1}

    def on_body(self, chunk: bytes) -> None:
        if self.receiving is not None:
            self.receiving.feed(chunk)

    def on_message_complete(self) -> None:
        if self.receiving is not None and not self._parser.should_upgrade():
            self.is_over = not self.receiving.is_kept
            self.receiving.end()
            self.receiving = None
