"""The same model before any training: what do its thoughts and states know of a label?"""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from nfcot_model.model import NFCoTModel
from nfcot_model.reasoners import NFCoTReasoner
from nfcot_model.thoughts import Thoughts
from nfcot_model.traces import Run

__all__ = ["SEED", "array_names", "hook_alike", "think_alike", "untrained"]

SEED = 0


def untrained(reasoner: NFCoTReasoner, seed: int = SEED) -> NFCoTReasoner:
    """A reasoner of the same config with fresh random weights, as training would start from them.

    Codec statistics are those of a fresh model. A fresh head predicts a standard normal whatever
    it reads and a fresh flow is the identity, so `mu` is 0 and `u` and `e` are the noise: only
    `h` can know anything of the prompt. It shows what this architecture gives away without having
    learned anything; not what a backbone trained on other texts would.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = NFCoTModel(deepcopy(reasoner.model.config))
    model.backbone.to(reasoner.model.backbone.dtype)
    torch.nn.Module.to(model, reasoner.model.device)
    return NFCoTReasoner(model, reasoner.tokenizer, f"untrained-{seed}")


def array_names(layers: int) -> list[str]:
    """What is kept of its thinking: u, mu, e and each of the `layers` of `h`."""
    return ["u", "mu", "e", *(f"h.{layer}" for layer in range(layers))]


@torch.no_grad()
def think_alike(
    reasoner: NFCoTReasoner,
    prompts: Sequence[str],
    K: Sequence[int],
    eps: np.ndarray,
    layers: int,
) -> dict[str, np.ndarray]:
    """What does this reasoner think of the prompts, given the noise of a run and its K?

    eps: [sum of K, D], the run's drawn noise. Returns `array_names(layers)`, each
    [sum of K, width]; layers: how many of `h` the run has, 1 being the last. Its own stop decision
    is not asked. With the run's own reasoner these are the run's own tensors, up to rounding.

    Thoughts `u_k = mu_k(u_<k) + sigma_k(u_<k) eps_k` are found as the fixed point of passes over
    all k at once (Jacobi iteration): pass j makes the first j right, so K passes give what
    thinking one by one gives; a fresh model is there at the first.
    """
    mask = torch.arange(max(1, *K)) < torch.tensor(list(K))[:, None]
    noise = torch.zeros(*mask.shape, reasoner.D)
    noise[mask] = torch.from_numpy(eps)
    u = noise
    for _ in range(mask.shape[1] + 1):
        scores = reasoner.score(prompts, Thoughts.given(u, mask), tau=1.0, hidden=layers > 0)
        before, u = u, scores.mu + torch.exp(scores.log_sigma) * noise
        if torch.equal(u, before):
            break
    model = reasoner.model
    e = model.flow.inverse(u.to(model.device), mask.to(model.device))
    found: dict[str, Tensor] = {"u": u, "mu": scores.mu, "e": e.cpu()}
    if scores.hidden is not None:
        states = scores.hidden[:, -layers:].unbind(1)
        found |= {f"h.{layer}": state for layer, state in enumerate(states)}
    return {name: value[mask].float().numpy() for name, value in found.items()}


def hook_alike(
    reasoner: NFCoTReasoner, hook: str, run: Run, shard: str, part: pd.DataFrame
) -> dict[str, np.ndarray]:
    """What stands at a hook of this reasoner when it thinks alike? hook -> [thoughts, width]

    Of one shard of the run, its traces `part`: prompts, K and noise are theirs. Raises UserError
    where transformer-lens is not installed, or this model has no such hook.
    """
    from nfcot_model.hooks.bridge import hooked
    from nfcot_model.hooks.capture import capture

    prompts, K = part["prompt"].tolist(), part["K"].tolist()
    u = think_alike(reasoner, prompts, K, run.shard_tensor("eps", shard), 0)["u"]
    layout = reasoner.layout(prompts, K, side="right")
    thoughts = torch.zeros(*layout.mask.shape, reasoner.D, device=layout.mask.device)
    thoughts[layout.mask] = torch.from_numpy(u).to(thoughts)
    found = capture(hooked(reasoner.model), layout, thoughts, [hook])[hook][layout.mask]
    return {hook: found.flatten(1).float().cpu().numpy()}
