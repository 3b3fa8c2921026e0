"""Where an upstream's address can lead: to a closed port, an unknown name, an expired certificate, a black hole."""

import asyncio
import socket
import ssl
import subprocess
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path

N_FILLING = 8


@asynccontextmanager
async def refused(folder: Path) -> AsyncIterator[str]:
    """A port that is bound, so that nobody else gets it, and not listened at."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{bound.getsockname()[1]}/v1"


@asynccontextmanager
async def unknown_name(folder: Path) -> AsyncIterator[str]:
    yield "http://gpu.invalid/v1"  # reserved for never existing


@asynccontextmanager
async def black_hole(folder: Path) -> AsyncIterator[str]:
    """A full backlog: the kernel drops whoever else knocks, without a word."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen(0)
        fillers = [socket.socket() for _ in range(N_FILLING)]
        for filler in fillers:
            filler.setblocking(False)
            filler.connect_ex(listening.getsockname())
        try:
            yield f"http://127.0.0.1:{listening.getsockname()[1]}/v1"
        finally:
            for filler in fillers:
                filler.close()


@asynccontextmanager
async def expired(folder: Path) -> AsyncIterator[str]:
    """A TLS server whose certificate has ended, and was nobody's but its own."""
    key, request, certificate = folder / "key.pem", folder / "request.pem", folder / "certificate.pem"
    for command in (
        f"req -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -subj /CN=localhost -keyout {key} -out {request}",
        f"x509 -req -in {request} -signkey {key} -days -1 -out {certificate}",
    ):
        subprocess.run(["openssl", *command.split()], check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)

    async def never(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        raise AssertionError("a connection was trusted")

    server = await asyncio.start_server(never, "127.0.0.1", 0, ssl=context)
    try:
        yield f"https://localhost:{server.sockets[0].getsockname()[1]}/v1"
    finally:
        server.close()


PLACES: dict[str, Callable[[Path], AbstractAsyncContextManager[str]]] = {
    "connect-refused": refused,
    "dns-nxdomain": unknown_name,
    "tls-expired": expired,
    "connect-blackhole": black_hole,
}
