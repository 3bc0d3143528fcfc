"""Statistics beside the battery's: Λ of a span, probes, another checkpoint."""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from sklearn.feature_extraction.text import CountVectorizer
from torch import Tensor

from analyses.context.placebo import peaks
from analyses.context.ratio import log_ratios
from analyses.context.spans import without
from analyses.plants.recorded import Recorded
from nfcot_model.reasoners import NFCoTReasoner
from probes.fitting import Fitted, fit_rows
from probes.splits import FOLDS, deal_groups

__all__ = ["FIRST", "SPACES", "Probes", "fit_probe", "fit_probes", "reference_ratio", "span_ratio"]

Floats = NDArray[np.float64]

SPACES = ("u", "eps", "h", "input")
FIRST = 2


def span_ratio(reasoner: NFCoTReasoner, recorded: Recorded, pattern: str) -> Floats:
    """Λ of the text that `pattern` finds in each prompt: the largest over its thoughts, [n].

    Raises ValueError for a prompt that has no such text.
    """
    removals = []
    for row, prompt in enumerate(recorded.prompts):
        found = re.search(pattern, prompt)
        if found is None:
            raise ValueError(f"no {pattern} in {prompt!r}")
        removals.append((row, without(prompt, (found.span(),))))
    ratios = log_ratios(reasoner, recorded.prompts, recorded.thoughts, removals, tau=recorded.tau)
    return peaks(ratios)[0]


def reference_ratio(reference: NFCoTReasoner, recorded: Recorded) -> Floats:
    """How much likelier are thoughts under the model itself than under `reference`? [n], nats.

    log p(u) summed over thoughts; both must have the same flow.
    """
    logp = []
    for start in range(0, len(recorded), 128):
        rows = slice(start, start + 128)
        part = recorded.thoughts.rows(rows)
        theirs = reference.score(recorded.prompts[rows], part, tau=recorded.tau)
        logp.append(theirs.logp.sum(-1))
    other = np.concatenate([value.double().numpy() for value in logp])
    return recorded.scores.logp.sum(-1).double().numpy() - other


@dataclass(frozen=True)
class Probes:
    """Logistic probes on the first two thoughts, one a space, and one on the words of the prompt.

    The last is the control: what it reads needs no thoughts.
    """

    fitted: dict[str, Fitted]
    words: CountVectorizer

    def read(self, recorded: Recorded) -> dict[str, Floats]:
        """`probe_SPACE` -> log-odds of the planted class, [n]."""
        return {
            f"probe_{space}": probe.read(_features(recorded, space, self.words))[:, 0]
            for space, probe in self.fitted.items()
        }


def fit_probes(planted: Recorded, clean: Recorded, seed: int) -> Probes:
    """Probes that tell these planted trajectories from these clean ones.

    Neither set may share a group with one that is measured. Both need hidden states.
    """
    words = CountVectorizer(binary=True, token_pattern=r"[^\s.;]+")
    words.fit([*planted.prompts, *clean.prompts])
    y = np.repeat([1, 0], [len(planted), len(clean)])
    groups = np.concatenate([planted.groups, clean.groups])
    fitted = {}
    for space in SPACES:
        X = np.vstack([_features(part, space, words) for part in (planted, clean)])
        fold = deal_groups(y, groups, FOLDS, seed)
        fitted[space] = fit_rows(X, y, "binary", 2, fold, "logistic", seed)
    return Probes(fitted, words)


def fit_probe(
    planted: Tensor,
    clean: Tensor,
    planted_groups: NDArray[np.object_],
    clean_groups: NDArray[np.object_],
    seed: int,
) -> Fitted:
    """One logistic probe on the first two thoughts u [n, K, D] of each side."""
    X = np.vstack([part[:, :FIRST].flatten(1).double().numpy() for part in (planted, clean)])
    y = np.repeat([1, 0], [len(planted), len(clean)])
    fold = deal_groups(y, np.concatenate([planted_groups, clean_groups]), FOLDS, seed)
    return fit_rows(X, y, "binary", 2, fold, "logistic", seed)


def _features(recorded: Recorded, space: str, words: CountVectorizer) -> Floats:
    if space == "input":
        return np.asarray(words.transform(recorded.prompts).toarray(), dtype=np.float64)
    if space == "h":
        assert recorded.scores.hidden is not None, "recorded without hidden states"
        values = recorded.scores.hidden[:, -1, :FIRST]
    else:
        values = (recorded.thoughts.u if space == "u" else recorded.scores.eps)[:, :FIRST]
    return values.flatten(1).double().numpy()
