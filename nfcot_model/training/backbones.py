"""Can this model carry thoughts? Asked of every backbone before anything is written."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from nfcot_model.errors import UserError

__all__ = ["check_backbone"]

PLACES = 6


def check_backbone(model: PreTrainedModel, where: str) -> None:
    """Raises UserError naming what `model` lacks: embeddings, a head, causality, a cache.

    Causality is tried, not believed: a change at the last place must not reach an earlier one.
    """
    kind = model.config.model_type
    if model.config.is_encoder_decoder:
        raise UserError(f"{where}: {kind} is an encoder-decoder; expected a causal language model")
    embeddings = _part(model, "input", where)
    head = _part(model, "output", where)
    _check_widths(model, embeddings, where)
    _check_ties(model, embeddings, head, where)
    if embeddings.is_meta:
        return
    was_training = model.training
    model.eval()
    before, cached = _states(model, embeddings, False, where)
    after, _ = _states(model, embeddings, True, where)
    model.train(was_training)
    if not torch.allclose(before, after, atol=1e-5 * float(before.abs().max()), rtol=0):
        raise UserError(
            f"{where}: {kind} is an encoder: earlier places see later ones; expected a causal"
            " language model"
        )
    if not cached:
        raise UserError(
            f"{where}: {kind} keeps no key-value cache, on which thoughts are sampled; choose an"
            " attention model"
        )


def _part(model: PreTrainedModel, side: str, where: str) -> Tensor:
    try:
        part = getattr(model, f"get_{side}_embeddings")()
    except (NotImplementedError, AttributeError):
        part = None
    weight = part.weight if isinstance(part, nn.Module) else None
    if not isinstance(weight, Tensor):
        need = "thoughts enter through them" if side == "input" else "answers are read from them"
        raise UserError(
            f"{where}: {model.config.model_type} has no {side} embeddings; {need}, choose another"
            " causal language model"
        )
    return weight


def _check_widths(model: PreTrainedModel, embeddings: Tensor, where: str) -> None:
    width, states = embeddings.shape[-1], model.config.get_text_config().hidden_size
    if width != states:
        raise UserError(
            f"{where}: token embeddings are {width} wide and states {states}; a thought needs one"
            " width for both, choose another backbone"
        )


def _check_ties(model: PreTrainedModel, embeddings: Tensor, head: Tensor, where: str) -> None:
    tied = head is embeddings
    said = bool(model.config.get_text_config().tie_word_embeddings)
    if tied == said:
        return
    found = "share one weight" if tied else "have a weight each"
    raise UserError(
        f"{where}: input and output embeddings {found}, config.json has tie_word_embeddings:"
        f" {str(said).lower()}; set it to {str(tied).lower()} there"
    )


@torch.no_grad()
def _states(
    model: PreTrainedModel, embeddings: Tensor, changed: bool, where: str
) -> tuple[Tensor, bool]:
    """The states before the last place, which is changed or not, and whether a cache was kept."""
    rows = embeddings[: PLACES + 1].detach()
    order = [*range(PLACES - 1), PLACES if changed else PLACES - 1]
    places = torch.arange(PLACES, device=rows.device)[None]
    try:
        out = model.base_model(inputs_embeds=rows[order][None], position_ids=places, use_cache=True)
    except (TypeError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(
            f"{where}: {model.config.model_type} does not run on input embeddings ({reason})"
        ) from None
    states: Tensor = out[0]
    return states[:, :-1].float(), out.get("past_key_values") is not None
