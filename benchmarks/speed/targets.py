"""What is measured: nobody, nginx, its-proxy. Each begins with the upstream's port and yields its own."""

import json
import os
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import aiohttp

from benchmarks.speed.processes import TARGET_CORE, free_port, running
from tests.serving import manifest, write_checkpoint

CHECKOUT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True, slots=True)
class Target:
    """One running target; `pid` None where there is none: the upstream itself is asked."""

    name: str
    port: int
    pid: int | None


Start: TypeAlias = Callable[[Path, int], AbstractAsyncContextManager[Target]]
"""(folder for its files, the upstream's port)"""


@asynccontextmanager
async def direct(folder: Path, upstream_port: int) -> AsyncIterator[Target]:
    yield Target("direct", upstream_port, None)


NGINX = """
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
async def nginx(folder: Path, upstream_port: int) -> AsyncIterator[Target]:
    port, config = free_port(), folder / "nginx.conf"
    config.write_text(NGINX.format(folder=folder, upstream=upstream_port, port=port))
    command = ["nginx", "-p", str(folder), "-c", str(config)]
    async with running(command, folder / "nginx.log", TARGET_CORE, port) as pid:
        yield Target("nginx", port, pid)


@asynccontextmanager
async def its_proxy(folder: Path, upstream_port: int) -> AsyncIterator[Target]:
    """Its models: `model` is rewritten and voted on by 8 where that is asked for, `passed` has no manifest."""
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
    async with running(command, folder / "its-proxy.log", TARGET_CORE, port, **environ) as pid:
        await _until_served(port)
        yield Target("its-proxy", port, pid)


async def _until_served(port: int) -> None:
    async with aiohttp.ClientSession() as http:
        while True:
            async with http.get(f"http://127.0.0.1:{port}/v1/models") as reply:
                cards = (await reply.json())["data"]
            if all(card["its"]["handshake"] in ("verified", "unverified", "none") for card in cards):
                return


TARGETS: dict[str, Start] = {"direct": direct, "nginx": nginx, "its-proxy": its_proxy}
