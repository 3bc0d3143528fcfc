"""What does live monitoring cost? Thinking and answering under watch against without, in one run.

    python benchmarks/live_monitor.py [MODEL] [--problems 256] [--batch 64] [--rounds 25]

The same problems with the same noise, in batches: bare (`think`, `answer`), watched (scores of
every thought and a calibrated stop), read (decoded text of every thought while it thinks, too), and
read at once (one thought at a time). A round does every batch in each way, in random order; its
ratios are those of its sums. Given are the median of the rounds' ratios to bare with a bootstrap
interval (95 %), of wall time and of processor time, which other programs disturb less. `watched`
and `read` must not pass 1.1 (exit code 1). The calibration stops nothing here, so that all do the
same work. Where torch leaves cores free, text is decoded on them; where not, in between.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from time import perf_counter, process_time
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.stats import bootstrap

from analyses.live_calibration import calibrate_live
from analyses.live_watch import watch
from nfcot_model.checkpoints import demo_path
from nfcot_model.reasoners import load_reasoner
from nfcot_model.sampling import noise_seed
from nfcot_model.traces import collect, read_run
from nfcot_model.worlds import make_world

LIMIT = 1.1
LIMITED = ("watched", "read")
TAU = 0.7


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", nargs="?", type=Path, default=demo_path())
    parser.add_argument("--problems", type=int, default=256)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=25)
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
    chance = random.Random(0)
    spent = np.zeros((options.rounds + 1, len(ways), 2))
    for round_ in spent:
        for some in work:
            for i in chance.sample(range(len(ways)), len(ways)):
                began, worked = perf_counter(), process_time()
                list(ways.values())[i](some)
                round_[i] += perf_counter() - began, process_time() - worked
    spent = spent[1:]  # the first round warms up
    found = {
        name: {
            kind: _median(spent[:, i, column] / spent[:, 0, column])
            for column, kind in enumerate(("wall", "cpu"))
        }
        for i, name in enumerate(ways)
        if i
    }
    report = {
        **found,
        "limit": LIMIT,
        "within_limit": all(found[name]["wall"]["ratio"] <= LIMIT for name in LIMITED),
        "bare_seconds": float(np.median(spent[:, 0, 0])),
        "problems": len(problems),
        "batch": options.batch,
        "rounds": options.rounds,
        "threads": torch.get_num_threads(),
    }
    sys.stdout.write(json.dumps(report, indent=2) + "\n")
    return 0 if report["within_limit"] else 1


def _median(ratios: NDArray[np.float64]) -> dict[str, Any]:
    found = bootstrap((ratios,), np.median, method="percentile", rng=0).confidence_interval
    return {"ratio": float(np.median(ratios)), "interval": [float(found.low), float(found.high)]}


if __name__ == "__main__":
    sys.exit(main())
