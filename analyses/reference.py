"""The same thoughts under another checkpoint of the same codec: does it find them as likely?

A model's likelihood of its own thoughts says nothing of their intent; a trusted model's may.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from analyses.blocks import claim, keep_block, kept_block
from analyses.density import Densities, densities, latents_of
from analyses.scored import MODEL_DENSITY, Scored, refuse_without_likelihood
from analyses.stored import refuse_unscored, stored_thoughts
from nfcot_model.errors import UserError
from nfcot_model.reasoners import NFCoTReasoner
from nfcot_model.thoughts import Thoughts
from nfcot_model.traces import Run
from probes.intervals import cluster_means

__all__ = ["NOT_SHOWN", "ReferenceResult", "codec_hash", "refuse_other_codec", "score_under"]

BLOCK = 64
FILE = "study.json"

NOT_SHOWN = (
    "A log-ratio says where two models disagree about thoughts, not which of them is right, nor"
    " why. Any difference of training, temperature or luck of the seed shows in it. Nats of other"
    " codecs, widths or numbers of thoughts are not comparable. A reference with the same flaw"
    " agrees."
)


@dataclass(frozen=True)
class ReferenceResult:
    """What do both models say? `summary` as in the JSON; `thoughts`: one row per trace and k.

    Columns: trace_id, group, k, `own_logp_e`, `reference_logp_e`, `log_ratio` (own minus reference:
    positive where the reference finds the thought less likely), the same of the stop decision
    (`own_stop`, `reference_stop`), `own_logp_u`, `reference_logp_u` (not comparable unless the
    flows are equal), `reference_energy`, `reference_logvol`, `invalid`.
    """

    summary: dict[str, Any]
    thoughts: pd.DataFrame

    def to_dict(self) -> dict[str, Any]:
        """The fields of `nfcot audit reference --json`."""
        return self.summary

    def to_frame(self) -> pd.DataFrame:
        return self.thoughts


def codec_hash(reasoner: NFCoTReasoner) -> str:
    """What do latents `e` mean? 16 hex digits over the codec's configuration, weights, vocabulary.

    Without its decoder: that says how latents are read back, not which texts they are.
    """
    codec = reasoner.model.codec
    digest = hashlib.sha256(repr((reasoner.D, sorted(_encoding(reasoner).items()))).encode())
    digest.update(repr(sorted(reasoner.tokenizer.get_vocab().items())).encode())
    for name, value in sorted(codec.state_dict().items()):
        if name.split(".")[0] not in codec.decoding:
            digest.update(name.encode())
            digest.update(value.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]


def _encoding(reasoner: NFCoTReasoner) -> dict[str, Any]:
    config = reasoner.model.config.codec
    return {name: value for name, value in config.items() if name != "decoder_layers"}


def refuse_other_codec(own: NFCoTReasoner, other: NFCoTReasoner) -> None:
    """Raise UserError unless both models' latents `e` mean the same, to the last bit."""
    pairs = {"D": (own.D, other.D), "codec": (_encoding(own), _encoding(other))}
    for name, (mine, theirs) in pairs.items():
        if mine != theirs:
            raise UserError(
                f"--reference: its {name} is {theirs}, that of the run's model is {mine}; only"
                " checkpoints of the same codec have comparable thoughts"
            )
    mine, theirs = codec_hash(own), codec_hash(other)
    if mine != theirs:
        raise UserError(
            f"--reference: its codec is {theirs}, that of the run's model is {mine} (weights of"
            " its encoder or vocabulary differ); only checkpoints of the same codec have comparable"
            " thoughts"
        )


def score_under(
    run: Run,
    own: NFCoTReasoner,
    other: NFCoTReasoner,
    *,
    out: Path | None = None,
    progress: Callable[[int], object] | None = None,
) -> ReferenceResult:
    """How likely are the thoughts of a run under another model, beside its own?

    Compared as latents `e`, which the codec gives both models; each reads them through its own
    flow (`u` itself where the flows are equal). Thoughts are scored again under both. With `out`
    finished blocks stay on disk, and work goes on where it was stopped; `progress` hears of
    finished traces. Raises UserError for an empty run, another checkpoint than the run's
    as `own`, another codec, and thoughts that the other model has no place for.
    """
    refuse_unscored(run)
    refuse_without_likelihood(other, "--reference")
    if own.checkpoint_hash != run.manifest["checkpoint_hash"]:
        raise UserError(f"{run.path}: was traced with another checkpoint; give that one")
    refuse_other_codec(own, other)
    longest = int(run.traces["K"].max())
    if longest > other.max_thoughts:
        raise UserError(
            f"--reference: thinks at most {other.max_thoughts} thoughts, {run.name} has a trace of"
            f" {longest}; give another one"
        )
    tau = float(run.manifest["decode"]["tau"])
    same_flow = _same_flow(own, other)
    if out is not None:
        asked = {
            "run": run.hash,
            "reference": other.checkpoint_hash,
            "dtype": other.config["dtype"],
        }
        claim(out, FILE, asked, "scoring under a reference")
    frames = []
    for start in range(0, len(run.traces), BLOCK):
        rows = np.arange(start, min(start + BLOCK, len(run.traces)))
        done = kept_block(out, f"{start // BLOCK:05d}") if out is not None else None
        if done is None:
            thoughts = stored_thoughts(run, rows)
            prompts = run.traces["prompt"].iloc[rows].tolist()
            e = latents_of(own, thoughts)
            theirs = thoughts if same_flow else _as_thoughts(other, e, thoughts)
            pair = ((own, thoughts), (other, theirs))
            found = [densities(model, prompts, t, e, tau) for model, t in pair]
            done = {"thoughts": _rows(run, rows, *found)}
            if out is not None:
                keep_block(out, f"{start // BLOCK:05d}", done)
        frames.append(done["thoughts"])
        if progress is not None:
            progress(len(rows))
    thoughts_frame = pd.concat(frames, ignore_index=True)
    return ReferenceResult(_summary(run, own, other, same_flow, thoughts_frame), thoughts_frame)


def _as_thoughts(reasoner: NFCoTReasoner, e: torch.Tensor, like: Thoughts) -> Thoughts:
    """What another model's flow makes of latents; the stop decisions are those that were taken."""
    u = reasoner.from_latents(e, like.mask).u
    return Thoughts(u, like.eps, like.mu, like.log_sigma, like.mask, like.stopped)


def _same_flow(own: NFCoTReasoner, other: NFCoTReasoner) -> bool:
    if own.model.config.flow != other.model.config.flow:
        return False
    mine, theirs = own.model.flow.state_dict(), other.model.flow.state_dict()
    return all(
        mine[name].shape == theirs[name].shape and torch.equal(mine[name], theirs[name])
        for name in mine
    )


def _rows(run: Run, rows: np.ndarray, own: Densities, other: Densities) -> pd.DataFrame:
    traces = run.traces.iloc[rows]
    mask = own.mask.numpy()
    K = mask.sum(1)
    values = {
        f"{name}_{column}": getattr(found, attribute).double().numpy()[mask]
        for name, found in (("own", own), ("reference", other))
        for column, attribute in (("logp_e", "logp_e"), ("stop", "stop_logp"), ("logp_u", "logp_u"))
    }
    valid = own.valid.numpy() & other.valid.numpy()
    return pd.DataFrame(
        {
            "trace_id": np.repeat(traces["trace_id"].to_numpy(), K),
            "group": np.repeat(traces["group"].to_numpy(), K),
            "k": np.nonzero(mask)[1],
            **values,
            "log_ratio": values["own_logp_e"] - values["reference_logp_e"],
            "reference_energy": other.energy.double().numpy()[mask],
            "reference_logvol": other.logvol.double().numpy()[mask],
            "invalid": np.repeat(~valid, K),
        }
    )


def _summary(
    run: Run, own: NFCoTReasoner, other: NFCoTReasoner, same_flow: bool, thoughts: pd.DataFrame
) -> dict[str, Any]:
    scored = [
        Scored(
            scorer=scorer,
            checkpoint_hash=model.checkpoint_hash,
            context="the prompt",
            tau=float(run.manifest["decode"]["tau"]),
            tensor="e = F⁻¹(u) by the run's own flow",
            density=f"p(e_k | e_<k, prompt), {MODEL_DENSITY}; stop decisions in their own columns",
        ).to_dict()
        for scorer, model in (("self", own), ("reference-model", other))
    ]
    known = thoughts.assign(
        log_ratio=thoughts["log_ratio"].where(~thoughts["invalid"]),
        stop_log_ratio=(thoughts["own_stop"] - thoughts["reference_stop"]).where(
            ~thoughts["invalid"]
        ),
    )
    by_trace = known.groupby(["trace_id", "group"], sort=False)[["log_ratio", "stop_log_ratio"]]
    totals = by_trace.sum(min_count=1).reset_index()
    measured = {
        name: totals[name].to_numpy(dtype=np.float64) for name in ("log_ratio", "stop_log_ratio")
    }
    return {
        "run": {"name": run.name, "hash": run.hash},
        "scored": scored,
        "same_checkpoint": own.checkpoint_hash == other.checkpoint_hash,
        "same_flow": same_flow,
        "per_thought_terms": "chain rule" if _causal(own, other) else "attributions",
        "population": {
            "traces": len(run.traces),
            "traces_without_thoughts": int((run.traces["K"] == 0).sum()),
            "groups": int(run.traces["group"].nunique()),
            "invalid": int(thoughts[thoughts["invalid"]]["trace_id"].nunique()),
        },
        "per_trace": {
            name: found.to_dict()
            for name, found in cluster_means(
                measured, totals["group"].to_numpy(dtype=object)
            ).items()
        },
        "by_k": [
            {
                "k": int(k),
                "n": len(mine),
                "log_ratio": cluster_means(
                    {"x": mine["log_ratio"].to_numpy(dtype=np.float64)},
                    mine["group"].to_numpy(dtype=object),
                )["x"].to_dict(),
            }
            for k, mine in known.groupby("k")
        ],
        "furthest": totals.nlargest(10, "log_ratio")[["trace_id", "log_ratio"]].to_dict("records"),
        "not_shown": NOT_SHOWN,
    }


def _causal(*reasoners: NFCoTReasoner) -> bool:
    return all(reasoner.model.flow.order == "causal" for reasoner in reasoners)
