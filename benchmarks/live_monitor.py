"""What does live monitoring cost? Thinking and answering under watch against without, in one run.

    python benchmarks/live_monitor.py [MODEL] [--problems 256] [--batch 64] [--repeats 15]

The same problems with the same noise, in batches: bare (`think`, `answer`), watched (scores of
every thought and a calibrated stop), read (decoded text of every thought while it thinks, too), and
read at once (one thought at a time). They alternate, batch by batch. `ratio` is that of the sums of
the batches' median wall times, watched to bare, and must not pass 1.1 (exit code 1); `text_ratio`
and `text_at_once_ratio` are read to bare. Where torch computes on one thread, text is decoded on
another, which gains from a second idle core; on several, in between, and other programs on the
cores show in `text_ratio` most. The calibration stops nothing here, so that all do the same work.
`cpu_ratio` and its like compare processor time, which other programs disturb less.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from time import perf_counter, process_time
from typing import Any

import numpy as np
import torch

from analyses.live_calibration import calibrate_live
from analyses.live_watch import watch
from nfcot_model.checkpoints import demo_path
from nfcot_model.reasoners import load_reasoner
from nfcot_model.sampling import noise_seed
from nfcot_model.traces import collect, read_run
from nfcot_model.worlds import make_world

LIMIT = 1.1
TAU = 0.7


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", nargs="?", type=Path, default=demo_path())
    parser.add_argument("--problems", type=int, default=256)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=15)
    options = parser.parse_args()
    reasoner = load_reasoner(options.model)
    half = options.problems // 2
    problems = [p for w in ("digits", "shuffle") for p in make_world(w, "test", 1, half)]
    with tempfile.TemporaryDirectory() as folder:
        clean = make_world("digits", "calibration", 1, 100)
        collect(reasoner, clean, Path(folder) / "clean", tau=TAU)
        known = calibrate_live(read_run(Path(folder) / "clean"), 0.1)
    calibration = replace(known, thresholds=np.full(2, 1e9))
    blocks = [problems[i : i + options.batch] for i in range(0, len(problems), options.batch)]
    work = [([p.prompt for p in b], [noise_seed(0, p.id, 0) for p in b]) for b in blocks]

    Work = tuple[list[str], list[int]]

    def bare(some: Work) -> None:
        reasoner.answer(some[0], reasoner.think(some[0], tau=TAU, noise_seeds=some[1]))

    def watched(some: Work, **how: Any) -> None:
        watch(reasoner, some[0], tau=TAU, noise_seeds=some[1], calibration=calibration, **how)

    ways: dict[str, Callable[[Work], None]] = {
        "bare": bare,
        "watched": lambda some: watched(some, read=False),
        "read": watched,
        "read_at_once": lambda some: watched(some, read_every=1),
    }
    wall, cpu = dict.fromkeys(ways, 0.0), dict.fromkeys(ways, 0.0)
    seconds: dict[str, list[list[float]]] = {name: [] for name in ways}
    for some in work:
        spent: dict[str, list[tuple[float, float]]] = {name: [] for name in ways}
        for repeat in range(options.repeats + 1):
            for name, way in ways.items():
                began, worked = perf_counter(), process_time()
                way(some)
                if repeat:  # the first round warms up
                    spent[name].append((perf_counter() - began, process_time() - worked))
        for name, found in spent.items():
            wall[name] += statistics.median(w for w, _ in found)
            cpu[name] += statistics.median(c for _, c in found)
            seconds[name].append([round(w, 3) for w, _ in found])
    ratio = wall["watched"] / wall["bare"]
    report = {
        "ratio": ratio,
        "limit": LIMIT,
        "within_limit": ratio <= LIMIT,
        "cpu_ratio": cpu["watched"] / cpu["bare"],
        "text_ratio": wall["read"] / wall["bare"],
        "text_cpu_ratio": cpu["read"] / cpu["bare"],
        "text_at_once_ratio": wall["read_at_once"] / wall["bare"],
        "text_at_once_cpu_ratio": cpu["read_at_once"] / cpu["bare"],
        "problems": len(problems),
        "batch": options.batch,
        "seconds": seconds,
        "threads": torch.get_num_threads(),
    }
    sys.stdout.write(json.dumps(report, indent=2) + "\n")
    return 0 if report["within_limit"] else 1


if __name__ == "__main__":
    sys.exit(main())
