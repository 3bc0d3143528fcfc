"""What can be done to one thought: a small algebra of replacements.

An edit says what thought k of each row becomes, [B, D]; NaN where it cannot be done. All draw from
the generator they are given, so the same seed does the same. Off-manifold edits (`zero`, `noise`)
can break a model that never saw such thoughts, used or not; `resample` and donors stay on it
("Weight of Silence", arXiv 2607.20952).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Generator, Tensor
from torch.nn import functional

from analyses.causal.scene import Scene
from nfcot_model.errors import UserError
from nfcot_model.thoughts import Thoughts
from nfcot_model.worlds import Problem

__all__ = [
    "EDITS",
    "MODES",
    "Edit",
    "decode_edit_encode",
    "donor",
    "rethought",
    "state_of",
    "steer",
    "with_thought",
]

Edit = Callable[[Scene, Tensor, Generator], Tensor]
MODES = ("direct", "total")


def zero(scene: Scene, k: Tensor, rng: Generator) -> Tensor:
    """Nothing at all: the zero vector. Off the manifold."""
    return torch.zeros_like(scene.at(scene.thoughts.u, k))


def position_mean(scene: Scene, k: Tensor, rng: Generator) -> Tensor:
    """What is usual at this index: the mean thought k of the run."""
    return scene.crowd.mean()[k]


def noise(scene: Scene, k: Tensor, rng: Generator) -> Tensor:
    """A random direction of the thought's own norm."""
    u = scene.at(scene.thoughts.u, k)
    return functional.normalize(_normal(u, rng), dim=-1) * u.norm(dim=-1, keepdim=True)


def resample(scene: Scene, k: Tensor, rng: Generator) -> Tensor:
    """On the manifold: a fresh draw of thought k given its true prefix, at the scene's tau."""
    eps = _normal(scene.at(scene.thoughts.u, k), rng) * scene.tau
    return _from_noise(scene, k, eps)


def noise_edit(scene: Scene, k: Tensor, rng: Generator, scale: float = -1.0) -> Tensor:
    """Only the noise changes: `u = mu + sigma · scale · eps` (by default mirrored)."""
    return _from_noise(scene, k, scale * scene.at(scene.thoughts.eps, k))


def donor(
    scene: Scene, k: Tensor, rng: Generator, same_value: bool | None = None, matched: bool = True
) -> Tensor:
    """Thought k of another trace of the run, of another group.

    `matched`: the donor has the same K. `same_value`: its true step k says the same (True) or
    something else (False).
    """
    crowd, rows = scene.crowd, torch.arange(len(scene))
    K = crowd.K
    chosen = torch.full((len(scene),), -1)
    for i in rows.tolist():
        me, place = int(scene.own[i]), int(k[i])
        fits = (K[me] == K) if matched else (place < K)
        candidates = [
            j
            for j in (fits & (place < K)).nonzero()[:, 0].tolist()
            if crowd.problems[j].group != crowd.problems[me].group
            and (same_value is None or _same(crowd.problems, me, j, place) is same_value)
        ]
        if candidates:
            chosen[i] = candidates[int(torch.randint(len(candidates), (), generator=rng))]
    found = crowd.u[chosen.clamp(min=0), k]
    return torch.where((chosen >= 0)[:, None], found, torch.nan)


def swap_same_value(scene: Scene, k: Tensor, rng: Generator) -> Tensor:
    """Thought k of another problem whose step k is the same: should change nothing."""
    return donor(scene, k, rng, same_value=True, matched=False)


def swap_different_value(scene: Scene, k: Tensor, rng: Generator) -> Tensor:
    """Thought k of another problem whose step k is another one."""
    return donor(scene, k, rng, same_value=False)


def steer(scene: Scene, k: Tensor, rng: Generator, direction: Tensor, size: float = 1.0) -> Tensor:
    """Thought k moved along a direction [D] by `size` times the thought's norm."""
    u = scene.at(scene.thoughts.u, k)
    unit = functional.normalize(direction.to(u), dim=-1)
    return u + size * u.norm(dim=-1, keepdim=True) * unit


def placebo(scene: Scene, k: Tensor, edited: Tensor, rng: Generator) -> Tensor:
    """A push in a random direction, as far as an edit went: what moving alone does."""
    u = scene.at(scene.thoughts.u, k)
    unit = functional.normalize(_normal(u, rng), dim=-1)
    return u + unit * (edited - u).norm(dim=-1, keepdim=True)


EDITS: Mapping[str, Edit] = {
    "zero": zero,
    "position_mean": position_mean,
    "noise": noise,
    "resample": resample,
    "noise_edit": noise_edit,
    "donor": donor,
    "swap_same_value": swap_same_value,
    "swap_different_value": swap_different_value,
}


def decode_edit_encode(scene: Scene, step: int, texts: Sequence[str]) -> Thoughts:
    """What if step `step` of row i had been `texts[i]`? Back through codec and flow.

    The latents of that step become the codec's of the new text, the others stay as decoded, and the
    flow makes thoughts of them all. With an alternating flow the thoughts of other steps move too,
    because `u = F(e)` mixes them; with a causal flow those before do not. Raises UserError for a
    step that a trace does not have, and for a codec of the whole reasoning.
    """
    reasoner = scene.reasoner
    if not reasoner.variable_k:
        raise UserError("this codec encodes the whole reasoning: no step of it can be replaced")
    slots = reasoner.config["codec"]["slots"]
    if not 0 <= step < int(scene.thoughts.K.min()) // slots:
        raise UserError(f"step {step}: some trace has {int(scene.thoughts.K.min()) // slots} steps")
    e = reasoner.decode(scene.thoughts).e.clone()
    told, _ = reasoner.latents([[text] for text in texts])
    e[:, step * slots : (step + 1) * slots] = told
    return reasoner.from_latents(e, scene.thoughts.mask)


def with_thought(scene: Scene, k: Tensor, values: Tensor, mode: str) -> Thoughts:
    """The traces with thought k[i] replaced by values[i].

    `direct`: the thoughts after it stay as they were. `total`: they are thought again from there,
    with the noise they were drawn with, so whatever differs follows from the edit.
    """
    u = scene.thoughts.u.clone()
    u[torch.arange(len(scene)), k] = values
    if mode == "direct":
        return Thoughts.given(u, scene.thoughts.mask)
    return rethought(scene, u, k + 1)


def rethought(scene: Scene, u: Tensor, kept: Tensor) -> Thoughts:
    """The first kept[i] thoughts of `u`, and what the model thinks after them."""
    mask = torch.arange(u.shape[1]) < kept[:, None]
    return scene.reasoner.think(
        scene.prompts,
        tau=scene.tau,
        noise_seeds=(),
        noise=scene.noise,
        given=Thoughts.given(u, mask),
        max_thoughts=scene.noise.shape[1],
    )


def _from_noise(scene: Scene, k: Tensor, eps: Tensor) -> Tensor:
    mu, log_sigma = (scene.at(t, k) for t in (scene.thoughts.mu, scene.thoughts.log_sigma))
    return mu + torch.exp(log_sigma) * eps


def _normal(like: Tensor, rng: Generator) -> Tensor:
    return torch.randn(like.shape, generator=rng)


def _same(problems: Sequence[Problem], i: int, j: int, k: int) -> bool | None:
    """Do problems i and j say the same at step k? None when one of them has no such step."""
    if k >= min(len(problems[i].steps), len(problems[j].steps)):
        return None
    return state_of(problems[i].steps[k]) == state_of(problems[j].steps[k])


def state_of(step: str) -> str:
    """What a step says, without its number (`#3 4x+7` says `4x+7`)."""
    return step.split(" ", 1)[1] if step.startswith("#") and " " in step else step
