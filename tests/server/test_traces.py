"""Traces as a collector receives them: a span a request, a span a candidate, no texts, and nobody waits for them."""

import asyncio
import signal
import subprocess
import sys
import threading
from contextlib import asynccontextmanager

import aiohttp
import pytest
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult

from its_proxy.codesign.errors import ConfigError
from its_proxy.server.traces import Traces, open_traces
from tests.command import serve_command
from tests.scripted import Say, scripted_upstream
from tests.server.otlp import receiving, traces_to
from tests.serving import manifest, serving_script, write_checkpoint

SERVER, CLIENT = 2, 3
TRACE_ID, PARENT_ID = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
PARENT = {"traceparent": f"00-{TRACE_ID}-{PARENT_ID}-01"}
HELD = Say("\\boxed{7}", delay_s=60)
QUESTION = {"model": "model", "messages": [{"role": "user", "content": "What is 2 + 5?"}], "seed": 0}


@pytest.fixture
def checkpoint(tmp_path):
    return write_checkpoint(tmp_path / "checkpoint", manifest("random"))


async def ask(server, body=QUESTION, path="/v1/chat/completions", **headers):
    return await server.send("POST", path, body, headers)


@asynccontextmanager
async def tracing(receiver, say, checkpoint):
    """A server and its upstream; when the block has ended, all spans have arrived."""
    async with traces_to(receiver) as traces, serving_script(say, checkpoint) as (server, upstream):
        server.context.traces = traces
        yield server, upstream
    assert traces.n_dropped == 0


async def traced(say, checkpoint, *requests, **headers):
    """The receiver, the upstream and the replies, when all spans have arrived."""
    async with receiving() as receiver, tracing(receiver, say, checkpoint) as (server, upstream):
        replies = [await ask(server, request, **headers) for request in requests]
    return receiver, upstream, replies


class TestVote:
    async def test_a_request_is_a_span_in_its_clients_trace_and_each_candidate_one_below_it(self, checkpoint):
        script = {0: Say("\\boxed{1}"), 1: Say("\\boxed{2}"), 2: Say("none"), 3: Say("cut", finish_reason="length"),
                  4: Say(status=500)}  # fmt: skip
        receiver, upstream, [reply] = await traced(
            lambda body, number: script.get(body.get("seed"), Say("\\boxed{7}")),
            checkpoint, QUESTION | {"its": {"vote": "always", "stop": "none"}}, **PARENT,
        )  # fmt: skip
        [request] = [span for span in receiver.spans if span.kind == SERVER]
        assert (request.name, request.trace_id, request.parent_id) == (
            "POST /v1/chat/completions", TRACE_ID, PARENT_ID
        )  # fmt: skip
        assert request.attributes["its_proxy.request_id"] == reply.headers["x-request-id"]
        assert request.attributes["http.response.status_code"] == 200
        assert (request.attributes["gen_ai.request.model"], request.attributes["its_proxy.n"]) == ("model", 8)
        candidates = receiver.candidates()
        assert {(span.trace_id, span.parent_id, span.kind) for span in candidates} == {
            (TRACE_ID, request.span_id, CLIENT)
        }
        states = [span.attributes["its_proxy.candidate.state"] for span in candidates]
        assert states == ["ok", "ok", "no_answer", "truncated", "lost", "ok", "ok", "ok"]
        first, cut, lost = candidates[0], candidates[3], candidates[4]
        assert first.name == "chat model"
        assert first.attributes["its_proxy.pair_id"].startswith(reply.headers["x-its-pair"])
        assert first.attributes["gen_ai.usage.output_tokens"] == 10
        assert cut.attributes["gen_ai.response.finish_reasons"] == ["length"]
        assert (lost.is_error, lost.attributes["error.type"]) == (True, "UpstreamRejected")
        assert receiver.resource["service.name"] == "its-proxy"
        told = {
            body["seed"]: headers["traceparent"]
            for body, headers in zip(upstream.bodies, upstream.headers, strict=True)
            if "seed" in body  # a probe has none, and the 500 may have been followed by one
        }
        assert told == {
            span.attributes["its_proxy.candidate"]: f"00-{TRACE_ID}-{span.span_id}-01" for span in candidates
        }

    async def test_cancelled_candidates_say_so(self, checkpoint):
        receiver, _, _ = await traced(
            lambda body, number: HELD if body["seed"] >= 5 else Say("\\boxed{7}"), checkpoint,
            QUESTION | {"its": {"vote": "always"}},
        )  # fmt: skip
        states = [span.attributes["its_proxy.candidate.state"] for span in receiver.candidates()]
        assert states == ["ok"] * 5 + ["cancelled"] * 3

    async def test_neither_queries_nor_answers_are_told(self, checkpoint):
        body = {**QUESTION, "messages": [{"role": "user", "content": "canary-query 2 + 5?"}], "user": "canary-user"}
        receiver, _, _ = await traced(Say("canary-answer \\boxed{71423}"), checkpoint, body, body | {"stream": True})
        assert receiver.spans
        assert b"canary" not in receiver.raw
        assert b"71423" not in receiver.raw


class TestPassedThrough:
    @pytest.mark.parametrize("fields", [{}, {"stream": True}])
    async def test_what_is_passed_on_is_one_call(self, fields):
        receiver, upstream, _ = await traced(Say("hello"), None, QUESTION | fields)
        request, call = sorted(receiver.spans, key=lambda span: span.kind)
        assert (request.kind, call.kind, call.parent_id) == (SERVER, CLIENT, request.span_id)
        assert call.attributes["its_proxy.candidate.state"] == "ok"
        assert upstream.headers[0]["traceparent"].split("-")[2] == call.span_id

    async def test_a_failing_call_tells_its_kind_of_error(self):
        receiver, _, [reply] = await traced(Say(status=500), None, QUESTION)
        [call] = [span for span in receiver.spans if span.kind == CLIENT]
        assert (reply.status, call.is_error, call.attributes["error.type"]) == (500, True, "UpstreamRejected")

    async def test_a_client_that_leaves_is_seen(self):
        async with receiving() as receiver, tracing(receiver, HELD, None) as (server, upstream):
            asking = asyncio.create_task(ask(server))
            await upstream.until(lambda: upstream.n_open == 1)
            asking.cancel()
            await upstream.until(lambda: upstream.n_cancelled == 1)
        request, call = sorted(receiver.spans, key=lambda span: span.kind)
        assert (request.attributes["http.response.status_code"], request.is_error) == (499, True)
        assert call.attributes["its_proxy.candidate.state"] == "cancelled"

    @pytest.mark.parametrize("path", ["completions", "embeddings"])
    async def test_other_routes_have_their_own_operation(self, path):
        async with receiving() as receiver, tracing(receiver, Say(), None) as (server, _):
            await ask(server, {"model": "model", "prompt": "x", "input": "x"}, f"/v1/{path}")
        [call] = [span for span in receiver.spans if span.kind == CLIENT]
        assert call.attributes["gen_ai.operation.name"] == {"completions": "text_completion"}.get(path, path)


async def test_probes_are_not_traced():
    async with receiving() as receiver, tracing(receiver, Say(), None) as (server, _):
        for path in ("/livez", "/readyz", "/metrics", "/v1/models"):
            await server.get(path)
    assert [span.name for span in receiver.spans] == ["GET /v1/models"]


@pytest.mark.parametrize(
    "header",
    ["", "garbage", f"00-{'0' * 32}-{PARENT_ID}-01", f"00-{TRACE_ID}-{'0' * 16}-01",
     f"00-{TRACE_ID.upper()}-{PARENT_ID}-01", f"01-{TRACE_ID}-{PARENT_ID}-01",
     f"00-{TRACE_ID}-{PARENT_ID}-01-x", f" 00-{TRACE_ID}-{PARENT_ID}-01é"],
)  # fmt: skip
async def test_a_traceparent_that_is_not_well_formed_begins_a_trace_of_its_own(header):
    receiver, _, _ = await traced(Say("hello"), None, QUESTION, traceparent=header)
    [request] = [span for span in receiver.spans if span.kind == SERVER]
    assert (request.parent_id, request.trace_id != TRACE_ID) == ("", True)


async def test_a_client_that_does_not_sample_is_not_traced():
    receiver, upstream, _ = await traced(Say("hello"), None, QUESTION, traceparent=f"00-{TRACE_ID}-{PARENT_ID}-00")
    assert receiver.spans == []
    assert upstream.headers[0]["traceparent"].startswith(f"00-{TRACE_ID}-")


class Stuck(SpanExporter):
    """A receiver that takes nothing, and then nothing any more."""

    def __init__(self) -> None:
        self.goes_on = threading.Event()

    def export(self, spans):
        self.goes_on.wait(30)
        return SpanExportResult.FAILURE

    def shutdown(self):
        """Nothing to close."""


def test_what_a_stuck_receiver_does_not_take_is_dropped_and_counted():
    exporter = Stuck()
    traces = Traces(exporter, max_waiting=1000)
    n = 5000
    for number in range(n):
        traces.request("GET", "/livez", str(number), None).end(200, "model")
    assert n - 1000 <= traces.n_dropped < n
    traces.close(within_s=0.05)
    exporter.goes_on.set()


class TestProcess:
    async def test_the_environment_says_where_spans_go_and_they_are_sent_before_it_ends(self):
        async with receiving() as receiver, scripted_upstream(lambda body, number: Say("hello")) as upstream:
            variables = {"ITS_PROXY_TRACES": "true", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": receiver.url,
                         "OTEL_SERVICE_NAME": "mine"}  # fmt: skip
            async with (
                serve_command("--upstream", upstream.url, **variables) as server,
                aiohttp.ClientSession() as http,
            ):
                await http.post(f"{server.url}/chat/completions", json=QUESTION)
                ended = await server.end(signal.SIGTERM)
        assert ended.code == 0
        assert receiver.resource["service.name"] == "mine"
        assert {span.name for span in receiver.spans} >= {"POST /v1/chat/completions", "chat model"}

    async def test_a_receiver_that_is_not_there_keeps_nobody(self):
        async with scripted_upstream(lambda body, number: Say("hello")) as upstream:
            variables = {"ITS_PROXY_TRACES": "true", "OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:9"}
            async with (
                serve_command("--upstream", upstream.url, **variables) as server,
                aiohttp.ClientSession() as http,
            ):
                async with http.post(f"{server.url}/chat/completions", json=QUESTION) as reply:
                    assert reply.status == 200
                ended = await server.end(signal.SIGTERM)
        assert ended.code == 0
        assert "Traceback" not in ended.err


class TestWithoutTheExtra:
    def test_it_is_one_clear_line(self):
        code = """
import sys
sys.modules["opentelemetry.exporter.otlp.proto.http.trace_exporter"] = None
from its_proxy.server.traces import open_traces
open_traces()
"""
        ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
        assert "traces: OpenTelemetry is not installed (pip install 'its-proxy[otel]')" in ended.stderr

    def test_serving_imports_none_of_it(self):
        code = "import sys, its_proxy.server.run; print([name for name in sys.modules if 'opentelemetry' in name])"
        assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "[]\n"

    def test_another_protocol_is_refused(self):
        with pytest.raises(ConfigError, match="OTEL_EXPORTER_OTLP_PROTOCOL"):
            open_traces({"OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"})
