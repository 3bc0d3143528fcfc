"""`nfcot train`: the stages of a training, resumable at any moment."""

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from nfcot_model.training.grpo.cli import grpo
from nfcot_model.training.planning import plan

app = typer.Typer(help="Train a latent reasoner, stage by stage.", no_args_is_help=True)

Out = Annotated[Path, typer.Option("-o", "--out", help="folder of this training")]
Preset = Annotated[str | None, typer.Option(help="a name in configs/, such as demo or tiny")]
Config = Annotated[Path | None, typer.Option(help="YAML file; see docs/training.md")]
Reasoner = Annotated[
    str | None,
    typer.Option(help="nfcot, dual, regressed, text, direct, pause, coconut, codi or looped"),
]
Backbone = Annotated[
    Path | None, typer.Option(help="local Hugging Face folder to start from, with tokenizer")
]
Problems = Annotated[Path | None, typer.Option(help="JSONL problems with steps to train on")]
Examples = Annotated[
    Path | None, typer.Option(help="rows of prompt, reasoning and answer: JSONL, Parquet, a folder")
]
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
        examples: Examples = None,
        seed: Seed = None,
        as_json: AsJson = False,
    ) -> None:
        sources = (preset, config, reasoner, backbone, problems, examples, seed)
        _train(stages, out, *sources, as_json)

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
    examples: Path | None,
    seed: int | None,
    as_json: bool,
) -> None:
    from nfcot_model.errors import UserError
    from nfcot_model.terminal import console
    from nfcot_model.training.config import load_config
    from nfcot_model.training.planning import show_plan
    from nfcot_model.training.report import progress_report
    from nfcot_model.training.stages import make_accelerator, train

    settings = load_config(
        preset,
        config,
        reasoner=reasoner,
        backbone=backbone,
        problems=problems,
        examples=examples,
        seed=seed,
    )
    accelerator = make_accelerator(settings)
    with progress_report(console, enabled=accelerator.is_main_process) as report:
        figures = train(
            settings, stages, out, report=report, accelerator=accelerator, announce=show_plan
        )
    # Threads of a process group that is still there when the interpreter ends may abort it.
    accelerator.end_training()
    if not accelerator.is_main_process:
        return
    if not figures:
        raise UserError(
            f"nothing to train: {settings.reasoner} has no stage '{stages[-1]}' of any steps;"
            " train joint, or give the stage steps"
        )
    _tell(out, figures, as_json)


def _tell(out: Path, figures: dict[str, dict[str, float]], as_json: bool) -> None:
    """The last validation of each stage, and where the model is."""
    from nfcot_model.terminal import console, emit_json

    model = out / list(figures)[-1] / "model"
    if as_json:
        emit_json({"out": str(out), "model": str(model), "validation": figures})
        return
    for stage, values in figures.items():
        console.print(f"{stage}: " + ", ".join(f"{k} {v:.4f}" for k, v in values.items()))
    console.print(f"model → {model}", markup=False)


@app.command("decoder")
def decoder(
    start: Annotated[str, typer.Argument(metavar="MODEL", help="checkpoint folder, or demo")],
    out: Out,
    preset: Preset = None,
    config: Config = None,
    problems: Problems = None,
    examples: Examples = None,
    layers: Annotated[
        int | None, typer.Option(min=1, help="of the new decoder; model.codec.decoder_layers or 1")
    ] = None,
    steps: Annotated[
        int | None, typer.Option(min=1, help="optimizer steps; codec.steps without")
    ] = None,
    seed: Seed = None,
    as_json: AsJson = False,
) -> None:
    """Train another decoder for a finished model; run it again to resume.

    Thoughts, likelihoods and answers stay as they are: only what reads thoughts back changes.

    Of the configuration it takes data, the stage codec, seed, mixed_precision and save_minutes.

    Example: nfcot train decoder work/demo/joint/model --preset demo --steps 3000 -o work/light
    """
    from nfcot_model.terminal import console
    from nfcot_model.training.config import load_config
    from nfcot_model.training.decoder import train_decoder
    from nfcot_model.training.report import progress_report

    settings = load_config(preset, config, problems=problems, examples=examples, seed=seed)
    with progress_report(console, enabled=True) as report:
        figures = train_decoder(start, settings, out, layers=layers, steps=steps, report=report)
    _tell(out, {"decoder": figures}, as_json)


@app.command("import")
def import_published(
    kind: Annotated[str, typer.Argument(metavar="KIND", help="ouro, coconut or codi")],
    source: Annotated[Path, typer.Argument(help="Ouro or CODI folder, Coconut checkpoint file")],
    out: Annotated[Path, typer.Option("-o", "--out", help="folder of the new checkpoint")],
    backbone: Annotated[
        Path | None, typer.Option(help="folder of the base model (coconut, codi)")
    ] = None,
    thoughts: Annotated[int, typer.Option(min=1, help="K (coconut, codi)")] = 6,
    lora_alpha: Annotated[float, typer.Option(help="alpha of CODI's LoRA")] = 32.0,
) -> None:
    """Make a checkpoint of ours from published weights on this machine.

    Example: nfcot train import codi codi-gpt2 --backbone gpt2 -o models/codi
    """
    import math

    from nfcot_model.errors import UserError
    from nfcot_model.reasoners.published import load_coconut, load_codi, load_ouro
    from nfcot_model.terminal import console
    from nfcot_model.training.stages import publish

    if kind not in ("ouro", "coconut", "codi"):
        raise UserError(f"kind '{kind}': expected ouro, coconut or codi")
    if out.exists():
        raise UserError(f"{out}: exists already; choose another -o")
    if not math.isfinite(lora_alpha):
        raise UserError(f"--lora-alpha {lora_alpha}: expected a number")
    if kind == "ouro":
        reasoner: Any = load_ouro(source)
    elif backbone is None:
        raise UserError(f"{kind}: give the folder of its base model as --backbone")
    elif kind == "coconut":
        reasoner = load_coconut(source, backbone, thoughts=thoughts)
    else:
        reasoner = load_codi(source, backbone, thoughts=thoughts, lora_alpha=lora_alpha)
    out.parent.mkdir(parents=True, exist_ok=True)
    publish(reasoner, out)
    console.print(f"model → {out}", markup=False)


for _name, _stages in (
    ("codec", ["codec"]),
    ("warmup", ["warmup"]),
    ("joint", ["joint"]),
    ("gate", ["gate"]),
    ("all", ["codec", "warmup", "joint", "gate"]),
):
    app.command(_name)(_command(_name, _stages))
app.command("plan")(plan)
app.command("grpo")(grpo)
