"""What is measured, how each is started, and what it must be sent: nobody in between, nginx, its-proxy.

Those that others have made are in peers.py.
"""

import json
import os
import shutil
import sys
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias

from benchmarks.speed.processes import TARGET_CORE, free_port, listening
from tests.serving import manifest, write_checkpoint

CHECKOUT = Path(__file__).resolve().parents[2]
Kind: TypeAlias = Literal["passed", "rewritten", "vote"]


class Unavailable(Exception):
    """This machine cannot have it: says why."""


@dataclass(frozen=True, slots=True)
class Process:
    """Where it listens; `pid` None where there is none: the upstream itself is asked."""

    port: int
    pid: int | None


Start: TypeAlias = Callable[[Path, int], AbstractAsyncContextManager[Process]]
"""(folder for its files, the upstream's port); raises Unavailable."""


@dataclass(frozen=True, slots=True)
class Target:
    """`asks`: what it does at all, and the fields of a body that make it do so; `vote_calls`: how many upstream calls
    its vote of 8 makes; `prepare`: what is not timed with its start, and raises Unavailable, too. `rounds`, `seconds`:
    at most and at least, for one that is slow; `most`: connections at a time that it is measured with."""

    name: str
    start: Start
    asks: Mapping[Kind, Mapping[str, Any]]
    vote_calls: int = 8
    prepare: Callable[[], object] | None = None
    header: str = ""
    rounds: int = 100
    seconds: float = 0.0
    most: int = 100_000

    def request(self, port: int, kind: Kind, fields: Mapping[str, Any]) -> bytes:
        """A whole HTTP request."""
        data = json.dumps({"model": "model", **fields, **self.asks[kind]}, separators=(",", ":")).encode()
        lines = ["POST /v1/chat/completions HTTP/1.1", f"Host: 127.0.0.1:{port}", "Content-Type: application/json",
                 f"Content-Length: {len(data)}", *([self.header] if self.header else [])]  # fmt: skip
        return "\r\n".join([*lines, "", ""]).encode() + data


@asynccontextmanager
async def _direct(folder: Path, upstream_port: int) -> AsyncIterator[Process]:
    yield Process(upstream_port, None)


_NGINX = """
worker_processes 1;
daemon off;
pid {folder}/nginx.pid;
error_log {folder}/nginx-error.log crit;
events {{ worker_connections 16384; }}
http {{
    access_log off;
    client_body_temp_path {folder}; proxy_temp_path {folder};
    fastcgi_temp_path {folder}; uwsgi_temp_path {folder}; scgi_temp_path {folder};
    client_max_body_size 8m; client_body_buffer_size 2m;
    keepalive_requests 100000000;
    upstream model {{ server 127.0.0.1:{upstream}; keepalive 4096; keepalive_requests 100000000; }}
    server {{
        listen 127.0.0.1:{port} backlog=4096;
        location / {{
            proxy_pass http://model;
            proxy_http_version 1.1;
            proxy_set_header Connection "";
            proxy_buffering off;
        }}
    }}
}}
"""


@asynccontextmanager
async def _nginx(folder: Path, upstream_port: int) -> AsyncIterator[Process]:
    if (program := shutil.which("nginx", path=f"{os.environ.get('PATH', '')}:/usr/sbin")) is None:
        raise Unavailable("nginx is not installed (Debian: apt-get install nginx-light)")
    port, config = free_port(), folder / "nginx.conf"
    config.write_text(_NGINX.format(folder=folder, upstream=upstream_port, port=port))
    command = [program, "-p", str(folder), "-c", str(config)]
    async with listening(command, folder / "nginx.log", TARGET_CORE, port) as pid:
        yield Process(port, pid)


@asynccontextmanager
async def _its_proxy(folder: Path, upstream_port: int) -> AsyncIterator[Process]:
    """Its models: `model` is rewritten, and voted on by 8 where that is asked for; `passed` has no manifest."""
    port, config = free_port(), folder / "its.yaml"
    checkpoint = write_checkpoint(folder / "checkpoint", manifest("random", probes=[]))
    settings = {
        "upstreams": {"gpu": {"url": f"http://127.0.0.1:{upstream_port}/v1", "max_connections": 8192}},
        "models": {
            "model": {"upstream": "gpu", "checkpoint": str(checkpoint)},
            "passed": {"upstream": "gpu", "served_name": "model"},
        },
        "limits": {"candidates": 8192, "queue": 4096},
    }
    config.write_text(json.dumps(settings))
    command = [sys.executable, "-m", "its_proxy", "serve", "--config", str(config), "--port", str(port)]
    environ = {"PYTHONPATH": os.pathsep.join(str(CHECKOUT / part) for part in (".", "training", "plugins")),
               "ITS_PROXY_LAME_DUCK_S": "0"}  # fmt: skip
    async with listening(command, folder / "its-proxy.log", TARGET_CORE, port, **environ) as pid:
        yield Process(port, pid)


PLAINLY: Mapping[Kind, Mapping[str, Any]] = {"passed": {}, "rewritten": {}}
"""Who knows no strategies passes on what its-proxy rewrites."""
DIRECT = Target("direct", _direct, PLAINLY)
NGINX = Target("nginx", _nginx, PLAINLY)
ITS_PROXY = Target(
    "its-proxy",
    _its_proxy,
    {
        "passed": {"model": "passed"},
        "rewritten": {"its": {"vote": "off"}},
        # Every candidate is heard: what is measured is a vote of eight, not the rule that ends it early.
        "vote": {"its": {"n": 8, "vote": "always", "stop": "none"}},
    },
)
