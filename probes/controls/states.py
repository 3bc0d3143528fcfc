"""States that controls read instead of thoughts: of the prompt alone, and of an untrained model.

* `prompt_state` [traces, d_model]: the last layer's state at `<think>`, the end of the prompt,
  before any thought. The first thought's Gaussian is read from it, so it holds all of the prompt
  that the model had worked out by then. `prompt_h` [traces, d_model]: the same in each layer of `h`
  that the run has.
* `prompt_embedding` [traces, d_model]: the mean input embedding of the prompt's tokens.
* `untrained_u`, `untrained_mu`, `untrained_e` [thoughts, D], `untrained_h` [thoughts, d_model]:
  what a model of the same config with random weights has there, given the run's prompts, noise
  and K; `untrained_` and a captured hook [thoughts, width] likewise.

They are computed once per run and kept under it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import pandas as pd
import torch

from nfcot_model.errors import UserError
from nfcot_model.model import at
from nfcot_model.reasoners import WITH_DENSITY, NFCoTReasoner
from nfcot_model.traces import Run
from nfcot_model.traces.activations import ActivationSet
from nfcot_model.traces.model_of import model_of, refuse_other_model
from probes.controls.cache import Make, control_set, fill, missing_shards, read_rows
from probes.controls.untrained import SEED, array_names, hook_alike, think_alike, untrained
from probes.sites import stored_layers

__all__ = ["PROMPT", "ControlStates", "control_states", "prompt_states", "read_control"]

PROMPT = ("prompt_state", "prompt_embedding")
LAYERED = ("prompt_h", "untrained_h")
UNTRAINED = ("untrained_u", "untrained_mu", "untrained_e", "untrained_h")


@dataclass(frozen=True)
class ControlStates:
    """Which controls can `read_control` read, and why not the others?

    unavailable: name -> reason, in words; among them `untrained_eps` (the noise is the run's own).
    made: how many of the `shards` files were computed now.
    """

    available: tuple[str, ...]
    unavailable: Mapping[str, str]
    shards: int
    made: int


def control_states(
    run: Run,
    reasoner: NFCoTReasoner | None = None,
    progress: Callable[[int], object] | None = None,
    hooks: Sequence[str] = (),
) -> ControlStates:
    """See to it that a run has its control states: compute what is not there or not whole.

    hooks: captured ones that are probed, and so wanted of the untrained model too. reasoner: the
    run's, or None to find it where the run says it is; it is not needed where everything is there.
    What cannot be computed (no model, no room, a folder that cannot be written, another process at
    it) is unavailable with its reason, and nothing fails. A killed computation goes on after its
    last shard. progress: called with numbers of traces, twice the run's in all, and once more for
    each hook. Raises UserError for a reasoner that is not the run's.
    """
    if reasoner is not None:
        refuse_other_model(run, reasoner)
    advance = progress or (lambda n: None)
    unavailable = _never(run)
    available: list[str] = []
    files = made = 0
    for stored in _stored(run, hooks):
        files += run.traces["shard"].nunique()
        missing = missing_shards(run, stored.target, stored.arrays)
        try:
            if missing:
                reasoner = reasoner or _model(run)
                fill(run, stored.target, missing, stored.maker(run, reasoner), advance)
            else:
                advance(len(run.traces))
        except UserError as error:
            unavailable |= dict.fromkeys(stored.names, str(error))
            continue
        available += stored.names
        made += len(missing)
    return ControlStates(tuple(available), unavailable, files, made)


def read_control(run: Run, name: str, layer: int | None = None) -> np.ndarray:
    """What is there to read instead of thoughts? float32.

    [traces, d_model] for the prompt's (`PROMPT`, `prompt_h`), [thoughts, width] for the untrained
    model's, rows as in run.traces and run.thoughts. layer: of the `LAYERED`, numbered as the run's
    `h` (-1 where the run has the last layer alone). Raises UserError, naming the file, when it was
    not computed (`control_states`), is damaged, or was made from another run, checkpoint or seed.
    """
    array = _array(run, name, layer)
    (stored,) = (one for one in _stored(run, _hook(run, name)) if name in one.names)
    try:
        return read_rows(run, stored.target, array)
    except UserError as error:
        raise UserError(f"control {name} of {run.name} cannot be read: {error}") from None


@torch.no_grad()
def prompt_states(
    reasoner: NFCoTReasoner, prompts: Sequence[str], layers: int = 0
) -> dict[str, np.ndarray]:
    """What does the model hold of each prompt before it thinks? `PROMPT`, each [n, d_model].

    layers: how many of the last ones are told too, as `prompt_h.0` and so on.
    """
    of, distinct = pd.factorize(np.array(prompts, dtype=object))
    layout = reasoner.layout(distinct.tolist(), [0] * len(distinct), close=False, side="right")
    model = reasoner.model
    nothing = torch.zeros(len(distinct), 1, reasoner.D, device=model.device)
    out = model.stream(layout, nothing, hidden=layers > 0)
    states = out.last_hidden_state
    think = layout.attention_mask.sum(-1, keepdim=True) - 1  # the column of <think>
    inside = torch.arange(states.shape[1], device=model.device) < think
    embedded = model.get_input_embeddings()(layout.input_ids).float() * inside[..., None]
    found = dict(
        zip(PROMPT, (at(states, think)[:, 0], embedded.sum(1) / think.clamp(min=1)), strict=True)
    )
    last = out.hidden_states[-layers:] if layers else ()
    found |= {f"prompt_h.{i}": at(layer, think)[:, 0] for i, layer in enumerate(last)}
    return {name: value.float().cpu().numpy()[of] for name, value in found.items()}


@dataclass(frozen=True)
class _Stored:
    """Controls that are kept in the same files."""

    names: tuple[str, ...]
    target: ActivationSet
    arrays: Sequence[str]
    maker: Callable[[Run, NFCoTReasoner], Make]


def _stored(run: Run, hooks: Sequence[str] = ()) -> tuple[_Stored, ...]:
    layers = len(stored_layers(run))
    names = UNTRAINED if layers else UNTRAINED[:-1]
    return (
        _Stored(
            (*PROMPT, "prompt_h") if layers else PROMPT,
            control_set(run, "prompt", layers=layers),
            (*PROMPT, *(f"prompt_h.{layer}" for layer in range(layers))),
            _prompt_maker,
        ),
        _Stored(
            names,
            control_set(run, "untrained", seed=SEED, layers=layers),
            array_names(layers),
            _untrained_maker,
        ),
        *(
            _Stored(
                (f"untrained_{hook}",),
                control_set(run, "untrained", seed=SEED, hook=hook),
                [hook],
                partial(_hook_maker, hook),
            )
            for hook in hooks
        ),
    )


def _hook(run: Run, name: str) -> list[str]:
    """The captured hook whose untrained counterpart has this name, if it is one's."""
    return [hook for hook in run.activations() if name == f"untrained_{hook}"]


def _prompt_maker(run: Run, reasoner: NFCoTReasoner) -> Make:
    layers = len(stored_layers(run))
    return lambda shard, part: prompt_states(reasoner, part["prompt"].tolist(), layers)


def _untrained_maker(run: Run, reasoner: NFCoTReasoner) -> Make:
    fresh = untrained(reasoner)
    return lambda shard, part: think_alike(
        fresh,
        part["prompt"].tolist(),
        part["K"].tolist(),
        run.shard_tensor("eps", shard),
        len(stored_layers(run)),
    )


def _hook_maker(hook: str, run: Run, reasoner: NFCoTReasoner) -> Make:
    return partial(hook_alike, untrained(reasoner), hook, run)


def _model(run: Run) -> NFCoTReasoner:
    kind = run.manifest["reasoner"]
    if kind not in WITH_DENSITY:
        raise UserError(
            f"{run.path}: is of the reasoner '{kind}', these controls need an NF-CoT model"
        )
    return model_of(run)


def _never(run: Run) -> dict[str, str]:
    """Untrained counterparts of the run's sites that there are none of."""
    reasons = {"untrained_eps": "the noise is the run's own, whatever the model"}
    if not stored_layers(run):
        reasons |= dict.fromkeys(LAYERED, f"{run.path}: holds no h (trace with --activations all)")
    return reasons


def _array(run: Run, name: str, layer: int | None) -> str:
    """What is a control's array called in its files?"""
    names = [name for stored in _stored(run, _hook(run, name)) for name in stored.names]
    if name not in names:
        raise UserError(f"control '{name}': {run.name} has none of it; it has {', '.join(names)}")
    if name not in LAYERED:
        if layer is not None:
            raise UserError(f"control {name}: has no layers, but layer {layer} was asked for")
        return name.removeprefix("untrained_")
    layers, stem = stored_layers(run), name.removeprefix("untrained_")
    if layer in layers:
        return f"{stem}.{layers.index(layer)}"
    if layer is not None and -len(layers) <= layer < 0:
        return f"{stem}.{len(layers) + layer}"
    raise UserError(f"control {name}: layer {layer} is not one of {', '.join(map(str, layers))}")
