"""Asks a running server many items, and appends every candidate to one file as the items finish."""

import asyncio
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from hashlib import blake2b
from io import FileIO
from pathlib import Path
from typing import Any

import aiohttp
from pydantic import ValidationError
from rich.console import Console
from rich.progress import MofNCompleteColumn, Progress

from its_proxy.candidates import Item, Row, read_candidates
from its_proxy.codesign.errors import (
    BadPayload,
    ConfigError,
    ItsError,
    UpstreamBusy,
    UpstreamRejected,
    UpstreamTimeout,
    UpstreamUnreachable,
)
from its_proxy.protocol.client import advice, unanswered
from its_proxy.voting.answers import AnswerKind

N_TRIES = 5
MAX_WAIT_S = 30.0
TIMEOUT = aiohttp.ClientTimeout(total=900, sock_connect=10)


async def collect(
    base_url: str,
    model: str,
    items: Sequence[Item],
    out: Path,
    *,
    n: int = 8,
    strategy: str | None = None,
    force: bool = False,
    greedy: bool = True,
    concurrency: int = 2,
    key: str | None = None,
    seed: int = 0,
    answer: AnswerKind | None = None,
    extra: Mapping[str, Any] | None = None,
) -> int:
    """Asks the items that `out` does not hold yet; returns how many these were.

    `base_url` ends in `/v1`; `strategy` with `force` asks otherwise than recorded, `answer` has answers read
    otherwise; `extra` are further keys of the vote's `its`. Interrupted, it loses at most the items in flight, and
    the next run goes on. Raises ConfigError where `out` holds rows asked in another way or of another pair, and
    UpstreamError; a busy server is asked again.
    """
    way: dict[str, Any] = {"strategy": strategy} if strategy is not None else {}
    if force:
        way["force"] = True
    if answer is not None:
        way["answer"] = answer
    its = {"candidates": True, "vote": "always", "stop": "none", "n": n, **way, **(extra or {})}
    greedy_its = {"candidates": True, "vote": "off", "n": 1, "sampling": "client", **way} if greedy else None
    asked = {"its": its, "greedy_its": greedy_its, "seed": seed}
    rows = _resumed(out, model, asked, {item.id: item for item in items})
    done = {row.id for row in rows}
    pair_ids = {row.pair_id for row in rows if row.pair_id}
    waiting = [item for item in items if item.id not in done]
    headers = {"authorization": f"Bearer {key}"} if key is not None else {}
    async with aiohttp.ClientSession(headers=headers, timeout=TIMEOUT) as session:
        server = _Server(session, f"{base_url.rstrip('/')}/chat/completions", model, asked)
        with _appending(out) as file, _progress() as progress:
            bar = progress.add_task(model, total=len(items), completed=len(items) - len(waiting))

            def keep(row: Row) -> None:
                if row.pair_id and len(pair_ids | {row.pair_id}) > 1:
                    raise ConfigError(f"{out} holds rows of pair {min(pair_ids)[:8]}, {model} is now {row.pair_id[:8]}")
                pair_ids.update({row.pair_id} if row.pair_id else ())
                # One write a row: every line is whole, but for a last one cut by a crash.
                file.write(row.model_dump_json().encode() + b"\n")
                progress.advance(bar)

            await _ask_all(server, iter(waiting), keep, concurrency)
    return len(waiting)


def _appending(out: Path) -> FileIO:
    try:
        return out.open("ab", buffering=0)
    except OSError as error:
        raise ConfigError(f"{out}: {error.strerror}") from None


def _progress() -> Progress:
    console = Console(stderr=True)
    columns = (*Progress.get_default_columns(), MofNCompleteColumn())
    return Progress(*columns, console=console, disable=not sys.stderr.isatty())


async def _ask_all(server: "_Server", waiting: Iterator[Item], keep: Callable[[Row], None], concurrency: int) -> None:
    async def work() -> None:
        for item in waiting:
            keep(await server.row(item))

    try:
        async with asyncio.TaskGroup() as group:
            for _ in range(concurrency):
                group.create_task(work())
    except* ItsError as errors:
        first = errors.exceptions[0]
    else:
        return
    raise first


def _resumed(out: Path, model: str, asked: Mapping[str, Any], items: Mapping[str, Item]) -> list[Row]:
    """The rows that `out` holds, its cut last line removed. Raises ConfigError for rows of another kind."""
    if not out.exists():
        return []
    rows = read_candidates(out)
    other = "choose another file, or remove this one"
    for row in rows:
        if row.model != model or row.asked != asked:
            raise ConfigError(f"{out} holds rows of {row.model}, asked in another way", hint=other)
        item = items.get(row.id, row)
        if (row.query, row.gold) != (item.query, item.gold):
            raise ConfigError(f"{out}: item {row.id} has another query or gold answer there", hint=other)
    content = out.read_bytes()
    if content and not content.endswith(b"\n"):
        is_last_whole = len(rows) == sum(bool(line.strip()) for line in content.split(b"\n"))
        with out.open("r+b") as file:
            file.truncate(len(content) if is_last_whole else content.rfind(b"\n") + 1)
            file.seek(0, os.SEEK_END)
            file.write(b"\n" if is_last_whole else b"")
    return rows


@dataclass(frozen=True, slots=True)
class _Server:
    """One model behind one address, asked one way; `asked` is stored in every row."""

    session: aiohttp.ClientSession
    url: str
    model: str
    asked: Mapping[str, Any]

    async def row(self, item: Item) -> Row:
        """All candidates of an item and its greedy reply."""
        its = await self._its(item, {"its": self.asked["its"]})
        greedy = None
        if self.asked["greedy_its"] is not None:
            greedy = await self._its(item, {"temperature": 0, "its": self.asked["greedy_its"]})
        try:
            return Row.model_validate(
                {
                    **item.model_dump(),
                    "model": self.model,
                    "strategy": its.get("strategy"),
                    "pair_id": its.get("pair_id"),
                    "date": datetime.now(UTC).isoformat(timespec="seconds"),
                    "forced": its.get("forced", False),
                    "temperature": (its.get("sampling") or {}).get("temperature"),
                    "asked": self.asked,
                    "candidates": its["candidates"],
                    "greedy": greedy["candidates"][0] if greedy is not None else None,
                }
            )
        except ValidationError as error:
            raise BadPayload(f"item {item.id}: the reply's candidates are not as documented: {error}") from None

    async def _its(self, item: Item, fields: Mapping[str, Any]) -> dict[str, Any]:
        """The `its` object of one reply."""
        body = {
            "model": self.model,
            "messages": [{"role": "user", "content": item.query}],
            "seed": _seed(self.asked["seed"], item.id),
            **fields,
        }
        reply = await self._post(body)
        its = reply.get("its")
        if not isinstance(its, dict) or not its.get("candidates"):
            raise BadPayload(
                f"item {item.id}: the reply holds no candidates", hint="is this its-proxy, and may the key?"
            )
        return its

    async def _post(self, body: Mapping[str, Any]) -> dict[str, Any]:
        for n_left in reversed(range(N_TRIES)):
            try:
                async with self.session.post(self.url, json=body, allow_redirects=False) as response:
                    if response.status == 200:
                        return await _object(response)
                    if response.status not in (429, 503) or n_left == 0:
                        raise _refusal(self.url, response.status, await _object(response))
                    # Twice as long each time: with many items in flight the server stays busy for a while.
                    wait_s = min(MAX_WAIT_S, _retry_after_s(response) * 2 ** (N_TRIES - 1 - n_left))
            except TimeoutError:
                raise UpstreamTimeout(f"no reply from {self.url}") from None
            except (aiohttp.ClientConnectorError, aiohttp.InvalidURL, aiohttp.NonHttpUrlClientError):
                raise unanswered(self.url) from None
            except aiohttp.ClientError as error:
                raise UpstreamUnreachable(f"{self.url}: {error}") from None
            await asyncio.sleep(wait_s)
        raise AssertionError("the last try returns or raises")


def _seed(seed: int, item_id: str) -> int:
    """31 bits that depend on the item alone: its place in the file and what ran before do not matter."""
    return int.from_bytes(blake2b(f"{seed}:{item_id}".encode(), digest_size=4).digest()) >> 1


async def _object(response: aiohttp.ClientResponse) -> dict[str, Any]:
    try:
        value = await response.json(content_type=None)
    except ValueError:
        value = None
    return value if isinstance(value, dict) else {}


def _refusal(url: str, status: int, reply: Mapping[str, Any]) -> ItsError:
    error = reply.get("error")
    message = error.get("message") if isinstance(error, dict) else None
    said = f"the server answered {status}: {message or 'without a reason'}"
    if status in (429, 503):
        return UpstreamBusy(said, status=status, hint="a lower --concurrency asks less at a time; the file is kept")
    return UpstreamRejected(said, status=status, hint=advice(url, status))


def _retry_after_s(response: aiohttp.ClientResponse) -> float:
    try:
        return min(max(0.0, float(response.headers["Retry-After"])), MAX_WAIT_S)
    except (KeyError, ValueError):
        return 1.0
