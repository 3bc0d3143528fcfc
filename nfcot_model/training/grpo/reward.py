"""What is rewarded: the verdict of executing the answer. Anything else needs an explicit flag."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from nfcot_model.errors import UserError
from nfcot_model.sandbox import Sandbox
from nfcot_model.thoughts import Thoughts
from nfcot_model.worlds import Problem

__all__ = ["Reward", "check_reward", "verdict"]

Reward = Callable[[Sequence[Problem], Sequence[str], Thoughts], Sequence[float]]
"""One number for each problem, its answer and the thoughts [B, K, D] before it."""


def verdict(sandbox: Sandbox) -> Reward:
    """1 where the answer passes its hidden tests, 0 elsewhere. Thoughts are not looked at."""

    def reward(
        problems: Sequence[Problem], answers: Sequence[str], thoughts: Thoughts
    ) -> list[float]:
        said = [(p.id, a) for a, p in zip(answers, problems, strict=True)]
        # Verdicts are reproducible, and samples of one problem often answer alike.
        once = {k: (k[1], p.check) for k, p in zip(said, problems, strict=True)}
        verdicts = dict(zip(once, sandbox.check_many(list(once.values())), strict=True))
        return [float(verdicts[key].status == "passed") for key in said]

    return reward


def check_reward(reward: Reward | None, i_train_against_a_monitor: bool) -> None:
    """Is a reward other than the verdict asked for in the open?

    A reward that sees thoughts can carry a monitor's score, and a model trained against a monitor
    learns to pass it, not to be harmless: the monitor is worthless for that model afterwards.
    """
    if reward is not None and not i_train_against_a_monitor:
        raise UserError(
            "a reward other than the verdict may train the model against a monitor; pass"
            " i_train_against_a_monitor=True if that is what you want (docs/grpo.md)"
        )
    if reward is None and i_train_against_a_monitor:
        raise UserError("i_train_against_a_monitor=True without a reward: give the reward")
