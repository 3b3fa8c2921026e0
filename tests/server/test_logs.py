"""The log never holds its writer up, has one shape whoever writes, and tells nobody's words."""

import asyncio
import json
import os
import re
import select
import signal
import socket
import sys
from contextlib import suppress

import aiohttp
import pytest
import structlog

from its_proxy.server.logs import Sink, log, set_level, tell_request, told, writing_logs
from tests.command import ROOT, ended, serve_command

NOWHERE = "http://127.0.0.1:9/v1"
CANARY = "canary-7f3a"


@pytest.fixture
def pipe():
    reader, writer = os.pipe()
    yield reader, writer
    for fd in (reader, writer):
        with suppress(OSError):
            os.close(fd)


def lines(n: int) -> list[str]:
    return [f"{number} {'x' * 200}\n" for number in range(n)]


class TestSink:
    def test_what_is_written_has_left_in_order_when_it_is_closed(self, pipe):
        reader, writer = pipe
        sink = Sink(writer)
        for line in lines(100):
            sink.write(line)
        sink.close()
        assert os.read(reader, 65536).decode() == "".join(lines(100))
        assert sink.n_dropped == 0

    def test_beyond_what_a_full_pipe_holds_lines_are_dropped_and_counted_and_none_is_cut(self, pipe):
        reader, writer = pipe
        sink = Sink(writer, max_waiting=10)
        for line in lines(5000):
            sink.write(line)
        assert sink.n_dropped > 0
        os.set_blocking(reader, False)
        seen = b""
        while seen.count(b"\n") < 5000 - sink.n_dropped:
            with suppress(BlockingIOError):
                seen += os.read(reader, 65536)
        sink.close()
        assert set(seen.decode().splitlines(keepends=True)) <= set(lines(5000))

    def test_a_pipe_that_nobody_reads_does_not_keep_it_from_closing(self, pipe):
        sink = Sink(pipe[1])
        for line in lines(5000):
            sink.write(line)
        sink.close(within_s=0.1)

    def test_where_the_reader_has_gone_every_line_is_counted(self, pipe):
        reader, writer = pipe
        os.close(reader)
        sink = Sink(writer)
        for line in lines(10):
            sink.write(line)
        sink.close()
        assert sink.n_dropped == 10

    def test_a_descriptor_that_others_made_non_blocking_is_waited_for(self, pipe):
        reader, writer = pipe
        os.set_blocking(writer, False)
        sink = Sink(writer)
        for line in lines(2000):
            sink.write(line)
        seen = b""
        while seen.count(b"\n") < 2000:
            seen += os.read(reader, 65536)
        sink.close()
        assert seen.decode() == "".join(lines(2000))


@pytest.fixture
def said(pipe, monkeypatch):
    """Writes in a format, with a log of its own, and gives what it wrote."""
    reader, writer = pipe

    def write(format_, *tells):
        with os.fdopen(os.dup(writer), "w") as stderr, monkeypatch.context() as patch:
            patch.setattr(sys, "stderr", stderr)
            with writing_logs("info", format_):
                for tell in tells:
                    tell()
        return os.read(reader, 65536).decode().splitlines()

    return write


class TestRequests:
    @pytest.mark.parametrize("format_", ["json", "text"])
    @pytest.mark.parametrize("model", ["model", '模型 "7"\n', "half \ud83d of one"])
    def test_their_line_is_the_one_that_every_other_event_has(self, said, format_, model):
        fields = {"id": "a1", "route": "/v1/chat/completions", "model": model, "code": 200, "ms": 12.3}
        straight, usual = said(format_, lambda: tell_request(**fields), lambda: log.info("request", **fields))
        assert re.sub(r"\d\d:\d\d[:.0-9]+", "TIME", straight) == re.sub(r"\d\d:\d\d[:.0-9]+", "TIME", usual)
        assert "TIME" in re.sub(r"\d\d:\d\d[:.0-9]+", "TIME", straight)
        assert (format_ == "json") == (straight[0] == "{")

    @pytest.mark.parametrize("format_", ["json", "text"])
    def test_a_level_that_changes_holds_for_them(self, said, format_):
        def tell():
            tell_request(id="a1")

        lines = said(format_, tell, lambda: set_level("warning"), tell, tell, lambda: set_level("info"), tell)
        assert len(lines) == 2

    def test_outside_a_log_they_are_told_as_whatever_is_configured_tells(self):
        with structlog.testing.capture_logs() as events:
            tell_request(id="a1", code=200)
        assert events == [{"event": "request", "log_level": "info", "id": "a1", "code": 200}]


class TestExceptions:
    def raised(self, chain: bool) -> BaseException:
        try:
            try:
                int(CANARY)
            except ValueError as error:
                if chain:
                    raise ExceptionGroup(CANARY, [KeyError(CANARY), error]) from error
                raise
        except Exception as error:
            return error

    @pytest.mark.parametrize("chain", [False, True])
    def test_types_and_places_are_told_and_no_words(self, chain):
        words = told(self.raised(chain))
        assert CANARY not in words
        assert "in raised" in words
        assert "builtins.ValueError" in words
        assert ("builtins.KeyError" in words) is chain

    def test_what_led_to_itself_ends(self):
        first, second = ValueError(), TypeError()
        first.__cause__, second.__cause__ = second, first
        assert told(first).count("after") == 7


# The canary comes from outside, as a client's words do: from Python 3.13 on tracebacks show the lines of such a script.
OTHERS = """
import asyncio, logging, sys, threading, warnings
from its_proxy.server.logs import on_loop_exception, writing_logs

CANARY = sys.argv[1]

class Unraisable:
    def __del__(self):
        raise ValueError(CANARY)

async def lost():
    raise ValueError(CANARY)

async def main():
    asyncio.get_running_loop().set_exception_handler(on_loop_exception)
    asyncio.get_running_loop().call_soon(int, CANARY)
    task = asyncio.ensure_future(lost())
    await asyncio.sleep(0.01)
    del task

def in_thread():
    raise ValueError(CANARY)

with writing_logs("debug"):
    logging.getLogger("aiohttp.client").error("broke off at %s", CANARY)
    logging.getLogger("aiohttp.server").error(f"broke off at {CANARY}")
    try:
        int(CANARY)
    except ValueError:
        logging.getLogger("asyncio").exception("failed with %s", CANARY)
    warnings.warn(CANARY)
    asyncio.run(main())
    thread = threading.Thread(target=in_thread)
    thread.start()
    thread.join()
    del thread
    Unraisable()
"""


async def test_what_libraries_threads_and_lost_tasks_say_has_the_same_shape_without_their_words():
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", OTHERS, CANARY, env=os.environ | {"PYTHONPATH": str(ROOT)},
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    out = await ended(process)
    assert (out.code, out.out) == (0, "")
    assert CANARY not in out.err
    events = [json.loads(line) for line in out.err.splitlines()]
    libraries = [(event["library"], event.get("says")) for event in events if "library" in event]
    assert libraries == [
        ("aiohttp.client", "broke off at %s"), ("aiohttp.server", None), ("asyncio", "failed with %s")
    ]  # fmt: skip
    defects = [event for event in events if "library" not in event and "category" not in event]
    assert all("builtins.ValueError" in event["exception"] for event in defects)
    wheres = [event.get("where") for event in defects]
    assert wheres == ["Exception in callback int", "Task exception was never retrieved", None, None]
    assert [event["category"] for event in events if "category" in event] == ["UserWarning"]


class TestProcess:
    async def test_a_server_whose_log_nobody_reads_goes_on_and_ends_in_order(self, pipe):
        reader, writer = pipe
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "its_proxy", "serve", "--upstream", NOWHERE, "--port", "0"),
            env=os.environ | {"PYTHONPATH": str(ROOT)}, stderr=writer,
        )  # fmt: skip
        said = b""
        while (announced := re.search(rb" at (http\S+)/v1\n", said)) is None:
            said += await asyncio.to_thread(os.read, reader, 4096)
        async with aiohttp.ClientSession() as http:
            for _ in range(1000):  # some 170 bytes of log each: more than a pipe holds
                async with http.get(f"{announced[1].decode()}/livez") as reply:
                    assert reply.status == 200
        process.send_signal(signal.SIGINT)
        async with asyncio.timeout(30):
            assert await process.wait() == 0
        assert select.select([], [writer], [], 0)[1] == [], "it was full"

    async def test_a_server_without_stderr_serves(self):
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        arguments = ("-m", "its_proxy", "serve", "--upstream", NOWHERE, "--port", str(port))
        process = await asyncio.create_subprocess_exec(
            "sh", "-c", 'exec "$@" 2>&-', "sh", sys.executable, *arguments, env=os.environ | {"PYTHONPATH": str(ROOT)}
        )
        try:
            async with aiohttp.ClientSession() as http, asyncio.timeout(30):
                while True:
                    with suppress(aiohttp.ClientError):
                        async with http.get(f"http://127.0.0.1:{port}/metrics") as reply:
                            text = await reply.text()
                            break
                    await asyncio.sleep(0.05)
        finally:
            process.send_signal(signal.SIGINT)
            assert await process.wait() == 0
        assert "its_proxy_log_lines_dropped_total" in text

    async def test_words_are_for_persons_and_json_for_machines_whatever_stderr_is(self):
        for format_, begins in (("json", "{"), ("text", "2")):
            async with serve_command("--upstream", NOWHERE, ITS_PROXY_LOG_FORMAT=format_) as server:
                out = await server.end(signal.SIGTERM)
            assert out.err.splitlines()[0].startswith(begins)
            assert "\x1b" not in out.err
