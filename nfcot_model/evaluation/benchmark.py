"""Evaluation on a published benchmark: think, answer, judge, record; resumable by blocks.

A block is a fixed run of problems with all their samples, so a resumed evaluation computes exactly
the batches that are missing. While the next block is thought, the sandbox judges the last one.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from nfcot_model.benchmark_files import Benchmark, Task, UnjudgedError
from nfcot_model.errors import UserError
from nfcot_model.evaluation.benchmark_records import (
    Record,
    Sample,
    open_folder,
    read_block,
    write_block,
)
from nfcot_model.files import content_hash
from nfcot_model.reasoners import Reasoner
from nfcot_model.reasoners.room import answer_budget, answers_cut, fits
from nfcot_model.sampling import noise_seed
from nfcot_model.sandbox import Sandbox, Verdict
from nfcot_model.sandbox.checks import AnyCheck
from nfcot_model.traces.settings import Settings

__all__ = ["BATCH", "Protocol", "check_ks", "run_benchmark"]

BATCH = 64
RECORD_VERSION = 1


@dataclass(frozen=True)
class Protocol:
    """How are answers drawn? `batch` bounds how many are drawn at once.

    `template` is the prompt with `{prompt}` where the benchmark's stands.
    """

    settings: Settings
    batch: int = BATCH
    template: str = "{prompt}"

    def __post_init__(self) -> None:
        if self.batch < 1:
            raise UserError(f"--batch {self.batch}: expected at least 1")
        if "{prompt}" not in self.template:
            raise UserError("--template: the text does not hold {prompt}, where the task would be")

    def prompt(self, task: Task) -> str:
        return self.template.replace("{prompt}", task.prompt)


def check_ks(ks: Sequence[int] | None, samples: int) -> list[int]:
    """For which k is pass@k estimated? Raises UserError for a k without enough samples."""
    if ks is None:
        return [k for k in (1, 5, 10, 100) if k <= samples]
    for k in ks:
        if not 1 <= k <= samples:
            raise UserError(f"--pass-at {k}: needs --samples {max(k, 1)} or more, got {samples}")
    return sorted(set(ks))


def run_benchmark(
    reasoner: Reasoner,
    benchmark: Benchmark,
    protocol: Protocol,
    *,
    out: Path | None = None,
    model: str = "",
    advance: Callable[[int], object] | None = None,
) -> tuple[list[Record], int]:
    """Evaluate every task; returns the records, in order, and how many were found in `out`.

    `advance` is called with the number of problems done. Raises UserError, before anything is
    written, for an `out` of another evaluation.
    """
    size = max(1, protocol.batch // protocol.settings.samples)
    tasks = benchmark.tasks
    blocks = [tasks[start : start + size] for start in range(0, len(tasks), size)]
    room = dict(
        zip(
            (task.id for task in tasks),
            fits(reasoner, list(map(protocol.prompt, tasks)), protocol.settings.max_thoughts),
            strict=True,
        )
    )
    if out is not None:
        open_folder(out, _manifest(reasoner, benchmark, protocol, model))
    done: list[list[Record] | None] = [
        None if out is None else read_block(out, number, [task.id for task in block])
        for number, block in enumerate(blocks)
    ]
    resumed = sum(len(records) for records in done if records is not None)
    tell = advance or (lambda n: None)
    tell(resumed)

    def finish(number: int, judging: _Judging) -> None:
        records = done[number] = judging.records()
        if out is not None:
            write_block(out, number, records)
        tell(len(records))

    workers = max(2, (os.cpu_count() or 2) // 2)
    with Sandbox(workers, benchmark.limits) as sandbox:
        last: tuple[int, _Judging] | None = None
        for number, block in enumerate(blocks):
            if done[number] is not None:
                continue
            drawn = _draw(reasoner, [task for task in block if room[task.id]], protocol)
            judging = _Judging(sandbox, block, drawn, protocol.settings.samples)
            if last is not None:
                finish(*last)
            last = number, judging
        if last is not None:
            finish(*last)
    return [record for records in done for record in records or ()], resumed


def _manifest(
    reasoner: Reasoner, benchmark: Benchmark, protocol: Protocol, model: str
) -> dict[str, Any]:
    settings = asdict(protocol.settings)
    del settings["activations"]
    return {
        "version": RECORD_VERSION,
        "benchmark": benchmark.format,
        "file": str(benchmark.path),
        "file_hash": benchmark.file_hash,
        "limits": benchmark.limits.to_dict(),
        "model": model,
        "reasoner": reasoner.name,
        "checkpoint_hash": reasoner.checkpoint_hash,
        "dtype": reasoner.config["dtype"],
        "max_answer_tokens": answer_budget(reasoner),
        **settings,
        "batch": protocol.batch,
        "template": content_hash(protocol.template),
    }


@dataclass(frozen=True)
class _Drawn:
    """One answer and how it came about."""

    text: str
    K: int
    stopped: bool
    cut: bool


def _draw(reasoner: Reasoner, tasks: Sequence[Task], protocol: Protocol) -> dict[str, list[_Drawn]]:
    """All samples of these tasks. What a sample is depends on its seed and its batch only."""
    asked = protocol.settings
    pairs = [(task, sample) for task in tasks for sample in range(asked.samples)]
    found: dict[str, list[_Drawn]] = {task.id: [] for task in tasks}
    for start in range(0, len(pairs), protocol.batch):
        chunk = pairs[start : start + protocol.batch]
        prompts = [protocol.prompt(task) for task, _ in chunk]
        seeds = [noise_seed(asked.seed, task.id, sample) for task, sample in chunk]
        thoughts = reasoner.think(
            prompts, tau=asked.tau, noise_seeds=seeds, max_thoughts=asked.max_thoughts
        )
        answers = reasoner.answer(
            prompts,
            thoughts,
            temperature=asked.temperature,
            noise_seeds=[noise_seed(seed, "answer") for seed in seeds],
        )
        figures = zip(
            answers,
            thoughts.K.tolist(),
            thoughts.stopped.tolist(),
            answers_cut(reasoner, answers),
            strict=True,
        )
        for (task, _), drawn in zip(chunk, figures, strict=True):
            found[task.id].append(_Drawn(*drawn))
    return found


class _Judging:
    """A block whose answers are with the sandbox."""

    def __init__(
        self,
        sandbox: Sandbox,
        tasks: Sequence[Task],
        drawn: dict[str, list[_Drawn]],
        n: int,
    ) -> None:
        self.tasks, self.drawn, self.n = tasks, drawn, n
        self.names: dict[str, list[str]] = {}
        self.unjudged: dict[str, str] = {}
        self.solutions = {
            task.id: [task.solution(answer.text) for answer in drawn.get(task.id, ())]
            for task in tasks
        }
        pairs: list[tuple[str, AnyCheck]] = []
        for task in tasks:
            try:
                checks = task.checks(sandbox)
            except UnjudgedError as error:
                self.unjudged[task.id] = str(error)
                continue
            self.names[task.id] = list(checks)
            own = [] if task.reference is None else [task.reference]
            for solution in [*own, *self.solutions[task.id]]:
                pairs += [(solution, check) for check in checks.values()]
        self.verdicts: Future[list[Verdict]] = sandbox.submit_many(pairs)

    def records(self) -> list[Record]:
        """One record for each task, once all verdicts are in."""
        verdicts = iter(self.verdicts.result())

        def judged(names: Sequence[str]) -> dict[str, Verdict]:
            return {name: next(verdicts) for name in names}

        found = []
        for task in self.tasks:
            names = self.names.get(task.id, [])
            reason = self.unjudged.get(task.id)
            reference = "unjudged" if reason else None
            if task.reference is not None and reason is None:
                reference = _worst(judged(names))[0]
            drawn = self.drawn.get(task.id, [])
            samples = [
                _sample(answer, solution, judged(names))
                for answer, solution in zip(drawn, self.solutions[task.id], strict=True)
            ]
            found.append(
                Record(
                    task.id,
                    task.labels,
                    self.n,
                    sum(sample.outcome == "passed" for sample in samples),
                    task.id in self.drawn,
                    reference,
                    reason,
                    samples,
                )
            )
        return found


def _sample(drawn: _Drawn, solution: str, verdicts: dict[str, Verdict]) -> Sample:
    outcome, detail = _worst(verdicts)
    statuses: dict[str, str] = {name: verdict.status for name, verdict in verdicts.items()}
    return Sample(
        drawn.text, solution, outcome, statuses, detail, drawn.K, drawn.stopped, drawn.cut
    )


def _worst(verdicts: dict[str, Verdict]) -> tuple[str, str]:
    """The first check that is not passed: its status and why."""
    for verdict in verdicts.values():
        if verdict.status != "passed":
            return verdict.status, verdict.detail
    return ("passed", "") if verdicts else ("unjudged", "")
