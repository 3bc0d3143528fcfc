"""What does looking inside cost? Hooks on every layer against the plain model, in the same run.

    python benchmarks/hooks.py [MODEL] [--batches 4] [--repeats 7]
    python benchmarks/hooks.py [MODEL] --memory 10000 [--thoughts 8]

Without `--memory`: one causal pass over `[prompt; thoughts]` of each batch of 64 traces, once by
the model as a user runs it (its default attention), once through the bridge without hooks (eager
attention), once with the residual stream of every layer captured at the thoughts, as `nfcot
activations` does. They alternate; the ratio is that of the median times, and must not pass 1.5
(exit code 1). `cpu_ratio` compares processor time, which other programs disturb less.

With `--memory N`: a run of N traces of 8 thoughts is made by repeating one batch's, and `nfcot
activations` (all layers) is run on it in a process of its own; its peak resident memory must not
pass 2 GiB. Thoughts that are repeated cost as much as others do.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from time import perf_counter, process_time
from typing import Any

import numpy as np
import torch

from nfcot_model.checkpoints import demo_path
from nfcot_model.hooks import choose_sites, hooked
from nfcot_model.hooks.capture import capture_sites
from nfcot_model.reasoners import NFCoTReasoner, load_reasoner
from nfcot_model.sampling import noise_seed
from nfcot_model.traces import collect, read_run
from nfcot_model.traces.schema import SHARD_SIZE, shard_name, trace_id
from nfcot_model.traces.writer import commit_shard, open_run, writing
from nfcot_model.worlds import make_world

BATCH = 64
LIMIT = 1.5
MEMORY_LIMIT = 2 * 2**30


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", nargs="?", type=Path, default=demo_path())
    parser.add_argument("--batches", type=int, default=4)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--memory", type=int, metavar="N", default=0)
    parser.add_argument("--thoughts", type=int, default=8)
    options = parser.parse_args()
    if options.memory:
        report = memory(options.model, options.memory, options.thoughts)
    else:
        report = cost(load_reasoner(options.model), options.batches, options.repeats)
    sys.stdout.write(json.dumps(report, indent=2) + "\n")
    return 0 if report["within_limit"] else 1


def cost(reasoner: NFCoTReasoner, batches: int, repeats: int) -> dict[str, Any]:
    bridge = hooked(reasoner.model)
    residual = choose_sites(bridge, ["blocks.*.hook_out"])
    worlds = [make_world(w, "test", 1, BATCH // 2 * batches) for w in ("digits", "shuffle")]
    problems = [p for pair in zip(*worlds, strict=True) for p in pair]
    work = []
    for start in range(0, len(problems), BATCH):
        prompts = [p.prompt for p in problems[start : start + BATCH]]
        seeds = [noise_seed(0, start + i) for i in range(BATCH)]
        thoughts = reasoner.think(prompts, tau=0.7, noise_seeds=seeds)
        work.append((reasoner.layout(prompts, thoughts.K.tolist(), side="right"), thoughts.u))

    @torch.no_grad()
    def plain() -> None:
        for layout, u in work:
            reasoner.model.stream(layout, u)

    @torch.no_grad()
    def unhooked() -> None:
        for layout, u in work:
            bridge.original_model.stream(layout, u)

    def with_hooks() -> None:
        for layout, u in work:
            capture_sites(bridge, layout, u, residual)

    ways: dict[str, Callable[[], None]] = {
        "plain": plain,
        "bridge_without_hooks": unhooked,
        "hooked": with_hooks,
    }
    seconds: dict[str, list[tuple[float, float]]] = {name: [] for name in ways}
    for repeat in range(repeats + 1):
        for name, way in ways.items():
            wall, cpu = perf_counter(), process_time()
            way()
            if repeat:  # the first round warms up
                seconds[name].append((perf_counter() - wall, process_time() - cpu))
    wall = {name: statistics.median(w for w, _ in found) for name, found in seconds.items()}
    cpu = {name: statistics.median(c for _, c in found) for name, found in seconds.items()}
    ratio = wall["hooked"] / wall["plain"]
    return {
        "ratio": ratio,
        "limit": LIMIT,
        "within_limit": ratio <= LIMIT,
        "bridge_without_hooks_ratio": wall["bridge_without_hooks"] / wall["plain"],
        "cpu_ratio": cpu["hooked"] / cpu["plain"],
        "batch": BATCH,
        "positions": [int(layout.input_ids.shape[1]) for layout, _ in work],
        "seconds": {name: [round(w, 4) for w, _ in found] for name, found in seconds.items()},
        "threads": torch.get_num_threads(),
    }


def memory(model: Path, traces: int, K: int) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        run = repeated_run(model, Path(folder), traces, K)
        command = [sys.executable, "-m", "nfcot_model.cli", "activations", str(run), "--json"]
        command += ["--model", str(model)]
        with open(Path(folder) / "summary.json", "w+") as out:
            child = subprocess.Popen(command, stdout=out)
            _, status, usage = os.wait4(child.pid, 0)
            if status:
                raise SystemExit(f"{' '.join(command)}: failed")
            out.seek(0)
            summary = json.load(out)
        values = read_run(run, verify=False).activation(summary["sites"][0])
    peak = usage.ru_maxrss * 1024
    return {
        "peak_bytes": peak,
        "peak_gib": round(peak / 2**30, 3),
        "limit_bytes": MEMORY_LIMIT,
        "within_limit": peak <= MEMORY_LIMIT,
        "cpu_seconds": round(usage.ru_utime + usage.ru_stime, 1),
        "rows_read": len(values),
        **{
            name: summary[name]
            for name in ("traces", "thoughts", "shards", "sites", "bytes_estimated", "bytes")
        },
        "seconds": round(summary["seconds"], 1),
    }


def repeated_run(model: Path, folder: Path, traces: int, K: int) -> Path:
    """A run of `traces` traces of K thoughts: one real shard, its rows repeated under new ids."""
    reasoner = load_reasoner(model)
    long = [p for p in make_world("digits", "test", 1, 4000) if len(p.steps) == K]
    collect(reasoner, long[:BATCH], folder / "seed", model_path=model)
    seed = read_run(folder / "seed")
    right = seed.traces[seed.traces["K"] == K]
    if right.empty:
        raise SystemExit(f"no trace of {K} thoughts; choose another --thoughts")
    fields = {n: v for n, v in seed.manifest.items() if n not in ("hash", "checksum")}
    manifest = open_run(folder / "run", fields | {"traces": traces})
    rows = seed.thoughts["trace_id"].isin(right["trace_id"]).to_numpy()
    tensors = {n: seed.tensor(n)[rows].reshape(len(right), K, -1) for n in seed.tensor_names}
    thoughts = seed.thoughts[rows]
    with writing(folder / "run"):
        for index, start in enumerate(range(0, traces, SHARD_SIZE)):
            count = min(SHARD_SIZE, traces - start)
            chosen = np.arange(start, start + count) % len(right)
            picked = right.iloc[chosen]
            columns = picked.drop(columns=["shard", "row", "u_sha256"]).to_dict("list")
            columns["trace_id"] = [
                trace_id("repeated", start + i, 0, manifest["hash"]) for i in range(count)
            ]
            places = (chosen[:, None] * K + np.arange(K)).ravel()
            parts = thoughts.iloc[places].drop(columns=["trace_id", "k", "shard", "row"])
            commit_shard(
                folder / "run",
                shard_name(index),
                columns,
                parts.to_dict("list"),
                {n: v[chosen].reshape(count * K, -1) for n, v in tensors.items()},
            )
    return folder / "run"


if __name__ == "__main__":
    sys.exit(main())
