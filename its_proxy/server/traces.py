"""Traces by OpenTelemetry: a span a request, a span a call to an upstream, and never a text.

Needs the extra `otel`. `OTEL_EXPORTER_OTLP_ENDPOINT` and its like say where spans go. They wait in a bounded queue for
a thread; where that does not get rid of them they are dropped and counted, and no request waits for it.
"""

import os
import re
import threading
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from types import TracebackType
from typing import TYPE_CHECKING, Any

from its_proxy import __version__
from its_proxy.codesign.errors import ConfigError, ItsError
from its_proxy.outcome import Outcome
from its_proxy.plan import Member
from its_proxy.upstreams.base import Completion

if TYPE_CHECKING:
    from opentelemetry.sdk.trace.export import SpanExporter
    from opentelemetry.trace import Span, Tracer

MAX_WAITING = 8192
"""Spans."""
FLUSH_S = 2.0
_METHODS = ("GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH")
_FINISHES = ("stop", "length", "tool_calls", "content_filter", "function_call")
_WELL_FORMED = re.compile(r"00-(?!0{32})([0-9a-f]{32})-(?!0{16})([0-9a-f]{16})-([0-9a-f]{2})")
_PROTOCOLS = ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL")


def open_traces(environ: Mapping[str, str] = os.environ) -> "Traces":
    """Raises ConfigError where the extra is missing, or another protocol is asked for."""
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    except ImportError:
        raise ConfigError("traces: OpenTelemetry is not installed", hint="pip install 'its-proxy[otel]'") from None
    for variable in _PROTOCOLS:
        if environ.get(variable, "http/protobuf") != "http/protobuf":
            raise ConfigError(f"{variable}: traces are sent by http/protobuf and nothing else", hint="leave it out")
    return Traces(OTLPSpanExporter())


class Traces:
    """`n_dropped`: spans that were lost, as the queue was full or the receiver did not take them."""

    def __init__(self, exporter: "SpanExporter", max_waiting: int = MAX_WAITING) -> None:
        from opentelemetry.sdk.resources import SERVICE_NAME, OTELResourceDetector, Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor

        resource = Resource.create({SERVICE_NAME: "its-proxy"}).merge(OTELResourceDetector().detect())
        self._counts = _Counts()
        self._provider = TracerProvider(resource=resource, shutdown_on_exit=False)
        batches = BatchSpanProcessor(_counting(exporter, self._counts), max_queue_size=max_waiting)
        self._provider.add_span_processor(_bounded(batches, self._counts, max_waiting))
        self._tracer = self._provider.get_tracer("its_proxy", __version__)

    @property
    def n_dropped(self) -> int:
        return self._counts.n_refused + self._counts.n_lost

    def request(self, method: str, route: str, request_id: str, traceparent: str | None) -> "RequestSpan":
        """A request's span, in the client's trace where that names a well-formed one."""
        return RequestSpan(self._tracer, method, route, request_id, traceparent)

    def close(self, within_s: float = FLUSH_S) -> None:
        """What still waits gets so long to leave. A receiver that does not answer holds nobody up."""
        closing = threading.Thread(target=self._provider.shutdown, name="traces", daemon=True)
        closing.start()
        closing.join(within_s)


class RequestSpan:
    """An Observer of one request; `end` is to be called once."""

    def __init__(self, tracer: "Tracer", method: str, route: str, request_id: str, traceparent: str | None) -> None:
        from opentelemetry.trace import SpanKind

        method = method if method in _METHODS else "_OTHER"  # a client may write anything there
        attributes = {"http.request.method": method, "http.route": route, "its_proxy.request_id": request_id}
        self._tracer = tracer
        self._span = tracer.start_span(
            f"{method} {route}", context=_parent(traceparent), kind=SpanKind.SERVER, attributes=attributes
        )

    def call(
        self, member: Member, index: int | None = None, operation: str = "chat"
    ) -> AbstractContextManager["CallSpan"]:
        return CallSpan(self._tracer, self._span, member, index, operation)

    def tell(self, outcome: Outcome) -> None:
        """What the vote came to, in numbers and in words of closed sets."""
        self._span.set_attributes(
            {
                "its_proxy.n": outcome.plan.n,
                "its_proxy.received": sum(candidate.completion is not None for candidate in outcome.candidates),
                "its_proxy.stopped": outcome.stopped,
                "its_proxy.agreement": round(outcome.vote.agreement, 6),
            }
        )

    def end(self, status: int, model: str) -> None:
        """`model`: the configured name, or `other`. Status 499 stands for a client that left."""
        self._span.set_attributes({"gen_ai.request.model": model, "http.response.status_code": status})
        if status >= 500 or status == 499:
            _fail(self._span, str(status))
        self._span.end()


class CallSpan:
    """A Call; its span is named as the conventions for generative AI want it."""

    def __init__(self, tracer: "Tracer", parent: "Span", member: Member, index: int | None, operation: str) -> None:
        from opentelemetry.trace import SpanKind, set_span_in_context

        pair_id = member.checkpoint.pair_id if member.checkpoint is not None else None
        # The names are the operator's: of the upstream and of the model there. What a client may write is not told.
        attributes: dict[str, Any] = {
            "gen_ai.operation.name": operation,
            "gen_ai.provider.name": "openai",
            "gen_ai.request.model": member.served_name,
            **({} if pair_id is None else {"its_proxy.pair_id": pair_id}),
            **({} if index is None else {"its_proxy.candidate": index}),
        }
        self._member = member
        self._state: str | None = None
        self._span = tracer.start_span(
            f"{operation} {member.served_name}", context=set_span_in_context(parent), kind=SpanKind.CLIENT,
            attributes=attributes,
        )  # fmt: skip

    @property
    def traceparent(self) -> str | None:
        context = self._span.get_span_context()
        return f"00-{context.trace_id:032x}-{context.span_id:016x}-{context.trace_flags:02x}"

    def told(self, state: str, completion: Completion | None = None, error: Exception | None = None) -> None:
        self._state = state
        self._span.set_attribute("its_proxy.candidate.state", state)
        if completion is not None:
            self._span.set_attributes(_figures(completion))
        if error is not None:
            _fail(self._span, type(error).__name__)

    def __enter__(self) -> "CallSpan":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        if self._state is None:
            is_failure = isinstance(error, Exception)
            self.told("ok" if error is None else "lost" if is_failure else "cancelled")
            if isinstance(error, Exception):
                _fail(self._span, type(error).__name__ if isinstance(error, ItsError) else "defect")
        # Only now: a query's way may have moved to another server meanwhile.
        self._span.set_attribute("its_proxy.target", self._member.upstream.name)
        self._span.end()


def _parent(traceparent: str | None) -> Any:
    """The context of the client's span; one that is not well-formed is none."""
    from opentelemetry.context import Context
    from opentelemetry.trace import NonRecordingSpan, SpanContext, TraceFlags, set_span_in_context

    found = _WELL_FORMED.fullmatch(traceparent or "")
    if found is None:
        return Context()  # never whatever happens to be current
    trace_id, span_id, flags = (int(part, 16) for part in found.groups())
    return set_span_in_context(
        NonRecordingSpan(SpanContext(trace_id, span_id, is_remote=True, trace_flags=TraceFlags(flags))), Context()
    )


def _figures(completion: Completion) -> dict[str, Any]:
    """An upstream may have written anything into these fields: numbers are told, and words that are known."""
    choices, usage = completion.get("choices"), completion.get("usage")
    reasons = [choice.get("finish_reason") for choice in choices or () if isinstance(choice, dict)]
    figures: dict[str, Any] = {
        "gen_ai.response.finish_reasons": [reason if reason in _FINISHES else "other" for reason in reasons]
    }
    if isinstance(usage, dict):
        for name, field in (("input", "prompt_tokens"), ("output", "completion_tokens")):
            if isinstance(n := usage.get(field), int) and 0 <= n < 2**53:
                figures[f"gen_ai.usage.{name}_tokens"] = n
    return figures


def _fail(span: "Span", kind: str) -> None:
    from opentelemetry.trace import StatusCode

    span.set_attribute("error.type", kind)
    span.set_status(StatusCode.ERROR)


class _Counts:
    """Spans: `n_ended` and `n_refused` are the loop's to count, `n_taken` and `n_lost` the exporting thread's."""

    n_ended = n_refused = n_taken = n_lost = 0


def _counting(exporter: "SpanExporter", counts: _Counts) -> "SpanExporter":
    from opentelemetry.sdk.trace import ReadableSpan
    from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult

    class Counting(SpanExporter):
        def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
            counts.n_taken += len(spans)
            counts.n_lost += len(spans)  # until it is known that they arrived
            result = exporter.export(spans)
            if result is SpanExportResult.SUCCESS:
                counts.n_lost -= len(spans)
            return result

        def shutdown(self) -> None:
            exporter.shutdown()

    return Counting()


def _bounded(batches: Any, counts: _Counts, max_waiting: int) -> Any:
    from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor

    class Bounded(SpanProcessor):
        """The queue itself would forget its oldest spans, and say so in the log instead of a number."""

        def on_end(self, span: ReadableSpan) -> None:
            if counts.n_ended - counts.n_taken >= max_waiting:
                counts.n_refused += 1
                return
            counts.n_ended += 1
            batches.on_end(span)

        def shutdown(self) -> None:
            batches.shutdown()

    return Bounded()
