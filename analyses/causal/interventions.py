"""What does an answer do when one thought is changed? One row per trace, thought, edit and mode."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd
import torch
from torch import Tensor

from analyses.causal.edits import EDITS, MODES, Edit, edited, placebo
from analyses.causal.scene import Branch, Scene
from nfcot_model.reasoners.continuing import Continuation, answer_from, answer_logp_from
from nfcot_model.sampling import noise_seed
from nfcot_model.sandbox import Sandbox
from nfcot_model.thoughts import AnswerLogp

__all__ = [
    "Base",
    "answered",
    "base_of",
    "compare",
    "intervene",
    "judged",
    "seeds_of",
    "with_placebos",
]

BATCH = 256


@dataclass(frozen=True)
class Base:
    """What a scene answers when nobody interferes, and how likely each answer is.

    `greedy` [B]: the answer is recognised as the greedy one from a single pass over it.
    """

    answers: list[str]
    correct: list[bool]
    logp: AnswerLogp
    greedy: Tensor


def base_of(scene: Scene, sandbox: Sandbox) -> Base:
    """The greedy answers that edits are compared with: those that follow from stored thoughts."""
    stream = scene.given(scene.thoughts.u, scene.thoughts.mask).stream
    answers = answered(scene, stream)
    logp, greedy = answer_logp_from(scene.reasoner, stream, answers)
    return Base(answers, judged(scene, answers, sandbox), logp, greedy)


def answered(scene: Scene, stream: Continuation) -> list[str]:
    """The greedy answers behind a stream, which stays as it was."""
    everybody = torch.arange(len(stream.state))
    return answer_from(scene.reasoner, stream.rows(everybody))


def intervene(
    scene: Scene,
    base: Base,
    sandbox: Sandbox,
    seed: int = 0,
    edits: Mapping[str, Edit] = EDITS,
    modes: Sequence[str] = MODES,
) -> tuple[pd.DataFrame, Tensor]:
    """Every edit at every thought of a scene, in every mode, each with its placebo.

    Columns: `row` (of the scene), `k`, `edit`, `mode`, `seed` (all that the edit drew from),
    `distance` (‖u~ - u‖), `answer`, `flipped` (another answer than the base's, word for word),
    `correct`, `base_correct`, `logp_change` (of the base answer, nats), `kl` (of the next-word
    distributions along the base answer, mean nats per word), `K_after`; the placebo's `flipped`,
    `logp_change`, `kl` and `correct` under the same names with `placebo_`: a push as far in a
    random direction, in the same mode. Edits that cannot be done somewhere (no donor) have no row
    there. Also the edited thought of each row, [rows, D]: with the stored trace, `k` and `mode` it
    is the whole intervention.
    """
    rows, k = scene.places().unbind(-1)
    frames: list[pd.DataFrame] = []
    values: list[Tensor] = []
    for name, edit in edits.items():
        for some in torch.arange(len(rows)).split(BATCH):
            frame, value = _edit(scene, base, sandbox, seed, name, edit, modes, rows[some], k[some])
            frames += frame
            values += value
    if not frames:
        return pd.DataFrame(), torch.zeros(0, scene.reasoner.D)
    return pd.concat(frames, ignore_index=True), torch.cat(values)


def _edit(
    scene: Scene,
    base: Base,
    sandbox: Sandbox,
    seed: int,
    name: str,
    edit: Edit,
    modes: Sequence[str],
    rows: Tensor,
    k: Tensor,
) -> tuple[list[pd.DataFrame], list[Tensor]]:
    here = scene.rows(rows)
    seeds = seeds_of(here, k, name, seed)
    to = edit(here, k, seeds)
    done = (~to.isnan().any(-1)).nonzero()[:, 0]
    if not len(done):
        return [], []
    here, rows, k, to = here.rows(done), rows[done], k[done], to[done]
    seeds = [seeds[i] for i in done.tolist()]
    u = here.at(here.thoughts.u, k)
    frames = with_placebos(
        here,
        base,
        rows,
        u,
        to,
        seeds,
        modes,
        sandbox,
        lambda values, mode: edited(here, k, values, mode),
    )
    named = [frame.assign(k=k.numpy(), edit=name) for frame in frames]
    return named, [to] * len(modes)


def with_placebos(
    scene: Scene,
    base: Base,
    rows: Tensor,
    own: Tensor,
    values: Tensor,
    seeds: Sequence[int],
    modes: Sequence[str],
    sandbox: Sandbox,
    branch: Callable[[Tensor, str], Branch],
) -> list[pd.DataFrame]:
    """What `values` [B, size] do in place of `own`, and what a random push as far does, by mode.

    `branch` puts values in their place and thinks as the mode says.
    """
    pushed = placebo(own, values, [noise_seed(seed, "placebo") for seed in seeds])
    frames = []
    for mode in modes:
        effect = compare(scene, base, rows, branch(values, mode), sandbox)
        control = compare(scene, base, rows, branch(pushed, mode), sandbox)
        columns = {
            "row": rows.numpy(),
            "mode": mode,
            "seed": list(seeds),
            "distance": (values - own).norm(dim=-1).numpy(),
        }
        measures = ("flipped", "logp_change", "kl", "correct")
        of_placebo = {f"placebo_{name}": control[name] for name in measures}
        frames.append(pd.DataFrame({**columns, **effect, **of_placebo}))
    return frames


def seeds_of(scene: Scene, k: Tensor, edit: str, seed: int) -> list[int]:
    """A seed per row, from what the intervention is: never from the batch it runs in."""
    pairs = zip(scene.own.tolist(), k.tolist(), strict=True)
    return [noise_seed(seed, scene.crowd.problems[i].id, i, place, edit) for i, place in pairs]


def compare(
    scene: Scene, base: Base, rows: Tensor, branch: Branch, sandbox: Sandbox | None = None
) -> dict[str, Any]:
    """How do the answers behind edited thoughts differ from the base's (its rows `rows`)?

    One pass over the base's answer tells its likelihood, the change of every next-word
    distribution along it, and whether it still is the greedy answer; only where it is not, the
    new answer is written. Without a sandbox nothing is judged and no answer returned.
    """
    said = [base.answers[i] for i in rows.tolist()]
    everybody = torch.arange(len(rows))
    logp, greedy = answer_logp_from(scene.reasoner, branch.stream.rows(everybody), said)
    answers = list(said)
    unsure = (~greedy & ((sandbox is not None) | ~base.greedy[rows])).nonzero()[:, 0]
    if len(unsure):
        written = answer_from(scene.reasoner, branch.stream.rows(unsure))
        for i, answer in zip(unsure.tolist(), written, strict=True):
            answers[i] = answer
    known = greedy | torch.isin(everybody, unsure)
    before = base.logp.distributions[rows][:, : logp.mask.shape[1]]
    kl = (before.exp() * (before - logp.distributions)).sum(-1) * logp.mask
    result = {
        "flipped": [
            answer != own if sure else True
            for answer, own, sure in zip(answers, said, known.tolist(), strict=True)
        ],
        "logp_change": (logp.logp - base.logp.logp[rows]).numpy(),
        "kl": (kl.sum(-1) / logp.mask.sum(-1)).numpy(),
    }
    if sandbox is not None:
        result["answer"] = answers
        result["K_after"] = branch.thoughts.K.numpy()
        result["correct"] = judged(scene, answers, sandbox)
        result["base_correct"] = [base.correct[i] for i in rows.tolist()]
    return result


def judged(scene: Scene, answers: Sequence[str], sandbox: Sandbox) -> list[bool]:
    """Which answers pass the tests of their problems?"""
    pairs = [(a, p.check) for a, p in zip(answers, scene.problems, strict=True)]
    return [verdict.status == "passed" for verdict in sandbox.check_many(pairs)]
