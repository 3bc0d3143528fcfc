"""Train or load every reasoner, measure each, time them side by side: whatever is not done yet."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nfcot_model.comparison.folder import (
    Questions,
    Terms,
    check_folder,
    kept_cell,
    plan_all,
    speed_key,
    write_cell,
)
from nfcot_model.comparison.measure import Measured, measure
from nfcot_model.comparison.plan import Equal, Plan
from nfcot_model.comparison.speed import Speed, measure_speed
from nfcot_model.comparison.trainings import processor_seconds, train_one, trained
from nfcot_model.comparison.verdicts import kept_verdicts
from nfcot_model.errors import UserError
from nfcot_model.files import read_json_object, write_json
from nfcot_model.reasoners import Reasoner, load_reasoner
from nfcot_model.sandbox import Sandbox
from nfcot_model.training.config import TrainConfig
from nfcot_model.training.fresh import fresh_reasoner
from nfcot_model.training.loop import Progress
from nfcot_model.worlds import Problem, make_world
from nfcot_model.worlds.generate import read_steps

__all__ = ["ORDER", "Compared", "Contender", "compare", "config_of"]

ORDER = ("text", "nfcot", "coconut", "codi", "regressed", "pause", "direct", "looped")
_SHAPE = (
    "model_type",
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "head_dim",
    "n_embd",
    "n_layer",
    "n_head",
    "vocab_size",
)
Cell = tuple[str, str]  # world, steps


@dataclass
class Contender:
    """One reasoner of a comparison: what it spent, and what was measured of each seed.

    `plan` and `processor_seconds` (of the seeds that are trained) are empty for a loaded one.
    `verdicts`: by task, what a causal study said of the first seed that has one.
    """

    reasoner: str
    parameters: int
    plan: Plan | None = None
    processor_seconds: list[float] = field(default_factory=list)
    seeds: list[int] = field(default_factory=list)
    cells: dict[Cell, list[Measured]] = field(default_factory=dict)
    speed: dict[Cell, Speed] = field(default_factory=dict)
    verdicts: dict[str, str] = field(default_factory=dict)


@dataclass
class Compared:
    """Everything that is there of a comparison, and which (reasoner, seed) are `missing`."""

    contenders: list[Contender]
    missing: list[tuple[str, int]]
    budget: float
    equal: Equal
    questions: Questions


def config_of(config: TrainConfig, kind: str, seed: int) -> TrainConfig:
    """The training of one reasoner with one seed."""
    return config.model_validate({**config.model_dump(), "reasoner": kind, "seed": seed})


def compare(
    config: TrainConfig,
    out: Path,
    questions: Questions,
    *,
    names: Sequence[str] = ORDER,
    seeds: int = 3,
    loaded: Mapping[str, str] | None = None,
    budget: float | None = None,
    equal: Equal = "tokens",
    rounds: int = 5,
    training: bool = True,
    report: Callable[[str, int, Progress], None] | None = None,
    say: Callable[[str], None] = lambda text: None,
) -> Compared:
    """Do what is left of a comparison in the folder `out`, and gather all of it.

    First every reasoner is trained with seed 0, then all with seed 1, … (`training=False`: none
    is, what is not trained is missing). `loaded` are folders of trained checkpoints by name, in
    the place of trainings. Raises UserError for a checkpoint of another backbone, a folder of
    another comparison and a budget that does not last.
    """
    given = {name: load_reasoner(folder, kinds=(name,)) for name, folder in (loaded or {}).items()}
    if given:
        _check_comparable(config, given, loaded or {})
    cells = dict(_problems(questions))
    terms = Terms(config, budget, equal)
    check_folder(out, terms)
    own = [name for name in names if name not in given]
    models: dict[tuple[str, int], Path | None] = {
        (name, seed): trained(out / "train" / f"{name}-{seed}", config_of(config, name, seed))
        for seed in range(seeds)
        for name in own
    }
    there = {name for (name, _), model in models.items() if model is not None}
    planned = [name for name in own if training or name in there]
    say("planning equal budgets")
    amount, plans = plan_all(out, terms, {name: config_of(config, name, 0) for name in planned})
    for (name, seed), model in models.items():
        if training and model is None:
            say(f"{name}, seed {seed}: training")
            one, folder = config_of(config, name, seed), out / "train" / f"{name}-{seed}"
            tell = None if report is None else _teller(report, name, seed)
            models[name, seed] = train_one(one, plans[name], folder, tell)
    contenders: dict[str, Contender] = {}
    first: dict[str, Any] = {}
    with Sandbox() as sandbox:
        for name, seed, reasoner in _each(names, seeds, given, models):
            say(f"{name}, seed {seed}: measuring")
            contender = contenders.setdefault(
                name, Contender(name, _parameters(reasoner), plans.get(name))
            )
            first.setdefault(name, reasoner)
            contender.seeds.append(seed)
            contender.verdicts = contender.verdicts or kept_verdicts(
                out, name, seed, reasoner.checkpoint_hash
            )
            spent = processor_seconds(out / "train" / f"{name}-{seed}")
            if name in plans and spent is not None:
                contender.processor_seconds.append(spent)
            for cell, problems in cells.items():
                path = out / "cells" / f"{name}-{seed}-{'-'.join(cell)}.json"
                found = kept_cell(path, reasoner.checkpoint_hash, questions)
                if found is None:
                    found = measure(
                        reasoner, problems, sandbox, questions.sampling,
                        steps=cell[1], seed=questions.seed,
                    )  # fmt: skip
                    write_cell(path, reasoner.checkpoint_hash, questions, found)
                contender.cells.setdefault(cell, []).append(found)
    _time(out, first, cells, questions, rounds, contenders, say)
    missing = [key for key, model in models.items() if model is None]
    return Compared(list(contenders.values()), missing, amount, equal, questions)


def _each(
    names: Sequence[str],
    seeds: int,
    given: Mapping[str, Reasoner],
    models: Mapping[tuple[str, int], Path | None],
) -> Iterator[tuple[str, int, Any]]:
    """Every reasoner that there is, seed by seed; a loaded one once."""
    for seed in range(seeds):
        for name in names:
            if name in given:
                if seed == 0:
                    yield name, 0, given[name]
            elif (model := models[name, seed]) is not None:
                yield name, seed, load_reasoner(model)


def _time(
    out: Path,
    reasoners: Mapping[str, Any],
    cells: Mapping[Cell, list[Problem]],
    questions: Questions,
    rounds: int,
    contenders: Mapping[str, Contender],
    say: Callable[[str], None],
) -> None:
    """Time those of the first seed, unless exactly these were timed before."""
    path = out / "speed.json"
    key = speed_key({n: r.checkpoint_hash for n, r in reasoners.items()}, questions, rounds)
    kept: dict[str, Any] = read_json_object(path) if path.exists() else {"key": None}
    if kept["key"] != key and reasoners:
        say("timing side by side")
        timed = {"/".join(c): measure_speed(reasoners, p, rounds) for c, p in cells.items()}
        plain = {c: {n: s.to_dict() for n, s in found.items()} for c, found in timed.items()}
        kept = {"key": key, "cells": plain}
        write_json(path, kept)
    for cell in cells:
        for name, contender in contenders.items():
            contender.speed[cell] = Speed(**kept["cells"]["/".join(cell)][name])


def _problems(questions: Questions) -> Iterator[tuple[Cell, list[Problem]]]:
    for world in questions.worlds:
        for text in questions.steps:
            low, high = read_steps(text)
            split = "test" if low <= 8 else "long"
            bounds = (low, high)
            yield (world, text), make_world(world, split, questions.seed, questions.n, bounds)


def _teller(
    report: Callable[[str, int, Progress], None], name: str, seed: int
) -> Callable[[Progress], None]:
    return lambda progress: report(name, seed, progress)


def _parameters(reasoner: Any) -> int:
    """Of the whole model: the backbone, and what the kind adds."""
    return sum(p.numel() for p in reasoner.model.parameters())


def _check_comparable(
    config: TrainConfig, given: Mapping[str, Any], folders: Mapping[str, str]
) -> None:
    """Raises UserError for a checkpoint whose backbone is not that of the configuration."""
    explicit: Any = fresh_reasoner(config.model_copy(update={"reasoner": "direct"}))
    wanted = explicit.model.backbone.config.to_dict()
    for name, reasoner in given.items():
        found = reasoner.model.backbone.config.to_dict()
        for key in _SHAPE:
            if found.get(key) != wanted.get(key):
                raise UserError(
                    f"--load {name}={folders[name]}: not comparable, its backbone has {key}"
                    f" {found.get(key)}, this comparison's {wanted.get(key)}; give the --preset or"
                    " --config that it was trained with"
                )
