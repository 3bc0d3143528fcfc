"""Kills a writer with SIGKILL before every single file operation it makes, and resumes it.

`python -m tests.killed_trace FOLDER` writes FOLDER/whole (never killed) and, for each n,
FOLDER/n: killed before its n-th file operation, and resumed to the end (every fourth one is killed
again on the way).
Prints how many operations an uninterrupted run makes. Every attempt is a forked process that
inherits what the reasoner said about each batch, so that batches are thought once.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import torch

from nfcot_model.sandbox import Verdict
from nfcot_model.traces.collecting import collect
from nfcot_model.worlds import Check
from tests.tiny import brief_reasoner, digits

EVENTS = ("open", "os.rename", "os.remove", "os.mkdir")


class Unchecked:
    """Judges without running them, so that no other process is involved."""

    def submit_many(self, pairs: list[tuple[str, Check]]) -> Future[list[Verdict]]:
        done: Future[list[Verdict]] = Future()
        done.set_result([Verdict("failed", f"{len(check.cases)} cases", 0.0) for _, check in pairs])
        return done


def remembering(method: Callable[..., Any]) -> Callable[..., Any]:
    """The method, called once for each batch; batches are told apart by their size."""
    said: dict[int, Any] = {}

    def remembered(batch: Any, *rest: Any, **named: Any) -> Any:
        if len(batch) not in said:
            said[len(batch)] = method(batch, *rest, **named)
        return said[len(batch)]

    return remembered


def watch(folder: Path, act: Callable[[int], None]) -> None:
    """Call `act(n)` before this process's n-th file operation inside `folder`."""
    count = 0

    def hook(event: str, arguments: tuple[object, ...]) -> None:
        nonlocal count
        if event in EVENTS and str(arguments[0]).startswith(str(folder)):
            count += 1
            act(count)

    sys.addaudithook(hook)


def attempt(folder: Path, kill_before: int | None) -> bool:
    """Trace into `folder` in a forked process; was it killed?"""
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
        raise SystemExit(f"{folder}: the writer failed with status {status}")
    return False


def record(folder: Path) -> None:
    collect(REASONER, PROBLEMS, folder, seed=3, max_thoughts=2, sandbox=Unchecked())


def main(root: Path) -> None:
    record(root / "whole")
    n = 1
    while attempt(root / str(n), n):
        if n % 4 == 0:
            attempt(root / str(n), 1 + n * 7 % 29)
        attempt(root / str(n), None)
        n += 1
    sys.stdout.write(f"{n - 1}\n")


if __name__ == "__main__":
    torch.set_num_threads(1)
    REASONER = brief_reasoner(max_answer_tokens=2)
    for name in ("think", "answer_scored", "decode"):
        setattr(REASONER, name, remembering(getattr(REASONER, name)))
    PROBLEMS = digits(66)
    main(Path(sys.argv[1]))
