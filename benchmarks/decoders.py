"""Do two decoders of one codec read the same, and which reads right more often?

    python benchmarks/decoders.py OLD [NEW] [--problems 600]

NEW is the shipped model unless given; both must hold the same encoder. Read are the latents `e` of
thoughts that OLD draws on problems of both worlds (2-8 steps of the split `calibration`, 9-12 of
`long`) at several temperatures, and those of true steps under Gaussian noise, in standard
deviations of `e`. Given are the shares of true steps that each reads at their place (a wrong
thought counts against both), and of texts that are the same. Nothing here says which text a thought
"really" has.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

import torch

from analyses.reference import refuse_other_codec
from nfcot_model.checkpoints import demo_path
from nfcot_model.reasoners import NFCoTReasoner, load_nfcot
from nfcot_model.sampling import noise_seed
from nfcot_model.worlds import WORLDS, Problem, make_world

TAUS = (0.0, 0.7, 1.0, 1.5, 2.0, 3.0)
NOISES = (0.0, 0.15, 0.3, 0.45, 0.6, 0.8)
BATCH = 100


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("old", type=Path)
    parser.add_argument("new", nargs="?", type=Path, default=demo_path())
    parser.add_argument("--problems", type=int, default=600, help="of each world")
    options = parser.parse_args()
    old, new = load_nfcot(options.old), load_nfcot(options.new)
    refuse_other_codec(old, new)
    report: dict[str, object] = {}
    for split in ("calibration", "long"):
        problems = [p for w in WORLDS for p in make_world(w, split, 11, options.problems)]
        report[split] = {f"tau {tau:g}": _drawn(old, new, problems, tau) for tau in TAUS}
    problems = [p for w in WORLDS for p in make_world(w, "calibration", 12, options.problems)]
    report["true steps"] = {
        f"noise {noise:g}": _true(old, new, problems, noise) for noise in NOISES
    }
    sys.stdout.write(json.dumps(report, indent=2) + "\n")
    return 0


def _drawn(
    old: NFCoTReasoner, new: NFCoTReasoner, problems: Sequence[Problem], tau: float
) -> dict[str, float]:
    readings: tuple[list[list[str]], list[list[str]]] = ([], [])
    for i in range(0, len(problems), BATCH):
        part = problems[i : i + BATCH]
        seeds = [noise_seed("decoders", p.id) for p in part]
        thoughts = old.think([p.prompt for p in part], tau=tau, noise_seeds=seeds)
        e = old.decode(thoughts).e
        for reasoner, texts in zip((old, new), readings, strict=True):
            texts += reasoner.read(e, thoughts.mask)
    return _compared([p.steps for p in problems], *readings)


def _true(
    old: NFCoTReasoner, new: NFCoTReasoner, problems: Sequence[Problem], noise: float
) -> dict[str, float]:
    steps = [p.steps for p in problems]
    e, mask = old.latents(steps)
    e = e + noise * torch.randn(e.shape, generator=torch.Generator().manual_seed(0))
    return _compared(steps, old.read(e, mask), new.read(e, mask))


def _compared(
    truth: list[list[str]], old: list[list[str]], new: list[list[str]]
) -> dict[str, float]:
    texts = [pair for a, b in zip(old, new, strict=True) for pair in zip(a, b, strict=True)]
    steps = sum(map(len, truth))
    return {
        "steps": steps,
        "old_true": _true_steps(truth, old) / steps,
        "new_true": _true_steps(truth, new) / steps,
        "texts": len(texts),
        "same": sum(a == b for a, b in texts) / len(texts),
    }


def _true_steps(truth: list[list[str]], said: list[list[str]]) -> int:
    return sum(a == b for t, s in zip(truth, said, strict=True) for a, b in zip(t, s, strict=False))


if __name__ == "__main__":
    sys.exit(main())
