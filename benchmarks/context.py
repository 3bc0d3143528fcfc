"""What does Λ cost? Ten spans against ten plain passes over prompt and thoughts, in the same run.

    python benchmarks/context.py [MODEL] [--problems 64] [--spans 10] [--repeats 5]

Both go over the same traces in batches of 64: Λ scores every trace with its prompt and without each
of its first words; the baseline scores it with its whole prompt once per span. They alternate; the
ratio is that of the median wall times and must not pass 1.2 (exit code 1). Placebos are further
spans and cost as much each. `cpu_ratio` compares processor time, which other programs disturb less.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections.abc import Callable
from pathlib import Path
from time import perf_counter, process_time

import torch

from analyses.context.ratio import log_ratios
from analyses.context.spans import cut, without
from nfcot_model.checkpoints import demo_path
from nfcot_model.reasoners import load_reasoner
from nfcot_model.sampling import noise_seed
from nfcot_model.worlds import make_world

BATCH = 64
LIMIT = 1.2


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", nargs="?", type=Path, default=demo_path())
    parser.add_argument("--problems", type=int, default=64)
    parser.add_argument("--spans", type=int, default=10)
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    reasoner = load_reasoner(options.model)
    problems = [
        problem
        for world in ("digits", "shuffle")
        for problem in make_world(world, "test", 1, options.problems // 2)
    ]
    prompts = [problem.prompt for problem in problems]
    seeds = [noise_seed(0, problem.id, 0) for problem in problems]
    thoughts = reasoner.think(prompts, tau=0.7, noise_seeds=seeds)
    spans = [cut(prompt, "words")[: options.spans] for prompt in prompts]
    removals = [
        (row, without(prompts[row], span.ranges)) for row, mine in enumerate(spans) for span in mine
    ]
    repeated = sorted((row for row, _ in removals), key=lambda row: len(prompts[row]))

    def plain() -> None:
        for start in range(0, len(repeated), BATCH):
            rows = repeated[start : start + BATCH]
            some = thoughts.rows(torch.tensor(rows))
            reasoner.score([prompts[row] for row in rows], some, tau=0.7)

    def ratios() -> None:
        log_ratios(reasoner, prompts, thoughts, removals, tau=0.7, batch=BATCH)

    ways: dict[str, Callable[[], None]] = {"passes": plain, "lambda": ratios}
    seconds: dict[str, list[tuple[float, float]]] = {name: [] for name in ways}
    for repeat in range(options.repeats + 1):
        for name, way in ways.items():
            wall, cpu = perf_counter(), process_time()
            way()
            if repeat:  # the first round warms up
                seconds[name].append((perf_counter() - wall, process_time() - cpu))
    wall = {name: statistics.median(w for w, _ in found) for name, found in seconds.items()}
    cpu = {name: statistics.median(c for _, c in found) for name, found in seconds.items()}
    ratio = wall["lambda"] / wall["passes"]
    report = {
        "ratio": ratio,
        "limit": LIMIT,
        "within_limit": ratio <= LIMIT,
        "cpu_ratio": cpu["lambda"] / cpu["passes"],
        "spans": len(removals),
        "traces": len(prompts),
        "spans_per_second": len(removals) / wall["lambda"],
        "seconds": {name: [round(w, 3) for w, _ in found] for name, found in seconds.items()},
        "threads": torch.get_num_threads(),
    }
    sys.stdout.write(json.dumps(report, indent=2) + "\n")
    return 0 if report["within_limit"] else 1


if __name__ == "__main__":
    sys.exit(main())
