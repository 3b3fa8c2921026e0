"""Keeps a catalog true while it serves: its configured targets, and the models that nobody configured."""

import asyncio

from its_proxy.server.catalog import Catalog
from its_proxy.watch import OnChange, watch_targets


async def watch(catalog: Catalog, on_change: OnChange) -> None:
    """Runs until it is cancelled, or until nothing can change any more."""
    async with asyncio.TaskGroup() as group:
        group.create_task(watch_targets(catalog.configured_targets(), on_change))
        if catalog.open_upstream is not None:
            group.create_task(catalog.open_upstream.run(on_change))
