"""Finds the manifests of the models that an upstream lists, by each card's own `root`, never by its name.

    found = await discover(await upstream.models(), roots=[Path("/models")], hub=None)
    found["qwen-random"].checkpoint      # or .error, or neither: passed through, and .reason says why

`root` is what the server was started with: a path, opened only inside the operator's own folders, or
`org/name` on the Hub, asked only where the operator allows it. A LoRA has a root of its own and inherits nothing.
"""

import asyncio
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

from its_proxy.checkpoint import Checkpoint, open_checkpoint, read_manifest
from its_proxy.codesign.errors import ItsError
from its_proxy.hub import Hub, NotOnHub, repository_of
from its_proxy.source import Folder, Source

Card: TypeAlias = Mapping[str, Any]
"""A model card of `GET /v1/models`. What it says is the upstream's word, so it is never simply opened."""

MAX_AT_ONCE = 4


@dataclass(frozen=True, slots=True)
class Found:
    """What a model's root holds: a `checkpoint`, or the `error` that refuses it, or neither: passed through.

    With an error that `is_retryable` (the Hub does not answer) nothing is known yet: the model is pending.
    `commit` pins what came from the Hub. `reason` is one line for people.
    """

    reason: str
    checkpoint: Checkpoint | None = None
    error: ItsError | None = None
    commit: str | None = None


@dataclass(frozen=True, slots=True)
class _OnHub:
    repository: str
    revision: str


async def discover(
    cards: Sequence[Card], *, roots: Sequence[Path], hub: Hub | None, known: Mapping[str, Found] | None = None
) -> dict[str, Found]:
    """Every listed model's name -> what was found for it. Errors of one model never hide the others.

    Files are read, and the Hub is asked, in threads. Names in `known` keep what was found before, so passing it
    looks at new cards only.
    """
    listed = {card["id"]: card for card in cards if isinstance(card.get("id"), str)}
    places = await asyncio.to_thread(
        lambda: {name: _place(card.get("root"), roots, hub) for name, card in listed.items()}
    )
    bases = {_ground(places[name]) for name, card in listed.items() if card.get("parent") is None}
    at_once = asyncio.Semaphore(MAX_AT_ONCE)

    async def find(name: str) -> Found:
        if known is not None and name in known:
            return known[name]
        place, parent = places[name], listed[name].get("parent")
        if isinstance(place, str):
            return Found(place)
        if parent is not None and _ground(place) in bases:
            return Found("an adapter that names no root of its own inherits nothing: passed through")
        async with at_once:
            return await asyncio.to_thread(_look, place, hub)

    async with asyncio.TaskGroup() as group:
        tasks = {name: group.create_task(find(name)) for name in listed}
    return {name: task.result() for name, task in tasks.items()}


def _place(root: object, roots: Sequence[Path], hub: Hub | None) -> Path | _OnHub | str:
    """Where a card's root lies, or one line that says why it is not looked at."""
    if not isinstance(root, str) or not root or len(root) > 4096:
        return "the upstream does not say where its weights come from"
    if os.path.isabs(root):
        return _inside(root, roots)
    if (named := repository_of(root)) is None:
        return "its root is a path relative to the upstream's own folder"
    return _OnHub(*named) if hub is not None else "its root is a name on the Hub, which is not asked here"


def _inside(root: str, roots: Sequence[Path]) -> Path | str:
    """The folder, resolved; looked at only if it lies in one of the roots before and after its links are followed."""
    outside = "its root lies outside of the folders that may be opened"
    allowed = [Path(os.path.realpath(folder)) for folder in roots]
    written = Path(os.path.normpath(root))
    if not any(written.is_relative_to(folder) for folder in (*allowed, *(Path(os.path.abspath(r)) for r in roots))):
        return outside
    try:
        folder = written.resolve(strict=True)
    except (OSError, ValueError, RuntimeError):
        return "its root is not there on this machine"
    if not any(folder.is_relative_to(place) for place in allowed):
        return outside
    return folder if folder.is_dir() else "its root is not a folder"


def _ground(place: Path | _OnHub | str) -> Path | str:
    """What two cards share that name the same weights, at whatever revision."""
    return place.repository if isinstance(place, _OnHub) else place


def _look(place: Path | _OnHub, hub: Hub | None) -> Found:
    """Opens what is there. Blocks."""
    commit = None
    try:
        if isinstance(place, Path):
            return _opened(Folder(place), None)
        assert hub is not None  # else no place is on it
        snapshot = hub.snapshot(place.repository, place.revision)
        if snapshot is None:
            return Found(f"no manifest in {place.repository}: passed through")
        commit = snapshot.commit
        return _opened(snapshot, commit)
    except NotOnHub as error:
        return Found(f"{error.message}: passed through")
    except ItsError as error:
        return Found(str(error), error=error, commit=commit)


def _opened(source: Source, commit: str | None) -> Found:
    if read_manifest(source) is None:
        return Found(f"no manifest in {source}: passed through", commit=commit)
    return Found(f"its manifest is in {source}", checkpoint=open_checkpoint(source), commit=commit)
