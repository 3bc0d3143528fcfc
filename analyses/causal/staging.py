"""From a run on disk to traces that can be interfered with.

crowd = crowd_of(run, reasoner)                # everybody, for donors and means
scene = stage(run, reasoner, crowd, rows)      # some of them, as they were drawn
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from analyses.causal.scene import Crowd, Scene, set_scene
from nfcot_model.errors import UserError
from nfcot_model.reasoners import Reasoner
from nfcot_model.thoughts import Thoughts
from nfcot_model.traces import Run
from nfcot_model.worlds import Problem

__all__ = ["crowd_of", "stage"]


def crowd_of(run: Run, reasoner: Reasoner, problems: Sequence[Problem] | None = None) -> Crowd:
    """All thoughts of a run with the problems they are about (its own where none are given).

    Raises UserError for another checkpoint than the run's, a reasoner that has no thoughts, a run
    without one, and problems that lack one of the run's.
    """
    if reasoner.checkpoint_hash != run.manifest["checkpoint_hash"]:
        raise UserError(f"{run.path}: was traced with another checkpoint; give that one")
    if not reasoner.max_thoughts:
        raise UserError(
            f"{run.path}: is of the reasoner '{reasoner.name}', which has no thoughts to interfere"
            " with"
        )
    if not len(run.thoughts):
        raise UserError(f"{run.path}: holds no thought to interfere with; trace more problems")
    known = {problem.id: problem for problem in (run.problems() if problems is None else problems)}
    missing = [i for i in run.traces["problem_id"] if i not in known]
    if missing:
        raise UserError(f"--problems: lacks {missing[0]}, which the run was traced on")
    asked = [known[i] for i in run.traces["problem_id"]]
    K = torch.tensor(run.traces["K"].to_numpy())
    mask = torch.arange(int(K.max())) < K[:, None]
    u = torch.zeros(*mask.shape, run.D)
    u[mask] = torch.from_numpy(run.tensor("u"))
    solved = run.traces["correct"].tolist()
    return Crowd(u, mask, asked, solved, reasoner.thoughts_per_step)


def stage(run: Run, reasoner: Reasoner, crowd: Crowd, rows: Tensor) -> Scene:
    """The traces `rows` of a run as they were drawn, with the noise that drew them.

    Where there is a density they are scored again first, so nothing hangs on stored means and
    deviations.
    """
    decode = run.manifest["decode"]
    tau = decode["tau"]
    stopped = torch.tensor(run.traces["stopped"].to_numpy())[rows]
    problems = [crowd.problems[i] for i in rows.tolist()]
    prompts = [p.prompt for p in problems]
    thoughts = Thoughts.given(crowd.u[rows], crowd.mask[rows], stopped).rows(slice(None))
    if reasoner.has_likelihood:
        drawn = torch.zeros_like(crowd.u)
        drawn[crowd.mask] = torch.from_numpy(run.tensor("eps"))
        eps = drawn[rows][:, : thoughts.mask.shape[1]]
        scores = reasoner.score(prompts, thoughts, tau=tau or 1.0)
        thoughts = replace(thoughts, eps=eps, mu=scores.mu, log_sigma=scores.log_sigma)
    seeds = run.traces["seed"].to_numpy()[rows.numpy()].tolist()
    noise = reasoner.noise_of(prompts, seeds, tau, decode["max_thoughts"])
    return set_scene(reasoner, problems, thoughts, noise, tau, crowd, rows)
