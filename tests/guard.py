"""The steps that one request takes (see `counted.py`), and the limits that they are held to.

python -m tests.guard           # measures, and says what each request takes, as JSON
python -m tests.guard --update  # and writes the limits anew
"""

import asyncio
import json
import os
import sys
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from its_proxy.server.logs import writing_logs
from tests.counted import counting
from tests.scripted import Say
from tests.serving import Server, manifest, serving_script, write_checkpoint

ROOT = Path(__file__).parent.parent
FILE = Path(__file__).with_name("counted_work.json")
ROOM = 1.10
N_TRIES = 9
# The rest is too small to look at one by one.
N_FUNCTIONS = 40
# These run when the clock says so, or set a timer where none runs just now: another number on a busy machine.
BY_THE_CLOCK = (
    *(f"upstreams/wire.py: {name}" for name in ("Waits.add", "Waits._look", "WireTransport._sweep_idle")),
    *(f"deadline.py: {name}" for name in ("_Watch.begin", "_Watch._look")),
)
SEVENTEEN_EVENTS = " ".join(f"word{n}" for n in range(14))
REQUESTS: Mapping[str, dict[str, Any]] = {
    "a rewritten chat": {"its": {"vote": "off"}},
    "a vote of 8": {"its": {"n": 8, "vote": "always", "stop": "none"}},
    "a relayed stream of 17 events": {"its": {"vote": "off"}, "stream": True},
    "a voted stream": {"its": {"n": 8, "vote": "always", "stop": "none"}, "stream": True},
}


@dataclass(frozen=True)
class Limit:
    """`functions`: what each of the costliest took when the limit was written."""

    steps: int
    functions: Mapping[str, int]

    def grown(self, steps: Counter[str], n: int = 8) -> list[str]:
        """The functions that take most more than they did."""
        least = min(self.functions.values())  # what is not listed took no more
        more = Counter({name: count - self.functions.get(name, least) for name, count in steps.items()})
        return [
            f"{name}: {steps[name]}, was {self.functions.get(name, f'at most {least}')}"
            for name, by in more.most_common(n)
            if by > 0
        ]


async def measured() -> dict[str, Counter[str]]:
    """Measured in a process of its own: nothing that another test has left counts."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tests.guard"), cwd=ROOT, env=os.environ | {"PYTHONPATH": str(ROOT)},
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    out, err = await process.communicate()
    assert process.returncode == 0, err.decode()
    return {name: Counter(steps) for name, steps in json.loads(out).items()}


async def measure() -> dict[str, Counter[str]]:
    """The least that each of the requests took of some tries: what else happens meanwhile can only add to it."""
    with TemporaryDirectory() as folder:
        checkpoint = write_checkpoint(Path(folder) / "model", manifest("random"))
        script = Say(f"{SEVENTEEN_EVENTS} \\boxed{{7}}")
        with writing_logs("info", "json"):
            async with serving_script(script, checkpoint) as (server, _):
                return {name: await _least(server, fields) for name, fields in REQUESTS.items()}


async def _least(server: Server, fields: dict[str, Any]) -> Counter[str]:
    tried = []
    for _ in range(1 + N_TRIES):
        with counting() as steps:
            reply = await server.ask(**fields)
        assert reply.status == 200
        tried.append(Counter({name: count for name, count in steps.items() if name not in BY_THE_CLOCK}))
    return min(tried[1:], key=Counter.total)  # the first one also fills what is remembered


def read_limits() -> dict[str, Limit]:
    return {name: Limit(**fields) for name, fields in json.loads(FILE.read_text()).items()}


def write_limits(measured: Mapping[str, Counter[str]]) -> None:
    limits = {
        name: {"steps": round(ROOM * steps.total()), "functions": dict(steps.most_common(N_FUNCTIONS))}
        for name, steps in measured.items()
    }
    FILE.write_text(json.dumps(limits, indent=1, sort_keys=True) + "\n")


if __name__ == "__main__":
    taken = asyncio.run(measure())
    if "--update" in sys.argv:
        write_limits(taken)
        sys.stdout.writelines(f"{name}: {steps.total()} steps\n" for name, steps in taken.items())
    else:
        json.dump(taken, sys.stdout)
