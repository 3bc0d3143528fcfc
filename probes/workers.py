"""The jobs of a sweep, done side by side in processes of one thread each."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import chain

import numpy as np
import torch
from joblib import Parallel, delayed

from nfcot_model.errors import UserError
from probes.cells import Cell, Job, done
from probes.threads import one_thread_each
from probes.units import Units

__all__ = ["all_done", "refuse_no_device"]

# Rows times width of a batch's jobs below which starting processes takes longer than the work.
WORTH_PROCESSES = 2_000_000

Result = tuple[list[Cell], list[Cell]]
Batch = Sequence[tuple[str, Callable[[], Job]]]


def refuse_no_device(name: str) -> None:
    """Raise UserError unless fits can be done on a device of that name."""
    try:
        torch.zeros(1, device=name).cpu()
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"--device {name}: cannot be used ({reason}); give cpu") from None


def all_done(
    batches: Iterable[Batch], units: Units, progress: Callable[[int, int], object]
) -> dict[str, Result]:
    """Every named job's (cells, controls), from `units` where it is kept, else done and kept now.

    Batches are made ready one after another, so that only what one batch reads is in memory.
    progress: called with (done, all). As many processes as torch has threads; jobs on a GPU, and
    batches that are too small to be worth it, are done here.
    """
    waiting = [list(batch) for batch in batches]
    names = [name for batch in waiting for name, _ in batch]
    results: dict[str, Result] = {}
    for name in names:
        kept = units.read(name)
        if kept is not None:
            results[name] = kept
    progress(len(results), len(names))
    with one_thread_each() as workers:
        while waiting:
            # popped, so that what its jobs share is let go before the next batch is read
            todo = [(name, make) for name, make in waiting.pop(0) if name not in results]
            for job, result in _side_by_side([make for _, make in todo], workers):
                units.write(job, *result)
                results[job] = result
                progress(len(results), len(names))
    return results


def _side_by_side(makers: list[Callable[[], Job]], workers: int) -> Iterator[tuple[str, Result]]:
    """(name, result) of each job, which is made when its turn comes."""
    if not makers:
        return
    first = makers.pop(0)()
    alone = workers < 2 or not makers or first.device != "cpu"
    jobs = chain([first], (make() for make in makers))
    if alone or _size(first) * (1 + len(makers)) < WORTH_PROCESSES:
        yield from ((job.name, done(job)) for job in jobs)
        return
    # joblib renews a worker whose memory has grown and says so; nothing is lost by it
    warnings.filterwarnings("ignore", message="A worker stopped while some jobs")
    parallel = Parallel(workers, return_as="generator", pre_dispatch=workers, max_nbytes=None)
    yield from parallel(delayed(_named)(job) for job in jobs)


def _named(job: Job) -> tuple[str, Result]:
    with one_thread_each():
        return job.name, done(job)


def _size(job: Job) -> int:
    """Numbers that the job's fits read."""
    features = [job.X, *(control.X for control in job.controls)]
    return sum(np.size(X[0]) * len(X) for X in features if X is not None and len(X))
