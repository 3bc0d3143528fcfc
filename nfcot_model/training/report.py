"""Training progress on a terminal: bar, losses, rate and time left."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bar

from nfcot_model.training.loop import Progress

__all__ = ["progress_report"]


@contextmanager
def progress_report(console: Console, enabled: bool) -> Iterator[Callable[[Progress], None] | None]:
    """A callback for `train` that draws one bar per stage and prints validations above it."""
    if not enabled:
        yield None
        return
    bar = Bar(
        TextColumn("{task.description:>7}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[figures]}"),
        TimeRemainingColumn(),
        console=console,
    )
    tasks: dict[str, object] = {}

    def report(progress: Progress) -> None:
        if not bar.live.is_started:
            bar.start()
        if progress.stage not in tasks:
            tasks[progress.stage] = bar.add_task(progress.stage, total=progress.steps, figures="")
        shown = {
            k: v for k, v in progress.metrics.items() if k in ("loss", "nll", "answer", "reward")
        }
        figures = " ".join(f"{k} {v:.3f}" for k, v in shown.items())
        bar.update(
            tasks[progress.stage],  # type: ignore[arg-type]
            completed=progress.step,
            figures=f"{figures} {progress.steps_per_second:.2f}/s",
        )
        validation = {k: v for k, v in progress.metrics.items() if k.startswith("val_")}
        if validation:
            text = " ".join(f"{k.removeprefix('val_')} {v:.3f}" for k, v in validation.items())
            console.print(f"{progress.stage} {progress.step}: {text}", highlight=False)

    # From the first step on: what is refused before has no empty bar above it.
    try:
        yield report
    finally:
        if bar.live.is_started:
            bar.stop()
