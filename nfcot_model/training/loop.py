"""The optimisation loop of one stage: resumable at any step, guarded against blow-ups."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import nn

from nfcot_model.errors import UserError
from nfcot_model.files import write_text
from nfcot_model.training.config import StageConfig
from nfcot_model.training.optim import make_optimizer, set_rate
from nfcot_model.training.sharding import agreed, is_sharded, prepare, whole
from nfcot_model.training.state import load_state, remove_leftovers, save_state

__all__ = ["Guard", "Progress", "run_stage"]

LOG_EVERY = 10
Losses = dict[str, torch.Tensor]


@dataclass(frozen=True)
class Progress:
    """Where does a stage stand? Given to the progress callback after every logged step."""

    stage: str
    step: int
    steps: int
    metrics: dict[str, float]
    steps_per_second: float


@dataclass
class Guard:
    """May this step be taken? Skips non-finite and exploding ones, gives up when they persist.

    A step explodes when its gradient norm is more than 30 times the running mean of the norms. The
    mean takes such a norm in too, as 30 times itself: gradients are clipped, so a stretch of larger
    ones is walked through after a step or two, and only what lies beyond any stretch is given up.
    """

    mean_norm: float = 0.0
    skipped_in_a_row: int = 0
    skipped: int = 0

    def allows(self, norm: float, step: int) -> bool:
        bound = 30 * self.mean_norm if self.mean_norm > 0 else math.inf
        exploding = norm > bound
        if math.isfinite(norm):
            before = self.mean_norm or norm
            self.mean_norm = 0.98 * before + 0.02 * min(norm, bound)
            if not exploding:
                self.skipped_in_a_row = 0
                return True
        self.skipped_in_a_row += 1
        self.skipped += 1
        if self.skipped_in_a_row >= 10:
            raise UserError(
                f"training diverged: ten steps in a row up to step {step} had a non-finite or"
                f" exploding gradient (norm {norm:.3g}); lower the learning rate"
                " (lr) in a --config file and train into a new folder"
            )
        return False


def run_stage(
    name: str,
    module: nn.Module,
    loss_of: Callable[[nn.Module, int, int], Losses],
    stage: StageConfig,
    folder: Path,
    accelerator: Accelerator,
    *,
    seed: int,
    save_minutes: float,
    validate: Callable[[], dict[str, float]],
    report: Callable[[Progress], None] | None = None,
    part_of_stage: Callable[[int], int] = lambda step: 0,
    log_every: int = LOG_EVERY,
    save_every: int = 1,
) -> dict[str, float]:
    """Train `module` for `stage.steps` steps and return its last validation figures.

    `loss_of(module, step, part)` gives the named losses of one micro-batch, with the total under
    "loss". State is saved every `save_minutes` and the metrics go to `metrics.jsonl`; calling
    again after any interruption continues with the same loss curve. Where `part_of_stage(step)`
    changes, the optimizer forgets its moments; `save_every`: only after so many steps is a state
    whole.
    """
    optimizer = make_optimizer(module, stage)
    guard = Guard()
    if accelerator.is_main_process:
        remove_leftovers(folder)
    bare = module
    module, optimizer = prepare(accelerator, module, optimizer)
    progress = load_state(folder, bare, optimizer)
    first = 0
    if progress is not None:
        first, guard = progress["step"], Guard(**progress["guard"])
    log = _Log(folder / "metrics.jsonl", first, active=accelerator.is_main_process)
    saved = started = time.monotonic()
    module.train()
    for step in range(first, stage.steps):
        set_rate(optimizer, stage, step)
        if step and part_of_stage(step) != part_of_stage(step - 1):
            optimizer.state.clear()
        torch.manual_seed(hash((seed, step, accelerator.process_index)) % 2**31)
        losses = _step(module, optimizer, loss_of, stage, accelerator, guard, step)
        last = step + 1 == stage.steps
        validates = last or (step > 0 and step % stage.validate_every == 0)
        if step % log_every == 0 or validates:
            figures = {"step": step, **losses, "lr": optimizer.param_groups[0]["lr"]}
            if validates:
                figures |= {f"val_{k}": v for k, v in _validated(module, validate).items()}
            log.add(figures)
            if report is not None:
                rate = (step + 1 - first) / (time.monotonic() - started)
                report(Progress(name, step + 1, stage.steps, figures, rate))
        due = last or time.monotonic() - saved > 60 * save_minutes
        due = agreed(accelerator, due and (step + 1) % save_every == 0)
        writes = accelerator.is_main_process
        if due and (writes or is_sharded(accelerator)):
            if writes:
                log.flush()
            state = {"step": step + 1, "guard": asdict(guard)}
            save_state(folder, bare, optimizer, state, writes)
            saved = time.monotonic()
    return log.last_validation()


def _step(
    module: nn.Module,
    optimizer: Any,
    loss_of: Callable[[nn.Module, int, int], Losses],
    stage: StageConfig,
    accelerator: Accelerator,
    guard: Guard,
    step: int,
) -> dict[str, float]:
    totals: dict[str, float] = {}
    for part in range(stage.accumulate):
        losses = loss_of(module, step, part)
        accelerator.backward(losses["loss"] / stage.accumulate)
        for key, value in losses.items():
            totals[key] = totals.get(key, 0.0) + float(value.detach()) / stage.accumulate
    trained = [p for p in module.parameters() if p.requires_grad]
    norm = float(whole(torch.as_tensor(accelerator.clip_grad_norm_(trained, stage.clip))))
    if guard.allows(norm, step):
        optimizer.step()
    optimizer.zero_grad()
    return {**totals, "grad_norm": norm}


def _validated(module: nn.Module, validate: Callable[[], dict[str, float]]) -> dict[str, float]:
    module.eval()
    with torch.no_grad():
        figures = validate()
    module.train()
    return figures


class _Log:
    """The metrics file; rows behind the resumed step are cut, they will be written again."""

    def __init__(self, path: Path, first: int, active: bool) -> None:
        self.path, self.active = path, active
        self.rows = [r for r in _read(path) if r["step"] < first]

    def add(self, figures: dict[str, float]) -> None:
        self.rows.append(figures)
        if len(self.rows) % 10 == 0:
            self.flush()

    def flush(self) -> None:
        if self.active:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            write_text(self.path, "".join(json.dumps(row) + "\n" for row in self.rows))

    def last_validation(self) -> dict[str, float]:
        for row in reversed(self.rows):
            figures = {k.removeprefix("val_"): v for k, v in row.items() if k.startswith("val_")}
            if figures:
                return figures
        return {}


def _read(path: Path) -> Iterator[dict[str, float]]:
    if path.exists():
        for line in path.read_text().splitlines():
            yield json.loads(line)
