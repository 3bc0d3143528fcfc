"""Placebos of a span: other text of matched length, here and in other prompts, and ranks in it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from analyses.context.ratio import LogRatios, log_ratios
from analyses.context.spans import Ranges, Span, apart, count_words, windows, without
from analyses.stored import stored_thoughts
from nfcot_model.reasoners import NFCoTReasoner
from nfcot_model.traces import Run

__all__ = ["Length", "elsewhere", "length_of", "matched", "peaks", "rank"]

Floats = NDArray[np.float64]


@dataclass(frozen=True, order=True)
class Length:
    """How long is a span? Words that it touches, and tokens by which its removal shortens."""

    words: int
    tokens: int

    def close(self, tokens: int) -> bool:
        """Is so many tokens as long, within one token or a tenth?"""
        return abs(tokens - self.tokens) <= max(1, self.tokens // 10)


def length_of(reasoner: NFCoTReasoner, prompt: str, ranges: Ranges) -> Length:
    """The length of a part of a prompt."""
    whole, left = reasoner.tokens([prompt, without(prompt, ranges)], opening=True)
    return Length(count_words(prompt, ranges), len(whole) - len(left))


def matched(
    reasoner: NFCoTReasoner,
    prompt: str,
    length: Length,
    avoid: Ranges,
    n: int,
    rng: np.random.Generator,
) -> list[Span]:
    """At most n placebos: runs of words as long as asked, apart from the span, the closest first.

    As many words where there are such, otherwise one fewer or more; ties are drawn by lot.
    """
    for counts in ([length.words], [length.words - 1, length.words + 1]):
        found = [
            (span, left)
            for words in counts
            if words > 0
            for span in windows(prompt, words)
            if apart(span.ranges, avoid) and (left := without(prompt, span.ranges)).strip()
        ]
        if not found:
            continue
        whole, *rest = reasoner.tokens([prompt, *(left for _, left in found)], opening=True)
        away = np.array([abs(len(whole) - len(left) - length.tokens) for left in rest])
        order = np.lexsort((rng.random(len(found)), away))
        near = [i for i in order if length.close(len(whole) - len(rest[i]))]
        if near:
            return [found[i][0] for i in near[:n]]
    return []


def elsewhere(
    run: Run,
    reasoner: NFCoTReasoner,
    lengths: Sequence[Length],
    n: int,
    seed: int,
    tau: float,
    progress: Callable[[int], object] | None = None,
) -> pd.DataFrame:
    """Λ of placebos of these lengths in prompts of the run: one a problem group, n per length.

    Columns: words, tokens (asked for), group, text, peak (largest Λ over the thoughts of its own
    trace), total, invalid. Each is scored on the thoughts of the trace whose prompt it is in.
    """
    drawn: list[tuple[Length, int, Span]] = []
    groups = run.traces["group"].tolist()
    prompts = run.traces["prompt"].tolist()
    for length in lengths:
        rng = np.random.default_rng([seed, length.words, length.tokens])
        seen: set[str] = set()
        for row in rng.permutation(len(prompts)).tolist():
            if len(seen) == n:
                break
            if groups[row] in seen or not run.traces["K"].iat[row]:
                continue
            windows_here = matched(reasoner, prompts[row], length, (), len(prompts[row]), rng)
            if windows_here:
                seen.add(groups[row])
                drawn.append((length, row, windows_here[rng.integers(len(windows_here))]))
    if not drawn:
        return pd.DataFrame(columns=["words", "tokens", "group", "text", "peak", "total"])
    rows = np.unique([row for _, row, _ in drawn])
    place = {row: i for i, row in enumerate(rows.tolist())}
    asked = [prompts[row] for row in rows]
    removals = [(place[row], without(prompts[row], span.ranges)) for _, row, span in drawn]
    thoughts = stored_thoughts(run, rows)
    found = log_ratios(reasoner, asked, thoughts, removals, tau=tau, progress=progress)
    peak, _, total = peaks(found)
    return pd.DataFrame(
        {
            "words": [length.words for length, _, _ in drawn],
            "tokens": [length.tokens for length, _, _ in drawn],
            "group": [groups[row] for _, row, _ in drawn],
            "text": [span.name for _, _, span in drawn],
            "peak": peak,
            "total": total,
            "invalid": ~found.valid.numpy(),
        }
    )


def peaks(found: LogRatios) -> tuple[Floats, NDArray[np.int64], Floats]:
    """The largest Λ over the thoughts of each row, where it is (-1: nowhere), and their sum.

    NaN in rows that are not valid.
    """
    values = found.thoughts.double().numpy().copy()
    mask, invalid = found.mask.numpy(), ~found.valid.numpy()
    values[invalid] = np.nan
    inside = np.where(mask & ~invalid[:, None], values, -np.inf)
    peak_k = np.where(invalid | ~mask.any(1), -1, inside.argmax(1))
    peak = np.where(peak_k >= 0, inside.max(1), np.nan)
    return peak, peak_k, np.where(mask, values, 0.0).sum(1)


def rank(value: Floats, placebos: Floats) -> Floats:
    """(1 + how many placebos reach the value) / (n + 1), along the last axis of `placebos` [.., n].

    A placebo that is no number counts as one that does; a value that is none has no rank, nor has
    any without placebos (NaN).
    """
    n = placebos.shape[-1]
    if not n:
        return np.full(np.shape(value), np.nan)
    with np.errstate(invalid="ignore"):
        reached = (placebos >= value[..., None]) | np.isnan(placebos)
    return np.where(np.isnan(value), np.nan, (1.0 + reached.sum(-1)) / (n + 1.0))
