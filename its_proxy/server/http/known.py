"""The head that a client sends again and again: what was read of it once holds for every one that is the same.

Who keeps a connection writes the same lines with each request, but for the length of its body. That number alone is
read anew, and only where it is written in digits.
"""

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass

from its_proxy.server.http.request import Request

MAX_BYTES = 4096
"""Far below all limits of a head, so that none can be reached by some digits more."""
MAX_DIGITS = 9
_LENGTH = re.compile(rb"\r\ncontent-length: ?(\d+)\r\n", re.IGNORECASE)
_FRAMED_OTHERWISE = frozenset((b"transfer-encoding", b"upgrade"))


@dataclass(frozen=True, slots=True)
class KnownHead:
    """`before` and `behind`: its bytes around the digits of its length. The rest is what they say."""

    before: bytes
    behind: bytes
    method: str
    target: str
    version: str
    fields: Mapping[bytes, bytes]
    repeated: Collection[bytes]

    def parts_of(self, data: bytes) -> tuple[bytes, bytes] | None:
        """The digits of the length and what has come of the body, where `data` begins with this head."""
        start = len(self.before)
        end = data.find(self.behind, start, start + MAX_DIGITS + len(self.behind))
        digits = data[start:end]
        if end < 0 or not digits.isdigit() or not data.startswith(self.before):
            return None
        body = data[end + len(self.behind) :]
        return (digits, body) if len(body) <= int(digits) else None


def known_head(data: bytes, n_fields: int, request: Request) -> KnownHead | None:
    """`request`, of so many fields, has just been read out of `data`, which begins with it. None where its head is not
    to be remembered, or not written a line a field."""
    end = data.find(b"\r\n\r\n") + 4
    length = _LENGTH.search(data, 0, end) if 4 <= end <= MAX_BYTES else None
    if (
        length is None
        or data.count(b"\n", 0, end) != n_fields + 2
        or request.fields[b"content-length"] != length[1]
        or not _FRAMED_OTHERWISE.isdisjoint(request.fields)
    ):
        return None
    before, behind = data[: length.start(1)], data[length.end(1) : end]
    return KnownHead(before, behind, request.method, request.target, request.version, request.fields, request.repeated)
