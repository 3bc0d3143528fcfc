"""What do the lenses read in a run, how often is it true, and how often would it be by chance?"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from analyses.lens.batches import batches
from analyses.lens.codec import mean_texts, thought_texts
from analyses.lens.hits import fidelity, noise_hits, text_hits, token_hits, wanted_tokens
from analyses.lens.measures import Place, measured
from analyses.lens.targets import TARGETS, thoughts_of
from nfcot_model.errors import UserError
from nfcot_model.reasoners import NFCoTReasoner
from nfcot_model.traces import Run

__all__ = [
    "LENSES",
    "NOT_SHOWN",
    "LensResult",
    "Plan",
    "asked",
    "passes",
    "read_run_through",
    "read_trace_through",
]

LENSES = ("logit", "codec", "mean")
Progress = Callable[[int], object]

NOT_SHOWN = (
    "Readable is not used: a text or token that a lens finds at a thought shows that the state"
    " there carries it, not that the answer depends on it; only interventions show that. Thoughts"
    " encode the prompt, so what is read may stand in the prompt already. A lens at its floor shows"
    " that this lens finds nothing, not that nothing is there."
)


@dataclass(frozen=True)
class Plan:
    """Which lenses, at which layers, how many tokens each, over how many traces, from which seed?

    `lenses` None: all that this model has. `layers` None: all; 0 are the embeddings, negative ones
    count from the end. `seed` decides the traces, the foreign texts and the resamples. Raises
    UserError for what cannot be asked.
    """

    lenses: tuple[str, ...] | None = None
    layers: tuple[int, ...] | None = None
    top: int = 5
    n: int = 200
    seed: int = 0

    def __post_init__(self) -> None:
        unknown = [name for name in self.lenses or () if name not in LENSES]
        if unknown or self.lenses == ():
            raise UserError(
                f"--lens '{','.join(unknown)}': expected some of {', '.join(LENSES)}, such as"
                " codec,mean"
            )
        if self.layers is not None and "logit" not in (self.lenses or LENSES):
            raise UserError("--layers: only the logit lens has layers; add logit to --lens")
        for flag, value in (("--top", self.top), ("-n", self.n)):
            if value < 1:
                raise UserError(f"{flag} {value}: expected at least 1")


@dataclass(frozen=True)
class LensResult:
    """What was read. `summary` as in the JSON; `rows`: one row per lens, layer and thought.

    Columns of rows: `trace_id`, `group`, `world`, `k`, `back`, `lens`, `layer` (null where a lens
    has none), the true texts `step`, `last_step`, `answer`, `said` (the text, or the top tokens),
    `probability` (of those tokens) and every measure of that lens, NaN where it does not apply.
    """

    summary: dict[str, Any]
    rows: pd.DataFrame


def read_run_through(
    run: Run,
    reasoner: NFCoTReasoner,
    plan: Plan = Plan(),
    progress: Progress | None = None,
) -> LensResult:
    """What can be read at the thoughts of a run, beside what would be read by chance?

    `plan.n` traces, drawn with its seed; 95 % cluster-bootstrap intervals over problem groups.
    `progress` is called with numbers of traces, each trace counting once per pass over them
    (`passes`). Raises UserError for another checkpoint than the run's, a run without thoughts, and
    a lens or layer that the model does not have.
    """
    order = np.random.default_rng(plan.seed).permutation(len(run.traces))
    readings = _read(run, reasoner, plan, np.sort(order[: plan.n]), progress)
    summary = readings.identity | {
        "asked": asked(run, plan),
        "population": _population(readings.thoughts, reasoner.variable_k),
        "measures": measured(readings.thoughts, readings.values, plan.seed),
        "notes": readings.notes + _missing_truth(readings.thoughts, reasoner.variable_k),
        "not_shown": NOT_SHOWN,
    }
    return LensResult(summary, readings.rows())


def read_trace_through(
    run: Run,
    reasoner: NFCoTReasoner,
    trace_id: str,
    plan: Plan = Plan(),
) -> LensResult:
    """What can be read at the thoughts of one trace? No shares: one trace has none.

    `trace_id` in full (`nfcot_model.traces.view.find_trace`). The summary has `trace` and
    `thoughts`: per thought `k`, the true `step` and what each lens says. Raises as
    `read_run_through` does.
    """
    chosen = np.flatnonzero((run.traces["trace_id"] == trace_id).to_numpy())
    if not chosen.size:
        raise UserError(f"{run.path}: holds no trace '{trace_id}'")
    readings = _read(run, reasoner, plan, chosen, None)
    names = ("trace_id", "problem_id", "world", "prompt", "answer", "correct")
    summary = readings.identity | {
        "asked": asked(run, plan, trace_id),
        "trace": {name: run.traces[name].iat[chosen[0]] for name in names},
        "thoughts": readings.by_thought(),
        "notes": readings.notes,
        "not_shown": NOT_SHOWN,
    }
    return LensResult(summary, readings.rows())


@dataclass(frozen=True)
class _Readings:
    """Row i of every frame is thought i; `values` (measures) and `said` by lens and layer."""

    thoughts: pd.DataFrame
    identity: dict[str, Any]
    notes: list[str]
    values: dict[Place, pd.DataFrame] = field(default_factory=dict)
    said: dict[Place, pd.DataFrame] = field(default_factory=dict)

    def rows(self) -> pd.DataFrame:
        names = ["trace_id", "group", "world", "k", "back", *TARGETS]
        frames = []
        for (lens, layer), values in self.values.items():
            frame = pd.concat([self.thoughts[names], self.said[lens, layer], values], axis=1)
            frame.insert(5, "lens", lens)
            frame.insert(6, "layer", pd.array([layer] * len(frame), dtype="Int32"))
            frames.append(frame)
        return pd.concat(frames, ignore_index=True)

    def by_thought(self) -> list[dict[str, Any]]:
        found = []
        for i, row in enumerate(self.thoughts.to_dict("records")):
            entry: dict[str, Any] = {"k": row["k"], "step": row["step"]}
            for (lens, layer), said in self.said.items():
                words = said["said"].iat[i]
                if lens != "logit":
                    entry[lens] = words[0]
                    continue
                pairs = zip(words, said["probability"].iat[i], strict=True)
                top = [{"token": token, "probability": float(p)} for token, p in pairs]
                entry.setdefault("logit", []).append({"layer": layer, "top": top})
            found.append(entry)
        return found


def asked(run: Run, plan: Plan, trace_id: str | None = None) -> dict[str, Any]:
    """What makes two readings the same? Run, trace and plan; known before anything is read."""
    return {"run_hash": run.hash, "trace_id": trace_id, **vars(plan)}


def passes(lenses: tuple[str, ...] | None) -> int:
    """How often is each trace gone through? One pass for tokens, one for texts."""
    asked = set(lenses or LENSES)
    return ("logit" in asked) + bool(asked & {"codec", "mean"})


def _read(
    run: Run,
    reasoner: NFCoTReasoner,
    plan: Plan,
    chosen: NDArray[np.int64],
    progress: Progress | None,
) -> _Readings:
    if reasoner.checkpoint_hash != run.manifest["checkpoint_hash"]:
        raise UserError(
            f"{run.path}: was traced with checkpoint {run.manifest['checkpoint_hash']}, this is"
            f" {reasoner.checkpoint_hash}; give the run's own model"
        )
    if not len(run.thoughts):
        raise UserError(f"{run.path}: holds no thought to look at; trace some problems first")
    lenses, notes = _lenses(reasoner, plan)
    thoughts = thoughts_of(run, chosen, plan.seed, reasoner.variable_k)
    identity = {
        "run": {"name": run.name, "hash": run.hash},
        "checkpoint_hash": reasoner.checkpoint_hash,
        **{name: run.manifest["decode"][name] for name in ("tau", "dtype")},
        "flow_order": reasoner.config["flow"]["order"],
        "lenses": list(lenses),
        "layers": [],
        **{name: getattr(plan, name) for name in ("top", "seed")},
    }
    readings = _Readings(thoughts, identity, notes)
    advance = progress or (lambda n: None)
    if "logit" in lenses:
        _read_tokens(run, reasoner, plan, readings, advance)
    if "codec" in lenses or "mean" in lenses:
        _read_texts(run, reasoner, readings, advance)
    return readings


def _lenses(reasoner: NFCoTReasoner, plan: Plan) -> tuple[tuple[str, ...], list[str]]:
    """The lenses to look through, and what must be said about the others."""
    if reasoner.variable_k:
        return tuple(name for name in LENSES if name in (plan.lenses or LENSES)), []
    fixed = "the codec of this model encodes the whole reasoning, so no thought has a text"
    asked = [name for name in plan.lenses or () if name != "logit"]
    if asked:
        raise UserError(f"--lens {','.join(asked)}: {fixed} of its own; use --lens logit")
    return ("logit",), [f"codec and mean lens left out: {fixed} or a true step of its own"]


def _read_tokens(
    run: Run, reasoner: NFCoTReasoner, plan: Plan, readings: _Readings, advance: Progress
) -> None:
    try:
        from nfcot_model.hooks import hooked
    except ImportError as error:
        raise UserError(f"--lens logit: {error}, or use --lens codec,mean") from None
    from analyses.lens.logit import layer_count, logit_lens, site_of

    bridge = hooked(reasoner.model)
    layers = _layers(plan.layers, layer_count(bridge))
    vocabulary = int(bridge.cfg.d_vocab)
    if plan.top > vocabulary:
        raise UserError(f"--top {plan.top}: the model's vocabulary has {vocabulary} tokens")
    readings.identity["layers"] = [{"layer": n, "site": site_of(n)} for n in layers]
    wanted, owner = wanted_tokens(run, reasoner, readings.thoughts)
    parts: dict[int, list[Any]] = {layer: [] for layer in layers}
    for batch in batches(run, readings.thoughts, ("u",)):
        layout = reasoner.layout(batch.prompts, batch.mask.sum(-1).tolist(), side="right")
        read = logit_lens(bridge, layout, batch.tensors["u"], layers, plan.top, wanted[batch.rows])
        for layer, part in read.items():
            parts[layer].append(part)
        advance(len(batch.prompts))
    for layer, found in parts.items():
        top, probability, rank = (
            torch.cat([getattr(part, name) for part in found]).numpy()
            for name in ("top", "probability", "rank")
        )
        words = {int(i): reasoner.tokenizer.decode([int(i)]) for i in np.unique(top)}
        readings.values["logit", layer] = token_hits(rank, owner, plan.top)
        readings.said["logit", layer] = pd.DataFrame(
            {
                "said": [[words[int(i)] for i in row] for row in top],
                "probability": list(probability),
            }
        )


def _layers(asked: tuple[int, ...] | None, count: int) -> list[int]:
    wrong = [layer for layer in asked or () if not -count <= layer < count]
    if wrong or asked == ():
        raise UserError(
            f"--layers '{','.join(map(str, wrong))}': this model has 0 (the embeddings) to"
            f" {count - 1}, or -1 to -{count} from the end"
        )
    return list(range(count)) if asked is None else sorted({layer % count for layer in asked})


def _read_texts(run: Run, reasoner: NFCoTReasoner, readings: _Readings, advance: Progress) -> None:
    thoughts, lenses, notes = readings.thoughts, readings.identity["lenses"], readings.notes
    drawn: list[str] = []
    mean: list[str] = []
    for batch in batches(run, thoughts, ("u", "mu")):
        u, mu = batch.tensors["u"], batch.tensors["mu"]
        drawn += thought_texts(reasoner, u, batch.mask)
        if "mean" in lenses:
            mean += mean_texts(reasoner, u, mu, batch.mask)
        advance(len(batch.prompts))
    if "codec" in lenses:
        _keep(readings, "codec", drawn, fidelity(run, reasoner, thoughts))
        recorded = run.thoughts["text"].to_numpy()[thoughts["row"]]
        other = sum(a != b for a, b in zip(drawn, recorded, strict=True))
        if other:
            notes.append(f"{other} of {len(drawn)} thoughts read otherwise than the run recorded")
    if "mean" in lenses:
        _keep(readings, "mean", mean, noise_hits(mean, drawn, thoughts))
        if readings.identity["flow_order"] != "causal":
            notes.append(
                "mean lens: the flow is alternating, so the drawn thoughts before and after k take"
                " part in decoding mu_k, and those after k were drawn knowing u_k"
            )
        if readings.identity["tau"] == 0:
            notes.append("mean lens: at tau 0 each thought is its mean, so nothing can change")


def _keep(readings: _Readings, lens: str, said: list[str], more: pd.DataFrame) -> None:
    readings.values[lens, None] = pd.concat([text_hits(said, readings.thoughts), more], axis=1)
    readings.said[lens, None] = pd.DataFrame({"said": [[text] for text in said]})


def _population(thoughts: pd.DataFrame, by_step: bool) -> dict[str, int]:
    """Who was looked at, and who has no measure?"""
    chosen = thoughts.drop_duplicates("trace")
    reached = thoughts.groupby("trace", sort=False)["step_index"].max().to_numpy() + 1
    unthought = (chosen["steps"].to_numpy() - reached).clip(min=0).sum() if by_step else 0
    beyond = (thoughts["steps"] > 0) & thoughts["step"].isna() if by_step else np.zeros(1)
    return {
        "traces": len(chosen),
        "groups": int(chosen["group"].nunique()),
        "thoughts": len(thoughts),
        "traces_without_steps": int((chosen["steps"] == 0).sum()),
        "thoughts_beyond_the_steps": int(beyond.sum()),
        "steps_never_thought": int(unthought),
        "traces_without_floor": int(chosen["foreign_answer"].isna().sum()),
    }


def _missing_truth(thoughts: pd.DataFrame, by_step: bool) -> list[str]:
    notes = []
    chosen = thoughts.drop_duplicates("trace")
    without = chosen["steps"] == 0
    if without.all():
        notes.append("no trace has reference steps: whether a lens says the true step is unknown")
    elif without.any():
        notes.append(f"{int(without.sum())} traces have no reference steps and no step measures")
    alone = chosen["foreign_answer"].isna()
    if alone.any():
        notes.append(
            f"{int(alone.sum())} traces have no floor: their world has no other problem group"
        )
    return notes
