"""What does watching cost? `nfcot trace` against bare think + answer, in the same run.

    python benchmarks/watching.py [MODEL] [--problems 512] [--repeats 5] [--activations none]

Both do the same problems in batches of 64 with the same noise; they alternate, and the ratio is
that of the median wall times. Watching includes likelihoods, decoded text, verdicts and the files
with their fsyncs; loading the model and starting the sandbox's workers is outside both.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
from pathlib import Path
from time import perf_counter

import torch

from nfcot_model.checkpoints import demo_path
from nfcot_model.reasoners import NFCoTReasoner, load_reasoner
from nfcot_model.sampling import noise_seed
from nfcot_model.sandbox import Sandbox
from nfcot_model.traces import collect
from nfcot_model.worlds import Problem, make_world

BATCH = 64
LIMIT = 1.25


def bare(reasoner: NFCoTReasoner, problems: list[Problem], tau: float) -> None:
    for start in range(0, len(problems), BATCH):
        block = problems[start : start + BATCH]
        prompts = [p.prompt for p in block]
        seeds = [noise_seed(0, p.id, 0) for p in block]
        reasoner.answer(prompts, reasoner.think(prompts, tau=tau, noise_seeds=seeds))


def seconds(work: object, *arguments: object, **named: object) -> float:
    started = perf_counter()
    work(*arguments, **named)  # type: ignore[operator]
    return perf_counter() - started


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", nargs="?", type=Path, default=demo_path())
    parser.add_argument("--problems", type=int, default=512)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--tau", type=float, default=0.7)
    parser.add_argument("--activations", default="none")
    options = parser.parse_args()
    reasoner = load_reasoner(options.model)
    half = options.problems // 2
    problems = make_world("digits", "test", 1, half) + make_world("shuffle", "test", 1, half)
    times: dict[str, list[float]] = {"bare": [], "watched": []}
    with tempfile.TemporaryDirectory() as folder, Sandbox() as sandbox:
        collect(reasoner, problems[:BATCH], Path(folder) / "warm", sandbox=sandbox)
        for repeat in range(options.repeats):
            times["bare"].append(seconds(bare, reasoner, problems, options.tau))
            times["watched"].append(
                seconds(
                    collect,
                    reasoner,
                    problems,
                    Path(folder) / str(repeat),
                    tau=options.tau,
                    activations=options.activations,
                    sandbox=sandbox,
                )
            )
    median = {name: statistics.median(values) for name, values in times.items()}
    ratio = median["watched"] / median["bare"]
    report = {
        "ratio": ratio,
        "limit": LIMIT,
        "within_limit": ratio <= LIMIT,
        "problems": len(problems),
        "seconds": {name: [round(s, 3) for s in values] for name, values in times.items()},
        "traces_per_second": len(problems) / median["watched"],
        "threads": torch.get_num_threads(),
    }
    sys.stdout.write(json.dumps(report, indent=2) + "\n")
    return 0 if ratio <= LIMIT else 1


if __name__ == "__main__":
    sys.exit(main())
