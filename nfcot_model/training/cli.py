"""`nfcot train`: the stages of a training, resumable at any moment."""

from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(help="Train a latent reasoner, stage by stage.", no_args_is_help=True)

Out = Annotated[Path, typer.Option("-o", "--out", help="folder of this training")]
Preset = Annotated[str | None, typer.Option(help="demo or tiny")]
Config = Annotated[Path | None, typer.Option(help="YAML file; see docs/training.md")]
Reasoner = Annotated[str | None, typer.Option(help="nfcot, or the controls text and direct")]
Backbone = Annotated[
    Path | None, typer.Option(help="local Hugging Face folder to start from, with tokenizer")
]
Problems = Annotated[Path | None, typer.Option(help="JSONL problems with steps to train on")]
Seed = Annotated[int | None, typer.Option(help="seed of weights, data and noise")]
AsJson = Annotated[bool, typer.Option("--json", help="print the last validation as JSON")]


def _command(name: str, stages: list[str]) -> Callable[..., None]:
    def command(
        out: Out,
        preset: Preset = None,
        config: Config = None,
        reasoner: Reasoner = None,
        backbone: Backbone = None,
        problems: Problems = None,
        seed: Seed = None,
        as_json: AsJson = False,
    ) -> None:
        _train(stages, out, preset, config, reasoner, backbone, problems, seed, as_json)

    what = "every stage" if len(stages) > 1 else f"the stage '{name}'"
    command.__doc__ = (
        f"Train {what}; run it again to resume.\n\n"
        f"Example: nfcot train {name} --preset demo -o work/demo"
    )
    return command


def _train(
    stages: list[str],
    out: Path,
    preset: str | None,
    config: Path | None,
    reasoner: str | None,
    backbone: Path | None,
    problems: Path | None,
    seed: int | None,
    as_json: bool,
) -> None:
    from nfcot_model.errors import UserError
    from nfcot_model.terminal import console, emit_json
    from nfcot_model.training.config import load_config
    from nfcot_model.training.report import progress_report
    from nfcot_model.training.stages import make_accelerator, train

    settings = load_config(
        preset, config, reasoner=reasoner, backbone=backbone, problems=problems, seed=seed
    )
    accelerator = make_accelerator(settings)
    with progress_report(console, enabled=accelerator.is_main_process) as report:
        figures = train(settings, stages, out, report=report, accelerator=accelerator)
    if not accelerator.is_main_process:
        return
    if not figures:
        raise UserError(
            f"nothing to train: {settings.reasoner} has no stage '{stages[-1]}' of any steps;"
            " train joint, or give the stage steps"
        )
    model = out / list(figures)[-1] / "model"
    if as_json:
        emit_json({"out": str(out), "model": str(model), "validation": figures})
    else:
        for stage, values in figures.items():
            shown = ", ".join(f"{k} {v:.4f}" for k, v in values.items())
            console.print(f"{stage}: {shown}")
        console.print(f"model → {model}")


for _name, _stages in (
    ("codec", ["codec"]),
    ("warmup", ["warmup"]),
    ("joint", ["joint"]),
    ("all", ["codec", "warmup", "joint"]),
):
    app.command(_name)(_command(_name, _stages))
