"""Explicit reasoning as thoughts: how likely would the model have thought this text?

A text goes through codec encoder and flow and is scored under the model, prompt by prompt. Nobody
sampled it, so likelihood has something to say. Encoding gives the middle of what a text stands
for, without the noise of a drawn thought: it is compared with the model's own thoughts after these
took the same way, decoded to text and encoded again.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from analyses.density import Densities, densities
from nfcot_model.errors import UserError
from nfcot_model.faults import first_fault
from nfcot_model.reasoners import NFCoTReasoner
from nfcot_model.sampling import noise_seed
from nfcot_model.traces import Run

__all__ = ["AskedText", "OwnTexts", "encoded_densities", "own_texts", "read_texts", "texts_of"]


class AskedText(BaseModel):
    """One line of a file of texts: a reasoning (its steps) for the prompt of a trace or problem."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    steps: list[str] = Field(min_length=1)
    name: str = "text"
    trace_id: str | None = None
    problem_id: str | None = None

    @model_validator(mode="after")
    def _is_about_one(self) -> AskedText:
        if (self.trace_id is None) == (self.problem_id is None):
            raise ValueError("give either 'trace_id' or 'problem_id'")
        return self


@dataclass(frozen=True)
class OwnTexts:
    """What the model itself would have thought about a prompt, as text, encoded again and scored.

    `per_thought` [n]: mean `log p(e_k)` of each draw; `worst` [n]: its least; `by_k`: those of each
    place, as many as have it. `not_encoded`: draws whose text the codec cannot take; `distinct`:
    different texts among the others.
    """

    per_thought: NDArray[np.float64]
    worst: NDArray[np.float64]
    by_k: list[NDArray[np.float64]]
    not_encoded: int
    distinct: int


def read_texts(path: Path) -> list[AskedText]:
    """The texts in a JSONL file; raises UserError that names line and field."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"--texts {path}: cannot be read ({error})") from None
    asked = []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            asked.append(AskedText.model_validate(json.loads(line)))
        except ValidationError as error:
            place, words = first_fault(error, AskedText)
            where = f"field '{'.'.join(map(str, place))}': " if place else ""
            raise UserError(f"{path}:{number}: {where}{words}") from None
        except (ValueError, RecursionError):
            raise UserError(
                f'{path}:{number}: expected one JSON object, such as {{"trace_id": "3fa9…",'
                ' "steps": ["first step"]}'
            ) from None
    if not asked:
        raise UserError(f"--texts {path}: holds no text; write one JSON object a line")
    return asked


def texts_of(run: Run, asked: Sequence[AskedText] | None) -> list[tuple[int, AskedText]]:
    """Each text with the row of the trace whose prompt it is about.

    None asks about the reference reasoning of every trace that has one. Raises UserError for an
    unknown trace or problem, and where there is nothing to ask about.
    """
    if asked is None:
        own = [
            (row, AskedText(steps=steps, name="reference", trace_id=trace_id))
            for row, (trace_id, steps) in enumerate(
                zip(run.traces["trace_id"], run.traces["steps"], strict=True)
            )
            if steps
        ]
        if not own:
            raise UserError(
                f"{run.path}: its problems have no reference steps to encode; give --texts FILE"
            )
        return own
    found = []
    for number, text in enumerate(asked, start=1):
        field = "trace_id" if text.trace_id is not None else "problem_id"
        wanted = text.trace_id if text.trace_id is not None else text.problem_id
        rows = np.flatnonzero((run.traces[field] == wanted).to_numpy())
        if not rows.size:
            raise UserError(
                f"--texts, text {number}: {run.name} has no trace of {field} '{wanted}'"
            )
        found.append((int(rows[0]), text))
    return found


def encoded_densities(
    reasoner: NFCoTReasoner, prompts: Sequence[str], steps: Sequence[Sequence[str]], tau: float
) -> Densities:
    """How likely are these reasonings, encoded, under the model and these prompts? Row by row.

    Raises UserError for a text longer than the codec reads, more steps than the model has
    thoughts, and a control token in a text.
    """
    e, mask = reasoner.latents(steps)
    return densities(reasoner, prompts, reasoner.from_latents(e, mask), e, tau)


def own_texts(
    reasoner: NFCoTReasoner, prompt: str, *, tau: float, draws: int, seed: int
) -> OwnTexts:
    """What would the model have thought about this prompt, `draws` times over, as encoded text?"""
    seeds = [noise_seed("own-text", seed, prompt, i) for i in range(draws)]
    thoughts = reasoner.think([prompt] * draws, tau=tau, noise_seeds=seeds)
    texts = [text for text in reasoner.decode(thoughts).texts if text]
    fits = [text for text in texts if reasoner.encodes([text])]
    left_out = draws - len(fits)
    if not fits:
        empty = np.zeros(0)
        return OwnTexts(empty, empty, [], left_out, 0)
    found = encoded_densities(reasoner, [prompt] * len(fits), fits, tau)
    values = found.logp_e.double().numpy()
    mask = found.mask.numpy()
    return OwnTexts(
        per_thought=np.where(mask, values, 0.0).sum(1) / mask.sum(1),
        worst=np.where(mask, values, np.inf).min(1),
        by_k=[values[mask[:, k], k] for k in range(mask.shape[1])],
        not_encoded=left_out,
        distinct=len({tuple(text) for text in fits}),
    )
