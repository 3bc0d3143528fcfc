"""What can be done to one thought: a small algebra of replacements.

An edit says what thought k of each row becomes, [B, D]; NaN where it cannot be done. Whatever is
random about row i depends on `seeds[i]` only, never on its batch. Off-manifold edits (`zero`,
`noise`) can break a model that never saw such thoughts, used or not; `resample` and donors stay on
it ("Weight of Silence", arXiv 2607.20952).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from analyses.causal.scene import Branch, Crowd, Scene, state_of
from nfcot_model.errors import UserError
from nfcot_model.reasoners import NFCoTReasoner
from nfcot_model.sampling import draw_noise
from nfcot_model.thoughts import Thoughts
from nfcot_model.worlds import Problem

__all__ = [
    "EDITS",
    "MODES",
    "Edit",
    "choose",
    "decode_edit_encode",
    "donor",
    "donors",
    "edited",
    "moved_along",
    "placebo",
    "random_unit",
    "steer",
    "told_otherwise",
]

Edit = Callable[[Scene, Tensor, Sequence[int]], Tensor]
MODES = ("direct", "total")


def zero(scene: Scene, k: Tensor, seeds: Sequence[int]) -> Tensor:
    """Nothing at all: the zero vector. Off the manifold."""
    return torch.zeros_like(scene.at(scene.thoughts.u, k))


def position_mean(scene: Scene, k: Tensor, seeds: Sequence[int]) -> Tensor:
    """What is usual at this index: the mean thought k of the run."""
    return scene.crowd.mean[k]


def noise(scene: Scene, k: Tensor, seeds: Sequence[int]) -> Tensor:
    """A random direction of the thought's own norm."""
    u = scene.at(scene.thoughts.u, k)
    return random_unit(u, seeds) * u.norm(dim=-1, keepdim=True)


def resample(scene: Scene, k: Tensor, seeds: Sequence[int]) -> Tensor:
    """On the manifold: a fresh draw of thought k given its true prefix, at the scene's tau.

    NaN where the draw ends thinking instead (of written tokens; a density draws a thought).
    """
    if scene.reasoner.has_likelihood:
        return _from_noise(scene, k, draw_noise(seeds, 1, scene.reasoner.D, scene.tau)[:, 0])
    rows = torch.arange(len(scene))
    noise = scene.noise[:, : int(k.max()) + 2].clone()
    noise[rows, k] = scene.reasoner.noise_of(scene.prompts, seeds, scene.tau, 1)[:, 0]
    again = replace(scene, noise=noise).rethought(scene.thoughts.u, k).thoughts
    drawn = again.u[rows, k.clamp(max=again.u.shape[1] - 1)]
    return torch.where((k < again.K)[:, None], drawn, torch.nan)


def noise_edit(scene: Scene, k: Tensor, seeds: Sequence[int], scale: float = -1.0) -> Tensor:
    """Only the noise changes: `u = mu + sigma · scale · eps` (by default mirrored)."""
    return _from_noise(scene, k, scale * scene.at(scene.thoughts.eps, k))


def donor(
    scene: Scene,
    k: Tensor,
    seeds: Sequence[int],
    same_value: bool | None = None,
    matched: bool = True,
) -> Tensor:
    """Thought k of another trace of the run, of another group (`donors`)."""
    chosen = donors(scene, k, seeds, same_value, matched)
    found = scene.crowd.u[chosen.clamp(min=0), k]
    return torch.where((chosen >= 0)[:, None], found, torch.nan)


def donors(
    scene: Scene,
    k: Tensor,
    seeds: Sequence[int],
    same_value: bool | None = None,
    matched: bool = True,
    values: NDArray[np.int64] | None = None,
) -> Tensor:
    """Which trace of the crowd gives its thought k[i] to row i? [B], -1 where none can.

    Of the same world and another group. `matched`: it has the same K. `same_value`: its true step
    k says the same (True) or something else (False); with `values` [N, K], those are compared
    instead of `Crowd.states`.
    """
    crowd, K = scene.crowd, scene.crowd.K.numpy()
    values = crowd.states if values is None else values
    chosen = []
    for me, place, seed in zip(scene.own.tolist(), k.tolist(), seeds, strict=True):
        fits = (crowd.groups != crowd.groups[me]) & (crowd.worlds == crowd.worlds[me])
        fits &= (K[me] == K) if matched else (place < K)
        if same_value is not None:
            said = values[:, place]
            same = said == said[me]
            fits &= (said >= 0) & (said[me] >= 0) & (same if same_value else ~same)
        chosen.append(choose(np.flatnonzero(fits), seed))
    return torch.tensor(chosen)


def swap_same_value(scene: Scene, k: Tensor, seeds: Sequence[int]) -> Tensor:
    """Thought k of another problem whose step k is the same: should change nothing."""
    return donor(scene, k, seeds, same_value=True, matched=False)


def swap_different_value(scene: Scene, k: Tensor, seeds: Sequence[int]) -> Tensor:
    """Thought k of another problem whose step k is another one."""
    return donor(scene, k, seeds, same_value=False)


def steer(scene: Scene, k: Tensor, seeds: Sequence[int], label: str | None = None) -> Tensor:
    """Along a difference of means: from the mean thought of one's own label to that of another.

    Means are over the crowd at index k, `label` as in `Crowd.labelled`. NaN where a step has no
    label or nobody has another one.
    """
    u = scene.at(scene.thoughts.u, k)
    means = _means(scene.crowd, label)
    out = torch.full_like(u, torch.nan)
    codes = scene.crowd.labelled(label)
    for i, (me, place, seed) in enumerate(zip(scene.own.tolist(), k.tolist(), seeds, strict=True)):
        world, mine = int(scene.crowd.worlds[me]), int(codes[me, place])
        others = [c for c in means.get((world, place), {}) if c != mine]
        if mine >= 0 and others:
            there = means[world, place]
            out[i] = u[i] + there[others[choose(np.arange(len(others)), seed)]] - there[mine]
    return out


def moved_along(u: Tensor, direction: Tensor, size: float = 1.0) -> Tensor:
    """Thoughts [B, D] moved along a direction [D] by `size` times each thought's norm."""
    unit = functional.normalize(direction.to(u), dim=-1)
    return u + size * u.norm(dim=-1, keepdim=True) * unit


def placebo(u: Tensor, values: Tensor, seeds: Sequence[int]) -> Tensor:
    """A random push of `u` [B, D], as far as `values` went: what moving alone does."""
    return u + random_unit(u, seeds) * (values - u).norm(dim=-1, keepdim=True)


def retold(scene: Scene, k: Tensor, seeds: Sequence[int]) -> Tensor:
    """Thought k of the trace as it would be had its step said something else (text level).

    The other text is one that this step has elsewhere in the run, in the trace's own numbering; it
    goes through codec and flow with the other steps as decoded. Needs one thought per step.
    """
    texts = [
        told_otherwise(scene, i, place, seed)
        for i, (place, seed) in enumerate(zip(k.tolist(), seeds, strict=True))
    ]
    known = [i for i, text in enumerate(texts) if text is not None]
    out = torch.full((len(scene), scene.reasoner.D), torch.nan)
    if known:
        index = torch.tensor(known)
        some = scene.rows(index)
        told = decode_edit_encode(some, k[index], [str(texts[i]) for i in known])
        out[index] = some.at(told.u, k[index])
    return out


def told_otherwise(scene: Scene, i: int, step: int, seed: int) -> str | None:
    """Another thing that step `step` says elsewhere in this world, in row i's own numbering."""
    mine = scene.problems[i]
    if step >= len(mine.steps):
        return None
    own = state_of(mine.steps[step])
    others = sorted({s for s in _said(scene.crowd.problems, mine.world, step) if s != own})
    if not others:
        return None
    return mine.steps[step].removesuffix(own) + others[choose(np.arange(len(others)), seed)]


EDITS: Mapping[str, Edit] = {
    "zero": zero,
    "position_mean": position_mean,
    "noise": noise,
    "resample": resample,
    "noise_edit": noise_edit,
    "donor": donor,
    "swap_same_value": swap_same_value,
    "swap_different_value": swap_different_value,
    "decode_edit_encode": retold,
    "steer": steer,
}


def edits_with(label: str | None) -> Mapping[str, Edit]:
    """The edits, with `steer` going by this label."""
    return {**EDITS, "steer": partial(steer, label=label)}


def decode_edit_encode(scene: Scene, step: Tensor, texts: Sequence[str]) -> Thoughts:
    """What if step `step[i]` of row i had been `texts[i]`? Back through codec and flow.

    The latents of that step become the codec's of the new text, the others stay as decoded, and the
    flow makes thoughts of them all. With an alternating flow the thoughts of other steps move too,
    because `u = F(e)` mixes them; with a causal flow those before do not. Raises UserError for a
    step that a trace does not have, a reasoner without a codec, and a codec of the whole reasoning.
    """
    reasoner, slots = scene.reasoner, scene.reasoner.thoughts_per_step
    if not isinstance(reasoner, NFCoTReasoner):
        raise UserError(
            f"reasoner '{reasoner.name}' has no codec: text cannot be made its thoughts"
        )
    if slots is None:
        raise UserError("this codec encodes the whole reasoning: no step of it can be replaced")
    lacking = (step < 0) | (step >= scene.thoughts.K // slots)
    if bool(lacking.any()):
        i = int(lacking.nonzero()[0])
        raise UserError(f"step {step[i]}: its trace has {scene.thoughts.K[i] // slots} steps")
    e = reasoner.decode(scene.thoughts).e.clone()
    told, _ = reasoner.latents([[text] for text in texts])
    rows = torch.arange(len(scene))
    for slot in range(slots):
        e[rows, step * slots + slot] = told[:, slot]
    return reasoner.from_latents(e, scene.thoughts.mask)


def edited(scene: Scene, k: Tensor, values: Tensor, mode: str) -> Branch:
    """The traces with thought k[i] replaced by values[i].

    `direct`: the thoughts after it stay as they were. `total`: they are thought again from there,
    with the noise they were drawn with, so whatever differs follows from the edit.
    """
    u = scene.thoughts.u.clone()
    u[torch.arange(len(scene)), k] = values
    if mode == "direct":
        return scene.given(u, scene.thoughts.mask)
    return scene.rethought(u, k + 1)


def choose(candidates: NDArray[np.int64], seed: int) -> int:
    """One of these, by this seed; -1 when there is none."""
    if not len(candidates):
        return -1
    return int(np.random.Generator(np.random.Philox(seed)).choice(candidates))


def _from_noise(scene: Scene, k: Tensor, eps: Tensor) -> Tensor:
    mu, log_sigma = (scene.at(t, k) for t in (scene.thoughts.mu, scene.thoughts.log_sigma))
    return mu + torch.exp(log_sigma) * eps


def random_unit(u: Tensor, seeds: Sequence[int]) -> Tensor:
    """A random direction for each row of `u` [B, D], of length 1."""
    return functional.normalize(draw_noise(seeds, 1, u.shape[-1], 1.0)[:, 0], dim=-1)


def _said(problems: Sequence[Problem], world: str, step: int) -> set[str]:
    return {state_of(p.steps[step]) for p in problems if p.world == world and len(p.steps) > step}


def _means(crowd: Crowd, label: str | None) -> dict[tuple[int, int], dict[int, Tensor]]:
    """The mean thought of each label value, by (world, index)."""
    codes = crowd.labelled(label)
    out: dict[tuple[int, int], dict[int, Tensor]] = {}
    for world in set(crowd.worlds.tolist()):
        for k in range(crowd.mask.shape[1]):
            here = (crowd.worlds == world) & crowd.mask[:, k].numpy() & (codes[:, k] >= 0)
            out[world, k] = {
                int(code): crowd.u[torch.from_numpy(here & (codes[:, k] == code)), k].mean(0)
                for code in np.unique(codes[here, k])
            }
    return out
