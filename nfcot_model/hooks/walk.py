"""One pass over everything a stream goes through, so that every hook on the way fires once."""

from __future__ import annotations

from torch import Tensor

from nfcot_model.layout import Layout
from nfcot_model.likelihood import score
from nfcot_model.model import NFCoTModel
from nfcot_model.thoughts import Thoughts

__all__ = ["walk"]


def walk(
    model: NFCoTModel,
    layout: Layout,
    u: Tensor,
    *,
    head: bool = True,
    flow: bool = True,
) -> None:
    """Backbone over the streams, then NF head over the thoughts, then flow back and forth.

    Of a Dual-Path model: the path of thinking, and what the other one's projection makes of `e`.
    """
    out = model.stream(layout, u)
    if head:
        score(model, layout, Thoughts.given(u, layout.mask), 1.0, out, False)
    if flow:
        e = model.flow.inverse(u, layout.mask)
        model.flow(e, layout.mask)
        if model.two_paths:
            model.answer_projection(e)
