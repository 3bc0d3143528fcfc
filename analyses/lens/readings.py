"""What each lens says at each thought of some traces, and whether it is true."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from analyses.lens.batches import batches
from analyses.lens.codec import latent_texts, mean_texts, thought_texts
from analyses.lens.hits import fidelity, noise_hits, text_hits, token_hits, wanted_tokens
from analyses.lens.measures import Place
from analyses.lens.plan import DEFAULT, LENSES, Plan
from analyses.lens.targets import TARGETS, thoughts_of
from nfcot_model.errors import UserError
from nfcot_model.reasoners import NFCoTReasoner
from nfcot_model.traces import Run

__all__ = ["Progress", "Readings", "read"]

Progress = Callable[[int], object]


@dataclass(frozen=True)
class Readings:
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


def read(
    run: Run,
    reasoner: NFCoTReasoner,
    plan: Plan,
    chosen: NDArray[np.int64],
    progress: Progress | None,
) -> Readings:
    """What do the lenses say at the thoughts of the chosen traces? Raises UserError as `study`."""
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
    readings = Readings(thoughts, identity, notes)
    advance = progress or (lambda n: None)
    if "logit" in lenses or "affine" in lenses:
        bridge, layers = _opened(reasoner, plan.layers)
        identity["layers"] = layers
        numbers = [entry["layer"] for entry in layers]
    if "logit" in lenses:
        _read_tokens(run, reasoner, bridge, numbers, plan.top, readings, advance)
    if "codec" in lenses or "mean" in lenses:
        _read_texts(run, reasoner, readings, advance)
    if "affine" in lenses:
        _read_affine(run, reasoner, bridge, numbers, plan.seed, readings, advance)
    return readings


def _lenses(reasoner: NFCoTReasoner, plan: Plan) -> tuple[tuple[str, ...], list[str]]:
    """The lenses to look through, and what must be said about the others."""
    if reasoner.variable_k:
        return tuple(name for name in LENSES if name in (plan.lenses or DEFAULT)), []
    fixed = "the codec of this model encodes the whole reasoning, so no thought has a text"
    asked = [name for name in plan.lenses or () if name != "logit"]
    if asked:
        raise UserError(f"--lens {','.join(asked)}: {fixed} of its own; use --lens logit")
    return ("logit",), [f"codec and mean lens left out: {fixed} or a true step of its own"]


def _read_tokens(
    run: Run,
    reasoner: NFCoTReasoner,
    bridge: Any,
    layers: Sequence[int],
    count: int,
    readings: Readings,
    advance: Progress,
) -> None:
    from analyses.lens.logit import logit_lens

    vocabulary = int(bridge.cfg.d_vocab)
    if count > vocabulary:
        raise UserError(f"--top {count}: the model's vocabulary has {vocabulary} tokens")
    wanted, owner = wanted_tokens(run, reasoner, readings.thoughts)
    parts: dict[int, list[Any]] = {layer: [] for layer in layers}
    for batch in batches(run, readings.thoughts, ("u",)):
        layout = reasoner.layout(batch.prompts, batch.mask.sum(-1).tolist(), side="right")
        read = logit_lens(bridge, layout, batch.tensors["u"], layers, count, wanted[batch.rows])
        for layer, part in read.items():
            parts[layer].append(part)
        advance(len(batch.prompts))
    readings.notes.extend(_without_tokens(readings.thoughts, owner))
    for layer, found in parts.items():
        top, probability, rank = (
            torch.cat([getattr(part, name) for part in found]).numpy()
            for name in ("top", "probability", "rank")
        )
        words = {int(i): reasoner.tokenizer.decode([int(i)]) for i in np.unique(top)}
        readings.values["logit", layer] = token_hits(rank, owner, count)
        readings.said["logit", layer] = pd.DataFrame(
            {
                "said": [[words[int(i)] for i in row] for row in top],
                "probability": list(probability),
            }
        )


def _without_tokens(thoughts: pd.DataFrame, owner: NDArray[np.int64]) -> list[str]:
    """For whom has the logit lens no measure, because no token tells their text from others?"""
    notes = []
    for kind, target in enumerate(TARGETS):
        has = thoughts[target].notna().to_numpy()
        none = int((has & ~(owner == kind).any(axis=1)).sum())
        if none:
            notes.append(
                f"logit lens: {none} of {int(has.sum())} thoughts have no measure for"
                f" {target}: most texts in its place have all of its tokens"
            )
    return notes


def _opened(
    reasoner: NFCoTReasoner, asked: tuple[int, ...] | None
) -> tuple[Any, list[dict[str, Any]]]:
    """The hooked model, and the layers to look at with their hooks."""
    try:
        from nfcot_model.hooks import hooked
    except ImportError as error:
        raise UserError(
            f"--lens: logit and affine need more ({error}), or use codec,mean"
        ) from None
    from analyses.lens.logit import layer_count, site_of

    bridge = hooked(reasoner.model)
    layers = _layers(asked, layer_count(bridge))
    return bridge, [{"layer": layer, "site": site_of(layer)} for layer in layers]


def _layers(asked: tuple[int, ...] | None, count: int) -> list[int]:
    wrong = [layer for layer in asked or () if not -count <= layer < count]
    if wrong or asked == ():
        raise UserError(
            f"--layers '{','.join(map(str, wrong))}': this model has 0 (the embeddings) to"
            f" {count - 1}, or -1 to -{count} from the end"
        )
    return list(range(count)) if asked is None else sorted({layer % count for layer in asked})


def _read_texts(run: Run, reasoner: NFCoTReasoner, readings: Readings, advance: Progress) -> None:
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


def _read_affine(
    run: Run,
    reasoner: NFCoTReasoner,
    bridge: Any,
    layers: Sequence[int],
    seed: int,
    readings: Readings,
    advance: Progress,
) -> None:
    from analyses.lens.affine import cross_fitted, shuffled_within
    from analyses.lens.logit import layer_states

    thoughts = readings.thoughts
    groups = thoughts["group"].to_numpy(dtype=object)
    e = run.tensor("e")[thoughts["row"]].astype(np.float64)
    null = shuffled_within(e, thoughts["k"].to_numpy(), seed)
    parts: dict[int, list[NDArray[np.float64]]] = {layer: [] for layer in layers}
    for batch in batches(run, thoughts, ("u",)):
        layout = reasoner.layout(batch.prompts, batch.mask.sum(-1).tolist(), side="right")
        for layer, h in layer_states(bridge, layout, batch.tensors["u"], layers).items():
            parts[layer].append(h.double().cpu().numpy())
        advance(len(batch.prompts))
    for layer, found in parts.items():
        states = np.concatenate(found)
        said, chance = (
            _decoded(run, reasoner, thoughts, cross_fitted(states, target, groups, seed))
            for target in (e, null)
        )
        shuffled = text_hits(chance, thoughts)["step_hit"].rename("shuffled_hit")
        _keep(readings, "affine", said, shuffled.to_frame(), layer)


def _decoded(
    run: Run, reasoner: NFCoTReasoner, thoughts: pd.DataFrame, e: NDArray[np.float64]
) -> list[str]:
    told = torch.from_numpy(e).float()
    texts: list[str] = []
    for batch in batches(run, thoughts, ()):
        padded = torch.zeros(*batch.mask.shape, e.shape[1])
        padded[batch.mask] = told[batch.rows]
        texts += latent_texts(reasoner, padded, batch.mask)
    return texts


def _keep(
    readings: Readings, lens: str, said: list[str], more: pd.DataFrame, layer: int | None = None
) -> None:
    place = (lens, layer)
    readings.values[place] = pd.concat([text_hits(said, readings.thoughts), more], axis=1)
    readings.said[place] = pd.DataFrame({"said": [[text] for text in said]})
