"""A real receiver of traces on loopback: OTLP over HTTP, as a collector takes it."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from its_proxy.server.traces import Traces


@dataclass(frozen=True)
class Received:
    """One span, its ids in hexadecimal."""

    name: str
    kind: int
    trace_id: str
    span_id: str
    parent_id: str
    is_error: bool
    attributes: dict[str, Any]


@dataclass
class Receiver:
    """`raw`: every byte that came. `url`: of the traces' route."""

    url: str
    spans: list[Received] = field(default_factory=list)
    raw: bytes = b""
    resource: dict[str, Any] = field(default_factory=dict)

    async def take(self, request: web.Request) -> web.Response:
        data = await request.read()
        self.raw += data
        for group in ExportTraceServiceRequest.FromString(data).resource_spans:
            self.resource = _plain(group.resource.attributes)
            self.spans += [_received(span) for scope in group.scope_spans for span in scope.spans]
        return web.Response(content_type="application/x-protobuf")

    def candidates(self) -> list[Received]:
        own = [span for span in self.spans if "its_proxy.candidate" in span.attributes]
        return sorted(own, key=lambda span: span.attributes["its_proxy.candidate"])


def _received(span: Any) -> Received:
    return Received(
        span.name, span.kind, span.trace_id.hex(), span.span_id.hex(), span.parent_span_id.hex(),
        span.status.code == 2, _plain(span.attributes),
    )  # fmt: skip


def _plain(attributes: Any) -> dict[str, Any]:
    return {attribute.key: _value(attribute.value) for attribute in attributes}


def _value(value: Any) -> Any:
    kind = value.WhichOneof("value")
    found = getattr(value, kind)
    return [_value(part) for part in found.values] if kind == "array_value" else found


@asynccontextmanager
async def receiving() -> AsyncIterator[Receiver]:
    receiver = Receiver("")
    app = web.Application(client_max_size=2**26)
    app.router.add_post("/v1/traces", receiver.take)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    receiver.url = f"http://127.0.0.1:{runner.addresses[0][1]}/v1/traces"
    try:
        yield receiver
    finally:
        await runner.cleanup()


@asynccontextmanager
async def traces_to(receiver: Receiver) -> AsyncIterator[Traces]:
    """All of them have arrived when the block ends."""
    traces = Traces(OTLPSpanExporter(endpoint=receiver.url))
    try:
        yield traces
    finally:
        await asyncio.to_thread(traces.close, 20)
