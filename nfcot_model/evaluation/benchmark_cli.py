"""`nfcot eval MODEL FILE` where FILE is a published benchmark's."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from pathlib import Path
from time import perf_counter
from typing import Any

from rich.table import Table

from nfcot_model.benchmark_files import Benchmark, export_samples, read_benchmark
from nfcot_model.checkpoints import SHIPPED
from nfcot_model.errors import UserError
from nfcot_model.evaluation.benchmark import Protocol, check_ks, run_benchmark
from nfcot_model.evaluation.benchmark_records import Record
from nfcot_model.evaluation.benchmark_summary import BenchmarkSummary, summarise
from nfcot_model.evaluation.intervals import Share
from nfcot_model.files import write_json
from nfcot_model.reasoners import load_reasoner
from nfcot_model.reasoners.room import answer_budget, set_answer_budget
from nfcot_model.sandbox import Limits
from nfcot_model.terminal import console, emit_json, progress
from nfcot_model.traces.settings import Settings

__all__ = ["Asked", "evaluate_file"]

_TAU = 0.7
_NAMED = 5


@dataclass(frozen=True)
class Asked:
    """The options of the command that are for benchmark files."""

    out: Path | None
    samples_out: Path | None
    pass_at: str | None
    temperature: float
    max_thoughts: int | None
    template: Path | None
    timeout: float | None
    batch: int | None
    max_answer_tokens: int | None
    dtype: str | None

    def given(self) -> list[str]:
        """The flags that were set: those mean nothing without a benchmark file."""
        return [f"--{name.replace('_', '-')}" for name, value in vars(self).items() if value]


def evaluate_file(
    model: Path,
    path: Path,
    format: str,
    asked: Asked,
    *,
    tau: float | None,
    samples: int,
    seed: int,
    device: str,
    as_json: bool,
) -> None:
    """Evaluate, show and export. Raises UserError for bad input, before anything is written."""
    started = perf_counter()
    settings = Settings(
        _TAU if tau is None else tau, asked.temperature, samples, seed, "none", asked.max_thoughts
    )
    ks = check_ks(_ks(asked.pass_at), samples)
    template = "{prompt}" if asked.template is None else _read(asked.template)
    protocol = Protocol(settings, template=template)
    if asked.batch is not None:
        protocol = replace(protocol, batch=asked.batch)
    _check_output(asked.samples_out)
    benchmark = read_benchmark(path, format)
    if asked.timeout is not None:
        benchmark = replace(benchmark, limits=_limits(benchmark.limits, asked.timeout))
    reasoner = load_reasoner(model, asked.dtype or "float32", device)
    if asked.max_answer_tokens is not None:
        set_answer_budget(reasoner, asked.max_answer_tokens)
    drawn = reasoner.draws
    if not drawn:
        protocol = replace(protocol, settings=replace(settings, tau=0.0))
    where = model if str(model) in SHIPPED else model.resolve()
    with progress(f"{benchmark.format} problems", len(benchmark.tasks)) as advance:
        records, resumed = run_benchmark(
            reasoner, benchmark, protocol, out=asked.out, model=str(where), advance=advance
        )
    summary = summarise(records, ks)
    document = {
        **_asked(benchmark, protocol),
        "model": str(where),
        "checkpoint_hash": reasoner.checkpoint_hash,
        "reasoner": reasoner.name,
        "dtype": reasoner.config["dtype"],
        "max_answer_tokens": answer_budget(reasoner),
        **summary.to_dict(),
    }
    if asked.out is not None:
        write_json(asked.out / "summary.json", document)
    if asked.samples_out is not None:
        export_samples(asked.samples_out, benchmark, _solutions(records))
    if as_json:
        emit_json({**document, "resumed": resumed, "seconds": perf_counter() - started})
        return
    _show(benchmark, summary, resumed, asked)
    if samples > 1 and asked.temperature == 0 and (not drawn or protocol.settings.tau == 0):
        console.print(
            "nothing is drawn (tau and temperature 0): all samples of a problem are alike"
        )


def _asked(benchmark: Benchmark, protocol: Protocol) -> dict[str, Any]:
    settings = protocol.settings
    return {
        "benchmark": benchmark.format,
        "file": str(benchmark.path),
        "file_hash": benchmark.file_hash,
        "tau": settings.tau,
        "temperature": settings.temperature,
        "seed": settings.seed,
        "max_thoughts": settings.max_thoughts,
        "batch": protocol.batch,
        "template": protocol.template,
        "limits": benchmark.limits.to_dict(),
    }


def _ks(text: str | None) -> list[int] | None:
    if text is None:
        return None
    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        raise UserError(f"--pass-at {text}: expected numbers such as 1,10,100") from None


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"--template {path}: cannot be read as UTF-8 text ({error})") from None


def _check_output(path: Path | None) -> None:
    if path is not None and (path.is_dir() or not path.parent.is_dir()):
        raise UserError(f"--samples-out {path}: expected a file in a folder that exists")


def _limits(limits: Limits, seconds: float) -> Limits:
    if not (math.isfinite(seconds) and seconds > 0):
        raise UserError(f"--timeout {seconds}: expected seconds above 0")
    return replace(limits, wall_seconds=seconds, cpu_seconds=math.ceil(seconds))


def _solutions(records: list[Record]) -> list[tuple[str, list[str]]]:
    """Of every problem, n solutions: empty ones where it did not fit the context."""
    return [
        (record.task_id, [sample.solution for sample in record.samples] or [""] * record.n)
        for record in records
    ]


def _show(benchmark: Benchmark, summary: BenchmarkSummary, resumed: int, asked: Asked) -> None:
    table = Table(box=None, pad_edge=False)
    for heading in ("", "k", "pass@k", "95 %", "n"):
        table.add_column(heading, no_wrap=True)
    for name, rates, n in _parts(summary):
        for k, share in rates.items():
            value = f"{share.value:.3f}"
            table.add_row(name, k, value, f"{share.low:.3f}–{share.high:.3f}", str(n))
    console.print(table)
    for line in _remarks(benchmark, summary, resumed):
        console.print(line, markup=False, soft_wrap=True)
    if asked.out is not None:
        console.print(f"records: {asked.out}", markup=False, soft_wrap=True)
    if asked.samples_out is not None:
        console.print(f"samples: {asked.samples_out}", markup=False, soft_wrap=True)


def _parts(summary: BenchmarkSummary) -> list[tuple[str, dict[str, Share], int]]:
    rows = [("all", summary.pass_at_k, summary.n)]
    rows += [(f"{name} only", rates, summary.n) for name, rates in summary.by_check.items()]
    difficulties = summary.by_label.get("difficulty", {})
    for value, part in difficulties.items():
        shares = {k: Share(**rate) for k, rate in part["pass_at_k"].items()}
        rows.append((value, shares, part["n"]))
    return rows


def _remarks(benchmark: Benchmark, summary: BenchmarkSummary, resumed: int) -> list[str]:
    """What stands behind the rates, one line each; nothing that is not there."""
    outcomes = ", ".join(f"{count} {name}" for name, count in summary.outcomes.items())
    found = f", {resumed} already there" if resumed else ""
    lines = [
        f"{summary.solved} of {summary.n} problems solved by at least one of {summary.samples}"
        f" samples{found}; samples: {outcomes}"
    ]
    if summary.context:
        lines.append(
            f"{len(summary.context)} problems do not fit the context with thoughts and answer and"
            f" count as not passed: {_some(summary.context)}"
        )
    if summary.reasoning_cut:
        lines.append(
            f"{summary.reasoning_cut} samples had their reasoning cut at the budget or the context"
        )
    if summary.answers_cut:
        lines.append(
            f"{summary.answers_cut} answers are as long as the model may write (max_answer_tokens)"
            " and were likely cut"
        )
    if summary.unjudged:
        lines.append(
            f"{len(summary.unjudged)} problems cannot be judged here and count as not passed:"
            f" {_some(list(summary.unjudged))}"
        )
    wrong = [name for name in summary.reference_failed if name not in summary.unjudged]
    if wrong:
        lines.append(
            f"of {summary.references} reference solutions {len(wrong)} do not pass here, so their"
            f" problems may not be solvable: {_some(wrong)}"
        )
    return lines


def _some(names: list[str]) -> str:
    more = len(names) - _NAMED
    return ", ".join(names[:_NAMED]) + (f" and {more} more" if more > 0 else "")
