"""The run's metrics as JSON lines, one a step, which a resumed run goes on with and never repeats."""

import json
import os
from collections.abc import Sequence
from importlib.util import find_spec
from itertools import accumulate
from pathlib import Path
from time import time
from typing import Any

from its_proxy.codesign.errors import ConfigError
from its_proxy.seal import replace_file

FILE = "metrics.jsonl"
PACKAGES = {"trackio": "trackio", "tensorboard": "tensorboard", "wandb": "wandb"}


def check_loggers(names: tuple[str, ...]) -> None:
    """Raises ConfigError for a logger whose package is not installed, before minutes of work."""
    for name in names:
        if find_spec(PACKAGES[name]) is None:
            raise ConfigError(f"{name} is not installed", hint=f"pip install {PACKAGES[name]}, or leave log_to out")


def keep_until(path: Path, step: int) -> None:
    """Drops the lines after `step`, which a run resumed there writes anew, and a line that was cut by a crash."""
    if not path.exists():
        return
    kept = [line for line in path.read_bytes().splitlines(keepends=True) if _step_of(line) <= step]
    replace_file(path, b"".join(kept))


def _step_of(line: bytes) -> float:
    try:
        return float(json.loads(line)["step"]) if line.endswith(b"\n") else float("inf")
    except (ValueError, KeyError, TypeError):
        return float("inf")


def json_lines(path: Path, tokens: Sequence[int], steps_per_epoch: float) -> Any:
    """A TrainerCallback that appends what the trainer logs; `tokens` were read by the end of each step."""
    from transformers import TrainerCallback

    class JsonLines(TrainerCallback):  # type: ignore[misc]
        def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any], **kwargs: Any) -> None:
            if not state.is_world_process_zero or "loss" not in logs:
                return
            ours = {
                "step": state.global_step,
                # The trainer knows one long epoch, and counts tokens from where it was resumed.
                "epoch": round(state.global_step / steps_per_epoch, 4),
                "num_tokens": tokens[state.global_step - 1],
                "time": round(time(), 3),
            }
            with path.open("a", encoding="utf-8") as file:
                file.write(json.dumps({**logs, **ours}, sort_keys=True) + "\n")

    return JsonLines()


def tokens_by_step(lengths: Sequence[int], order: Sequence[int], rows_per_step: int) -> list[int]:
    """How many tokens have been read by the end of each step."""
    steps = range(0, len(order), rows_per_step)
    return list(accumulate(sum(lengths[row] for row in order[first : first + rows_per_step]) for first in steps))


def log_into(folder: Path) -> None:
    """TensorBoard's files belong beside the run's own."""
    os.environ["TENSORBOARD_LOGGING_DIR"] = str(folder / "tensorboard")
