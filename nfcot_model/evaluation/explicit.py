"""The controls without thoughts: explicit text reasoning, and no reasoning at all."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from nfcot_model import sampling
from nfcot_model.layout import lay_out
from nfcot_model.reasoners import NFCoTReasoner

__all__ = ["Written", "write_explicitly"]

MAX_REASONING_TOKENS = 160


@dataclass(frozen=True)
class Written:
    """An explicit reasoner's steps, its answer, and the tokens it spent before the answer."""

    steps: list[str]
    answer: str
    positions: int


def write_explicitly(reasoner: NFCoTReasoner, prompts: Sequence[str]) -> list[Written]:
    """What does a `text` or `direct` control reason and answer (greedy)?"""
    model = reasoner.model
    ids = reasoner.tokens(prompts, opening=True)
    none = [0] * len(ids)
    direct = model.config.reasoner == "direct"
    layout = lay_out(ids, none, model.ids, close=direct, side="left").to(model.device)
    budget = model.config.max_answer_tokens + (0 if direct else MAX_REASONING_TOKENS)
    u = model.projection.weight.new_zeros(len(ids), 1, reasoner.D)
    rows = sampling.answer(sampling.Stream(model, layout, u), max_tokens=budget)
    return [_split(reasoner, row, direct) for row in rows]


def _split(reasoner: NFCoTReasoner, row: list[int], direct: bool) -> Written:
    end = reasoner.model.ids.end_think
    cut = -1 if direct else row.index(end) if end in row else len(row)
    parts = [row[: max(cut, 0)], row[cut + 1 :]]
    reasoning, said = reasoner.tokenizer.batch_decode(parts, skip_special_tokens=True)
    return Written(reasoning.split("\n") if reasoning else [], said, max(cut, 0))
