"""From one batch in memory to the columns of one shard: vectorised, no reasoner, no disk."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor

from nfcot_model.files import canonical_json
from nfcot_model.sandbox import Verdict
from nfcot_model.thoughts import Decoded, Scores, Thoughts
from nfcot_model.traces.schema import NO_SCORER, trace_id
from nfcot_model.traces.writer import trace_totals
from nfcot_model.worlds.problem import Problem

__all__ = ["Batch", "Draw", "shard_columns"]

# Columns and tensors that are not there for a reasoner without a density.
NEEDS_DENSITY = (
    *("logp", "energy", "logvol"),
    *("logp_u", "logp_u_K", "logp_e", "flow_logdet", "replay_error"),
    *("eps", "mu", "log_sigma"),
)


@dataclass(frozen=True)
class Draw:
    """One trace to be: which problem, which of its samples, which noise."""

    problem: Problem
    sample: int
    seed: int


@dataclass(frozen=True)
class Batch:
    """What a reasoner thought and answered about one block of draws, and how likely it was."""

    draws: Sequence[Draw]
    thoughts: Thoughts
    answers: Sequence[str]
    scores: Scores


def shard_columns(
    batch: Batch,
    decoded: Decoded,
    slots: int | None,
    verdicts: Sequence[Verdict],
    manifest: Mapping[str, Any],
) -> tuple[dict[str, Any], dict[str, Any], dict[str, np.ndarray]]:
    """Columns of the traces and thoughts tables and the tensors of one shard, for `commit_shard`.

    slots: thoughts per reasoning step; None when all thoughts together stand for all steps.
    `eps` is the drawn noise; `mu` and `log_sigma` are those of the scoring pass over the stored
    `u`, so the replay error can be recomputed from the file alone. Without a density (`scorer` is
    "none") these tensors are not there, and the columns that need one are null.
    """
    mask = batch.thoughts.mask.numpy()
    K = mask.sum(1)
    thoughts = _thought_columns(batch, decoded, slots, mask, K)
    drawn, scored = batch.thoughts.eps.numpy(), batch.scores.eps.numpy()
    error = np.where(mask[..., None], np.abs(scored - drawn), 0.0)
    traces = _trace_columns(batch, verdicts, manifest) | {
        "K": K,
        "replay_error": error.max(axis=(1, 2), initial=0.0),
        "decode_match": _match_share(thoughts["match"], K),
        **trace_totals(K, thoughts, decoded.logdet.double().numpy()),
    }
    tensors = _tensors(batch, decoded, mask, manifest["activations"])
    if manifest.get("scorer") == NO_SCORER:
        for name in NEEDS_DENSITY:
            tensors.pop(name, None)
            if name in traces:
                traces[name] = [None] * len(K)
            if name in thoughts:
                thoughts[name] = [None] * len(thoughts[name])
        thoughts["stop_logp"] = _known(thoughts["stop_logp"])
    return traces, thoughts, tensors


def _thought_columns(
    batch: Batch, decoded: Decoded, slots: int | None, mask: np.ndarray, K: np.ndarray
) -> dict[str, Any]:
    columns: dict[str, Any] = {"step": [], "text": [], "reference": [], "match": [], "labels": []}
    for i, (draw, texts, count) in enumerate(zip(batch.draws, decoded.texts, K, strict=True)):
        steps, labels = draw.problem.steps, [canonical_json(x) for x in draw.problem.step_labels]
        places = [k // (slots or int(count)) for k in range(count)]
        if decoded.step_of is not None:
            places = decoded.step_of[i]
        elif slots is None and decoded.readout:
            steps, labels = [], []
        elif slots is None:
            texts, steps, labels = ["\n".join(texts)], ["\n".join(steps)] if steps else [], []
        for k, step in enumerate(places):
            reference = steps[step] if step < len(steps) else None
            text = texts[k if decoded.readout else step]
            columns["step"].append(step)
            columns["text"].append(text)
            columns["reference"].append(reference)
            comparable = steps and not decoded.readout
            columns["match"].append(text == reference if comparable else None)
            columns["labels"].append(labels[step] if step < len(labels) else "{}")
    for name in ("logp", "energy", "logvol", "stop_logp"):
        columns[name] = _flat(getattr(batch.scores, name), mask)
    return columns


def _trace_columns(
    batch: Batch, verdicts: Sequence[Verdict], manifest: Mapping[str, Any]
) -> dict[str, Any]:
    problems = [draw.problem for draw in batch.draws]
    ids: dict[str, list[Any]] = {
        "trace_id": [
            trace_id(d.problem.id, d.sample, d.seed, manifest["hash"]) for d in batch.draws
        ],
        "sample": [draw.sample for draw in batch.draws],
        "seed": [draw.seed for draw in batch.draws],
    }
    return ids | {
        "problem_id": [p.id for p in problems],
        "group": [p.group for p in problems],
        "world": [p.world for p in problems],
        "split": [p.split for p in problems],
        "prompt": [p.prompt for p in problems],
        "reference_answer": [p.answer for p in problems],
        "steps": [p.steps for p in problems],
        "labels": [canonical_json(p.labels) for p in problems],
        "answer": list(batch.answers),
        "verdict": [verdict.status for verdict in verdicts],
        "verdict_detail": [verdict.detail for verdict in verdicts],
        "correct": [verdict.status == "passed" for verdict in verdicts],
        "stopped": batch.thoughts.stopped.numpy(),
        "tau": [manifest["decode"]["tau"]] * len(problems),
    }


def _tensors(
    batch: Batch, decoded: Decoded, mask: np.ndarray, activations: str
) -> dict[str, np.ndarray]:
    tensors: Mapping[str, Tensor] = {
        "u": batch.thoughts.u,
        "eps": batch.thoughts.eps,
        "mu": batch.scores.mu,
        "log_sigma": batch.scores.log_sigma,
        "e": decoded.e,
    }
    arrays = {name: _flat(value, mask) for name, value in tensors.items() if value.shape[-1]}
    if activations != "none":
        if batch.scores.hidden is None:
            raise ValueError("activations were asked for, but the scores carry no hidden states")
        layers = batch.scores.hidden.transpose(1, 2)  # [B, Kmax, layers + 1, d_model]
        chosen = layers if activations == "all" else layers[:, :, -1:]
        arrays["h"] = _flat(chosen, mask)
    return arrays


def _flat(value: Tensor, mask: np.ndarray) -> np.ndarray:
    return value.detach().float().cpu().numpy()[mask]


def _known(values: np.ndarray) -> list[float | None]:
    return [None if np.isnan(value) else float(value) for value in values]


def _match_share(match: Sequence[bool | None], K: np.ndarray) -> list[float | None]:
    shares: list[float | None] = []
    start = 0
    for count in K:
        own = match[start : start + count]
        shares.append(None if not count or own[0] is None else sum(map(bool, own)) / int(count))
        start += count
    return shares
