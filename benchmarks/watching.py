"""What does watching cost? `nfcot trace` against bare think + answer, in the same run.

    python benchmarks/watching.py [MODEL] [--problems 512] [--repeats 5] [--activations none]

Both do the same problems in batches of 64 with the same noise; they alternate, and the ratio is
that of the median wall times. Watching includes likelihoods, decoded text, verdicts and the files
with their fsyncs; loading the model and starting the sandbox's workers is outside both. Give it an
idle machine with two cores: verdicts, decoding and writing happen beside the model. `cpu_ratio`
compares this process's processor time, which other programs disturb less.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from time import perf_counter, process_time

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


def cost(work: Callable[[], object]) -> tuple[float, float]:
    """Wall and processor seconds of one call."""
    wall, cpu = perf_counter(), process_time()
    work()
    return perf_counter() - wall, process_time() - cpu


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
    costs: dict[str, list[tuple[float, float]]] = {"bare": [], "watched": []}
    with tempfile.TemporaryDirectory() as folder, Sandbox() as sandbox:

        def watched(name: str, block: list[Problem]) -> None:
            collect(
                reasoner,
                block,
                Path(folder) / name,
                tau=options.tau,
                activations=options.activations,
                sandbox=sandbox,
            )

        watched("warm", problems[:BATCH])
        for repeat in range(options.repeats):
            costs["bare"].append(cost(partial(bare, reasoner, problems, options.tau)))
            costs["watched"].append(cost(partial(watched, str(repeat), problems)))
    wall = {name: statistics.median(w for w, _ in values) for name, values in costs.items()}
    cpu = {name: statistics.median(c for _, c in values) for name, values in costs.items()}
    ratio = wall["watched"] / wall["bare"]
    report = {
        "ratio": ratio,
        "limit": LIMIT,
        "within_limit": ratio <= LIMIT,
        "problems": len(problems),
        "cpu_ratio": cpu["watched"] / cpu["bare"],
        "seconds": {name: [round(w, 3) for w, _ in values] for name, values in costs.items()},
        "traces_per_second": len(problems) / wall["watched"],
        "threads": torch.get_num_threads(),
    }
    sys.stdout.write(json.dumps(report, indent=2) + "\n")
    return 0 if ratio <= LIMIT else 1


if __name__ == "__main__":
    sys.exit(main())
