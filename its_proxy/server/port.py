"""The sockets that a server listens on."""

import asyncio
import errno
import os
import socket

from its_proxy.codesign.errors import ConfigError
from its_proxy.settings import Settings

BACKLOG = 1024
SEND_BUFFER_BYTES = 64 * 1024
"""What the kernel holds for one reader, who could have megabytes of it else; it takes twice that for its own use."""


async def bind(host: str, port: int, *, is_shared: bool) -> list[socket.socket]:
    """A listening socket for each address of `host`. Raises OSError."""
    loop = asyncio.get_running_loop()
    found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    sockets: list[socket.socket] = []
    missing: OSError | None = None
    for family, address in dict.fromkeys((family, address) for family, _, _, _, address in found):
        try:
            sockets.append(socket.create_server(address, family=family, backlog=BACKLOG, reuse_port=is_shared))
        except OSError as error:
            if error.errno not in (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT):
                for opened in sockets:
                    opened.close()
                raise
            missing = error  # such as ::1 of localhost where there is no IPv6
    if missing is not None and not sockets:
        raise missing
    for opened in sockets:
        opened.setblocking(False)
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER_BYTES)  # what it accepts inherits this
    return sockets


def reserved(settings: Settings) -> socket.socket:
    """A socket that has the port, so that it is the same for all, and nobody else's. It takes no clients."""
    try:
        family, _, _, _, address = socket.getaddrinfo(settings.host, settings.port, type=socket.SOCK_STREAM)[0]
        if not settings.reuse_port:
            with socket.create_server(address, family=family) as free:
                address = free.getsockname()
        place = socket.socket(family)
        place.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        place.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        place.bind(address)
    except OSError as error:
        raise cannot_listen(settings, error) from None
    return place


def cannot_listen(settings: Settings, error: OSError) -> ConfigError:
    is_taken = error.errno == errno.EADDRINUSE
    reason = os.strerror(error.errno).lower() if error.errno and error.errno > 0 else error.strerror or error
    hint = "another program has the port; choose one with --port" if is_taken else "choose another --host or --port"
    return ConfigError(f"cannot listen on {settings.host}:{settings.port}: {reason}", hint=hint)
