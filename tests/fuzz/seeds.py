"""Where the fuzzers begin: a few inputs of each target that reach its parts."""

import json
from collections.abc import Mapping, Sequence


def _event(*, content: str | None = None, finish: str | None = None) -> bytes:
    delta = {} if content is None else {"content": content}
    return b"data: " + json.dumps({"id": "c", "choices": [{"delta": delta, "finish_reason": finish}]}).encode()


def _stream(*lines: bytes, end: bytes = b"\n") -> bytes:
    """Cut every 7 bytes, as `targets.sse` reads it."""
    stream = end.join(lines)
    return b"\x07" * (len(stream) // 3) + stream


_REPLIES: tuple[bytes, ...] = (
    b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}",
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n1;x=y\r\n \r\n0\r\nTrailer: x\r\n\r\n",
    b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\nHTTP/1.1 429 Too Many\r\nRetry-After: 1\r\nContent-Length: 0\r\n\r\n",
    b"HTTP/1.0 200 OK\r\n\r\nto the end of the connection",
    b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n[]",
)

_POST = b"POST /a HTTP/1.1\r\nHost: h\r\n"
_SENT: tuple[bytes, ...] = (
    _POST + b"Content-Length: 2\r\n\r\n{}GET /b?c HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n",
    _POST + b"Transfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n1;x=y\r\n \r\n0\r\nTrailer: x\r\n\r\n",
    _POST + b"Connection: upgrade\r\nUpgrade: h2c\r\nContent-Length: 2\r\n\r\n{}GET / HTTP/1.0\r\n\r\n",
    _POST + b"Expect: 100-continue\r\nContent-Encoding: x\r\nContent-Length: 999\r\n\r\n{}",
    b"HEAD / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n" * 40,
    b"CONNECT h:1 HTTP/1.1\r\n\r\nGET / HTTP/2.0\r\nHost: h\r\nHost: h\r\n\r\n",
)

_REQUESTS: tuple[bytes, ...] = (
    b'{"model":"model","messages":[{"role":"user","content":"How many eggs are 3 eggs and 4 eggs?"}]}',
    b'{"model":"model","messages":[{"role":"user","content":[{"type":"text","text":"x"}]}],"its":{"n":2,"vote":"always"}}',
    b'{"model":"model","messages":[],"n":0}',
    b'{"model":"m","model":"n","messages":[{"role":"user","content":"x"}],"seed":18446744073709551616}',
    b'{"model":"model","input":[{"type":"message","role":"user","content":[{"type":"input_text","text":"x"}]}]}',
    b'{"model":"model","messages":[{"role":"user","content":"x"}],"response_format":{"type":"json_schema",'
    b'"json_schema":{"name":"a","schema":{"type":"object","properties":{"a":{"type":"number"}}}}},"its":{"answer":"json"}}',
    b'{"model":"model","messages":[{"role":"user","content":"x"}],"its":{"strategy":"fixed","force":true},"stream":true}',
)

SEEDS: Mapping[str, Sequence[bytes]] = {
    "sse": (
        _stream(_event(content="a"), b"", _event(finish="stop"), b"", b"data: [DONE]", b""),
        _stream(b": ping", _event(content="\u00e9"), b"", b"data:[DONE]", end=b"\r\n"),
        _stream(_event(content="a"), b"", b'data: {"error": {"message": "secret"}}', b"", end=b"\r"),
        _stream(b"event: x", b"id: 1", b"data: {", b"data: [1]", b"data"),
    ),
    "wire": tuple(b"\x09" * (len(reply) // 3) + reply for reply in _REPLIES),
    "http": tuple(b"\x09" * (len(sent) // 3) + sent for sent in _SENT),
    "request": tuple(bytes([way]) + body for body in _REQUESTS for way in (0, 1))
    + tuple(bytes([way]) * 40 for way in range(8)),
    "form": (
        b'\x00--XX\r\nContent-Disposition: form-data; name="model"\r\n\r\nm\r\n'
        b'--XX\r\nContent-Disposition: form-data; name="file"; filename="a.wav"\r\n'
        b"Content-Type: audio/wav\r\n\r\nRIFF\r\n--XX--\r\n",
        b"\x01\x00\x00\x00\x01\x01\x06\x00",  # a second name, in one part
        b"\x01\x02" + b"\x01\x00\x02\x01\x0a\x00\x02xx\x00" * 3,
        b"\x02\x01" + bytes(range(48)),
    ),
    "answer": (
        b"\x00\x00So it is \\boxed{\\frac{3}{4}}, or \\boxed{x = 1{,}000 \\text{ cm}^2}.",
        b"\x00\x01\x08" + b"\x00\x1fSo it is \\boxed{\\frac{3}{4}}.    " * 3,
        b"\x01" + b"\x08" + b"\x00\x1f#### 1,234.50\nthe total is $12.30 " * 3,
        b"\x02\x04\x00\x1f</think>The answer is (1, 2].     " * 4,
        b"\x03\x04\x00\x1fI choose (B), because A is wrong. " * 4,
        b'\x04\x04\x00\x1f```json\n{"a": [1.0, 1e2]}\n```\n   ' * 4,
        b"\x05\x00\x00\x05\x05\x01\x01\x04\x05\x01\x02\x03" * 6,
    ),
    "schema": (
        b"\x00\x00" + b"\x04\x01\x01\x00\x01\x00" * 6,
        b"\x03\x03" + bytes(range(64)),
        b"\x02\x02\x04\x01\x01\x0c\x01\x01\x0a\x01\x01\x10",  # a pattern, and what it reads slowly
        b"\x03\x03\x04\x01\x01\x0e\x00\x0d\x00\x0e",  # a divisor, and a number far from it
    ),
}
