"""Shows how far a stage is: a bar on a terminal, a line per finished stage elsewhere."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from time import monotonic
from typing import Any, TypeAlias

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

Advance: TypeAlias = Callable[[int, int], None]
"""Told (done, total)."""


class Stages:
    """`with stages.show("base seen") as advance:` around each stage; `skipped` for one that is there already."""

    def __init__(self, console: Console) -> None:
        self.console = console

    def skipped(self, title: str) -> None:
        self.console.print(f"[dim]{title}: already there[/dim]", highlight=False)

    @contextmanager
    def show(self, title: str) -> Iterator[Advance]:
        started = monotonic()
        columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.percentage:>3.0f}%"))
        is_shown = self.console.file.isatty()
        with Progress(
            *columns, TimeRemainingColumn(), console=self.console, transient=True, disable=not is_shown
        ) as progress:
            task = progress.add_task(title, total=None)
            yield lambda done, total: progress.update(task, completed=done, total=total)
        self.console.print(f"{title}: {monotonic() - started:.0f} s", highlight=False)


def step_callback(advance: Advance) -> Any:
    """A TrainerCallback that reports optimizer steps."""
    from transformers import TrainerCallback

    class StepReport(TrainerCallback):  # type: ignore[misc]
        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            advance(state.global_step, state.max_steps)

    return StepReport()
