"""The options that the probe commands share, declared once."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from nfcot_model.reasoners import NFCoTReasoner
    from nfcot_model.traces import Run
    from probes.tables import LabelTable

__all__ = [
    "Controls",
    "Draws",
    "Folds",
    "Json",
    "Kind",
    "Label",
    "Labels",
    "Model",
    "Permutations",
    "Positive",
    "ProbePath",
    "RunPath",
    "Seed",
    "Site",
    "listed",
    "reasoner_of",
    "status",
    "table_of",
    "units_progress",
]

RunPath = Annotated[Path, typer.Argument(help="A run folder, from nfcot trace.")]
ProbePath = Annotated[Path, typer.Argument(help="A probe folder, from nfcot probe fit.")]
Label = Annotated[
    str,
    typer.Option(
        help="A label of steps or problems, a column of traces or thoughts, or of --labels;"
        " NAME@J reads step J, NAME@next the next step."
    ),
]
Site = Annotated[
    str,
    typer.Option(help="SPACE@PLACE: u@3, eps@-1, e@mean, mu@step2, h@LAYER@K, HOOK@K or u@all."),
]
Labels = Annotated[
    Path | None, typer.Option("--labels", help="A CSV with trace_id (and k) and label columns.")
]
Kind = Annotated[str, typer.Option(help="auto, binary, multiclass or number.")]
Positive = Annotated[
    str | None, typer.Option(help="One class against the rest: the label becomes binary.")
]
Seed = Annotated[int, typer.Option(min=0, help="Decides split, folds and resamples.")]
Folds = Annotated[int, typer.Option(help="Cross-validation folds of the training groups.")]
Draws = Annotated[int, typer.Option(help="Resamples of groups behind each interval.")]
Permutations = Annotated[int, typer.Option(help="Exchanges of labels behind the p-value.")]
Controls = Annotated[
    bool, typer.Option("--controls/--no-controls", help="Controls beside the probe.")
]
Model = Annotated[
    Path | None, typer.Option(help="The run's checkpoint; default: the folder it was traced from.")
]
Json = Annotated[bool, typer.Option("--json", help="One JSON document on stdout.")]


def listed(option: str, text: str | None) -> tuple[str, ...] | None:
    """Names between commas, each once; commas in brackets belong to a name.

    Raises UserError naming the option when it is given and names nothing.
    """
    from nfcot_model.errors import UserError

    if text is None:
        return None
    parts, depth = [""], 0
    for letter in text:
        depth += (letter in "([") - (letter in ")]")
        if letter == "," and depth == 0:
            parts.append("")
        else:
            parts[-1] += letter
    names = tuple(dict.fromkeys(part.strip() for part in parts if part.strip()))
    if not names:
        raise UserError(f"{option} '{text}': names nothing; leave it out for the default")
    return names


def table_of(labels: Path | None, *runs: Run) -> LabelTable | None:
    """The user's own labels of these runs, if any were given."""
    from probes.tables import read_label_table

    return None if labels is None else read_label_table(labels, runs)


def reasoner_of(run: Run, model: Path | None) -> NFCoTReasoner | None:
    """The model that was named; None lets the controls look for the run's own."""
    from nfcot_model.traces.model_of import model_of

    return None if model is None else model_of(run, model)


@contextmanager
def units_progress(description: str) -> Iterator[Callable[[int, int], None]]:
    """A bar over units of work whose number is known when the work begins."""
    from nfcot_model.terminal import progress

    with ExitStack() as stack:
        bar: list[Callable[..., None]] = []
        last = 0

        def tell(done: int, total: int) -> None:
            nonlocal last
            if not bar:
                bar.append(stack.enter_context(progress(description, total)))
            bar[0](done - last)
            last = done

        yield tell


@contextmanager
def status() -> Iterator[Callable[[str], None]]:
    """A line that says what is done at the moment."""
    from nfcot_model.terminal import console

    with console.status("reading") as line:
        yield lambda name: line.update(name.replace("_", " "))
