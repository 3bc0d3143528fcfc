"""`nfcot train grpo`: policy gradient on thoughts, resumable at any moment."""

from pathlib import Path
from typing import Annotated

import typer


def grpo(
    out: Annotated[Path, typer.Option("-o", "--out", help="folder of this training")],
    start: Annotated[
        str | None, typer.Option("--from", help="checkpoint folder to start from, or demo")
    ] = None,
    preset: Annotated[str | None, typer.Option(help="demo (default) or tiny")] = None,
    config: Annotated[Path | None, typer.Option(help="YAML file; see docs/grpo.md")] = None,
    reasoner: Annotated[
        str | None, typer.Option(help="nfcot (thoughts) or text (tokens, for comparison)")
    ] = None,
    problems: Annotated[
        Path | None, typer.Option(help="JSONL problems, rewarded by their check")
    ] = None,
    steps: Annotated[int | None, typer.Option(help="optimizer steps")] = None,
    seed: Annotated[int | None, typer.Option(help="seed of problems and samples")] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="print the last validation as JSON")
    ] = False,
) -> None:
    """Train a model on rewards of its own samples (GRPO); run it again to resume.

    The reward is the verdict of executing the answer, never a monitor's score.

    Example: nfcot train grpo --preset demo --from work/demo/joint/model -o work/grpo
    """
    from nfcot_model.terminal import console, emit_json
    from nfcot_model.training.grpo.settings import load_grpo_config
    from nfcot_model.training.grpo.train import train_grpo
    from nfcot_model.training.report import progress_report

    settings = load_grpo_config(
        preset, config, start=start, reasoner=reasoner, problems=problems, steps=steps, seed=seed
    )
    with progress_report(console, enabled=True) as report:
        figures = train_grpo(settings, out, report=report)
    model = out / "grpo" / "model"
    if as_json:
        emit_json({"out": str(out), "model": str(model), "validation": figures})
        return
    console.print("grpo: " + ", ".join(f"{k} {v:.4f}" for k, v in figures.items()))
    console.print(f"model → {model}", markup=False)
