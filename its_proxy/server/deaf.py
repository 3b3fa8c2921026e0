"""Makes a listening socket deaf to new clients without refusing any, for the moment before it is closed.

Where several servers share a port (`reuse_port`), the kernel gives each client to one of them, and closing that one's
socket would reset whoever was connecting just then. A filter that drops the first packet of a connection instead makes
the client's kernel send it again a second later: by then the socket is closed, and another server gets it.
"""

import ctypes
import socket
import struct
import sys

_ATTACH_FILTER = 26
_FLAGS_AT, _SYN, _SYN_OR_ACK = 13, 0x02, 0x12
_LOAD_BYTE, _AND, _JUMP_IF_EQUAL, _RETURN = 0x30, 0x54, 0x15, 0x06
# (operation, where to jump if so, and if not, its number) over the packet from its TCP header on.
_DROP_FIRST_PACKETS = (
    (_LOAD_BYTE, 0, 0, _FLAGS_AT),
    (_AND, 0, 0, _SYN_OR_ACK),
    (_JUMP_IF_EQUAL, 0, 1, _SYN),
    (_RETURN, 0, 0, 0),
    (_RETURN, 0, 0, 0xFFFFFFFF),
)


def deafen(listening: socket.socket) -> bool:
    """Whether it is deaf now; elsewhere than on Linux it never is."""
    if sys.platform != "linux":
        return False
    program = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *step) for step in _DROP_FIRST_PACKETS))
    described = struct.pack("HP", len(_DROP_FIRST_PACKETS), ctypes.addressof(program))
    try:
        listening.setsockopt(socket.SOL_SOCKET, _ATTACH_FILTER, described)
    except OSError:
        return False  # a sandbox without socket filters
    return True
