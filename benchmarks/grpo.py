"""What does policy gradient on thoughts add to as many further supervised steps?

    python benchmarks/grpo.py -o work/grpo [--updates 120] [--seeds 3] [-n 400]
        [--reasoner nfcot] [--labelled N] [--arms NAME ...] [--json]

Demo model, hard split (8-12 steps, tau = 0.9). The arms, each from the same start, with the same
optimiser and number of steps:

* `warm`: the demo model after 140 supervised steps on 8-12 steps; where the arms below start.
* `grpo`: verdicts on problems of 8-12 steps; the anchor is supervised, on 2-8 steps.
* `supervised 2-8`: the anchor alone, the very same batches.
* `supervised 8-12`: as many supervised problems, of 8-12 steps: it is told their reasoning.
* `grpo, no anchor`: verdicts alone.
* `grpo, close`: fewer problems and larger groups, drawn until enough are mixed, and a divergence
  from the start that costs. Only where `--arms` names it.
* `grpo, nearest`: the same with problems of 9-10 steps only, the lengths behind those of the anchor
  that the start solves more often than by chance, more of them an update, and less of the anchor.
  Only where `--arms` names it.
* `grpo from demo`: as `grpo`, from the demo model itself, which stops after eight thoughts.

`--labelled N`: the reasoning of N problems of 8-12 steps (and of N of 2-8) is known, of no other.
`warm` has learned from these for 600 steps; `supervised, labelled` goes on so; it is also the
anchor of `grpo, labelled`, whose verdicts are on any problem of 10-12 steps. No other arms then.

`--reasoner text` does all of it to the explicit reasoner, whose actions are tokens.

Everything resumes when repeated. Training sees pipelines of the split `train`, validation those of
`calibration`; the table is of `test` (8 steps) and `long` (9-12). Intervals: 95 %, over
problems, of which there are as many of each world and length.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np

from nfcot_model.files import write_json
from nfcot_model.reasoners import NFCoTReasoner, load_reasoner
from nfcot_model.reasoners.explicit import ExplicitReasoner
from nfcot_model.sandbox import Sandbox
from nfcot_model.terminal import console, emit_json
from nfcot_model.training.grpo.objective import pass_rates, sampled_rewards
from nfcot_model.training.grpo.policies import NFCoTPolicy, Policy
from nfcot_model.training.grpo.reward import verdict
from nfcot_model.training.grpo.settings import GRPOConfig
from nfcot_model.training.grpo.text_policy import TextPolicy
from nfcot_model.training.grpo.train import train_grpo
from nfcot_model.training.loop import Progress
from nfcot_model.worlds import Problem, make_world, write_problems

WORLDS = ("digits", "shuffle")
LENGTHS = range(8, 13)
SAMPLES = 16
TAU = 0.9
HARD = {"lengths": (8, 12), "tau": TAU}
WARM = {
    "policy": 0,
    "steps": 140,
    "anchor_lengths": (8, 12),
    "anchor_batch": 24,
    "lr": 5e-4,
    "validate_problems": 120,
    "validate_samples": 4,
    "validate_every": 1000,
    "seed": 100,
}
FURTHER = {
    "data": {"renumber": 0.25},
    "prompts": 16,
    "group": 8,
    "anchor": 0.3,
    "anchor_batch": 8,
    "lr": 4e-4,
    "kl": 0.0,
    "validate_every": 1000,
    "validate_problems": 40,
    "validate_samples": 4,
    "save_minutes": 1.0,
}
CLOSE = "grpo, close"
NEAREST = "grpo, nearest"
ARMS: dict[str, dict[str, Any]] = {
    "supervised 2-8": {"policy": 0},
    "supervised 8-12": {"policy": 0, "anchor_lengths": (8, 12)},
    "grpo": {},
    "grpo, no anchor": {"anchor": 0},
    CLOSE: {"prompts": 6, "group": 16, "draws": 4, "kl": 0.3},
    NEAREST: {
        "lengths": (9, 10),
        "prompts": 10,
        "group": 16,
        "draws": 3,
        "kl": 0.2,
        "anchor": 0.2,
    },
}
FROM_DEMO = "grpo from demo"
LABELLED: dict[str, dict[str, Any]] = {
    "supervised, labelled": {"policy": 0},
    "grpo, labelled": {
        "lengths": (10, 12),
        "prompts": 24,
        "group": 16,
        "draws": 2,
        "kl": 0.05,
        "temperature": 0.5,
        "stop_temperature": 0.5,
    },
}
WARM_LABELLED = {"steps": 600, "anchor_lengths": None}
FURTHER_LABELLED = {"lr": 5e-4, "anchor_batch": 16, "warmup": 5}


@dataclass(frozen=True)
class Row:
    """Figures of one arm and seed; `passes` has the pass rate of each problem."""

    arm: str
    seed: int | None
    train_seconds: float | None
    thoughts: float
    pass_at_1: float
    pass_at_16: float
    by_cell: dict[str, float]
    passes: list[float]


def problems_of(seed: int, n: int) -> dict[str, list[Problem]]:
    """`n` problems of each world, as many of each length, in cells such as `digits 9`."""
    return {
        f"{world} {steps}": make_world(
            world, "test" if steps == 8 else "long", seed, n // len(LENGTHS), steps
        )
        for world in WORLDS
        for steps in LENGTHS
    }


def labelled(path: Path, n: int) -> str:
    """A file of `n` problems of 8-12 steps, as many of each length and world, and `n` of 2-8."""
    if not path.exists():
        each = n // (len(WORLDS) * len(LENGTHS))
        longer = [make_world(w, "train", 500 + k, each, k) for w in WORLDS for k in LENGTHS]
        shorter = [make_world(w, "train", 500, n // len(WORLDS)) for w in WORLDS]
        write_problems(path, [p for part in (*longer, *shorter) for p in part])
    return str(path)


def trained(config: GRPOConfig, out: Path, name: str) -> tuple[Path, float | None]:
    """The model of one arm, trained unless it is there, and how many seconds that took.

    They are known only of a training that was never interrupted.
    """
    started = perf_counter()
    seconds = out / name / "seconds.json"
    whole = not (out / name).exists()

    def report(progress: Progress) -> None:
        if progress.step % 10 == 0 or progress.step == progress.steps:
            figures = progress.metrics
            shown = {k: figures[k] for k in ("reward", "mixed_groups", "anchor") if k in figures}
            console.print(name, progress.step, f"{progress.steps_per_second:.2f}/s", shown)

    train_grpo(config, out / name, report=report)
    if whole:
        write_json(seconds, perf_counter() - started)
    spent = json.loads(seconds.read_text()) if seconds.exists() else None
    return out / name / "grpo" / "model", spent


def policy_of(model: Path | str) -> Policy:
    reasoner = load_reasoner(model, kinds=("nfcot", "text"))
    if isinstance(reasoner, ExplicitReasoner):
        return TextPolicy(reasoner)
    assert isinstance(reasoner, NFCoTReasoner)
    return NFCoTPolicy(reasoner)


def measured(
    arm: str,
    seed: int | None,
    model: Path | str,
    seconds: float | None,
    cells: dict[str, list[Problem]],
) -> Row:
    policy = policy_of(model)
    problems = [p for members in cells.values() for p in members]
    with Sandbox() as sandbox:
        rewards, thoughts = sampled_rewards(
            policy, verdict(sandbox), problems, SAMPLES, tau=TAU, seed=17
        )
    each = rewards.mean(1)
    rates = pass_rates(rewards)
    by_cell = {
        name: float(part.mean())
        for name, part in zip(cells, each.reshape(len(cells), -1), strict=True)
    }
    return Row(
        arm,
        seed,
        seconds,
        thoughts,
        rates["pass_at_1"],
        rates["pass_at_16"],
        by_cell,
        each.tolist(),
    )


def interval(values: np.ndarray) -> tuple[float, float]:
    """95 % of a mean over problems that are drawn in equal numbers from each cell."""
    cells = values.reshape(len(WORLDS) * len(LENGTHS), -1)
    variance = (cells.var(1, ddof=1) / cells.shape[1]).sum() / len(cells) ** 2
    half = 1.96 * float(variance) ** 0.5
    return float(values.mean()) - half, float(values.mean()) + half


def differences(rows: list[Row]) -> dict[str, list[float]]:
    """Each arm of `grpo` minus every other on the same problems, seeds averaged: mean, interval."""
    found = {}
    passes = {
        arm: np.array([row.passes for row in rows if row.arm == arm])
        for arm in dict.fromkeys(row.arm for row in rows)
    }
    for arm in passes:
        for other in passes:
            if arm.startswith("grpo") and other != arm:
                once = passes[arm].mean(0) - passes[other].mean(0)
                often = (passes[arm] > 0).mean(0) - (passes[other] > 0).mean(0)
                found[f"{arm} - {other}, pass@1"] = [float(once.mean()), *interval(once)]
                found[f"{arm} - {other}, pass@16"] = [float(often.mean()), *interval(often)]
    return found


def table(rows: list[Row]) -> str:
    lines = [
        "| arm | seed | pass@1 (95 %) | pass@16 | digits 8 / 9 / 10 / 11 / 12 | shuffle 8 / 9 / 10"
        " / 11 / 12 | thoughts | training s |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        low, high = interval(np.array(row.passes))
        spent = "–" if row.train_seconds is None else f"{row.train_seconds:.0f}"
        worlds = (
            " / ".join(f"{row.by_cell[f'{world} {steps}']:.2f}" for steps in LENGTHS)
            for world in WORLDS
        )
        lines.append(
            f"| {row.arm} | {'–' if row.seed is None else row.seed} | {row.pass_at_1:.3f}"
            f" ({low:.3f}–{high:.3f}) | {row.pass_at_16:.3f} | {' | '.join(worlds)} |"
            f" {row.thoughts:.1f} | {spent} |"
        )
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("-o", "--out", type=Path, required=True)
    parser.add_argument("--updates", type=int, default=120)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("-n", type=int, default=400, help="problems of each world")
    parser.add_argument("--seed", type=int, default=2026, help="seed of the problems of the table")
    parser.add_argument("--reasoner", choices=("nfcot", "text"), default="nfcot")
    arms = ("demo", *ARMS, FROM_DEMO, *LABELLED)
    parser.add_argument("--arms", nargs="+", choices=arms, help="beside warm")
    parser.add_argument("--labelled", type=int, default=0, help="problems of known reasoning")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    few = list(LABELLED)
    usual = [arm for arm in arms if arm not in (CLOSE, NEAREST, *few)]
    options.arms = options.arms or (few if options.labelled else usual)
    if any((arm in few) != bool(options.labelled) for arm in options.arms):
        parser.error("--arms: those of few labels go with --labelled, the others without")
    cells = problems_of(options.seed, options.n)
    rows: list[Row] = []

    def add(arm: str, seed: int | None, model: Path | str, seconds: float | None) -> None:
        kept = options.out / f"row-{arm}-{seed}-{options.seed}-{options.n}.json"
        if kept.exists():
            rows.append(Row(**json.loads(kept.read_text())))
            return
        rows.append(measured(arm, seed, model, seconds, cells))
        write_json(kept, vars(rows[-1]))
        console.print(table(rows[-1:]).splitlines()[-1])

    demo = {"nfcot": "demo", "text": "demo-text"}[options.reasoner]
    hard = {**HARD, "reasoner": options.reasoner}
    options.out.mkdir(parents=True, exist_ok=True)
    further = {**hard, **FURTHER, "steps": options.updates}
    warming, arms_of = {"start": demo, **hard, **WARM}, ARMS
    if options.labelled:
        known = {"anchor_problems": labelled(options.out / "labelled.jsonl", options.labelled)}
        warming |= WARM_LABELLED | known
        further |= FURTHER_LABELLED | known
        arms_of = LABELLED
    warm = GRPOConfig.model_validate(warming)
    start, seconds = trained(warm, options.out, "warm")
    if "demo" in options.arms:
        add("demo", None, demo, 0.0)
    add("warm", None, start, seconds)
    chosen = [
        (arm, seed) for arm in arms_of if arm in options.arms for seed in range(options.seeds)
    ]
    for arm, seed in chosen:
        config = {"start": str(start), **further, **arms_of[arm], "seed": seed}
        name = f"{arm.replace(' ', '-')}-{seed}"
        add(arm, seed, *trained(GRPOConfig.model_validate(config), options.out, name))
    if FROM_DEMO in options.arms:
        config = {"start": demo, **further, "seed": 0, "stop_temperature": 2.0}
        name = FROM_DEMO.replace(" ", "-")
        add(FROM_DEMO, 0, *trained(GRPOConfig.model_validate(config), options.out, name))
    if options.json:
        emit_json({"rows": [vars(row) for row in rows], "differences": differences(rows)})
    else:
        sys.stdout.write(table(rows) + "\n")
        for pair, (mean, low, high) in differences(rows).items():
            sys.stdout.write(f"{pair}: {mean:+.3f} ({low:+.3f} to {high:+.3f})\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
