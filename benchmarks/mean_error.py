"""Where does a reasoner with a codec go wrong: in its next thought's mean, its stop, its answer?

    python benchmarks/mean_error.py MODEL … [--steps 2,4] [--noise 0] [--split calibration]

Given the right thoughts before it, thought k has a mean in codec space, where `e` has variance 1:
`squared` is its squared error per dimension, `written` how often the codec writes the right step
from it, `worst` the share of the squared error in its four worst dimensions. `sigma` is NF-CoT's
own there (root mean square), `weight` the share of thought k in the weights 1/sigma² by which the
likelihood's gradient weighs squared errors. Then greedy answers (tau 0): from right thoughts
(`oracle`) and from its own (`own`); how often K is right, and for wrong answers the first thought
whose text is wrong (K: only their number; answer: none). With `--noise` the thoughts before and the
one aimed at are noisy, as in training: `squared_all` then compares with `squared` in the log of a
training of `regressed`. For causal flows only: there `e_k` is affine in `u_k`, by dimension.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from nfcot_model.backbone import at
from nfcot_model.errors import UserError
from nfcot_model.reasoners import NFCoTReasoner, load_reasoner
from nfcot_model.worlds import Problem, make_world
from nfcot_model.worlds.generate import read_steps


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("models", nargs="+", type=Path)
    parser.add_argument("--split", default="calibration")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("-n", type=int, default=200)
    parser.add_argument("--worlds", default="digits,shuffle")
    parser.add_argument("--steps", default="2,4", help="numbers or ranges, such as 2,4 or 2-4")
    parser.add_argument("--noise", type=float, default=0.0)
    options = parser.parse_args()
    for folder in options.models:
        reasoner = load_reasoner(folder, kinds=("nfcot", "regressed"))
        assert isinstance(reasoner, NFCoTReasoner)
        for world in options.worlds.split(","):
            for steps in options.steps.split(","):
                torch.manual_seed(options.seed)
                problems = make_world(
                    world, options.split, options.seed, options.n, read_steps(steps)
                )
                row = {"model": str(folder), "world": world, "steps": steps}
                row |= means(reasoner, problems, options.noise) | answers(reasoner, problems)
                sys.stdout.write(json.dumps(row) + "\n")
                sys.stdout.flush()
    return 0


@torch.no_grad()
def means(
    reasoner: NFCoTReasoner, problems: Sequence[Problem], noise: float = 0.0
) -> dict[str, Any]:
    """Per thought index: error, text and spread of the next thought's mean behind right ones."""
    model = reasoner.model
    e, mask = reasoner.latents([p.steps for p in problems])
    e = e + noise * torch.randn_like(e)
    prompts = [p.prompt for p in problems]
    layout = reasoner.layout(prompts, mask.sum(-1).tolist(), side="right")
    if model.flow.order != "causal":
        raise UserError("the mean in codec space is exact for causal flows only")
    u, terms = model.flow.by_number(e, mask)
    states = model.stream(layout, u).last_hidden_state
    mu, log_sigma = model.nf_head(at(states, layout.thought_at - 1))
    error = (mu - u) * torch.exp(-terms)
    variance = torch.exp(2 * (log_sigma - terms))

    def by_thought(values: Tensor) -> Tensor:
        return (values * mask).sum(0) / mask.sum(0)

    written = reasoner.read(e + error, mask)
    right = torch.zeros_like(mask, dtype=torch.float32)
    for row, (texts, problem) in enumerate(zip(written, problems, strict=True)):
        for k, (text, step) in enumerate(zip(texts, problem.steps, strict=True)):
            right[row, k] = text == step
    worst = error[mask].square().mean(0).sort(descending=True).values
    figures = {
        "squared": _rounded(by_thought(error.square().mean(-1))),
        "squared_all": _rounded(error[mask].square().mean()),
        "written": _rounded(by_thought(right)),
        "worst": _rounded(worst[:4].sum() / worst.sum()),
    }
    if not reasoner.has_likelihood:
        return figures
    weight = by_thought((1 / variance).mean(-1))
    return figures | {
        "sigma": _rounded(by_thought(variance.mean(-1)).sqrt()),
        "sigma_all": _rounded(variance[mask].mean().sqrt()),
        "weight": _rounded(weight / weight.sum()),
    }


def answers(reasoner: NFCoTReasoner, problems: Sequence[Problem]) -> dict[str, Any]:
    """Greedy answers from right thoughts and from its own, and where its own first go wrong."""
    prompts, truth = [p.prompt for p in problems], [p.answer for p in problems]
    oracle = reasoner.answer(prompts, reasoner.encode([p.steps for p in problems]))
    own = reasoner.think(prompts, tau=0.0, noise_seeds=[0] * len(prompts))
    said = reasoner.answer(prompts, own)
    right = [s == t for s, t in zip(said, truth, strict=True)]
    texts = reasoner.decode(own).texts
    first: Counter[str] = Counter()
    for text, problem, ok in zip(texts, problems, right, strict=True):
        pairs = enumerate(zip(text, problem.steps, strict=False))
        wrong = next((str(k) for k, (a, b) in pairs if a != b), None)
        if wrong is None and len(text) != len(problem.steps):
            wrong = "K"
        if not ok:
            first[wrong or "answer"] += 1
    n = len(problems)
    return {
        "oracle": sum(s == t for s, t in zip(oracle, truth, strict=True)) / n,
        "own": sum(right) / n,
        "K": sum(len(t) == len(p.steps) for t, p in zip(texts, problems, strict=True)) / n,
        "failed_first_at": {k: v / n for k, v in sorted(first.items())},
    }


def _rounded(values: Tensor) -> Any:
    return torch.round(values.double(), decimals=4).tolist()


if __name__ == "__main__":
    sys.exit(main())
