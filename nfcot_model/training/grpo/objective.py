"""The loss of one policy-gradient step, and what is measured of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from nfcot_model.errors import UserError
from nfcot_model.evaluation.intervals import pass_at_k
from nfcot_model.sampling import noise_seed
from nfcot_model.training.grpo.advantage import advantages, informative, surrogate
from nfcot_model.training.grpo.densities import Densities, entropy, kl, log_ratio
from nfcot_model.training.grpo.policies import Policy, Temperatures, Trajectories
from nfcot_model.training.grpo.problems import update_problems
from nfcot_model.training.grpo.reward import Reward
from nfcot_model.training.grpo.settings import GRPOConfig
from nfcot_model.worlds import Problem

__all__ = ["PATIENCE", "PolicyGradient", "pass_rates", "sampled_rewards"]

PATIENCE = 20
"""When no group of so many first updates has mixed rewards, training ends with advice."""

_BLOCK = 16
Losses = dict[str, Tensor]


@dataclass
class _Batch:
    """Trajectories of one update, those of mixed groups only, and their densities when drawn."""

    drawn: Trajectories
    advantage: Tensor
    reference: Densities | None
    old: Densities | None
    figures: dict[str, float]


class PolicyGradient:
    """`loss_of` and state of `run_stage` for GRPO: draws trajectories every `inner` steps.

    `anchor(step)` is the supervised loss, if there is one; `start` the frozen start model. Trained
    is on groups of mixed rewards only; the others have no advantage and are counted.
    """

    def __init__(
        self,
        config: GRPOConfig,
        policy: Policy,
        start: nn.Module,
        reward: Reward,
        anchor: Callable[[int], Tensor] | None,
    ) -> None:
        self.config, self.policy, self.start, self.reward = config, policy, start, reward
        self.anchor = anchor
        self.at = Temperatures(config.tau, config.temperature, config.stop_temperature)
        self.batch: _Batch | None = None
        self.in_vain: int | None = None

    def loss_of(self, module: nn.Module, step: int, part: int) -> Losses:
        """The losses of this optimizer step, the total under "loss"; the rest is for the log."""
        module.eval()  # no dropout: the ratio of an unchanged policy is 1
        weights = next(p for p in module.parameters() if p.requires_grad)
        total, figures = 0.0 * weights.sum(), dict[str, float]()
        if self.config.policy:
            loss, figures = self._policy_loss(module, step)
            total = total + loss
        if self.anchor is not None:
            supervised = self.anchor(step)
            total = total + self.config.anchor * supervised
            figures["anchor"] = float(supervised.detach())
        return {"loss": total} | {k: torch.tensor(v) for k, v in figures.items()}

    def _policy_loss(self, module: nn.Module, step: int) -> tuple[Tensor | float, dict[str, float]]:
        if step % self.config.inner == 0 or self.batch is None:
            self.batch = self._draw(module, step)
        batch = self.batch
        if not batch.drawn.prompts:
            return 0.0, batch.figures
        new = self.policy.densities(module, batch.drawn, self.at)
        batch.old = batch.old or new.detached()
        moved = log_ratio(new, batch.old)
        gain = surrogate(moved, batch.advantage, self.config.clip_ratio).mean()
        loss, figures = -self.config.policy * gain, batch.figures | self._figures(moved, new)
        if batch.reference is not None:
            away = kl(new, batch.reference).mean()
            loss, figures["kl"] = loss + self.config.kl * away, float(away.detach())
        return loss, figures

    @torch.no_grad()
    def _draw(self, module: nn.Module, step: int) -> _Batch:
        config = self.config
        rounds: list[tuple[Trajectories, Tensor]] = []
        mixed = 0
        while len(rounds) < config.draws and mixed < config.prompts:
            rounds.append(self._round(step, len(rounds)))
            mixed += int(informative(rounds[-1][1]).sum())
        rewards = torch.cat([found for _, found in rounds])
        self._check(rewards, step)
        differs = informative(rewards)
        K = torch.cat([drawn.thoughts.K for drawn, _ in rounds])
        figures = {
            "reward": float(rewards.mean()),
            f"pass_at_{config.group}": float((rewards > 0).any(-1).float().mean()),
            "mixed_groups": float(differs.float().mean()),
            "groups": float(len(rewards)),
            "thoughts": float(K.float().mean()),
        }
        kept = differs.repeat_interleave(config.group).nonzero()[:, 0]
        chosen = Trajectories.joined([drawn for drawn, _ in rounds]).rows(kept)
        reference = None
        if config.kl and len(kept):
            reference = self.policy.densities(self.start, chosen, self.at)
        device = next(module.parameters()).device
        advantage = advantages(rewards).flatten()[kept].to(device)
        return _Batch(chosen, advantage, reference, None, figures)

    def _round(self, step: int, again: int) -> tuple[Trajectories, Tensor]:
        """Answers to `prompts` problems and their rewards [prompts, group]."""
        config = self.config
        update = step // config.inner
        problems = update_problems(config, update, step, again)
        every = [p for p in problems for _ in range(config.group)]
        first = again * len(every)
        seeds = [noise_seed(config.seed, "grpo", update, first + i) for i in range(len(every))]
        drawn = self.policy.sample([p.prompt for p in every], seeds, self.at)
        found = self.reward(every, drawn.answers, drawn.thoughts)
        return drawn, torch.tensor(list(found), dtype=torch.float32).view(-1, config.group)

    def _figures(self, moved: Tensor, new: Densities) -> dict[str, float]:
        away = (moved.detach().exp() - 1).abs()
        clipped = (away > self.config.clip_ratio).float().mean()
        shown = {f"entropy_{name}": float(value) for name, value in entropy(new).items()}
        return {"ratio_away": float(away.mean()), "clipped": float(clipped), **shown}

    def _check(self, rewards: Tensor, step: int) -> None:
        if not bool(torch.isfinite(rewards).all()):
            raise UserError(f"step {step}: a reward is not a finite number")
        self.in_vain = 0 if step == 0 else self.in_vain
        if self.in_vain is None or bool(informative(rewards).any()):
            self.in_vain = None
            return
        self.in_vain += 1
        if self.in_vain >= PATIENCE:
            mean = float(rewards.mean())
            easier = "easier problems (shorter lengths)" if mean < 0.5 else "harder problems"
            raise UserError(
                f"no group of the first {PATIENCE} updates has different rewards (mean reward"
                f" {mean:.2f} in the last): there is nothing to learn from; give {easier}, a larger"
                " group, or a higher tau or stop_temperature"
            )


def sampled_rewards(
    policy: Policy,
    reward: Reward,
    problems: Sequence[Problem],
    samples: int,
    *,
    tau: float,
    seed: int,
) -> tuple[np.ndarray, float]:
    """Rewards [problems, samples] and mean number of thoughts of a model used as ever.

    Thoughts are drawn at `tau`, stops and answers are greedy; sample i of a problem depends on
    `seed`, its id and i only.
    """
    found: list[float] = []
    spent = 0
    at = Temperatures(tau, answer=0.0, stop=0.0)
    for first in range(0, len(problems), _BLOCK):
        every = [p for p in problems[first : first + _BLOCK] for _ in range(samples)]
        seeds = [noise_seed(seed, p.id, i % samples) for i, p in enumerate(every)]
        drawn = policy.sample([p.prompt for p in every], seeds, at)
        found += list(reward(every, drawn.answers, drawn.thoughts))
        spent += int(drawn.thoughts.K.sum())
    return np.array(found).reshape(len(problems), samples), spent / len(found)


def pass_rates(rewards: np.ndarray, ks: Sequence[int] = (1, 4, 16, 64)) -> dict[str, float]:
    """Mean unbiased pass@k of rewards [problems, samples]; what is above 0 has passed."""
    samples = rewards.shape[1]
    right = (rewards > 0).sum(1).tolist()
    few = [k for k in ks if k <= samples]
    return {f"pass_at_{k}": float(np.mean([pass_at_k(c, samples, k) for c in right])) for k in few}
