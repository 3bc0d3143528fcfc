"""Do causal tests and probes find what is true by construction? Truth against found, per organism.

    python benchmarks/organisms.py [NAME …] [-n 200] [--seed 11] [--tau 0.7] [--json]

For each shipped organism: n test problems are traced, a probe reads the sign from the thought that
is about it, and the causal study of `nfcot causal` runs with three edits. Intervals are 95 % over
problem groups. Exit code 1 when a verdict or a time of decision is not the true one.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path
from time import perf_counter
from typing import Any

from analyses.causal.study import Plan, causal_study
from analyses.organisms import ORGANISMS, organism, organism_problems
from nfcot_model.reasoners import load_reasoner
from nfcot_model.terminal import emit_json
from nfcot_model.traces import collect, read_run
from probes.fit import fit_probe

EDITS = ("donor", "swap_same_value", "swap_different_value")
# Fewest answers that must be settled when the data say, for the time of decision to be found.
SETTLED = 0.9


def measure(name: str, n: int, seed: int, tau: float, folder: Path) -> dict[str, Any]:
    """What is found about one organism, beside what is true of it."""
    started = perf_counter()
    truth = ORGANISMS[name]
    reasoner = load_reasoner(organism(name))
    problems = organism_problems(name, "test", seed, n)
    collect(reasoner, problems, folder / "run", tau=tau)
    run = read_run(folder / "run")
    probe = fit_probe(run, "letter", "u@0" if truth.sign_first else "u@-1")
    plan = Plan(samples=n, edits=EDITS, seed=seed)
    study = causal_study(run, problems, reasoner, folder / "study", plan)
    (task,) = study.summary["tasks"]
    times = task["commitment"]
    before = times["before_any_thought"]
    decided = {
        0: before,
        1: {
            # By the first thought, and not before any.
            "value": times["by_first_thought"]["value"] - before["value"],
            "low": times["by_first_thought"]["low"] - before["high"],
            "high": times["by_first_thought"]["high"] - before["low"],
        },
        -1: times["at_last_thought"],
    }[truth.settled]
    return {
        "organism": name,
        "n": n,
        "solved": task["solved"],
        "verdict": {"truth": truth.verdict, "found": task["verdict"]},
        "settled_after": {"truth": truth.settled, "share": decided, "mean_k": times["mean_k"]},
        "donor": task["sufficiency"]["donor"],
        "prompt": task["sufficiency"]["prompt"],
        "necessity": task["necessity"],
        "read_from": task["read_from"],
        "probe": probe.metrics["accuracy"].to_dict(),
        "probe_controls": {c.name: c.metrics["accuracy"].to_dict() for c in probe.controls},
        "true": task["verdict"] == truth.verdict and decided["value"] >= SETTLED,
        "seconds": round(perf_counter() - started, 1),
    }


def shown(estimate: dict[str, float | None]) -> str:
    value, low, high = (estimate[key] for key in ("value", "low", "high"))
    return "-" if value is None else f"{value:.2f} ({low:.2f}-{high:.2f})"


def table(rows: list[dict[str, Any]]) -> str:
    """The rows as a Markdown table."""
    lines = [
        "| organism | verdict: true | found | answers settled after | share of answers |"
        " donor's answer | own answer | largest drop | solved | probe | shuffled labels |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    names = {0: "no thought", 1: "the first", -1: "the last"}
    for row in rows:
        cells = [
            row["organism"],
            row["verdict"]["truth"],
            row["verdict"]["found"],
            names[row["settled_after"]["truth"]],
            shown(row["settled_after"]["share"]),
            *(shown(row[key]) for key in ("donor", "prompt", "necessity", "solved", "probe")),
            shown(row["probe_controls"]["shuffled_labels"]),
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", metavar="NAME", default=list(ORGANISMS))
    parser.add_argument("-n", type=int, default=200)
    parser.add_argument("--seed", type=int, default=11)
    parser.add_argument("--tau", type=float, default=0.7)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    rows = []
    for name in options.names:
        with tempfile.TemporaryDirectory() as folder:
            rows.append(measure(name, options.n, options.seed, options.tau, Path(folder)))
    if options.json:
        emit_json(rows)
    else:
        sys.stdout.write(table(rows) + "\n")
    return 0 if all(row["true"] for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
