"""Which parts of a causal study have a meaning for a reasoner, and why have the others none?"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from analyses.causal.edits import EDITS, MODES
from nfcot_model.errors import UserError
from nfcot_model.reasoners import NFCoTReasoner, Reasoner

__all__ = ["Scope", "scope_of"]

SWAPS = ("swap_same_value", "swap_different_value")


@dataclass(frozen=True)
class Scope:
    """What is done to thoughts of one reasoner.

    `left_out`: edit, mode or part -> why it would say nothing. `remarks`: what to keep in mind of
    those that are done.
    """

    reasoner: str
    left_out: Mapping[str, str]
    remarks: tuple[str, ...]

    def has(self, part: str) -> bool:
        return part not in self.left_out

    def chosen(
        self, flag: str, asked: tuple[str, ...] | None, known: Sequence[str]
    ) -> tuple[str, ...]:
        """Those asked for, or all that have a meaning; raises UserError for one that has none."""
        if asked is None:
            return tuple(name for name in known if self.has(name))
        for name in asked:
            self.refuse(f"--{flag} {name}", name)
        return asked

    def refuse(self, flag: str, part: str) -> None:
        """Raises UserError where a part that a flag asks for has no meaning."""
        if not self.has(part):
            raise UserError(
                f"{flag}: says nothing about the reasoner '{self.reasoner}': {self.left_out[part]}"
            )


def scope_of(reasoner: Reasoner, tau: float) -> Scope:
    """What can be said of this reasoner's thoughts, recorded at this tau, by changing them?

    Goes by what the reasoner says of itself (`Reasoner`), so that a kind added later needs no
    word here. Parts: `EDITS`, `MODES`, transplants, counterfactuals, influence, mediation, states.
    """
    order = (*EDITS, *MODES, *PARTS)
    left_out: dict[str, str] = {}
    for parts, why in _meaningless(reasoner, tau):
        for part in parts:
            left_out.setdefault(part, why)
    remarks = (reasoner.on_edits,) if reasoner.on_edits else ()
    return Scope(reasoner.name, {p: left_out[p] for p in order if p in left_out}, remarks)


PARTS = ("transplants", "counterfactuals", "influence", "mediation", "states")


def _meaningless(reasoner: Reasoner, tau: float) -> Iterator[tuple[tuple[str, ...], str]]:
    """Parts that say nothing, and why; the first reason counts."""
    if reasoner.constant_thoughts:
        yield (
            ("position_mean", "donor", *SWAPS, "steer", "transplants", "mediation"),
            "all traces have the same thoughts",
        )
        yield ("total",), "thoughts do not depend on those before them"
    if not reasoner.draws:
        yield ("resample", "noise_edit"), "its thoughts are not drawn"
    elif tau <= 0:
        yield ("resample", "noise_edit"), "nothing is drawn at tau 0"
    if not reasoner.has_likelihood:
        yield ("noise_edit", "influence"), "its thoughts have no mean and deviation"
    told = ("decode_edit_encode", "counterfactuals")
    if not reasoner.has_codec:
        yield told, "no codec makes text its thoughts"
    if reasoner.thoughts_per_step is None:
        yield told, "its codec encodes whole reasonings, no step of them"
        yield (*SWAPS, "steer", "mediation"), "none of its thoughts belongs to one step"
    elif reasoner.thoughts_per_step != 1:
        yield (
            ("decode_edit_encode",),
            f"a step has {reasoner.thoughts_per_step} thoughts, and text none alone",
        )
    if not isinstance(reasoner, NFCoTReasoner):
        yield ("states",), "there are no hooks for its model"
