"""Which thoughts does later thinking read? How an edit of thought k moves the means after it."""

from __future__ import annotations

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from analyses.causal.edits import placebo, swap_different_value
from analyses.causal.interventions import seeds_of
from analyses.causal.scene import Scene
from nfcot_model.model import NFCoTModel
from nfcot_model.sampling import noise_seed

__all__ = ["influence", "influences"]


@torch.no_grad()
def influence(scene: Scene, k: Tensor, values: Tensor) -> Tensor:
    """How far does changing thought k[i] move what the model expects of each later thought?

    values [B, D] replace thought k; later thoughts are frozen. Returns [B, K]: the root mean
    square over D of `(mu'_j - mu_j) / sigma_j`, 0 for j ≤ k and where there is no thought.
    """
    u = scene.thoughts.u.clone()
    u[torch.arange(len(scene)), k] = values
    before, log_sigma = _expected(scene, scene.thoughts.u)
    after, _ = _expected(scene, u)
    moved = (after - before) * torch.exp(-log_sigma)
    later = torch.arange(u.shape[1]) > k[:, None]
    return moved.square().mean(-1).sqrt() * scene.thoughts.mask * later


def influences(scene: Scene, seed: int = 0) -> pd.DataFrame:
    """The matrix: thought k swapped for another problem's with another state, read at each later j.

    Rows: trace × swapped thought `k` × later thought `j`; `moved` and `placebo_moved` (a random
    push as far) in standard deviations of the model's own Gaussian.
    """
    rows, k = scene.places().unbind(-1)
    here = scene.rows(rows)
    seeds = seeds_of(here, k, "influence", seed)
    values = swap_different_value(here, k, seeds)
    done = (~values.isnan().any(-1) & (k < here.thoughts.K - 1)).nonzero()[:, 0]
    if not len(done):
        return pd.DataFrame()
    here, rows, k, values = here.rows(done), rows[done], k[done], values[done]
    u = here.at(here.thoughts.u, k)
    pushed = placebo(u, values, [noise_seed(seeds[i], "placebo") for i in done.tolist()])
    moved, control = (influence(here, k, v).numpy() for v in (values, pushed))
    place = np.arange(moved.shape[1])
    i, j = np.nonzero((place > k.numpy()[:, None]) & here.thoughts.mask.numpy())
    return pd.DataFrame(
        {
            "row": rows.numpy()[i],
            "k": k.numpy()[i],
            "j": j,
            "moved": moved[i, j],
            "placebo_moved": control[i, j],
        }
    )


def _expected(scene: Scene, u: Tensor) -> tuple[Tensor, Tensor]:
    """mu and log sigma [B, K, D] of every thought, given the thoughts `u` before it."""
    model: NFCoTModel = scene.reasoner.model
    stream = scene.opened.rows(scene.place)
    first = stream.state[:, None]
    embedded = model.project(u.to(model.device)).to(first.dtype)
    behind = stream.extend(embedded, scene.thoughts.mask.to(model.device))
    mu, log_sigma = model.nf_head(torch.cat([first, behind[:, :-1]], dim=1))
    return mu.cpu(), log_sigma.cpu()
