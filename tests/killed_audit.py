"""Kills calibrate, score and watch with SIGKILL before every change on disk, and resumes them.

`python -m tests.killed_audit FOLDER` writes FOLDER/whole/VERB (never killed) and FOLDER/VERBn:
killed before its n-th change, then repeated to the end. Prints how many changes each
has. Every attempt is a forked process.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import analyses.scoring
from analyses.calibrate import Rule
from analyses.calibration_file import save_calibration
from analyses.clean import clean_set
from analyses.scoring import score_run
from analyses.watch import Watch, follow
from tests.synthetic_run import synthetic_run

RULE = Rule(0.05)
EVENTS = ("open", "os.rename", "os.remove", "os.mkdir")


def before_changes(folder: Path, act: Callable[[int], None]) -> None:
    """Call `act(n)` before this process's n-th change inside `folder`; reading changes nothing."""
    count = 0

    def hook(event: str, arguments: tuple[object, ...]) -> None:
        nonlocal count
        if event not in EVENTS or not str(arguments[0]).startswith(str(folder)):
            return
        if event == "open" and not int(str(arguments[2])) & (os.O_WRONLY | os.O_RDWR):
            return
        count += 1
        act(count)

    sys.addaudithook(hook)


def killed(folder: Path, act: Callable[[Path], object], before: int) -> bool:
    """Run `act` in a forked process that dies before an operation; did it?"""
    child = os.fork()
    if child == 0:
        before_changes(
            folder, lambda n: os.kill(os.getpid(), signal.SIGKILL) if n == before else None
        )
        act(folder)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL:
        return True
    if status != 0:
        raise SystemExit(f"{folder}: failed with status {status}")
    return False


def main(root: Path) -> None:
    made = root.parent / f"{root.name}-runs"
    clean = synthetic_run(made / "clean", n=120, D=4, seed=1)
    run = synthetic_run(made / "run", n=70, D=4, seed=2, tamper="noise", tamper_every=9).path
    calibrated = clean_set(clean, RULE)
    analyses.scoring.PART_SHARDS = 1
    verbs: dict[str, Callable[[Path], object]] = {
        "cal": lambda out: save_calibration(calibrated, out),
        "scores": lambda out: score_run(run, calibrated, out, RULE),
        "watch": lambda out: follow(Watch(run, calibrated, RULE, out), once=True),
    }
    operations = {}
    for verb, act in verbs.items():
        act(root / "whole" / verb)
        n = 1
        while killed(root / f"{verb}{n}", act, n):
            act(root / f"{verb}{n}")
            n += 1
        operations[verb] = n - 1
        act(root / f"{verb}{n}")
    sys.stdout.write(json.dumps(operations) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
