"""Which answers pass their checks? Generated code, run by warm workers away from this process."""

from __future__ import annotations

import atexit
import threading
from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass, replace
from types import TracebackType
from typing import Any, Self

from nfcot_model.errors import UserError
from nfcot_model.sandbox.checks import AnyCheck
from nfcot_model.sandbox.judge import job_of, verdict_at_once, verdict_of
from nfcot_model.sandbox.limits import Limits, Verdict
from nfcot_model.sandbox.process import WorkerDiedError, WorkerProcess
from nfcot_model.sandbox.wire import TAKEN
from nfcot_model.worlds.problem import Check

__all__ = ["Sandbox"]

_BATCH = 32
_ZERO = {"args": [], "expected": 0}


class _Answers:
    """The verdicts of one submission, in its order, until the last one is in."""

    def __init__(self, n: int) -> None:
        self.future: Future[list[Verdict]] = Future()
        self.future.set_running_or_notify_cancel()
        self._lock = threading.Lock()
        self._verdicts: list[Verdict | None] = [None] * n
        self._left = n
        if n == 0:
            self.future.set_result([])

    def put(self, index: int, verdict: Verdict) -> None:
        with self._lock:
            self._verdicts[index] = verdict
            self._left -= 1
            if self._left == 0 and not self.future.done():
                self.future.set_result([v for v in self._verdicts if v is not None])

    def fail(self, error: Exception) -> None:
        with self._lock:
            if not self.future.done():
                self.future.set_exception(error)


@dataclass(frozen=True)
class _Job:
    payload: dict[str, Any]
    check: AnyCheck
    answers: _Answers
    index: int
    again: bool = False


class Sandbox:
    """Checks generated answers in separate, confined processes.

    `workers` warm processes each fork one child per answer: a new session without environment,
    descriptors, files, network, threads or further processes, under `limits`, killed with its
    group. `layer` says what holds it: "seccomp" (Linux), or "audit-hook" where the platform has
    no system call filter, which stops ordinary misbehaviour but not a break-out of the language.

    Checks are those of problem files (`Check`) and of whole programs (`checks`); of a program that
    reads standard input, each case has a child.

    A verdict is reproducible: every answer starts from the same interpreter state, with fixed hash
    and random seeds. What it does not show: a `function` passes on the given cases only, and a
    `script` shares its interpreter with the test, so a determined answer can rig a test by patching
    what it calls; see `guard`.

    Safe for use from several threads. Use as a context manager, or call `close`.
    """

    def __init__(self, workers: int = 2, limits: Limits | None = None) -> None:
        if workers < 1:
            raise UserError(f"Sandbox workers: expected at least 1, got {workers}")
        self.limits = limits or Limits()
        self._queue: deque[_Job] = deque()
        self._changed = threading.Condition()
        self._closed = False
        self._processes: list[WorkerProcess | None] = [None] * workers
        self._threads = [
            threading.Thread(target=self._work, args=(slot,), name=f"sandbox-{slot}", daemon=True)
            for slot in range(workers)
        ]
        for thread in self._threads:
            thread.start()
        atexit.register(self.close)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    @property
    def worker_pids(self) -> list[int]:
        """The process ids of the workers that run now."""
        with self._changed:
            return [process.pid for process in self._processes if process is not None]

    @property
    def layer(self) -> str:
        """What confines an answer on this machine? "seccomp" or "audit-hook"; starts a worker."""
        self.check("int", Check.model_validate({"kind": "function", "cases": [_ZERO]}))
        with self._changed:
            return next(process.layer for process in self._processes if process is not None)

    def check(self, answer: str, check: AnyCheck) -> Verdict:
        """Does one answer pass?"""
        return self.check_many([(answer, check)])[0]

    def check_many(self, pairs: Sequence[tuple[str, AnyCheck]]) -> list[Verdict]:
        """Which answers pass? One verdict for each pair, in order."""
        return self.submit_many(pairs).result()

    def submit_many(self, pairs: Sequence[tuple[str, AnyCheck]]) -> Future[list[Verdict]]:
        """Start checking and return at once; the future holds one verdict for each pair, in order.

        Raises UserError for a check whose cases are not plain data, or for a closed sandbox. The
        future raises RuntimeError when no worker can be started.
        """
        answers = _Answers(len(pairs))
        jobs = [
            _Job(job_of(answer, check), check, answers, index)
            for index, (answer, check) in enumerate(pairs)
        ]
        for job, (answer, check) in zip(jobs, pairs, strict=True):
            if not job.payload:
                answers.put(job.index, verdict_at_once(answer, check))
        with self._changed:
            if self._closed:
                raise UserError("the sandbox is closed; open a new one")
            self._queue.extend(job for job in jobs if job.payload)
            self._changed.notify_all()
        return answers.future

    def close(self) -> None:
        """End all workers. What is still being checked gets an error verdict."""
        with self._changed:
            self._closed = True
            for process in self._processes:
                if process is not None:
                    process.kill()
            self._changed.notify_all()
        for thread in self._threads:
            thread.join()
        atexit.unregister(self.close)

    def _work(self, slot: int) -> None:
        while jobs := self._take():
            while jobs:
                try:
                    jobs = self._serve(slot, jobs)
                except OSError as error:
                    self._replace(slot, None)
                    for job in jobs:
                        job.answers.fail(RuntimeError(f"no sandbox worker: {error}"))
                    jobs = []
        self._replace(slot, None)

    def _take(self) -> list[_Job]:
        """The next few jobs; none when the sandbox is closed and the queue is empty."""
        with self._changed:
            self._changed.wait_for(lambda: self._queue or self._closed)
            share = len(self._queue) // (2 * len(self._threads))
            few = min(len(self._queue), max(1, min(_BATCH, share)))
            return [self._queue.popleft() for _ in range(few)]

    def _serve(self, slot: int, jobs: list[_Job]) -> list[_Job]:
        """Run jobs on the worker of this slot; returns those left over when it died on the way.

        A job that the worker had taken up may be why it died and gets an error verdict. One that it
        had not is left over, once.
        """
        done = taken = 0
        try:
            process = self._ready(slot)
            process.send([job.payload for job in jobs])
            while done < len(jobs):
                reply = process.receive()
                if reply[0] == TAKEN:
                    taken += int(reply[2])
                    continue
                job = jobs[done]
                verdict = verdict_of(job.check, reply, self.limits)
                done += 1
                job.answers.put(job.index, verdict)
        except WorkerDiedError as error:
            self._replace(slot, None)
            if done == taken and not jobs[done].again:
                return [replace(job, again=True) for job in jobs[done:]]
            verdict = Verdict("error", str(error), 0.0)
            jobs[done].answers.put(jobs[done].index, verdict)
            return jobs[done + 1 :]
        return []

    def _ready(self, slot: int) -> WorkerProcess:
        process = self._processes[slot]
        if process is not None and process.alive:
            return process
        if self._closed:
            raise WorkerDiedError("the sandbox was closed before this answer was checked")
        process = WorkerProcess(self.limits)
        self._replace(slot, process)
        return process

    def _replace(self, slot: int, process: WorkerProcess | None) -> None:
        with self._changed:
            old, self._processes[slot] = self._processes[slot], process
            if process is not None and self._closed:
                process.kill()
        if old is not None:
            old.close()
