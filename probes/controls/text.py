"""Words alone: how far do the prompt, or the text that thoughts decode to, carry a probe?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from scipy import sparse
from sklearn.feature_extraction.text import CountVectorizer

from nfcot_model.traces import Run

__all__ = [
    "MAX_FEATURES",
    "WORD",
    "WordCounts",
    "count_words",
    "decoded_texts",
    "prompt_texts",
]

MAX_FEATURES = 1000
# Numbers (with their #), letters, and every sign on its own: `(4*x-7)` and `#3` lose nothing.
WORD = r"#?\d+|[^\W\d]+|[^\w\s]"


@dataclass(frozen=True)
class WordCounts:
    """How often does each word 1- to 3-gram stand in each text? Made by `count_words`.

    counts: [distinct texts, n-grams], n-grams in alphabetical order; text: [n], which distinct
    text each one is.
    """

    counts: sparse.csc_matrix
    text: NDArray[np.int64]

    def features(
        self, fit_rows: ArrayLike, max_features: int = MAX_FEATURES
    ) -> NDArray[np.float32]:
        """Counts [n, F] of the n-grams that are most frequent in the texts `fit_rows`.

        fit_rows: indices or a mask; what stands in other texts only is not counted. Ties go to
        the first in alphabetical order. Without any word in these texts F is 1 and all are 0.
        """
        fitted = np.bincount(self.text[np.asarray(fit_rows)], minlength=self.counts.shape[0])
        total = self.counts.T @ fitted
        chosen = np.argsort(-total, kind="stable")[:max_features]
        chosen = np.sort(chosen[total[chosen] > 0])
        if not len(chosen):
            return np.zeros((len(self.text), 1), dtype=np.float32)
        features: NDArray[np.float32] = self.counts[:, chosen].toarray()
        return features[self.text]


def count_words(texts: Sequence[str]) -> WordCounts:
    """Count all word 1- to 3-grams of all texts once, for as many choices of `fit_rows` as wanted.

    As scikit-learn's CountVectorizer, case kept, numbers and signs kept. A probe that is not better
    than one on these counts reads nothing that words in this window do not say; one that is better
    may still read the order of words, which counts do not keep.
    """
    text, distinct = pd.factorize(np.array(texts, dtype=object))
    if not any(str(one).strip() for one in distinct):
        nothing = sparse.csc_matrix((len(distinct), 0), dtype=np.float32)
        return WordCounts(nothing, text.astype(np.int64))
    vectorizer = CountVectorizer(
        lowercase=False, token_pattern=WORD, ngram_range=(1, 3), dtype=np.float32
    )
    return WordCounts(vectorizer.fit_transform(distinct).tocsc(), text.astype(np.int64))


def prompt_texts(run: Run, trace: NDArray[np.int64]) -> list[str]:
    """The prompt of each trace (rows of run.traces)."""
    return run.traces["prompt"].iloc[trace].tolist()


def decoded_texts(run: Run, row: NDArray[np.int64]) -> list[str]:
    """What do the thoughts up to and including each one (rows of run.thoughts) decode to?

    One line per step. A step of several thoughts is there in full from its first thought on: the
    control may know more than the thoughts up to there, never less.
    """
    so_far = _running(run.thoughts)
    return [so_far[i] for i in row]


def _running(thoughts: pd.DataFrame) -> list[str]:
    """At each thought: the text of its trace's steps so far."""
    so_far: list[str] = []
    last = None
    for trace_id, step, text in zip(
        *(thoughts[c] for c in ("trace_id", "step", "text")), strict=True
    ):
        if last is None or last[0] != trace_id:
            so_far.append(f"{text}\n")
        else:
            so_far.append(so_far[-1] if last[1] == step else f"{so_far[-1]}{text}\n")
        last = (trace_id, step)
    return so_far
