"""Recording a run: a reasoner thinks about problems, everything about it goes to disk.

A shard is a fixed block of 64 consecutive (problem, sample) pairs and one batch of the model, so
a resumed run computes exactly the batches that are missing. While the next batch is thought, the
sandbox checks the answers of the last one, and a second thread decodes and writes it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Any, Protocol

from nfcot_model.reasoners import Reasoner, ScoresWhileAnswering
from nfcot_model.sampling import noise_seed
from nfcot_model.sandbox import Sandbox, Verdict
from nfcot_model.thoughts import Scores, Thoughts
from nfcot_model.traces.reader import committed_shards, read_traces_file
from nfcot_model.traces.records import Batch, Draw, shard_columns
from nfcot_model.traces.schema import SHARD_SIZE, shard_name, shard_paths
from nfcot_model.traces.settings import Settings, check_problems, new_manifest
from nfcot_model.traces.writer import commit_shard, discard_empty, keep_problems, open_run, writing
from nfcot_model.worlds.problem import Check, Problem

__all__ = ["Checker", "CollectSummary", "collect"]

IN_FLIGHT = 2


class Checker(Protocol):
    """Judges answers without making the caller wait, as `Sandbox` does."""

    def submit_many(self, pairs: list[tuple[str, Check]]) -> Future[list[Verdict]]: ...


@dataclass(frozen=True)
class CollectSummary:
    """What does the run hold now, and what did recording it cost?

    `traces`, `thoughts`, `correct` and `replay_error_max` (None without a density) are of the
    whole run; `resumed` of its traces were found on disk; `traces_per_second` counts the new ones
    only.
    """

    run: str
    traces: int
    resumed: int
    thoughts: int
    correct: float
    seconds: float
    traces_per_second: float
    replay_error_max: float | None


def collect(
    reasoner: Reasoner,
    problems: Sequence[Problem],
    out: Path,
    *,
    tau: float = 0.7,
    temperature: float = 0.0,
    samples: int = 1,
    seed: int = 0,
    activations: str = "none",
    max_thoughts: int | None = None,
    progress: Callable[[int], object] | None = None,
    sandbox: Checker | None = None,
    model_path: Path | str = "",
) -> CollectSummary:
    """Record `samples` traces of each problem in the run `out`; resume it if it is there already.

    tau = 0 takes the mean thought; its energies are 0, and the scale of energies is then that of
    tau = 1. A reasoner that draws nothing is recorded at tau 0. activations: "thoughts" stores the
    last layer's state at each thought, "all" every layer's. The run carries the problems
    (`Run.problems`). progress: called with the number of traces that became part of the run.
    Raises UserError, with nothing written, for values out of range, no problems, duplicate ids,
    an `out` that holds another run or anything else, and a full disk (whole shards stay).
    """
    started = perf_counter()
    out = Path(out)
    settings = Settings(tau, temperature, samples, seed, activations, max_thoughts)
    check_problems(problems)
    manifest = open_run(out, new_manifest(reasoner, problems, settings, model_path))
    draws = [
        Draw(problem, sample, noise_seed(seed, problem.id, sample))
        for problem in problems
        for sample in range(samples)
    ]
    advance = progress or (lambda n: None)
    with ExitStack() as stack:
        stack.enter_context(writing(out))
        stack.callback(discard_empty, out)
        keep_problems(out, manifest, problems)
        done = committed_shards(out)
        for shard in done:
            advance(read_traces_file(shard_paths(out, shard)[2]).num_rows)
        missing = {
            shard_name(start // SHARD_SIZE): draws[start : start + SHARD_SIZE]
            for start in range(0, len(draws), SHARD_SIZE)
        }
        resumed = sum(len(missing.pop(shard, [])) for shard in done)
        if missing:
            checker = sandbox or stack.enter_context(Sandbox())
            recorder = _Recorder(reasoner, checker, out, manifest, advance)
            recorder.record(missing)
    return _summary(out, resumed, perf_counter() - started)


@dataclass(frozen=True)
class _Recorder:
    reasoner: Reasoner
    sandbox: Checker
    out: Path
    manifest: dict[str, Any]
    advance: Callable[[int], object]

    def record(self, shards: dict[str, list[Draw]]) -> None:
        """Think about each shard's draws; check and write behind, a few shards at most."""
        pending: deque[Future[int]] = deque()
        with ThreadPoolExecutor(max_workers=1) as behind:
            for shard, draws in shards.items():
                batch, verdicts = self.think(draws)
                pending.append(behind.submit(self.finish, shard, batch, verdicts))
                while len(pending) >= IN_FLIGHT:
                    self.advance(pending.popleft().result())
            while pending:
                self.advance(pending.popleft().result())

    def think(self, draws: list[Draw]) -> tuple[Batch, Future[list[Verdict]]]:
        decode = self.manifest["decode"]
        prompts = [draw.problem.prompt for draw in draws]
        thoughts = self.reasoner.think(
            prompts,
            tau=decode["tau"],
            noise_seeds=[draw.seed for draw in draws],
            max_thoughts=decode["max_thoughts"],
        )
        seeds = [noise_seed(draw.seed, "answer") for draw in draws]
        answers, scores = self.answer(prompts, thoughts, seeds)
        verdicts = self.sandbox.submit_many(
            [(answer, draw.problem.check) for answer, draw in zip(answers, draws, strict=True)]
        )
        return Batch(draws, thoughts, answers, scores), verdicts

    def answer(
        self, prompts: list[str], thoughts: Thoughts, seeds: list[int]
    ) -> tuple[list[str], Scores]:
        tau = self.manifest["decode"]["tau"] or 1.0
        temperature = self.manifest["decode"]["temperature"]
        hidden = self.manifest["activations"] != "none"
        if isinstance(self.reasoner, ScoresWhileAnswering):
            return self.reasoner.answer_scored(
                prompts,
                thoughts,
                tau=tau,
                temperature=temperature,
                noise_seeds=seeds,
                hidden=hidden,
            )
        answers = self.reasoner.answer(
            prompts, thoughts, temperature=temperature, noise_seeds=seeds
        )
        return answers, self.reasoner.score(prompts, thoughts, tau=tau, hidden=hidden)

    def finish(self, shard: str, batch: Batch, verdicts: Future[list[Verdict]]) -> int:
        decoded = self.reasoner.decode(batch.thoughts)
        columns = shard_columns(
            batch,
            decoded,
            self.reasoner.thoughts_per_step,
            verdicts.result(),
            self.manifest,
        )
        commit_shard(self.out, shard, *columns)
        return len(batch.draws)


def _summary(out: Path, resumed: int, seconds: float) -> CollectSummary:
    traces = thoughts = correct = 0
    error: float | None = None
    for shard in committed_shards(out):
        table = read_traces_file(shard_paths(out, shard)[2])
        traces += table.num_rows
        thoughts += sum(table["K"].to_pylist())
        correct += sum(table["correct"].to_pylist())
        found = [e for e in (error, *table["replay_error"].to_pylist()) if e is not None]
        error = max(found, default=None)
    return CollectSummary(
        run=str(out),
        traces=traces,
        resumed=resumed,
        thoughts=thoughts,
        correct=correct / traces,
        seconds=seconds,
        traces_per_second=(traces - resumed) / seconds,
        replay_error_max=error,
    )
