"""What does a probe that reads along cost? Thinking with and without a monitor, alternating.

    python benchmarks/probe_monitor.py [MODEL] [--problems 256] [--batch 64] [--repeats 7]

The same problems with the same noise; each repetition thinks once without and once with each
monitor, in changing order. `ratio` is the median over repetitions of the processor time with the
monitor over that of the same repetition without; `wall_ratio` the same of wall time, which other
programs disturb more. `microseconds_per_thought`: processor time inside the monitor (states that
the model must tell it are in the ratios only), over the thoughts of all traces; `per_call`: over
the calls, one per thought of a batch. Weights are drawn at random: what they say costs the same.
Thinking only, no answers: against whole traces it is less.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from time import perf_counter, process_time, thread_time
from typing import Any

import numpy as np
import torch
from torch import Tensor

from nfcot_model.checkpoints import demo_path
from nfcot_model.reasoners import NFCoTReasoner, load_reasoner
from nfcot_model.sampling import noise_seed
from nfcot_model.thoughts import NewThoughts
from nfcot_model.worlds import Problem, make_world
from probes.artifact import Probe
from probes.monitor import Listener, ProbeMonitor
from probes.sites import parse_site
from probes.weights import Weights

TAU = 0.7
SITES = ("u@3", "u@-1", "u@mean", "u@rollmax", "u@concat-2", "h@-1@-1")


def random_probe(reasoner: NFCoTReasoner, site: str) -> Probe:
    """A binary probe with a threshold that no score reaches, so that traces run to their end."""
    rng = np.random.default_rng(0)
    parsed = parse_site(site)
    width = (
        reasoner.D
        if parsed.layer is None
        else reasoner.model.get_input_embeddings().weight.shape[1]
    )
    width *= abs(parsed.place.n or 1) if parsed.place.how == "concat" else 1
    weights = Weights(np.zeros(width), np.ones(width), rng.normal(size=(1, width)), np.zeros(1))
    meta: dict[str, Any] = {
        "site": site,
        "kind": "binary",
        "classes": [False, True],
        "calibration_link": {"slope": 1.0, "offsets": [0.0, 0.0]},
        "thresholds": {
            "values": {"recall_at_5pct": 2.0},
            "reasons": {},
            "negatives": 200,
            "groups": 200,
        },
        "settings": {
            "reasoner": reasoner.name,
            "checkpoint_hash": reasoner.checkpoint_hash,
            "decode.tau": TAU,
            "decode.max_thoughts": None,
            "decode.k_policy": "model" if reasoner.variable_k else "fixed",
            "decode.template": reasoner.prompt_template,
            "decode.dtype": reasoner.config["dtype"],
        },
    }
    return Probe(weights, np.zeros(0), meta)


@dataclass
class Spent:
    """Seconds of thinking (processor, wall) and inside the monitor, thoughts and calls."""

    cpu: float = 0.0
    wall: float = 0.0
    inside: float = 0.0
    thoughts: int = 0
    calls: int = 0


def think(
    reasoner: NFCoTReasoner, monitor: ProbeMonitor | None, problems: list[Problem], batch: int
) -> Spent:
    """Think about all problems, with the monitor where there is one."""
    spent = Spent()

    def timed(listener: Listener, new: NewThoughts) -> Tensor | None:
        started = thread_time()
        halted = listener(new)
        spent.inside += thread_time() - started
        return halted

    wall, cpu = perf_counter(), process_time()
    for start in range(0, len(problems), batch):
        block = problems[start : start + batch]
        on_thought = None
        if monitor is not None:
            on_thought = partial(timed, monitor.listener(len(block), reasoner.budget()))
        K = reasoner.think(
            [p.prompt for p in block],
            tau=TAU,
            noise_seeds=[noise_seed(0, p.id, 0) for p in block],
            on_thought=on_thought,
            hidden=monitor is not None and monitor.hidden,
        ).K
        spent.thoughts += int(K.sum())
        spent.calls += int(K.max())
    spent.wall, spent.cpu = perf_counter() - wall, process_time() - cpu
    return spent


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", nargs="?", type=Path, default=demo_path())
    parser.add_argument("--problems", type=int, default=256)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=7)
    options = parser.parse_args()
    reasoner = load_reasoner(options.model)
    problems = make_world("digits", "test", 1, options.problems)
    probes = {site: random_probe(reasoner, site) for site in SITES}
    monitors: dict[str, ProbeMonitor | None] = {"none": None} | {
        site: ProbeMonitor(probe, reasoner, stop=True) for site, probe in probes.items()
    }
    think(reasoner, None, problems, options.batch)
    costs: dict[str, list[Spent]] = {name: [] for name in monitors}
    for repeat in range(options.repeats):
        order = list(monitors)
        for name in order[repeat % len(order) :] + order[: repeat % len(order)]:
            costs[name].append(think(reasoner, monitors[name], problems, options.batch))
    bare = costs.pop("none")
    rows = []
    for site, watched in costs.items():
        pairs = list(zip(watched, bare, strict=True))
        inside = 1e6 * statistics.median(w.inside for w in watched)
        rows.append(
            {
                "site": site,
                "ratio": statistics.median(w.cpu / b.cpu for w, b in pairs),
                "wall_ratio": statistics.median(w.wall / b.wall for w, b in pairs),
                "microseconds_per_thought": inside / watched[0].thoughts,
                "microseconds_per_call": inside / watched[0].calls,
            }
        )
    thinking = statistics.median(b.cpu for b in bare)
    report = {
        "monitors": rows,
        "microseconds_per_thought_of_thinking": 1e6 * thinking / bare[0].thoughts,
        "thoughts": bare[0].thoughts,
        "calls": bare[0].calls,
        "batch": options.batch,
        "repeats": options.repeats,
        "threads": torch.get_num_threads(),
    }
    sys.stdout.write(json.dumps(report, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
