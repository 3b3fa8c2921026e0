"""A `multipart/form-data` body, as audio is uploaded: read for its names, and given another model.

Nothing but the model's own bytes is touched. What two readers could take apart differently is refused.
"""

import re
from dataclasses import dataclass

from its_proxy.codesign.errors import RequestError

MAX_PARTS = 64
MAX_HEAD_BYTES = 4096
_BOUNDARY = re.compile(
    r'multipart/form-data\s*;\s*boundary=(?:"([^"\r\n]{1,70})"|([0-9A-Za-z\'()+_,./:=?-]{1,70}))', re.IGNORECASE
)
_TOKEN = rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+"
_HEADER = re.compile(rb"(" + _TOKEN + rb"):[ \t]*([^\r\n]*)")
_QUOTED = rb'"(?:[^"\\]|\\.)*"'
_DISPOSITION = re.compile(
    rb"form-data((?:[ \t]*;[ \t]*" + _TOKEN + rb"=(?:" + _QUOTED + rb"|" + _TOKEN + rb"))+)[ \t]*;?[ \t]*",
    re.IGNORECASE,
)
_NAME = re.compile(rb';[ \t]*name="([^"\\]*)"', re.IGNORECASE)
# Unquoted, spaced out, in several pieces: some readers take the last one, whatever it looks like.
_ANY_NAME = re.compile(rb";\s*name\s*[*=]", re.IGNORECASE)
_AS_IT_IS = (b"7bit", b"8bit", b"binary")


@dataclass(frozen=True, slots=True)
class Form:
    """`names` of all parts; where the text of each but the files begins and ends in `data`."""

    data: bytes
    fields: dict[str, tuple[int, int]]
    names: tuple[str, ...]

    def text(self, name: str) -> str | None:
        """None where it is no field. Raises RequestError for what is no UTF-8."""
        if name not in self.fields:
            return None
        begin, end = self.fields[name]
        try:
            return self.data[begin:end].decode()
        except UnicodeDecodeError:
            raise RequestError(f"{name} is no text", param=name) from None

    def with_text(self, name: str, text: str) -> bytes:
        """The same body with another value of one field."""
        begin, end = self.fields[name]
        return self.data[:begin] + text.encode() + self.data[end:]


def read_form(data: bytes, content_type: str) -> Form:
    """Raises RequestError."""
    found = _BOUNDARY.fullmatch(content_type.strip())
    if found is None:
        raise _refusal("Content-Type must be multipart/form-data with a boundary")
    mark = b"--" + (found[1] or found[2]).encode()
    n_ends = data.count(b"\r\n" + mark)
    if not data.startswith(mark + b"\r\n") or n_ends > MAX_PARTS:
        raise _refusal(f"the body is no form of up to {MAX_PARTS} parts")
    if data.count(b"\n" + mark) + data.count(b"\r" + mark) > n_ends:
        raise _refusal("a boundary stands behind half a line end")
    fields: dict[str, tuple[int, int]] = {}
    names: list[str] = []
    begin = len(mark) + 2
    while True:
        end = data.find(b"\r\n" + mark, begin)
        body_at = data.find(b"\r\n\r\n", begin, begin + MAX_HEAD_BYTES)
        if end < 0 or not 0 <= body_at <= end - 4:
            raise _refusal("a part of the body does not end, or has no head")
        name, is_file = _named(data[begin:body_at])
        if name in names and not name.endswith("[]"):
            raise RequestError(f"{name} is there twice", param=name)
        names.append(name)
        if not is_file:
            fields[name] = (body_at + 4, end)
        begin = end + 2 + len(mark)
        if data[begin:].rstrip(b"\r\n") == b"--":
            return Form(data, fields, tuple(names))
        if data[begin : begin + 2] != b"\r\n":
            raise _refusal("the body is no form")
        begin += 2


def _named(head: bytes) -> tuple[str, bool]:
    """A part's name, and whether it is a file."""
    headers = _headers(head)
    if any(how.strip().lower() not in _AS_IT_IS for how in headers.get(b"content-transfer-encoding", ())):
        raise _refusal("a part of the body is encoded")
    dispositions = headers.get(b"content-disposition", [])
    told = _DISPOSITION.fullmatch(dispositions[0]) if len(dispositions) == 1 else None
    names = _NAME.findall(told[1]) if told else []
    if told is None or len(names) != 1 or len(_ANY_NAME.findall(told[1])) != 1:
        raise _refusal("a part of the body does not say its name once")
    return names[0].decode("utf-8", "replace"), b"filename" in told[1].lower()


def _headers(head: bytes) -> dict[bytes, list[bytes]]:
    """By their names in lower case, each in one line of its own."""
    headers: dict[bytes, list[bytes]] = {}
    for line in head.split(b"\r\n"):
        found = _HEADER.fullmatch(line)
        if found is None:
            raise _refusal("a part of the body has a header that is none")
        headers.setdefault(found[1].lower(), []).append(found[2])
    return headers


def _refusal(message: str) -> RequestError:
    return RequestError(message, code="invalid_form")
