"""From texts to streams: tokens without control tokens, and layouts that fit the context."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from transformers import PreTrainedTokenizerBase

from nfcot_model.backbone import BackboneModel
from nfcot_model.chat import in_chat
from nfcot_model.errors import UserError
from nfcot_model.layout import Layout, lay_out

__all__ = ["context_of", "prompt_layout", "tokens_of"]


def tokens_of(
    tokenizer: PreTrainedTokenizerBase,
    model: BackboneModel,
    texts: Sequence[str],
    *,
    opening: bool = False,
) -> list[list[int]]:
    """Token ids of texts; `opening` adds what belongs around a prompt: its chat, or a beginning.

    Raises UserError for a text that spells a control token: it would open or close thinking.
    """
    if not texts:
        return []
    if opening and model.config.chat:
        texts, opening = in_chat(tokenizer, texts, model.config.system), False
    found_ids = tokenizer(list(texts), add_special_tokens=opening)["input_ids"]
    ids = model.ids
    control = {ids.think, ids.end_think, ids.thought}
    for text, row in zip(texts, found_ids, strict=True):
        found = control.intersection(row)
        if found:
            spelled = tokenizer.convert_ids_to_tokens(min(found))
            raise UserError(f"text {text[:40]!r}… holds the control token {spelled}; remove it")
    return list(found_ids)


def context_of(model: BackboneModel) -> int | None:
    """How many positions has the backbone? None: no bound is known."""
    return getattr(model.backbone.config, "max_position_embeddings", None)


def prompt_layout(
    model: BackboneModel,
    prompts: Sequence[str],
    ids: Sequence[Sequence[int]],
    K: Sequence[int],
    *,
    said: Sequence[Sequence[int]] = (),
    close: bool = True,
    side: Literal["left", "right"] = "left",
    room: int = 0,
    framed: bool = True,
) -> Layout:
    """Where does everything stand in the streams of these prompts with K thoughts each?

    `ids` are the prompts' tokens, `said` those of what follows `</think>`, which `close` adds;
    `side` is where the padding goes (left when the streams are to be continued, by at most `room`
    places). Raises UserError for a stream longer than the backbone's context.
    """
    context = context_of(model)
    longest = max(range(len(ids)), key=lambda i: len(ids[i]) + K[i])
    after = 1 + max(map(len, said)) if said else room
    needed = len(ids[longest]) + K[longest] + 1 + close + after
    if context is not None and needed > context:
        raise UserError(
            f"prompt {prompts[longest][:40]!r}… needs {needed} positions with thoughts and"
            f" answer, the backbone has {context}; shorten the prompt"
        )
    layout = lay_out(ids, K, model.ids, close=close, framed=framed, side=side, answers=said or None)
    return layout.to(model.device)
