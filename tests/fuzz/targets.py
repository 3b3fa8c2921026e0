"""What is fuzzed: each takes any bytes, and must get by with the errors that it documents, in time.

    TARGETS["sse"](b"...")

Beside not to fail, each holds what must be true of every input: a stream reads the same however it is cut, a request
that is accepted can be planned and sent, an answer that was read is read the same again.
"""

import asyncio
import json
import re
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
from email import message_from_bytes
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from time import thread_time
from typing import Any, TypeVar

import orjson

from its_proxy.admission import Admission, Limits
from its_proxy.checkpoint import Checkpoint, open_checkpoint
from its_proxy.codesign.errors import ItsError, RequestError, UpstreamError
from its_proxy.handshake import NO_MANIFEST
from its_proxy.plan import Member, VoteRules, make_plan
from its_proxy.protocol.body import read_body
from its_proxy.protocol.chat import read_chat
from its_proxy.protocol.envelope import error_reply
from its_proxy.protocol.multipart import read_form
from its_proxy.protocol.responses.request import chat_body
from its_proxy.protocol.sse import DONE, read_events, relayed
from its_proxy.response_format import validity_of
from its_proxy.server.http.connection import Connection as Served
from its_proxy.server.http.patience import Patience
from its_proxy.server.http.request import Refused, Request
from its_proxy.server.http.response import Response, Stream
from its_proxy.server.metrics import Metrics
from its_proxy.upstreams.http import HttpUpstream
from its_proxy.upstreams.transport import TransportError
from its_proxy.upstreams.wire import Connection, Head
from its_proxy.voting.answers import Answer, AnswerKind, answer_of, normal_form, proven_different, read_answer, same
from its_proxy.voting.messages import read_message
from tests.fuzz.material import Material
from tests.serving import manifest, write_checkpoint

MAX_S = 0.1
"""Of processor time: what an event loop may be kept busy with by one input."""
KINDS: tuple[AnswerKind, ...] = ("boxed", "number", "final_line", "letter", "json", "tool_calls")
Told = tuple[list[Any], type[ItsError] | None]
T = TypeVar("T")


class TooSlow(Exception):
    """An input that costs more than `MAX_S`, three times over."""


def in_time(target: Callable[[bytes], None], data: bytes) -> float:
    """Runs a target; seconds that it took. Raises TooSlow, and whatever the target did not expect."""
    seconds = _seconds(target, data)
    if seconds > MAX_S and (seconds := min(_seconds(target, data) for _ in range(3))) > MAX_S:
        raise TooSlow(f"{seconds:.3f} s for {len(data)} bytes")
    return seconds


def _seconds(target: Callable[[bytes], None], data: bytes) -> float:
    began = thread_time()
    target(data)
    return thread_time() - began


# -- an upstream's stream ----------------------------------------------------------------------------------------------


def sse(data: bytes) -> None:
    """The stream is the second half of the bytes, the first says how it is cut."""
    material = Material(data[: len(data) // 4])
    stream = data[len(data) // 4 :]
    pieces = list(material.pieces(stream))
    assert b"".join(pieces) == stream
    whole, cut = _finished(_told(read_events(_each([stream])))), _finished(_told(read_events(_each(pieces))))
    assert whole == cut
    written, error = _finished(_told(relayed(_each(pieces))))
    said = b"".join(written)
    assert said.endswith(DONE if error is None else b"\n\n")
    assert said.splitlines().count(DONE.strip()) == (error is None)
    # What a client is given can be read, and holds no error of the upstream's.
    events, fault = _finished(_told(read_events(_each([said]))))
    assert fault is None
    assert events == whole[0][: len(events)]


async def _told(events: AsyncIterator[Any]) -> Told:
    told = []
    try:
        async for event in events:
            told.append(event)
    except UpstreamError as error:
        return told, type(error)
    return told, None


async def _each(pieces: list[bytes]) -> AsyncIterator[bytes]:
    for piece in pieces:
        yield piece


def _finished(work: Coroutine[Any, Any, T]) -> T:
    """Of what never waits: an event loop for each input would be most of the work."""
    try:
        work.send(None)
    except StopIteration as end:
        value: T = end.value
        return value
    raise AssertionError("it waited")


# -- an upstream's HTTP -----------------------------------------------------------------------------------------------


def wire(data: bytes) -> None:
    """What a server sends to our own HTTP client; cut as the first quarter says."""
    material = Material(data[: len(data) // 4])
    sent = data[len(data) // 4 :]
    pieces = list(material.pieces(sent))
    whole, cut = (_loop().run_until_complete(_exchange(said)) for said in ([sent], pieces))
    assert whole == cut
    status, _, _, error = whole
    assert error is not None or 200 <= status <= 999


ASKED_FIELDS = (b"content-type", b"content-length", b"transfer-encoding", b"content-encoding", b"retry-after", b"a")


async def _exchange(pieces: list[bytes]) -> tuple[int, dict[bytes, bytes], bytes, str | None]:
    """Status, header and body of a reply after which the server leaves, and what was wrong with it."""
    transport = _Transport()
    connection = Connection()
    connection.connection_made(transport)
    connection.send(b"GET / HTTP/1.1\r\n\r\n", [], 0)
    for piece in pieces:
        if not transport.is_closing():
            connection.data_received(piece)
    connection.connection_lost(None)
    assert not connection.is_open or not connection.is_reusable
    head, body = Head(0, []), b""
    try:
        while connection.head is None:
            await connection.more(1.0)
        head = connection.head
        looked_up = {name: head.get(name) for name in ASKED_FIELDS}
        assert looked_up == {name: head.fields.get(name) for name in ASKED_FIELDS}
        while chunk := await connection.chunk(1.0):
            body += chunk
    except TransportError as error:
        return head.status, head.fields, body, str(error)
    return head.status, head.fields, body, None


class _Transport(asyncio.Transport):
    """Keeps what is sent, and never more than a connection's own end happens to it."""

    def __init__(self) -> None:
        super().__init__()
        self.written = b""
        self._is_closed = False

    def write(self, data: Any) -> None:
        self.written += data

    def is_closing(self) -> bool:
        return self._is_closed

    def abort(self) -> None:
        self._is_closed = True

    def close(self) -> None:
        self._is_closed = True

    def can_write_eof(self) -> bool:
        return True

    def write_eof(self) -> None:
        pass

    def get_write_buffer_size(self) -> int:
        return 0

    def pause_reading(self) -> None:
        pass

    def resume_reading(self) -> None:
        pass


# -- a client's HTTP ---------------------------------------------------------------------------------------------------

_OF_THE_MOMENT = re.compile(rb"(x-request-id|Date): [^\r]*")
N_TURNS = 150
"""Of the loop: enough for all the requests that a connection takes ahead."""


def http(data: bytes) -> None:
    """What a client sends to the server; cut as the first quarter says. The same replies, however it is cut."""
    material = Material(data[: len(data) // 4])
    sent = data[len(data) // 4 :]
    pieces = [piece for piece in material.pieces(sent) if piece]
    whole, cut = (_loop().run_until_complete(_served(said)) for said in ([sent], pieces))
    assert whole == cut
    assert not whole or whole.startswith((b"HTTP/1.1 200 OK\r\n", b"HTTP/1.1 4", b"HTTP/1.1 100 Continue\r\n\r\n"))


async def _served(pieces: list[bytes]) -> bytes:
    """All that a client gets for it, apart from what is never the same."""
    transport = _Transport()
    connection = Served(_Echo(), Patience(), _metrics(), lambda connection: None)
    connection.connection_made(transport)
    for piece in pieces:
        connection.data_received(piece)
    for _ in range(N_TURNS):
        await asyncio.sleep(0)
    connection.connection_lost(None)
    await asyncio.sleep(0)
    return _OF_THE_MOMENT.sub(b"", transport.written)


class _Echo:
    is_ending = False
    max_body_bytes = 200

    async def answer(self, request: Request) -> Response | Stream:
        try:
            body = await request.read()
        except Refused as error:
            return Response(b"", error.status)
        return Response(request.method.encode() + request.target.encode("latin-1") + body)


@cache
def _metrics() -> Metrics:
    return Metrics(Admission(Limits()))


@cache
def _loop() -> asyncio.AbstractEventLoop:
    return asyncio.new_event_loop()


# -- a client's request ------------------------------------------------------------------------------------------------

RIGHTS = (frozenset({"force", "explain", "candidates"}), frozenset[str]())
REQUEST_KEYS = (
    "model", "messages", "role", "content", "type", "text", "its", "n", "stream", "stream_options", "max_tokens",
    "seed", "max_completion_tokens", "temperature", "tools", "tool_choice", "tool_calls", "function", "name",
    "arguments", "json", "response_format", "json_schema", "schema", "chat_template_kwargs", "documents", "stop",
    "input", "instructions", "max_output_tokens", "include", "previous_response_id", "reasoning", "call_id", "output",
    "image_url", "vote", "answer", "strategy", "force", "explain", "candidates", "min_agreement", "sampling",
    "properties", "items", "$ref", "pattern",
)  # fmt: skip
REQUEST_WORDS = (
    "user", "system", "assistant", "tool", "message", "function_call", "function_call_output", "input_text",
    "input_image", "text", "json_object", "json_schema", "object", "array", "string", "boxed", "letter", "always",
    "off", "client", "none", "random", "similar", "fixed", "exact", "beta", "model:its-8",
    "How many eggs are 3 eggs and 4 eggs?", "(a+)+$",
)  # fmt: skip


def request(data: bytes) -> None:
    """Bytes as they came, or a request made of them; for chat or for Responses, with and without a manifest."""
    material = Material(data, REQUEST_WORDS)
    choice = material.below(8)
    body = material.rest() if choice < 2 else _spelled(_request(material, is_chat=choice % 2 == 0))
    try:
        asked = read_body(body)
        chat = read_chat(chat_body(asked) if choice % 2 else asked)
        for member in _members():
            plan = make_plan(chat, [member], VoteRules(n=4), RIGHTS[choice > 5], "model")
            assert 1 <= len(plan.members) <= plan.n <= 16
            assert orjson.dumps({**plan.members[0].body, "seed": plan.seed + plan.n})
    except RequestError as error:
        refusal = error_reply(error).body
    else:
        return
    assert orjson.dumps(refusal)


def _request(material: Material, *, is_chat: bool) -> Any:
    """Mostly what a request must have, with anything in any place."""
    made = material.json(REQUEST_KEYS)
    fields = made if isinstance(made, dict) else {"x": made}
    turn = {"role": material.text(), "content": material.json(REQUEST_KEYS)}
    given = {"messages": [turn]} if is_chat else {"input": [turn] if material.below(2) else material.text()}
    return {"model": "model", **given, **fields}


def _spelled(value: Any) -> bytes:
    return json.dumps(value).encode()


@cache
def _members() -> tuple[Member, ...]:
    upstream = HttpUpstream("gpu", "http://gpu/v1")
    checkpoints: tuple[Checkpoint | None, ...] = (None, *(_opened(strategy) for strategy in ("none", "random")))
    return tuple(Member("model", upstream, "served", checkpoint, NO_MANIFEST) for checkpoint in checkpoints)


def _opened(strategy: str) -> Checkpoint:
    with TemporaryDirectory() as folder:
        return open_checkpoint(write_checkpoint(Path(folder), manifest(strategy)))


# -- a candidate's answer ----------------------------------------------------------------------------------------------

ANSWER_WORDS = (
    "\\boxed{", "}", "{", "\\frac{1}{2}", "\\dfrac12", "1,234", "1{,}000", "0.333...", "50\\%", "$", "\\$", "(1,2]",
    "\\{1,2\\}", "\\left(", "\\infty", "x=", "\\text{ cm}^2", "\\cup", "</think>", "<think>", "#### ",
    "The answer is ", "**", "answer: ", "(C)", "Option B", " is correct", "```json\n", "\n```\n", '{"a": 1.0}', "[",
    "]", "1e9999", "\\sqrt{2}", "2^{10}", "^\\circ", "\u2212", "-", "/", ",", ".", "\n", " ", "7", "\\",
)  # fmt: skip
MESSAGE_KEYS = ("content", "tool_calls", "function", "name", "arguments", "type", "reasoning", "role")
SCHEMA = {"type": "object", "properties": {"a": {"type": "number"}}, "required": ["a"]}


def answer(data: bytes) -> None:
    """Two texts of one kind, and a message."""
    material = Material(data, ANSWER_WORDS)
    kind = KINDS[material.below(len(KINDS))]
    read = [_read(_text(material), kind) for _ in range(2)]
    first, second = (found for found in read)
    if first is not None and second is not None:
        _hold(first, second)
    _read_message(material, kind)


def _text(material: Material) -> str:
    """Of words and bytes, or all the bytes that are left."""
    if not material.below(4):
        return material.rest().decode("utf-8", "surrogateescape")
    return "".join(material.text() for _ in range(material.below(24)))


def _read(text: str, kind: AnswerKind) -> Answer | None:
    assert normal_form(text[:512]).type
    found = read_answer(text, kind)
    if found is not None:
        assert len(found.text) <= 512
        assert answer_of(found.text, kind) == found
    return found


def _hold(first: Answer, second: Answer) -> None:
    """Equal or proven different, never both, and the same from either side."""
    assert same(first, first)
    assert not proven_different(first, first)
    assert same(first, second) == same(second, first)
    assert proven_different(first, second) == proven_different(second, first)
    assert not (same(first, second) and proven_different(first, second))
    assert (first.form < second.form) != (first.form >= second.form)


def _read_message(material: Material, kind: AnswerKind) -> None:
    message = material.json(MESSAGE_KEYS)
    if isinstance(message, Mapping):
        is_valid = _validity() if material.below(2) else None
        found = read_message(message, kind, is_valid)
        assert found is None or answer_of(found.text, kind).form == found.form


@cache
def _validity() -> Callable[[str], bool] | None:
    return validity_of({"type": "json_schema", "json_schema": {"name": "a", "schema": SCHEMA}})


# -- a client's schema, and the text that is held against it -----------------------------------------------------------

SCHEMA_KEYS = (
    "type", "properties", "a", "items", "prefixItems", "allOf", "anyOf", "oneOf", "not", "if", "then", "else",
    "pattern", "patternProperties", "multipleOf", "minimum", "maximum", "const", "enum", "uniqueItems", "contains",
    "$ref", "$defs", "required", "additionalProperties", "unevaluatedProperties", "unevaluatedItems",
    "dependentSchemas", "propertyNames", "maxLength", "minItems", "$schema", "definitions",
)  # fmt: skip
SCHEMA_WORDS = (
    "object", "array", "string", "number", "integer", "a", "#", "#/$defs/a", "#/properties/a", "a{1,100}",
    "(a{1,50}){1,20}!", "([ab]{1,3}){1,300}", r"(\p{L}|\d){5}", r"^\w+$", ".*a.*b", "ab" * 9_000, "a" * 18_000,
)  # fmt: skip
TIMES = (1, 2, 10, 100)
MAX_CHARS = 60_000


def schema(data: bytes) -> None:
    """A schema, many times over, and a text that holds one value many times: what costs a little costs much."""
    material = Material(data, SCHEMA_WORDS)
    n_schemas, n_values = TIMES[material.below(4)], TIMES[material.below(4)] ** 2
    wanted, value = material.json(SCHEMA_KEYS), _spelled(material.json(("a", "b"))).decode()
    try:
        described = read_body(_spelled({"items": {"allOf": [wanted] * n_schemas}}))
        is_valid = validity_of({"type": "json_schema", "json_schema": {"name": "a", "schema": described}})
    except RequestError as error:
        refusal = error_reply(error).body
    else:
        assert is_valid is not None
        text = ",".join([value] * min(n_values, MAX_CHARS // (len(value) + 1) + 1))
        assert is_valid(f"[{text}]") in (True, False)
        return
    assert orjson.dumps(refusal)


# -- a client's form ---------------------------------------------------------------------------------------------------

FORM_TYPE = "multipart/form-data; boundary=XX"
FORM_WORDS = (
    "\r\n", "--XX", "--XX--\r\n", "--XX\r\n", "\r\n\r\n", "Content-Disposition: form-data", "; name=", '"', "model",
    "\\", "; filename=", "name", "=", "*", ";", ":", " ", "\n", "\r", "Content-Type: ",
    "Content-Transfer-Encoding: base64",
)  # fmt: skip


def form(data: bytes) -> None:
    """Bytes as they came, or parts made of them. One that is read has the same names to another reader, and whatever
    its model is set to, nothing else changes."""
    material = Material(data, FORM_WORDS)
    body = material.rest() if material.below(4) == 0 else _form(material)
    try:
        read = read_form(body, FORM_TYPE)
        said = {name: read.text(name) for name in read.names}
    except RequestError:
        return
    told = message_from_bytes(f"Content-Type: {FORM_TYPE}\r\n\r\n".encode() + body).get_payload()
    names = [part.get_param("name", header="content-disposition") for part in told if not isinstance(part, str)]
    assert [_in_ascii(name) for name in names] == [_in_ascii(name) for name in read.names]
    if "model" in read.fields:
        changed = read_form(read.with_text("model", "other"), FORM_TYPE)
        assert {name: changed.text(name) for name in changed.names} == {**said, "model": "other"}


def _form(material: Material) -> bytes:
    """Parts in good order but for what is put into their heads and behind them."""
    parts = b""
    for _ in range(1 + material.below(3)):
        name = ("model", "prompt", "file")[material.below(3)]
        head = f'Content-Disposition: form-data; name="{name}"'.encode()
        more = [b"".join(_said(material) for _ in range(material.below(4))) for _ in range(3)]
        parts += b"--XX\r\n" + more[0] + head + more[1] + b"\r\n\r\n" + more[2] + b"\r\n"
    return parts + b"--XX--\r\n"


def _said(material: Material) -> bytes:
    return material.text().encode("utf-8", "surrogateescape")


def _in_ascii(name: Any) -> str:
    return name.encode("ascii", "replace").decode().replace("?", "") if isinstance(name, str) else repr(name)


TARGETS: Mapping[str, Callable[[bytes], None]] = {
    "sse": sse,
    "wire": wire,
    "http": http,
    "request": request,
    "form": form,
    "answer": answer,
    "schema": schema,
}
