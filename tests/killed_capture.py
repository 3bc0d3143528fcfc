"""Kills a capture with SIGKILL before every single file operation it makes, and resumes it.

`python -m tests.killed_capture FOLDER` traces FOLDER/run, captures it unbroken into FOLDER/whole
and for each n into FOLDER/n: killed before its n-th file operation, then repeated.
Prints how many operations an unbroken capture makes.
"""

from __future__ import annotations

import os
import shutil
import signal
import sys
from functools import cache
from pathlib import Path

import torch

from nfcot_model.hooks import plan_activations, record, recording
from nfcot_model.reasoners import NFCoTReasoner
from nfcot_model.traces import collect, read_run
from tests.killed_trace import Unchecked, watch
from tests.tiny import brief_reasoner, digits


def capture(reasoner: NFCoTReasoner, run: Path) -> None:
    record(plan_activations(read_run(run), reasoner, ["blocks.0.hook_out"]))


def is_killed(reasoner: NFCoTReasoner, run: Path, n: int) -> bool:
    """Capture in a forked process that is killed before file operation n; was it?"""
    child = os.fork()
    if child == 0:
        watch(
            run / "derived",
            lambda count: os.kill(os.getpid(), signal.SIGKILL) if count == n else None,
        )
        capture(reasoner, run)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    if status and not os.WIFSIGNALED(status):
        raise SystemExit(f"{run}: the capture failed with status {status}")
    return os.WIFSIGNALED(status)


def main(root: Path) -> None:
    reasoner = brief_reasoner(max_answer_tokens=2)
    collect(reasoner, digits(66), root / "run", max_thoughts=2, sandbox=Unchecked())
    shutil.copytree(root / "run", root / "whole")
    capture(reasoner, root / "whole")
    n = 1
    while True:
        shutil.copytree(root / "run", root / str(n))
        killed = is_killed(reasoner, root / str(n), n)
        capture(reasoner, root / str(n))
        if not killed:
            break
        n += 1
    sys.stdout.write(f"{n - 1}\n")


if __name__ == "__main__":
    torch.set_num_threads(1)
    recording.hooked = cache(recording.hooked)
    main(Path(sys.argv[1]).resolve())
