"""What do answers do when a trajectory is given away, cut short, or told a different story?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pandas as pd
import torch
from torch import Generator, Tensor

from analyses.causal.edits import decode_edit_encode, rethought, state_of
from analyses.causal.interventions import Base, judged
from analyses.causal.scene import Scene
from nfcot_model.sandbox import Sandbox
from nfcot_model.thoughts import Thoughts
from nfcot_model.worlds import Problem, what_if

__all__ = ["counterfactuals", "early_answers", "influence", "transplants"]


def transplants(scene: Scene, base: Base, sandbox: Sandbox, rng: Generator) -> pd.DataFrame:
    """Whose answer comes out when thoughts are transplanted? Rows: pairs × parts of a trajectory.

    A donor has the same K, another group and another correct answer; both sides were solved.
    `part` is `all`, `prefix` (thoughts below `k` are the donor's) or `suffix` (`k` and after).
    The answer passes the donor's tests (`donor`), the receiver's (`prompt`), or neither.
    """
    crowd, K = scene.crowd, scene.thoughts.K
    partner = [_partner(scene, i, rng) for i in range(len(scene))]
    kept = [i for i, p in enumerate(partner) if p is not None and base.correct[i]]
    if not kept:
        return pd.DataFrame()
    index = torch.tensor(kept)
    given = torch.tensor([partner[i] for i in kept])
    here = scene.rows(index)
    own = here.thoughts.u
    theirs = crowd.u[given][:, : own.shape[1]]
    place = torch.arange(own.shape[1])
    frames = []
    parts: list[tuple[str, int | None]] = [("all", None)]
    parts += [(part, k) for k in range(1, int(K.max())) for part in ("prefix", "suffix")]
    for part, k in parts:
        possible = torch.ones(len(here), dtype=torch.bool) if k is None else k < here.thoughts.K
        if not bool(possible.any()):
            continue
        if k is None:
            take = torch.ones_like(place, dtype=torch.bool)
        else:
            take = place < k if part == "prefix" else place >= k
        u = torch.where(take[None, :, None], theirs, own)
        some = here.rows(possible.nonzero()[:, 0])
        mixed = Thoughts.given(u[possible][:, : some.thoughts.mask.shape[1]], some.thoughts.mask)
        answers = some.reasoner.answer(some.prompts, mixed)
        givers = [crowd.problems[j] for j in given[possible].tolist()]
        follows = judged(_asked(some, givers), answers, sandbox)
        stays = judged(some, answers, sandbox)
        frames.append(
            pd.DataFrame(
                {
                    "row": index[possible].numpy(),
                    "part": part,
                    "k": -1 if k is None else k,
                    "K": some.thoughts.K.numpy(),
                    "answer": answers,
                    "donor": follows,
                    "prompt": stays,
                }
            )
        )
    return pd.concat(frames, ignore_index=True)


def early_answers(scene: Scene, base: Base, sandbox: Sandbox) -> pd.DataFrame:
    """What is answered after only the first k thoughts, k = 0 … K? One row per trace and k."""
    frames = []
    for k in range(int(scene.thoughts.K.max()) + 1):
        rows = (k <= scene.thoughts.K).nonzero()[:, 0]
        some = scene.rows(rows)
        mask = torch.arange(some.thoughts.mask.shape[1]) < k
        cut = Thoughts.given(some.thoughts.u, mask.expand(len(rows), -1).clone())
        answers = some.reasoner.answer(some.prompts, cut)
        frames.append(
            pd.DataFrame(
                {
                    "row": rows.numpy(),
                    "k": k,
                    "K": some.thoughts.K.numpy(),
                    "answer": answers,
                    "same": [
                        a == base.answers[i] for a, i in zip(answers, rows.tolist(), strict=True)
                    ],
                    "correct": judged(some, answers, sandbox),
                }
            )
        )
    return pd.concat(frames, ignore_index=True)


def counterfactuals(scene: Scene, base: Base, sandbox: Sandbox, rng: Generator) -> pd.DataFrame:
    """Told that a step came out differently, does the model answer what then follows?

    For each solved trace and each of its steps: the step's text becomes another state of the world
    (one that occurs at that step elsewhere in the run), goes back through codec and flow, and the
    thoughts after it are thought again. `implied`: the answer passes the tests that the world's
    own interpreter derives from the new state; `own`: it still passes the old ones. Only cases
    where the two differ are kept. Needs problems of a built-in world and one thought per step.
    """
    frames = []
    slots = scene.reasoner.config["codec"]["slots"]
    for step in range(int(scene.thoughts.K.max()) // slots):
        rows, texts, implied = [], [], []
        for i in range(len(scene)):
            if not base.correct[i] or scene.thoughts.K[i] <= step * slots:
                continue
            told = _another_state(scene, i, step, rng)
            if told is not None:
                rows.append(i)
                texts.append(told[0])
                implied.append(told[1])
        if not rows:
            continue
        index = torch.tensor(rows)
        some = scene.rows(index)
        encoded = decode_edit_encode(some, step, texts)
        width = some.thoughts.mask.shape[1]
        place = torch.arange(width)
        here = (place >= step * slots) & (place < (step + 1) * slots)
        u = torch.where(here[None, :, None], encoded.u[:, :width], some.thoughts.u)
        kept = torch.full((len(rows),), (step + 1) * slots)
        answers = some.reasoner.answer(some.prompts, rethought(some, u, kept))
        frames.append(
            pd.DataFrame(
                {
                    "row": index.numpy(),
                    "step": step,
                    "K": some.thoughts.K.numpy(),
                    "told": texts,
                    "answer": answers,
                    "implied": judged(_asked(some, implied), answers, sandbox),
                    "own": judged(some, answers, sandbox),
                }
            )
        )
    return pd.concat(frames, ignore_index=True) if frames else pd.DataFrame()


def influence(scene: Scene, k: int, values: Tensor) -> Tensor:
    """How far does changing thought k move what the model expects of each later thought?

    values [B, D] replace thought k; later thoughts are frozen. Returns [B, K]: the root mean
    square over D of `(mu'_j - mu_j) / sigma_j`, 0 for j ≤ k and where there is no thought.
    """
    u = scene.thoughts.u.clone()
    u[:, k] = values
    changed = scene.reasoner.score(
        scene.prompts, Thoughts.given(u, scene.thoughts.mask), tau=scene.tau
    )
    before = scene.reasoner.score(scene.prompts, scene.thoughts, tau=scene.tau)
    moved = (changed.mu - before.mu) * torch.exp(-before.log_sigma)
    later = torch.arange(u.shape[1]) > k
    return moved.square().mean(-1).sqrt() * scene.thoughts.mask * later


def _partner(scene: Scene, i: int, rng: Generator) -> int | None:
    crowd, me = scene.crowd, int(scene.own[i])
    mine = crowd.problems[me]
    fits = [
        j
        for j in (crowd.K[me] == crowd.K).nonzero()[:, 0].tolist()
        if crowd.solved[j]
        and crowd.problems[j].world == mine.world
        and crowd.problems[j].group != mine.group
        and crowd.problems[j].check != mine.check
    ]
    return fits[int(torch.randint(len(fits), (), generator=rng))] if fits else None


def _another_state(scene: Scene, i: int, step: int, rng: Generator) -> tuple[str, Problem] | None:
    """A state that step `step` has elsewhere in this world, put in this trace's own words."""
    problem = scene.problems[i]
    number = problem.steps[step].split(" ", 1)[0]
    states = sorted(
        {
            state_of(other.steps[step])
            for other in scene.crowd.problems
            if other.world == problem.world and len(other.steps) > step
        }
    )
    for place in torch.randperm(len(states), generator=rng).tolist():
        told = what_if(problem, step, states[place])
        if told.check != problem.check:
            return f"{number} {states[place]}", told
    return None


def _asked(scene: Scene, problems: Sequence[Problem]) -> Scene:
    """The same scene, judged by other problems' tests."""
    return replace(scene, problems=problems)
