"""Does a prompt fit a reasoner's context, with its thoughts and an answer?"""

from __future__ import annotations

from collections.abc import Sequence

from nfcot_model.baseline import BaselineModel
from nfcot_model.errors import UserError
from nfcot_model.model import NFCoTModel
from nfcot_model.reasoners.baseline import BaselineReasoner
from nfcot_model.reasoners.explicit import ExplicitReasoner
from nfcot_model.reasoners.looped import LoopedReasoner
from nfcot_model.reasoners.nfcot import NFCoTReasoner
from nfcot_model.reasoners.prompting import context_of
from nfcot_model.reasoners.protocol import Reasoner

__all__ = ["answer_budget", "answers_cut", "fits", "set_answer_budget"]

_FRAME = 2  # <think> and </think>


def fits(reasoner: Reasoner, prompts: Sequence[str], max_thoughts: int | None = None) -> list[bool]:
    """Which prompts leave room for every thought there may be and for the longest answer?

    Of explicit reasoning one token is enough: it is cut at what the context leaves it. Raises
    UserError for a prompt that spells a control token.
    """
    model = _model(reasoner)
    lengths = [len(ids) for ids in reasoner.tokens(prompts, opening=True)]
    context = context_of(model)
    answer = model.config.max_answer_tokens
    needed = _places(reasoner, max_thoughts) + _FRAME + answer
    return [context is None or length + needed <= context for length in lengths]


def _places(reasoner: Reasoner, max_thoughts: int | None) -> int:
    if isinstance(reasoner, NFCoTReasoner):
        return reasoner.budget(max_thoughts)
    if isinstance(reasoner, LoopedReasoner):
        return 0
    if isinstance(reasoner, ExplicitReasoner):
        return 1
    return min(reasoner.max_thoughts, max_thoughts or reasoner.max_thoughts)


def answer_budget(reasoner: Reasoner) -> int:
    """How many tokens may an answer have?"""
    return int(_model(reasoner).config.max_answer_tokens)


def set_answer_budget(reasoner: Reasoner, tokens: int) -> None:
    """Let answers have this many tokens. Raises UserError for less than 1."""
    if tokens < 1:
        raise UserError(f"--max-answer-tokens {tokens}: expected at least 1")
    _model(reasoner).config.max_answer_tokens = tokens


def answers_cut(reasoner: Reasoner, answers: Sequence[str]) -> list[bool]:
    """Which answers are as long as the model may write, and were cut there, most likely?

    Told from the text, whose tokens need not be those that were written.
    """
    if not answers:
        return []
    assert isinstance(reasoner, NFCoTReasoner | BaselineReasoner)
    ids = reasoner.tokenizer(list(answers), add_special_tokens=False)["input_ids"]
    return [len(row) >= answer_budget(reasoner) for row in ids]


def _model(reasoner: Reasoner) -> NFCoTModel | BaselineModel:
    assert isinstance(reasoner, NFCoTReasoner | BaselineReasoner)
    return reasoner.model
