"""What do answers do when a trajectory is given away, cut short, or told a different story?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pandas as pd
import torch

from analyses.causal.edits import choose, decode_edit_encode, told_otherwise
from analyses.causal.interventions import Base, answered, judged, seeds_of
from analyses.causal.scene import Scene
from nfcot_model.errors import UserError
from nfcot_model.sandbox import Sandbox
from nfcot_model.worlds import Problem, what_if

__all__ = ["counterfactuals", "early_answers", "transplants"]


def transplants(scene: Scene, base: Base, sandbox: Sandbox, seed: int = 0) -> pd.DataFrame:
    """Whose answer comes out when thoughts are transplanted? Rows: pairs × parts of a trajectory.

    A donor has the same K, another group and another correct answer; both sides were solved.
    `part` is `all`, `prefix` (thoughts below `k` are the donor's) or `suffix` (`k` and after).
    `mode` is `direct`, and for a prefix also `total`: what comes after it is thought again. The
    answer passes the donor's tests (`donor`), the receiver's (`prompt`), or neither. `giver` is the
    donor's row in the crowd.
    """
    crowd, K = scene.crowd, scene.thoughts.K
    partner = _partners(scene, seed)
    index = ((partner >= 0) & torch.tensor(base.correct)).nonzero()[:, 0]
    if not len(index):
        return pd.DataFrame()
    given = partner[index]
    here = scene.rows(index)
    own = here.thoughts.u
    theirs = crowd.u[given][:, : own.shape[1]]
    place = torch.arange(own.shape[1])
    frames = []
    parts: list[tuple[str, str, int | None]] = [("all", "direct", None)]
    ways = (("prefix", "direct"), ("prefix", "total"), ("suffix", "direct"))
    parts += [(part, mode, k) for k in range(1, int(K.max())) for part, mode in ways]
    for part, mode, k in parts:
        possible = torch.ones(len(here), dtype=torch.bool) if k is None else k < here.thoughts.K
        if not bool(possible.any()):
            continue
        if k is None:
            take = torch.ones_like(place, dtype=torch.bool)
        else:
            take = place < k if part == "prefix" else place >= k
        u = torch.where(take[None, :, None], theirs, own)
        some = here.rows(possible.nonzero()[:, 0])
        mask = some.thoughts.mask
        mixed = u[possible][:, : mask.shape[1]]
        if mode == "total":
            branch = some.rethought(mixed, torch.full((len(some),), k or 0))
        else:
            branch = some.given(mixed, mask)
        answers = answered(some, branch.stream)
        givers = [crowd.problems[j] for j in given[possible].tolist()]
        follows = judged(_asked(some, givers), answers, sandbox)
        stays = judged(some, answers, sandbox)
        frames.append(
            pd.DataFrame(
                {
                    "row": index[possible].numpy(),
                    "giver": given[possible].numpy(),
                    "part": part,
                    "mode": mode,
                    "k": 0 if k is None else k,
                    "K": some.thoughts.K.numpy(),
                    "answer": answers,
                    "donor": follows,
                    "prompt": stays,
                    "neither": [not (a or b) for a, b in zip(follows, stays, strict=True)],
                    "flipped": [
                        a != base.answers[i]
                        for a, i in zip(answers, index[possible].tolist(), strict=True)
                    ],
                }
            )
        )
    return pd.concat(frames, ignore_index=True)


def early_answers(scene: Scene, base: Base, sandbox: Sandbox) -> pd.DataFrame:
    """What is answered after only the first k thoughts, k = 0 … K? One row per trace and k.

    Counted from the least k with which the reasoner can answer (1 for loops).
    """
    frames = []
    for k in range(scene.reasoner.least_thoughts, int(scene.thoughts.K.max()) + 1):
        rows = (k <= scene.thoughts.K).nonzero()[:, 0]
        some = scene.rows(rows)
        mask = torch.arange(some.thoughts.mask.shape[1]) < k
        cut = some.given(some.thoughts.u, mask.expand(len(rows), -1))
        answers = answered(some, cut.stream)
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
                    "base_correct": [base.correct[i] for i in rows.tolist()],
                }
            )
        )
    return pd.concat(frames, ignore_index=True)


def counterfactuals(
    scene: Scene,
    base: Base,
    sandbox: Sandbox,
    seed: int = 0,
    steps: Sequence[int] | None = None,
) -> pd.DataFrame:
    """Told that a step came out differently, does the model answer what then follows?

    For each solved trace and each of its steps (or of `steps`) its text becomes another state
    (one that occurs at that step elsewhere in the run), goes back through codec and flow, and the
    thoughts after it are thought again. `implied`: the answer passes the tests that the world's
    own interpreter derives from the new state; `own`: it still passes the old ones. Only cases
    where the two differ are kept. Problems whose world has no interpreter, or whose prompt it
    cannot read, have no rows. Needs a codec by steps.
    """
    frames = []
    slots = scene.reasoner.thoughts_per_step or 1
    every = range(int(scene.thoughts.K.max()) // slots)
    for step in every if steps is None else sorted(set(steps) & set(every)):
        at = torch.full((len(scene),), step * slots)
        seeds = seeds_of(scene, at, "told", seed)
        told = {
            i: found
            for i in range(len(scene))
            if base.correct[i]
            and step * slots < int(scene.thoughts.K[i])
            and (found := _another_state(scene, i, step, seeds[i])) is not None
        }
        if not told:
            continue
        index = torch.tensor(list(told))
        texts, implied = zip(*told.values(), strict=True)
        some = scene.rows(index)
        encoded = decode_edit_encode(some, torch.full((len(index),), step), texts)
        place = torch.arange(encoded.u.shape[1])
        here = (place >= step * slots) & (place < (step + 1) * slots)
        u = torch.where(here[None, :, None], encoded.u, some.thoughts.u)
        kept = torch.full((len(index),), (step + 1) * slots)
        answers = answered(some, some.rethought(u, kept).stream)
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


def _partners(scene: Scene, seed: int) -> torch.Tensor:
    """Whose thoughts are given to each row? [B], -1 where nobody's can be."""
    crowd, K = scene.crowd, scene.crowd.K.numpy()
    solved = np.asarray(crowd.solved, dtype=bool)
    seeds = seeds_of(scene, torch.zeros(len(scene)).long(), "transplant", seed)
    chosen = []
    for me, own in zip(scene.own.tolist(), seeds, strict=True):
        fits = solved & (crowd.groups != crowd.groups[me]) & (crowd.worlds == crowd.worlds[me])
        fits &= K[me] == K
        asked = crowd.problems[me].check
        other = [j for j in np.flatnonzero(fits).tolist() if crowd.problems[j].check != asked]
        chosen.append(choose(np.asarray(other), own))
    return torch.tensor(chosen)


def _another_state(scene: Scene, i: int, step: int, seed: int) -> tuple[str, Problem] | None:
    """Another thing for step `step` to say, and the problem that would then be right."""
    told = told_otherwise(scene, i, step, seed)
    if told is None:
        return None
    problem = scene.problems[i]
    try:
        implied = what_if(problem, step, told)
    except UserError:
        return None
    return (told, implied) if implied.check != problem.check else None


def _asked(scene: Scene, problems: Sequence[Problem]) -> Scene:
    """The same scene, judged by other problems' tests."""
    return replace(scene, problems=problems)
