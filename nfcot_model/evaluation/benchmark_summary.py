"""What do the records of a benchmark say? pass@k with intervals, and all that stood in the way."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from nfcot_model.evaluation.benchmark_records import Record
from nfcot_model.evaluation.intervals import Share, pass_at_k, wilson

__all__ = ["BenchmarkSummary", "summarise"]

Rates = dict[str, Share]


@dataclass(frozen=True)
class BenchmarkSummary:
    """Figures over all problems of a file.

    `pass_at_k` are unbiased estimates (arXiv 2107.03374), averaged over problems; intervals are
    95 % Wilson with as many trials as there are problems, too wide where samples of a problem
    differ. `by_check` counts the samples that pass one named check; `by_label` are parts of the
    problems. `solved` problems have a sample that passes; `outcomes` counts samples.
    Problems that do not fit the `context` and those `unjudged` count as not passed.
    `reference_failed` names problems whose own solution does not pass here, of `references`.

    What it does not show: that an answer is right beyond its tests, that a problem was new to the
    model, or what another prompt or stop rule would give.
    """

    n: int
    samples: int
    solved: int
    pass_at_k: Rates
    by_check: dict[str, Rates]
    by_label: dict[str, dict[str, dict[str, Any]]]
    outcomes: dict[str, int]
    context: list[str]
    unjudged: dict[str, str]
    references: int
    reference_failed: list[str]
    reasoning_cut: int
    answers_cut: int
    positions: float | None

    def to_dict(self) -> dict[str, Any]:
        return {
            **vars(self),
            "pass_at_k": _plain(self.pass_at_k),
            "by_check": {name: _plain(rates) for name, rates in self.by_check.items()},
        }


def _plain(rates: Rates) -> dict[str, dict[str, float | None]]:
    return {k: share._asdict() for k, share in rates.items()}


def summarise(records: Sequence[Record], ks: Sequence[int]) -> BenchmarkSummary:
    """The figures of these records, all with the same number of samples."""
    samples = [sample for record in records for sample in record.samples]
    outcomes = Counter(sample.outcome for sample in samples)
    outcomes["context"] = sum(record.n for record in records if not record.fits)
    judged = [record.reference for record in records if record.reference is not None]
    checks = dict.fromkeys(name for sample in samples for name in sample.verdicts)
    return BenchmarkSummary(
        n=len(records),
        samples=records[0].n,
        solved=sum(record.passed > 0 for record in records),
        pass_at_k=_rates(records, ks, lambda record: record.passed),
        by_check={
            name: _rates(records, ks, partial(_passes, name))
            for name in (checks if len(checks) > 1 else ())
        },
        by_label=_by_label(records, ks),
        outcomes={name: count for name, count in outcomes.items() if count},
        context=[record.task_id for record in records if not record.fits],
        unjudged={r.task_id: r.unjudged for r in records if r.unjudged is not None},
        references=len(judged),
        reference_failed=[
            record.task_id for record in records if record.reference not in (None, "passed")
        ],
        reasoning_cut=sum(not sample.stopped for sample in samples),
        answers_cut=sum(sample.answer_cut for sample in samples),
        positions=sum(sample.K for sample in samples) / len(samples) if samples else None,
    )


def _passes(name: str, record: Record) -> int:
    return sum(sample.verdicts.get(name) == "passed" for sample in record.samples)


def _rates(records: Sequence[Record], ks: Sequence[int], passed: Callable[[Record], int]) -> Rates:
    rates: Rates = {}
    for k in ks:
        value = sum(pass_at_k(passed(record), record.n, k) for record in records) / len(records)
        rates[str(k)] = Share(value, *wilson(value * len(records), len(records)))
    return rates


def _by_label(records: Sequence[Record], ks: Sequence[int]) -> dict[str, dict[str, dict[str, Any]]]:
    names = dict.fromkeys(name for record in records for name in record.labels)
    found: dict[str, dict[str, dict[str, Any]]] = {}
    for name in names:
        for value in sorted({record.labels[name] for record in records if name in record.labels}):
            part = [record for record in records if record.labels.get(name) == value]
            rates = _plain(_rates(part, ks, lambda record: record.passed))
            found.setdefault(name, {})[value] = {"n": len(part), "pass_at_k": rates}
    return found
