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
_DISPOSITION = re.compile(rb"content-disposition\s*:\s*form-data\s*;(.*)", re.IGNORECASE)
_NAME = re.compile(rb'(?:^|;)\s*name="([^"\\\r\n]*)"', re.IGNORECASE)


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
    if not data.startswith(mark + b"\r\n") or data.count(b"\r\n" + mark) > MAX_PARTS:
        raise _refusal(f"the body is no form of up to {MAX_PARTS} parts")
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
    told = [found[1] for line in head.split(b"\r\n") if (found := _DISPOSITION.fullmatch(line))]
    names = _NAME.findall(told[0]) if len(told) == 1 else []
    if len(names) != 1:
        raise _refusal("a part of the body does not say its name once")
    return names[0].decode("utf-8", "replace"), b"filename" in told[0].lower()


def _refusal(message: str) -> RequestError:
    return RequestError(message, code="invalid_form")
