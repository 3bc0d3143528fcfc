"""Kills a sweep with SIGKILL before every single file operation it makes, and resumes it.

`python -m tests.killed_sweep FOLDER` leaves FOLDER/whole (never killed) and, for each n, FOLDER/n:
killed before its n-th file operation and repeated to the end. Prints how many operations there are.
Every attempt is a forked process that inherits the fits, which are done once.
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from typing import Any

import torch

import probes.sweep
import probes.sweeping
import probes.workers
from probes.fit import Options
from probes.sweep import Plan, sweep
from probes.sweeping import sweep_folder, write_sweep
from probes.units import open_units
from tests.killed_trace import watch
from tests.synthetic_run import synthetic_run

PLAN = Plan(
    sites=("u",),
    estimators=("lda",),
    options=Options(controls=False, permutations=9, draws=100),
    permutations=9,
    cell_draws=20,
)


def once(method: Any, key: Any) -> Any:
    """The method, called once for each key."""
    said: dict[Any, Any] = {}

    def remembered(*arguments: Any) -> Any:
        name = key(*arguments)
        if name not in said:
            said[name] = method(*arguments)
        return said[name]

    return remembered


def record(folder: Path) -> None:
    where, identity = sweep_folder(RUN, "operation", PLAN, None, folder)
    write_sweep(sweep(RUN, "operation", PLAN, lambda: open_units(where, identity)), where)


def attempt(folder: Path, kill_before: int | None) -> bool:
    """Sweep into `folder` in a forked process; was it killed?"""
    child = os.fork()
    if child == 0:
        if kill_before is not None:
            watch(
                folder,
                lambda n: os.kill(os.getpid(), signal.SIGKILL) if n == kill_before else None,
            )
        record(folder)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL:
        return True
    if status != 0:
        raise SystemExit(f"{folder}: the sweep failed with status {status}")
    return False


def main(root: Path) -> None:
    record(root / "whole")
    n = 1
    while attempt(root / str(n), n):
        attempt(root / str(n), None)
        n += 1
    sys.stdout.write(f"{n - 1}\n")


if __name__ == "__main__":
    torch.set_num_threads(1)
    ROOT = Path(sys.argv[1])
    RUN = synthetic_run(ROOT / "run", n=60, D=12, steps=(2, 2), tau=0.3)
    probes.workers.done = once(probes.workers.done, lambda job: job.name)
    probes.sweep.fit_population = once(probes.sweep.fit_population, lambda *rest: None)
    probes.sweeping.draw = lambda figures: None  # pages are megabytes, written like the rest
    main(ROOT)
