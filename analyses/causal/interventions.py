"""What does an answer do when one thought is changed? One row per trace, thought, edit and mode."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd
from torch import Generator, Tensor

from analyses.causal.edits import EDITS, MODES, placebo, with_thought
from analyses.causal.scene import Scene
from nfcot_model.sandbox import Sandbox
from nfcot_model.thoughts import AnswerLogp, Thoughts

__all__ = ["Base", "base_of", "intervene"]


@dataclass(frozen=True)
class Base:
    """What a scene answers when nobody interferes, and how likely each answer is."""

    answers: list[str]
    correct: list[bool]
    logp: AnswerLogp


def base_of(scene: Scene, sandbox: Sandbox) -> Base:
    """The answers that edits are compared with: those that follow from the stored thoughts."""
    answers = scene.reasoner.answer(scene.prompts, scene.thoughts)
    logp = scene.reasoner.answer_logp(scene.prompts, scene.thoughts, answers)
    return Base(answers, judged(scene, answers, sandbox), logp)


def intervene(
    scene: Scene,
    base: Base,
    sandbox: Sandbox,
    rng: Generator,
    edits: Sequence[str] = tuple(EDITS),
    modes: Sequence[str] = MODES,
) -> pd.DataFrame:
    """Every edit at every thought of a scene, in every mode, each with its placebo.

    Columns: `row` (of the scene), `k`, `edit`, `mode`, `distance` (‖u~ - u‖), `answer`,
    `flipped` (another answer than the base's, word for word), `correct`, `base_correct`,
    `logp_change` (of the base answer, nats), `kl` (of the next-word distributions along the base
    answer, mean nats per word), `K_after`; the placebo's `flipped`, `logp_change` and `kl` under
    the same names with `placebo_`. Edits that cannot be done somewhere (no donor) have no row
    there; `attempted` counts are `scene.places()`.
    """
    rows, k = scene.places().unbind(-1)
    frames = []
    for name in edits:
        crowd = scene.rows(rows)
        values = EDITS[name](crowd, k, rng)
        done = ~values.isnan().any(-1)
        if not bool(done.any()):
            continue
        here, at, to = crowd.rows(done.nonzero()[:, 0]), k[done], values[done]
        pushed = placebo(here, at, to, rng)
        for mode in modes:
            effect = _effect(here, base, rows[done], at, to, mode, sandbox)
            control = _effect(here, base, rows[done], at, pushed, mode, None)
            frames.append(
                pd.DataFrame(
                    {
                        "row": rows[done].numpy(),
                        "k": at.numpy(),
                        "edit": name,
                        "mode": mode,
                        "distance": (to - here.at(here.thoughts.u, at)).norm(dim=-1).numpy(),
                        **effect,
                        **{
                            f"placebo_{column}": control[column]
                            for column in ("flipped", "logp_change", "kl")
                        },
                    }
                )
            )
    return pd.concat(frames, ignore_index=True) if frames else pd.DataFrame()


def _effect(
    scene: Scene,
    base: Base,
    rows: Tensor,
    k: Tensor,
    values: Tensor,
    mode: str,
    sandbox: Sandbox | None,
) -> dict[str, Any]:
    edited = with_thought(scene, k, values, mode)
    return compare(scene, base, rows, edited, sandbox)


def compare(
    scene: Scene, base: Base, rows: Tensor, edited: Thoughts, sandbox: Sandbox | None
) -> dict[str, Any]:
    """How do the answers after edited thoughts differ from the base's (its rows `rows`)?"""
    said = [base.answers[i] for i in rows.tolist()]
    answers = scene.reasoner.answer(scene.prompts, edited)
    logp = scene.reasoner.answer_logp(scene.prompts, edited, said)
    before = base.logp.distributions[rows][:, : logp.mask.shape[1]]
    mask = logp.mask
    kl = (before.exp() * (before - logp.distributions)).sum(-1) * mask
    result = {
        "answer": answers,
        "flipped": [a != b for a, b in zip(answers, said, strict=True)],
        "logp_change": (logp.logp - base.logp.logp[rows]).numpy(),
        "kl": (kl.sum(-1) / mask.sum(-1)).numpy(),
        "K_after": edited.K.numpy(),
    }
    if sandbox is not None:
        result["correct"] = judged(scene, answers, sandbox)
        result["base_correct"] = [base.correct[i] for i in rows.tolist()]
    return result


def judged(scene: Scene, answers: Sequence[str], sandbox: Sandbox) -> list[bool]:
    """Which answers pass the tests of their problems?"""
    pairs = [(a, p.check) for a, p in zip(answers, scene.problems, strict=True)]
    return [verdict.status == "passed" for verdict in sandbox.check_many(pairs)]
