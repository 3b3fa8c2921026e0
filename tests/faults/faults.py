"""The faults of an upstream, each a small named thing that it does to one call.

    the connection   places.py: connect-refused, dns-nxdomain, tls-expired, connect-blackhole
                     accept-then-silence, reset-before-byte, reset-mid-header, reset-mid-body, half-close-mid-SSE,
                     short-content-length
    the pace         stall-mid-stream, trickle-1B/s, one-of-N-slow-10x
    the end          clean-EOF-no-finish, missing-DONE-with-finish, endless-stream, duplicate-response
    the bytes        100MB-line, split-UTF8-across-chunks, CRLF/LF/CR-mix, gzip-bomb
    the payload      bad-JSON-chunk, error-in-200-SSE, html-200, wrong-content-type-SSE-as-JSON, empty-choices,
                     null-content, wrong-model-echo
    the status       429-with-RA, 429-without-RA, 500-text, 503-flap, 1xx/304/redirect
    all of them      all-N-different-faults

Each does in a plain JSON reply what comes nearest to its name. `FAULTS` has them by their names.
"""

import asyncio
import gzip
from itertools import count

from tests.faults.upstream import SECRET, Call, Fault, event

TRICKLE_S = 0.1
SLOW_S = 0.3
BLOCK = 2**18
BOMB = gzip.compress(b" " * 10 * 10**6)  # ten kilobytes
RETRY_AFTER_S = 7


def _half(call: Call) -> bytes:
    body = b"".join(call.pieces())
    return body[: len(body) // 2]


async def accept_then_silence(call: Call) -> None:
    await call.until_left()


async def reset_before_byte(call: Call) -> None:
    await call.reset()


async def reset_mid_header(call: Call) -> None:
    await call.send(b"HTTP/1.1 200 OK\r\nContent-Ty")
    await call.reset()


async def reset_mid_body(call: Call) -> None:
    await call.begin()
    await call.piece(_half(call))
    await call.reset()


async def half_close(call: Call) -> None:
    await call.begin()
    await call.piece(_half(call))
    call.writer.write_eof()
    await call.until_left()


async def clean_eof_no_finish(call: Call) -> None:
    await call.answer(finish_reason=None)


async def missing_done(call: Call) -> None:
    """A plain reply has no [DONE] to miss: it tells no length, and ends with the connection."""
    pieces = [piece for piece in call.pieces() if b"[DONE]" not in piece]
    await call.send(f"HTTP/1.1 200 OK\r\nContent-Type: {call.content_type}\r\n\r\n".encode() + b"".join(pieces))


async def stall(call: Call) -> None:
    await call.begin()
    await call.piece(_half(call))
    await call.until_left()


async def trickle(call: Call) -> None:
    """Ten bytes a second: as hopeless as one, and never idle for the short timers of a test."""
    await call.begin()
    for byte in b"".join(call.pieces()):
        await call.piece(bytes([byte]))
        await asyncio.sleep(TRICKLE_S)


async def endless(call: Call) -> None:
    """Sound events, 16 MB as fast as they are taken and then on and on; in a plain reply: white space."""
    await call.begin()
    chunk = {"choices": [{"index": 0, "delta": {"content": "so " * (BLOCK // 3)}, "finish_reason": None}]}
    block = event(chunk) if call.is_stream else b" " * BLOCK
    for number in count():
        await call.piece(block)
        await asyncio.sleep(0.05 if number > 64 else 0)


async def long_line(call: Call) -> None:
    """100 MB without a line end or an end."""
    await call.begin()
    await call.piece((b"data: " if call.is_stream else b"") + b'{"choices": [{"delta": {"content": "')
    for _ in range(100 * 10**6 // BLOCK):
        await call.piece(b"x" * BLOCK)


async def split_utf8(call: Call) -> None:
    body = b"".join(call.pieces())
    within = body.index("à".encode()) + 1
    await call.begin()
    await call.piece(body[:within])
    await asyncio.sleep(0.01)
    await call.piece(body[within:])
    await call.end()


async def mixed_line_ends(call: Call) -> None:
    """The three ends that the standard knows, in turn, and cut in two wherever they have two bytes."""
    ends = [b"\r\n\r\n", b"\n\n", b"\r\r"]
    await call.begin()
    for number, piece in enumerate(call.pieces()):
        end = ends[number % 3] if call.is_stream else b"\r\n"
        await call.piece(piece.rstrip(b"\n") + end[:1])
        await call.piece(end[1:])
    await call.end()


async def bad_json(call: Call) -> None:
    first, *_ = call.pieces()
    await call.begin()
    if call.is_stream:
        await call.piece(first)
        await call.piece(f'data: {{"choices": [{{"delta": {{"content": "{SECRET}\n\n'.encode())
    else:
        await call.piece(first[:-2])
    await call.end()


async def error_in_200(call: Call) -> None:
    first, *_ = call.pieces()
    error = event({"object": "error", "error": {"message": SECRET, "code": 500}})
    await call.begin()
    if call.is_stream:
        await call.piece(first)
    await call.piece(error if call.is_stream else error.removeprefix(b"data: "))
    await call.end()


async def html(call: Call) -> None:
    await call.begin("200 OK", "text/html")
    await call.piece(f"<html><body>{SECRET}</body></html>".encode())
    await call.end()


async def wrong_content_type(call: Call) -> None:
    """A stream that calls itself JSON, whether a stream was asked for or not."""
    call.body = {**call.body, "stream": True}
    await call.begin("200 OK", "application/json")
    for piece in call.pieces():
        await call.piece(piece)
    await call.end()


async def short_content_length(call: Call) -> None:
    """Half of the bytes that the header promises, then an orderly end."""
    body = b"".join(call.pieces())
    head = f"HTTP/1.1 200 OK\r\nContent-Type: {call.content_type}\r\nContent-Length: {len(body)}\r\n\r\n"
    await call.send(head.encode() + body[: len(body) // 2])


async def gzip_bomb(call: Call) -> None:
    await call.begin("200 OK", None, "Content-Encoding: gzip")
    await call.piece(BOMB)
    await call.end()


async def empty_choices(call: Call) -> None:
    await call.answer(document={"choices": []})


async def null_content(call: Call) -> None:
    await call.answer(content=None)


async def wrong_model_echo(call: Call) -> None:
    await call.answer(model="another-model")


async def _refuse(call: Call, status: str, *headers: str) -> None:
    await call.begin(status, "text/html", *headers)
    await call.piece(f"<html>Traceback (most recent call last): {SECRET}</html>".encode())
    await call.end()


async def busy_with_hint(call: Call) -> None:
    await _refuse(call, "429 Too Many Requests", f"Retry-After: {RETRY_AFTER_S}")


async def busy_without_hint(call: Call) -> None:
    await _refuse(call, "429 Too Many Requests")


async def failing(call: Call) -> None:
    await _refuse(call, "500 Internal Server Error")


async def flapping(call: Call) -> None:
    """Down for the first try of every third candidate, up for the second: as many as may be tried again at once."""
    if call.body["seed"] % 3 == 1 and call.number == 0:
        await _refuse(call, "503 Service Unavailable")
    else:
        await call.answer()


async def odd_status(call: Call) -> None:
    """By seed: not modified, a redirect (to where nobody should be sent), or an interim answer and no other."""
    kind = call.body["seed"] % 3
    if kind == 0:
        await call.send(b"HTTP/1.1 304 Not Modified\r\nConnection: close\r\n\r\n")
    elif kind == 1:
        await _refuse(call, "302 Found", "Location: http://127.0.0.1:9/secret")
    else:
        await call.send(b"HTTP/1.1 102 Processing\r\n\r\n")


async def duplicate(call: Call) -> None:
    """The whole response twice, on a connection that stays open: the second must not answer the next call."""
    body = b"".join(call.pieces())
    head = f"HTTP/1.1 200 OK\r\nContent-Type: {call.content_type}\r\nContent-Length: {len(body)}\r\n\r\n"
    call.keeps_open = True
    await call.send((head.encode() + body) * 2)


async def slow(call: Call) -> None:
    await asyncio.sleep(SLOW_S)
    await call.answer()


_DIFFERENT = (accept_then_silence, reset_before_byte, failing, half_close, html, gzip_bomb, stall, bad_json)


async def all_different(call: Call) -> None:
    await _DIFFERENT[call.body["seed"] % len(_DIFFERENT)](call)


FAULTS: dict[str, Fault] = {
    "accept-then-silence": accept_then_silence,
    "reset-before-byte": reset_before_byte,
    "reset-mid-header": reset_mid_header,
    "reset-mid-body": reset_mid_body,
    "half-close-mid-SSE": half_close,
    "clean-EOF-no-finish": clean_eof_no_finish,
    "missing-DONE-with-finish": missing_done,
    "stall-mid-stream": stall,
    "trickle-1B/s": trickle,
    "endless-stream": endless,
    "100MB-line": long_line,
    "split-UTF8-across-chunks": split_utf8,
    "CRLF/LF/CR-mix": mixed_line_ends,
    "bad-JSON-chunk": bad_json,
    "error-in-200-SSE": error_in_200,
    "html-200": html,
    "wrong-content-type-SSE-as-JSON": wrong_content_type,
    "short-content-length": short_content_length,
    "gzip-bomb": gzip_bomb,
    "empty-choices": empty_choices,
    "null-content": null_content,
    "wrong-model-echo": wrong_model_echo,
    "429-with-RA": busy_with_hint,
    "429-without-RA": busy_without_hint,
    "500-text": failing,
    "503-flap": flapping,
    "1xx/304/redirect": odd_status,
    "duplicate-response": duplicate,
    "one-of-N-slow-10x": slow,
    "all-N-different-faults": all_different,
}
