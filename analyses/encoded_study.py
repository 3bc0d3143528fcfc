"""Encoded texts of a run, beside the thoughts the model had and would have had: rows, a summary."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from analyses.blocks import claim, keep_block, kept_block
from analyses.density import Densities, densities, latents_of
from analyses.encoded import AskedText, OwnTexts, encoded_densities, own_texts, texts_of
from analyses.scored import MODEL_DENSITY, Scored
from analyses.stored import refuse_unscored, stored_thoughts
from nfcot_model.errors import UserError
from nfcot_model.reasoners import NFCoTReasoner
from nfcot_model.traces import Run
from nfcot_model.traces.replay import SLACK
from probes.intervals import cluster_means

__all__ = ["NOT_SHOWN", "TextPlan", "TextResult", "encoded_study"]

BLOCK = 16
FILE = "study.json"
ALPHA = 0.05

NOT_SHOWN = (
    "A low likelihood says that the model would not have thought this text here, as the codec"
    " encodes it; not that the text is wrong, nor that the model could not follow it. A high one"
    " does not say that the model thought it. Text that the codec writes badly scores low for that"
    " alone. Ranks are among the model's own draws for the same prompt: few different draws make"
    " coarse ranks."
)


@dataclass(frozen=True)
class TextPlan:
    """Which texts (None: the reference reasonings), how many of them, how many own draws each?"""

    texts: tuple[AskedText, ...] | None = None
    n: int = 50
    draws: int = 32
    seed: int = 0

    def __post_init__(self) -> None:
        for flag, value, least in (("-n", self.n, 1), ("--draws", self.draws, 1)):
            if value < least:
                raise UserError(f"{flag} {value}: expected at least {least}")
        if self.seed < 0:
            raise UserError(f"--seed {self.seed}: expected at least 0")

    def to_dict(self) -> dict[str, Any]:
        texts = None if self.texts is None else [text.model_dump() for text in self.texts]
        return {"texts": texts, "n": self.n, "draws": self.draws, "seed": self.seed}


@dataclass(frozen=True)
class TextResult:
    """How likely are the texts? `summary` as in the JSON, and two tables.

    * `texts`: one row per text: K, `logp_u`, `logp_e`, `stop_logp` (sums), `per_thought` (mean
      `log p(e_k)`), `worst` and `worst_k`, ranks `p_mean`, `p_worst` among the model's own texts
      for this prompt (small: the model would not have thought this), `own_K`, `own_logp_e`,
      `own_per_thought` (the trace's thoughts as drawn), `invalid`.
    * `thoughts`: text and k: the step, `logp_u`, `logp_e`, `energy`, `logvol`, `stop_logp`, the
      rank `p`, and `own_text`, `own_logp_e` of the trace's own thought k.
    """

    summary: dict[str, Any]
    texts: pd.DataFrame
    thoughts: pd.DataFrame

    def to_dict(self) -> dict[str, Any]:
        """The fields of `nfcot audit text --json`."""
        return self.summary

    def to_frame(self) -> pd.DataFrame:
        return self.thoughts


def encoded_study(
    run: Run,
    reasoner: NFCoTReasoner,
    plan: TextPlan = TextPlan(),
    *,
    out: Path | None = None,
    progress: Callable[[int], object] | None = None,
) -> TextResult:
    """Would the model have thought these texts about the prompts of the run?

    With `out` finished blocks stay on disk and the study goes on where it was stopped; `progress`
    hears of finished texts. All texts are checked before any is scored. Raises UserError as
    `texts_of` does and for a text that cannot be encoded.
    """
    refuse_unscored(run)
    if reasoner.checkpoint_hash != run.manifest["checkpoint_hash"]:
        raise UserError(f"{run.path}: was traced with another checkpoint; give that one")
    work = texts_of(run, plan.texts)
    order = np.sort(np.random.default_rng(plan.seed).permutation(len(work))[: plan.n])
    work = [work[i] for i in order]
    reasoner.check_steps([text.steps for _, text in work])
    asked = {"run": run.hash, "plan": plan.to_dict()}
    if out is not None:
        claim(out, FILE, asked, "scoring of texts")
    texts, thoughts = [], []
    for start in range(0, len(work), BLOCK):
        block, name = work[start : start + BLOCK], f"{start // BLOCK:05d}"
        done = kept_block(out, name) if out is not None else None
        if done is None:
            done = _block(run, reasoner, plan, block, start)
            if out is not None:
                keep_block(out, name, done)
        texts.append(done["texts"])
        thoughts.append(done["thoughts"])
        if progress is not None:
            progress(len(block))
    frame = pd.concat(texts, ignore_index=True)
    summary = _summary(run, reasoner, plan, asked, frame)
    return TextResult(summary, frame, pd.concat(thoughts, ignore_index=True))


def _block(
    run: Run,
    reasoner: NFCoTReasoner,
    plan: TextPlan,
    block: Sequence[tuple[int, AskedText]],
    start: int,
) -> dict[str, pd.DataFrame]:
    tau = float(run.manifest["decode"]["tau"])
    rows = np.array([row for row, _ in block])
    prompts = run.traces["prompt"].iloc[rows].tolist()
    found = encoded_densities(reasoner, prompts, [text.steps for _, text in block], tau)
    drawn = stored_thoughts(run, rows)
    own = densities(reasoner, prompts, drawn, latents_of(reasoner, drawn), tau)
    null = {
        prompt: own_texts(reasoner, prompt, tau=tau, draws=plan.draws, seed=plan.seed)
        for prompt in dict.fromkeys(prompts)
    }
    slots = int(reasoner.model.config.codec["slots"])
    texts, thoughts = [], []
    for i, (row, text) in enumerate(block):
        trace = run.traces.iloc[row]
        said = run.thoughts.loc[run.thoughts["trace_id"] == trace["trace_id"], "text"].tolist()
        number = {"text": start + i, "name": text.name, "trace_id": trace["trace_id"]}
        texts.append(number | {"group": trace["group"]} | _totals(found, own, i, null[prompts[i]]))
        for k in range(int(found.mask[i].sum())):
            step = text.steps[k // slots] if reasoner.variable_k else "\n".join(text.steps)
            thoughts.append(
                number
                | {"k": k, "step": step}
                | {n: float(getattr(found, n)[i, k]) for n in _PER_THOUGHT}
                | {"p": _low_rank(float(found.logp_e[i, k]), _at(null[prompts[i]].by_k, k))}
                | {
                    "own_text": said[k] if k < len(said) else None,
                    "own_logp_e": float(own.logp_e[i, k]) if k < len(said) else np.nan,
                    "invalid": not bool(found.valid[i]),
                }
            )
    return {"texts": pd.DataFrame(texts), "thoughts": pd.DataFrame(thoughts)}


_PER_THOUGHT = ("logp_u", "logp_e", "energy", "logvol", "stop_logp")


def _totals(found: Densities, own: Densities, i: int, null: OwnTexts) -> dict[str, Any]:
    K, own_K = int(found.mask[i].sum()), int(own.mask[i].sum())
    values = found.logp_e[i, :K].double().numpy()
    worst = int(values.argmin()) if bool(found.valid[i]) else -1
    own_total = float(own.logp_e[i, :own_K].double().sum()) if own_K else np.nan
    mean = float(values.mean())
    return {
        "K": K,
        **{n: float(getattr(found, n)[i, :K].double().sum()) for n in _PER_THOUGHT[:2]},
        "stop_logp": float(found.stop_logp[i, :K].double().sum()),
        "per_thought": mean,
        "worst": float(values[worst]) if worst >= 0 else np.nan,
        "worst_k": worst,
        "p_mean": _low_rank(mean, null.per_thought),
        "p_worst": _low_rank(float(values.min()), null.worst),
        "own_K": own_K,
        "own_logp_e": own_total,
        "own_per_thought": own_total / own_K if own_K else np.nan,
        "draws": len(null.per_thought),
        "draws_not_encoded": null.not_encoded,
        "distinct_draws": null.distinct,
        "invalid": not bool(found.valid[i]),
    }


def _low_rank(value: float, draws: NDArray[np.float64]) -> float:
    """(1 + how many draws are as unlikely) / (n + 1); NaN without a value or draws.

    A draw of the same text scores the same but for rounding, and counts as as unlikely.
    """
    if not np.isfinite(value) or not draws.size:
        return float("nan")
    return float((1 + (draws <= value + SLACK * (1 + abs(value))).sum()) / (draws.size + 1))


def _at(by_k: Sequence[NDArray[np.float64]], k: int) -> NDArray[np.float64]:
    return by_k[k] if k < len(by_k) else np.zeros(0)


def _summary(
    run: Run, reasoner: NFCoTReasoner, plan: TextPlan, asked: dict[str, Any], texts: pd.DataFrame
) -> dict[str, Any]:
    scored = Scored(
        scorer="self",
        checkpoint_hash=reasoner.checkpoint_hash,
        context="the prompt of the trace",
        tau=float(run.manifest["decode"]["tau"]),
        tensor="e of the codec's encoder (posterior mean), u = F(e)",
        density=f"p(e_k | e_<k, prompt) and p(u_k | …), {MODEL_DENSITY}; stop decisions apart",
    )
    entries = []
    for name, mine in texts.groupby("name", sort=True):
        known = mine[~mine["invalid"]]
        columns = {
            column: known[column].to_numpy(dtype=np.float64)
            for column in ("per_thought", "own_per_thought", "stop_logp")
        }
        for column in ("p_mean", "p_worst"):
            p = known[column].to_numpy(dtype=np.float64)
            columns[f"{column}_below"] = np.where(np.isnan(p), np.nan, p <= ALPHA)
        found = cluster_means(columns, known["group"].to_numpy(dtype=object), plan.seed)
        entries.append(
            {
                "name": name,
                "n": len(mine),
                "groups": int(mine["group"].nunique()),
                "invalid": int(mine["invalid"].sum()),
                **{key: value.to_dict() for key, value in found.items()},
            }
        )
    return {
        "run": {"name": run.name, "hash": run.hash},
        "scored": scored.to_dict(),
        "flow_order": reasoner.model.flow.order,
        "asked": asked,
        "by_name": entries,
        "least_p": 1 / (plan.draws + 1),
        "not_shown": NOT_SHOWN,
    }
