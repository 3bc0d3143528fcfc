"""`nfcot probe`: where a label can be read, by which probe, and how much of it is the prompt's."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from probes.options import (
    Controls,
    Draws,
    Folds,
    Json,
    Kind,
    Label,
    Labels,
    Model,
    Permutations,
    Positive,
    ProbePath,
    RunPath,
    Seed,
    Site,
    listed,
    reasoner_of,
    status,
    table_of,
    units_progress,
)
from probes.transfer_cli import report, transfer

if TYPE_CHECKING:
    from probes.fit import Options, ProbeResult

app = typer.Typer(
    help="Sweep sites, fit, test and apply probes on thoughts, with controls.",
    no_args_is_help=True,
    add_completion=False,
)
app.command()(transfer)
app.command()(report)


@app.command()
def sweep(
    run: RunPath,
    label: Label,
    sites: Annotated[
        str | None,
        typer.Option(metavar="A,B", help="Sites (u@3) or spaces (u, h, h@2, a hook); default all."),
    ] = None,
    places: Annotated[
        str | None,
        typer.Option(metavar="A,B", help="Where each space is read; default: every thought."),
    ] = None,
    estimators: Annotated[
        str | None,
        typer.Option(
            metavar="A,B",
            help="logistic, lda, mass_mean, mass_mean_whitened, ridge, or a scikit-learn class.",
        ),
    ] = None,
    labels: Labels = None,
    kind: Kind = "auto",
    positive: Positive = None,
    seed: Seed = 0,
    folds: Folds = 5,
    draws: Draws = 1000,
    permutations: Annotated[
        int, typer.Option(min=0, help="Exchanges of labels behind the null of the best site.")
    ] = 99,
    controls: Controls = True,
    model: Model = None,
    device: Annotated[str, typer.Option(help="Where probes are fitted: cpu or cuda.")] = "cpu",
    out: Annotated[
        Path | None,
        typer.Option("-o", "--out", help="Folder of the sweep; default: beside the run, probes/."),
    ] = None,
    json: Json = False,
) -> None:
    """Where can a label be read? Chosen out of fold; the best site is tested once, on new groups.

    Repeat the command to resume after an interruption.

    Example: nfcot probe sweep runs/test --label offset --sites u,eps,h
    """
    from nfcot_model.terminal import console, emit_json
    from nfcot_model.traces import read_run
    from nfcot_model.traces.view import printable
    from probes.fit import Options
    from probes.report import DOES_NOT_SHOW, fit_lines, fit_table, sweep_lines, sweep_tables
    from probes.sweep import Plan, sweep
    from probes.sweeping import sweep_folder, write_sweep
    from probes.units import open_units

    loaded = read_run(run)
    options = Options(
        kind=kind, positive=positive, seed=seed, folds=folds, draws=draws, controls=controls
    )
    plan = Plan(
        sites=listed("--sites", sites),
        places=listed("--places", places),
        estimators=listed("--estimators", estimators),
        options=options,
        permutations=permutations,
    )
    table = table_of(labels, loaded)
    folder, identity = sweep_folder(loaded, label, plan, table, out)
    with units_progress(f"sweeping {loaded.name}") as tell:
        found = sweep(
            loaded,
            label,
            plan,
            lambda: open_units(folder, identity),
            table=table,
            reasoner=reasoner_of(loaded, model),
            progress=tell,
            device=device,
        )
    note = write_sweep(found, folder)
    if json:
        emit_json(found.to_dict() | {"artifact": str(folder)})
        return
    for grid in sweep_tables(found):
        console.print(grid)
    for line in sweep_lines(found):
        console.print(printable(line), markup=False)
    console.print(fit_table(found.best.to_dict()))
    for line in [*fit_lines(found.best.to_dict()), DOES_NOT_SHOW]:
        console.print(printable(line), markup=False)
    if note is not None:
        console.print(f"no PNG figure: {note}", markup=False)
    console.print(f"sweep: {folder}", soft_wrap=True, markup=False)


@app.command()
def fit(
    run: RunPath,
    label: Label,
    site: Site,
    estimator: Annotated[
        str | None,
        typer.Option(
            help="logistic (ridge for numbers), lda, mass_mean, mass_mean_whitened, attention (for"
            " @all), or a scikit-learn class such as sklearn.svm.LinearSVC(C=0.1)."
        ),
    ] = None,
    against: Annotated[
        str | None,
        typer.Option(metavar="A,B", help="Other sites of the same place, in the same table."),
    ] = None,
    split: Annotated[
        Path | None,
        typer.Option(help="A sweep or probe whose groups train and test here too."),
    ] = None,
    labels: Labels = None,
    kind: Kind = "auto",
    positive: Positive = None,
    seed: Seed = 0,
    folds: Folds = 5,
    draws: Draws = 1000,
    permutations: Permutations = 999,
    controls: Controls = True,
    model: Model = None,
    out: Annotated[
        Path | None,
        typer.Option("-o", "--out", help="Folder of the probe; default: beside the run, probes/."),
    ] = None,
    json: Json = False,
) -> None:
    """Can a label be read at one site, on problems the probe has not seen, and only there?

    Example: nfcot probe fit runs/test --label offset --site u@3
    """
    from nfcot_model.terminal import console, emit_json
    from nfcot_model.traces import read_run
    from nfcot_model.traces.view import printable
    from probes.artifact import refuse_other_content, save_probe, split_of
    from probes.fit import Options, fit_probe
    from probes.report import DOES_NOT_SHOW, fit_lines, fit_table

    if out is not None:
        refuse_other_content(out)
    loaded = read_run(run)
    options = Options(
        estimator=estimator,
        kind=kind,
        positive=positive,
        seed=seed,
        folds=folds,
        draws=draws,
        permutations=permutations,
        controls=controls,
        against=listed("--against", against) or (),
        split=None if split is None else split_of(split),
    )
    with status() as tell:
        result = fit_probe(
            loaded,
            label,
            site,
            options,
            table=table_of(labels, loaded),
            reasoner=reasoner_of(loaded, model),
            progress=tell,
        )
    folder = out or loaded.path.parent / "probes" / _default_name(loaded.name, result, options)
    kept = save_probe(result, folder)
    artifact = None if kept is None else str(folder)
    if json:
        emit_json(result.to_dict() | {"artifact": artifact})
        return
    console.print(fit_table(result.to_dict()))
    for line in [*fit_lines(result.to_dict()), DOES_NOT_SHOW]:
        console.print(printable(line), markup=False)
    told = "not kept: this estimator is not linear" if artifact is None else artifact
    console.print(f"probe: {told}", soft_wrap=True, markup=False)


@app.command()
def evaluate(
    artifact: ProbePath,
    run: RunPath,
    label: Annotated[str | None, typer.Option(help="Another label of the same classes.")] = None,
    labels: Labels = None,
    control: Annotated[
        Path | None,
        typer.Option(help="A clean run whose traces, all negatives, fix the alarms' thresholds."),
    ] = None,
    seed: Annotated[int | None, typer.Option(min=0, help="Default: the probe's.")] = None,
    draws: Draws = 1000,
    permutations: Permutations = 999,
    json: Json = False,
) -> None:
    """How well does a fitted probe read its label in a run, on groups it was not trained on?

    Example: nfcot probe evaluate runs/probes/test-offset-u@3-logistic-seed0 runs/other
    """
    from nfcot_model.terminal import console, emit_json
    from nfcot_model.traces import read_run
    from nfcot_model.traces.view import printable
    from probes.artifact import read_probe
    from probes.evaluate import evaluate_probe
    from probes.fit import Options
    from probes.report import DOES_NOT_SHOW, fit_lines, fit_table

    loaded, probe = read_run(run), read_probe(artifact)
    options = Options(
        seed=int(probe.meta["seed"]) if seed is None else seed,
        draws=draws,
        permutations=permutations,
    )
    found = evaluate_probe(
        probe,
        loaded,
        label=label,
        table=table_of(labels, loaded),
        options=options,
        control_run=None if control is None else read_run(control),
    )
    if json:
        emit_json(found.to_dict() | {"artifact": str(artifact)})
        return
    console.print(fit_table(found.to_dict()))
    for line in [*fit_lines(found.to_dict()), DOES_NOT_SHOW]:
        console.print(printable(line), markup=False)
    console.print(printable(f"where it was fitted: {found.probe_headline}"), markup=False)


@app.command()
def apply(
    artifact: ProbePath,
    run: RunPath,
    labels: Labels = None,
    conformal: Annotated[
        bool, typer.Option("--conformal", help="Also a p-value against the probe's control scores.")
    ] = False,
    every_thought: Annotated[
        bool, typer.Option("--every-thought", help="Read every thought, and sum up each trace.")
    ] = False,
    json: Json = False,
) -> None:
    """What does a fitted probe read in another run? Writes RUN/derived/probe_scores.

    Example: nfcot probe apply runs/probes/test-offset-u@3-logistic-seed0 runs/other
    """
    from nfcot_model.terminal import console, emit_json
    from nfcot_model.traces import read_run
    from nfcot_model.traces.view import printable
    from probes.apply import apply_probe, save_scores
    from probes.artifact import read_probe

    loaded = read_run(run)
    scores = apply_probe(
        read_probe(artifact),
        loaded,
        table=table_of(labels, loaded),
        conformal=conformal,
        every_thought=every_thought,
    )
    path = save_scores(scores, loaded)
    if json:
        emit_json(scores.to_dict() | {"scores": str(path)})
        return
    lines = [
        f"{scores.label} at {scores.site}: {scores.n} traces read, {scores.out} without that"
        f" thought; {scores.seen} of {scores.rows} readings are of groups the probe has seen",
        *(f"{name.replace('_', ' ')}: {count}" for name, count in scores.alarms.items()),
        *scores.notes,
    ]
    if scores.labelled:
        lines.append(f"{scores.labelled} readings have a label: nfcot probe evaluate judges them")
    for line in lines:
        console.print(printable(line), markup=False)
    console.print(f"scores: {path}", soft_wrap=True, markup=False)


def _default_name(run: str, result: ProbeResult, options: Options) -> str:
    """A folder name that tells probes of one run apart."""
    from nfcot_model.files import content_hash
    from probes.splits import FOLDS

    label = result.label if result.positive is None else f"{result.label}={result.positive}"
    estimator = result.estimator
    if not estimator.isidentifier():
        estimator = content_hash(estimator)
    name = f"{run}-{label}-{result.site}-{estimator}-seed{result.seed}"
    split = None if options.split is None else options.split.hash
    if result.labels_sha256 or split or options.folds != FOLDS:
        name += f"-{content_hash([result.labels_sha256, split, options.folds])[:8]}"
    return name.replace("/", "_")
