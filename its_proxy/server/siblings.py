"""The metrics of all workers from whichever of them is asked: each tells the others its own, on a Unix socket."""

import asyncio
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import orjson
from prometheus_client import CollectorRegistry, Metric, generate_latest
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from its_proxy.server.workers import Worker

TELLING_S = 1.0
"""For the others; one that takes longer is left out."""
_Family = tuple[str, str, str, list[tuple[str, dict[str, str], float]]]


class Siblings:
    """Each series has the label `worker`: one that is started anew begins at 0 without confusing the others' sums."""

    def __init__(self, worker: Worker, registry: CollectorRegistry) -> None:
        self._worker = worker
        self._registry = registry
        self._server: asyncio.Server | None = None

    async def start(self) -> None:
        """From now on the others, and the parent, see that it serves."""
        self._worker.socket.unlink(missing_ok=True)
        self._server = await asyncio.start_unix_server(self._tell, self._worker.socket)

    async def stop(self) -> None:
        if self._server is not None:
            self._server.close()
            self._worker.socket.unlink(missing_ok=True)

    async def exposition(self) -> bytes:
        numbers = sorted(int(path.stem) for path in self._worker.folder.glob("*.sock"))
        told = await asyncio.gather(*map(self._told_by, numbers))
        merged = CollectorRegistry(auto_describe=False)
        merged.register(_Merged({number: one for number, one in zip(numbers, told, strict=True) if one is not None}))
        return generate_latest(merged)

    async def _tell(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            writer.write(orjson.dumps(list(_families(self._registry))))
            await writer.drain()
        writer.close()

    async def _told_by(self, number: int) -> list[_Family] | None:
        if number == self._worker.number:
            return list(_families(self._registry))
        try:
            async with asyncio.timeout(TELLING_S):
                reader, writer = await asyncio.open_unix_connection(self._worker.folder / f"{number}.sock")
                try:
                    told: list[_Family] = orjson.loads(await reader.read(-1))
                finally:
                    writer.close()
                return told
        except (OSError, TimeoutError, orjson.JSONDecodeError):
            return None  # it is just ending, or starting


class _Merged(Collector):
    def __init__(self, told: dict[int, list[_Family]]) -> None:
        self._told = told

    def collect(self) -> Iterator[Metric]:
        families: dict[str, Metric] = {}
        for number, told in self._told.items():
            for name, says, kind, samples in told:
                family = families.setdefault(name, Metric(name, says, kind))
                for sample, labels, value in samples:
                    family.add_sample(sample, {**labels, "worker": str(number)}, value)
        yield from families.values()
        yield GaugeMetricFamily("its_proxy_workers", "Workers that these figures are of", value=len(self._told))


def _families(registry: CollectorRegistry) -> Iterator[Any]:
    for family in registry.collect():
        samples = [(sample.name, sample.labels, sample.value) for sample in family.samples]
        yield family.name, family.documentation, family.type, samples
