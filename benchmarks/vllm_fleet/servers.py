"""Three places where a vLLM server may stand, each with whatever checkpoint it was started with last."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import its_proxy
from tests.real_vllm.server import VllmServer, free_port, start_vllm

DEMO = Path(its_proxy.__file__).parent / "demo"
PLACES = ("s1", "s2", "s3")
START_TIMEOUT_S = 900.0  # three servers that load at once share two cores, and the load goes on meanwhile

# vLLM prints prompts at DEBUG only; at DEBUG throughout it would print every step of the engine too.
_LOGGING = {
    "version": 1,
    "disable_existing_loggers": False,
    "formatters": {"plain": {"format": "%(asctime)s %(levelname)s %(message)s"}},
    "handlers": {"out": {"class": "logging.StreamHandler", "formatter": "plain", "stream": "ext://sys.stdout"}},
    "loggers": {
        "vllm": {"handlers": ["out"], "level": "INFO", "propagate": False},
        "vllm.entrypoints.serve.utils.request_logger": {"level": "DEBUG"},
    },
}

_VARIABLES = {
    # By default every server would bind its threads to the same core.
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "OMP_NUM_THREADS": "1",
    # By default 5 s: on a machine that stands still for seconds, calls are then sent on connections just being closed.
    "VLLM_HTTP_TIMEOUT_KEEP_ALIVE": "60",
}

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Start:
    """One start of a server: where, with which checkpoint, and the log that it wrote from then on."""

    place: str
    checkpoint: str
    log: Path


@dataclass(slots=True)
class Place:
    """One port, and the server there, if any. `starts` tells what has stood there, in order."""

    name: str
    port: int
    folder: Path
    say: Say
    starts: list[Start] = field(default_factory=list)
    server: VllmServer | None = None
    _open: AsyncExitStack = field(default_factory=AsyncExitStack)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"

    async def start(self, checkpoint: str) -> None:
        """Returns once the server answers; its name is that of the pair."""
        await self.stop()
        start = Start(self.name, checkpoint, self.folder / f"{self.name}-{len(self.starts) + 1}-{checkpoint}.log")
        serving = start_vllm(
            DEMO / checkpoint, served_name(checkpoint), "--enable-log-requests",
            # The CPU build dies of a prompt that it reads in two steps under a seed ("does not use offset").
            "--no-enable-chunked-prefill",
            log=start.log, port=self.port, timeout_s=START_TIMEOUT_S, say=lambda line: self.say(f"{self.name}: {line}"),
            env=_VARIABLES | {"VLLM_LOGGING_CONFIG_PATH": str(_logging(self.folder))},
        )  # fmt: skip
        self.starts.append(start)
        self.server = await self._open.enter_async_context(serving)

    async def stop(self) -> None:
        """SIGTERM, and SIGKILL after 15 s; nothing where nothing stands."""
        self.server = None
        await self._open.aclose()

    def kill(self) -> None:
        """SIGKILL to all processes of the server at once."""
        assert self.server is not None
        self.server.kill()


@asynccontextmanager
async def places(folder: Path, names: tuple[str, ...], say: Say) -> AsyncIterator[dict[str, Place]]:
    """Empty places by name; at the end of the block no server is left."""
    folder.mkdir(parents=True, exist_ok=True)
    made = {name: Place(name, free_port(), folder, say) for name in names}
    try:
        yield made
    finally:
        await asyncio.gather(*(place.stop() for place in made.values()))


def served_name(checkpoint: str) -> str:
    """As its-proxy's `served_name: demo@{pair}` says it."""
    return f"demo@{pair_id(checkpoint)[:8]}"


def pair_id(checkpoint: str) -> str:
    pointer = json.loads((DEMO / checkpoint / "config.json").read_text())["its"]
    return str(pointer["pair_id"])


def _logging(folder: Path) -> Path:
    path = folder / "logging.json"
    path.write_text(json.dumps(_LOGGING))
    return path.resolve()
