"""How much memory do probes on a large run take? Every site of it, space by space.

    python benchmarks/probe_memory.py [--traces 50000] [--limit-gib 4] [--sweep]

Writes a run of that many traces of 8 thoughts, 5 layers of 256 and D = 16 into a temporary folder
(about 2.3 GB at 50,000 traces, removed afterwards), then reads it in a fresh process as a sweep
does: each space once, then a population at every thought and at the pooled places. `peak_gib` is
that process's largest resident size, tables and imports included. With `--sweep` it also sweeps
`u` and two layers at two thoughts, everything else as a sweep does by default (all estimators, 99
permutations, all controls that need no model, two workers), and looks four times a second at what
the process and its workers hold together (proportional set size: what they share counts once).
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import threading
from pathlib import Path
from time import perf_counter

import numpy as np
import torch

from nfcot_model.traces import read_run
from nfcot_model.traces.schema import SHARD_SIZE, shard_name, trace_id
from nfcot_model.traces.writer import commit_shard, open_run, trace_totals, writing
from probes.features import read_space
from probes.fit import Options
from probes.population import population
from probes.sites import sweep_sites
from probes.sweep import Plan, sweep
from probes.units import Units

K, LAYERS, WIDTH, D = 8, 5, 256, 16
POOLED = ["mean", "max", "rollmax", "concat"]
MANIFEST = {
    "reasoner": "nfcot",
    "checkpoint_hash": "none",
    "model_path": "none",
    "config": {},
    "decode": {
        "tau": 0.7,
        "temperature": 0.0,
        "samples": 1,
        "seed": 0,
        "max_thoughts": None,
        "dtype": "float32",
        "template": "{prompt}",
        "k_policy": "model",
    },
    "problem_set_hash": "none",
    "activations": "all",
    "versions": {},
    "created": "2026-01-01T00:00:00+00:00",
}


def write_large_run(path: Path, traces: int) -> None:
    """A run of noise with a step label and a verdict, shard by shard."""
    manifest = open_run(path, MANIFEST | {"traces": traces})
    rng = np.random.default_rng(0)
    with writing(path):
        for start in range(0, traces, SHARD_SIZE):
            n = min(SHARD_SIZE, traces - start)
            rows = n * K
            small = {
                name: rng.standard_normal((rows, D), dtype=np.float32)
                for name in ("u", "eps", "mu", "log_sigma", "e")
            }
            h = rng.standard_normal((rows, LAYERS, WIDTH), dtype=np.float32)
            commit_shard(
                path,
                shard_name(start // SHARD_SIZE),
                *columns(start, n, manifest["hash"], rng),
                small | {"h": h},
            )


def columns(
    start: int, n: int, run_hash: str, rng: np.random.Generator
) -> tuple[dict[str, object], dict[str, object]]:
    """The tables of one shard."""
    rows = n * K
    ids = [f"p{start + i:06d}" for i in range(n)]
    noise = {
        name: rng.standard_normal(rows, dtype=np.float32)
        for name in ("logp", "energy", "logvol", "stop_logp")
    }
    digits = rng.integers(10, size=(rows, 2)).tolist()
    texts = [f"#{r % K + 1} {a}x+{b}" for r, (a, b) in enumerate(digits)]
    thoughts: dict[str, object] = {
        **noise,
        "step": np.tile(np.arange(K), n),
        "text": texts,
        "reference": texts,
        "match": [True] * rows,
        "labels": [f'{{"coefficient":{a},"offset":{b}}}' for a, b in digits],
    }
    lengths = np.full(n, K)
    traces: dict[str, object] = {
        "trace_id": [trace_id(name, 0, i, run_hash) for i, name in enumerate(ids)],
        "problem_id": ids,
        "group": ids,
        "world": ["noise"] * n,
        "split": ["test"] * n,
        "sample": [0] * n,
        "seed": [*range(n)],
        "prompt": [f"start {i}: add 3 then times 4 then minus 5 then add 1" for i in ids],
        "answer": ["lambda x: (4*x+7) % 10"] * n,
        "reference_answer": ["lambda x: (4*x+7) % 10"] * n,
        "verdict": ["passed"] * n,
        "verdict_detail": [""] * n,
        "correct": [True] * n,
        "stopped": [True] * n,
        "tau": [0.7] * n,
        "replay_error": [0.0] * n,
        "decode_match": [1.0] * n,
        "steps": [texts[i * K : (i + 1) * K] for i in range(n)],
        "labels": ['{"steps":8}'] * n,
        "K": lengths,
        **trace_totals(lengths, noise, np.zeros(n)),
    }
    return traces, thoughts


def read_all(path: Path) -> dict[str, object]:
    """Every space once, every place in it, in this process; what did that take?"""
    start = perf_counter()
    run = read_run(path)
    opened = perf_counter()
    seen: set[str] = set()
    populations = 0
    for site in sweep_sites(run, None, [*map(str, range(K)), *POOLED]):
        if site.source not in seen:
            values = read_space(run, site)
            seen.add(site.source)
        label = "offset" if site.place.single else "offset@-1"
        rows = population(run, site, label, values=values)
        populations += 1
        if len(rows.y) != len(run.traces):
            raise ValueError(f"{site}: {len(rows.y)} of {len(run.traces)} traces")
    return {
        "traces": len(run.traces),
        "spaces": len(seen),
        "populations": populations,
        "seconds_opening": round(opened - start, 1),
        "seconds_reading": round(perf_counter() - opened, 1),
        "peak_gib": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, 2),
    }


def watch(held: list[int], over: threading.Event) -> None:
    """Note what this process and its children hold together, in KiB, until it is over."""
    while not over.wait(0.25):
        children = Path("/proc/self/task").glob("*/children")
        pids = ["self", *" ".join(child.read_text() for child in children).split()]
        total = 0
        for pid in pids:
            try:
                rollup = Path(f"/proc/{pid}/smaps_rollup").read_text()
            except OSError:  # it has just ended
                continue
            total += int(rollup.split("\nPss:")[1].split()[0])
        held.append(total)


def sweep_some(path: Path) -> dict[str, object]:
    """A sweep of three spaces, so that the first have to be let go; what did that take?"""
    start = perf_counter()
    torch.set_num_threads(2)
    held: list[int] = []
    over = threading.Event()
    watcher = threading.Thread(target=watch, args=(held, over))
    watcher.start()
    plan = Plan(sites=("u", "h@1", "h@2"), places=("3", "7"), options=Options(permutations=99))
    found = sweep(read_run(path), "offset", plan, Units)
    over.set()
    watcher.join()
    return {
        "cells": len(found.cells),
        "control_cells": sum(c.reason is None for c in found.controls),
        "seconds_sweep": round(perf_counter() - start, 1),
        "peak_gib": round(max(held) / 2**20, 2),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--traces", type=int, default=50_000)
    parser.add_argument("--limit-gib", type=float, default=4.0)
    parser.add_argument("--sweep", action="store_true", help="fit probes too")
    parser.add_argument("--read", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.read is not None:
        work = sweep_some if options.sweep else read_all
        sys.stdout.write(json.dumps(work(options.read)))
        return 0
    with tempfile.TemporaryDirectory() as folder:
        write_large_run(Path(folder) / "run", options.traces)
        command = [sys.executable, __file__, "--read", str(Path(folder) / "run")]
        reports = []
        for more in ([], ["--sweep"])[: 1 + options.sweep]:
            done = subprocess.run([*command, *more], check=True, stdout=subprocess.PIPE)
            reports.append(json.loads(done.stdout))
    report = {name: value for one in reports for name, value in one.items()}
    report["peak_gib"] = max(one["peak_gib"] for one in reports)
    within = report["peak_gib"] <= options.limit_gib
    report |= {"limit_gib": options.limit_gib, "within_limit": within}
    sys.stdout.write(json.dumps(report, indent=2) + "\n")
    return 0 if within else 1


if __name__ == "__main__":
    sys.exit(main())
