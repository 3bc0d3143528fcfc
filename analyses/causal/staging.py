"""From a run on disk to traces that can be interfered with.

crowd = crowd_of(run, reasoner)                # everybody, for donors and means
scene = stage(run, reasoner, crowd, rows)      # some of them, as they were drawn
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from analyses.causal.scene import Crowd, Scene, set_scene
from nfcot_model.errors import UserError
from nfcot_model.reasoners import NFCoTReasoner
from nfcot_model.sampling import draw_noise
from nfcot_model.thoughts import Thoughts
from nfcot_model.traces import Run
from nfcot_model.worlds import Problem

__all__ = ["crowd_of", "stage"]


def crowd_of(run: Run, reasoner: NFCoTReasoner, problems: Sequence[Problem] | None = None) -> Crowd:
    """All thoughts of a run with the problems they are about (its own where none are given).

    Raises UserError for another checkpoint than the run's, tau = 0 (nothing to resample with), a
    run without a thought, and problems that lack one of the run's.
    """
    if reasoner.checkpoint_hash != run.manifest["checkpoint_hash"]:
        raise UserError(f"{run.path}: was traced with another checkpoint; give that one")
    if run.manifest["decode"]["tau"] <= 0:
        raise UserError(f"{run.path}: was traced at tau 0; resampling needs noise, trace above 0")
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
    slots = reasoner.config["codec"]["slots"] if reasoner.variable_k else None
    return Crowd(u, mask, asked, run.traces["correct"].tolist(), slots)


def stage(run: Run, reasoner: NFCoTReasoner, crowd: Crowd, rows: Tensor) -> Scene:
    """The traces `rows` of a run as they were drawn, with the noise that drew them.

    They are scored again first, so nothing hangs on stored means and deviations.
    """
    decode = run.manifest["decode"]
    drawn = torch.zeros_like(crowd.u)
    drawn[crowd.mask] = torch.from_numpy(run.tensor("eps"))
    u, mask = crowd.u[rows], crowd.mask[rows]
    stopped = torch.tensor(run.traces["stopped"].to_numpy())[rows]
    problems = [crowd.problems[i] for i in rows.tolist()]
    zero = torch.zeros_like(u)
    bare = Thoughts(u, drawn[rows], zero, zero, mask, stopped).rows(slice(None))
    scores = reasoner.score([p.prompt for p in problems], bare, tau=decode["tau"])
    thoughts = Thoughts(bare.u, bare.eps, scores.mu, scores.log_sigma, bare.mask, stopped)
    seeds = run.traces["seed"].to_numpy()[rows.numpy()].tolist()
    budget = reasoner.budget(decode["max_thoughts"])
    noise = draw_noise(seeds, budget, reasoner.D, decode["tau"])
    return set_scene(reasoner, problems, thoughts, noise, decode["tau"], crowd, rows)
