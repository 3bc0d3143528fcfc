"""How many verdicts per second, and how long does a worker take to start?

    python benchmarks/sandbox.py [--workers 2] [-n 4000]

One line of JSON for each kind of answer. `expression` answers can reach nothing but their
arguments and share a process in small groups; `general` answers and `script` tests get a process
each. `cpu_ms_per_verdict` counts all processor time, start-up included, so it stays meaningful on
a busy machine.
"""

from __future__ import annotations

import argparse
import json
import resource
import sys
import time

from nfcot_model.sandbox import Sandbox
from nfcot_model.worlds.problem import Check

DIGITS = Check.model_validate(
    {"kind": "function", "cases": [{"args": [x], "expected": (4 * x + 7) % 10} for x in range(10)]}
)
SCRIPT = Check(kind="script", source="assert [f(x) for x in range(3)] == [7, 1, 5]")
ANSWERS = {
    "expression": ("lambda x: (4*x+7) % 10", DIGITS),
    "general": ("lambda x: (4*x+7).__mod__(10)", DIGITS),
    "script": ("def f(x):\n    return (4*x+7) % 10", SCRIPT),
}


def cpu_seconds() -> float:
    """Processor time of this process and of all its children that have ended."""
    usages = map(resource.getrusage, (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("-n", type=int, default=4000)
    options = parser.parse_args()
    for name, (answer, check) in ANSWERS.items():
        used, start = cpu_seconds(), time.perf_counter()
        with Sandbox(workers=options.workers) as sandbox:
            sandbox.check_many([(answer, check)])
            first = time.perf_counter() - start
            start = time.perf_counter()
            verdicts = sandbox.check_many([(answer, check)] * options.n)
            seconds = time.perf_counter() - start
            row = {
                "answers": name,
                "workers": options.workers,
                "layer": sandbox.layer,
                "n": options.n,
                "passed": sum(verdict.status == "passed" for verdict in verdicts),
                "verdicts_per_second": round(options.n / seconds),
                "first_verdict_seconds": round(first, 3),
            }
        row["cpu_ms_per_verdict"] = round(1000 * (cpu_seconds() - used) / options.n, 2)
        sys.stdout.write(json.dumps(row) + "\n")


if __name__ == "__main__":
    main()
