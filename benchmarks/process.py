"""What one process holds, read from /proc: memory, file descriptors, connections."""

import os
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

_ESTABLISHED = "01"


@dataclass(frozen=True, slots=True)
class Held:
    """`connections` are established TCP sockets, both those of its clients and its own to others."""

    rss_bytes: int
    descriptors: int
    connections: int


def held_by(pid: int) -> Held:
    folder = Path(f"/proc/{pid}")
    links = _links(folder / "fd")
    sockets = {link.removeprefix("socket:[").removesuffix("]") for link in links if link.startswith("socket:[")}
    pages = int((folder / "statm").read_text().split()[1])
    return Held(pages * os.sysconf("SC_PAGE_SIZE"), len(links), len(sockets & _established(folder / "net")))


def _links(folder: Path) -> list[str]:
    links = []
    for entry in folder.iterdir():
        with suppress(FileNotFoundError):  # closed meanwhile
            links.append(os.readlink(entry))
    return links


def _established(folder: Path) -> set[str]:
    """Inodes of all established TCP sockets of the network that the process is in."""
    lines = [line.split() for name in ("tcp", "tcp6") for line in (folder / name).read_text().splitlines()[1:]]
    return {fields[9] for fields in lines if fields[3] == _ESTABLISHED}
