"""Our model inside TransformerLens, with the silent traps of its caches turned into errors."""

from __future__ import annotations

import copy
import difflib
from collections import Counter
from collections.abc import Sequence
from typing import Any

from torch import Tensor
from transformer_lens.ActivationCache import ActivationCache
from transformer_lens.hook_points import HookPoint
from transformer_lens.model_bridge import TransformerBridge
from transformer_lens.model_bridge.sources import build_bridge_config_from_hf
from transformer_lens.model_bridge.sources.transformers_driver import TransformersDriver
from transformers import DynamicCache

from nfcot_model.errors import UserError
from nfcot_model.hooks.adapter import ARCHITECTURE, nfcot_adapter
from nfcot_model.model import NFCoTModel

__all__ = ["ThoughtBridge", "ThoughtCache", "hooked"]


class ThoughtCache(ActivationCache):
    """What fired in one pass; refuses sums that lack a term when thoughts enter as embeddings."""

    def decompose_resid(self, *args: Any, **kwargs: Any) -> Any:
        if not any(name in self.cache_dict for name in ("hook_embed", "embed.hook_out")):
            raise UserError(
                "decompose_resid: the pass started from embeddings, so its embedding term is"
                " missing; use accumulated_resid, or add the cached blocks.0.hook_in yourself"
            )
        return super().decompose_resid(*args, **kwargs)


class ThoughtBridge(TransformerBridge):
    """A TransformerBridge over `[prompt] <think> u … </think> [answer]` streams.

    `bridge(E)` takes ids or embeddings, as every bridge does; `bridge.original_model` is an
    `NFCoTModel` sharing its weights with the one that was hooked, so `NFCoTReasoner` over it
    thinks, answers and scores under hooks.
    """

    def run_with_cache(
        self,
        input: Any,
        return_cache_object: bool = True,
        remove_batch_dim: bool = False,
        names_filter: Any = None,
        stop_at_layer: int | None = None,
        **kwargs: Any,
    ) -> Any:
        """As TransformerLens's, but nothing is lost in silence.

        Raises UserError when a requested hook does not exist, does not fire or fires more than
        once, for a filter whose hooks all stay silent, and for `stop_at_layer` on a cache of keys.
        Cached tensors are copies; under the names asked for only; a key-value cache that is given
        stays as it was.
        """
        kwargs |= {"names_filter": names_filter, "stop_at_layer": stop_at_layer}
        kwargs |= {"remove_batch_dim": remove_batch_dim}
        _refuse_ragged(kwargs)
        if kwargs.get("past_key_values") is not None:
            kwargs["past_key_values"] = _copy_of(kwargs["past_key_values"])
        names = names_filter
        if names is None or callable(names):
            wanted = [n for n in self.hook_dict if self.open(n) and (names is None or names(n))]
        else:
            wanted = [names] if isinstance(names, str) else list(names)
        self.check_names(wanted)
        count: Counter[str] = Counter()

        def counting(tensor: Tensor, hook: HookPoint) -> None:
            count[str(hook.name)] += 1

        points = {str(self.hook_dict[name].name) for name in wanted}
        with self.hooks(fwd_hooks=[(point, counting) for point in points]):
            out, cache = super().run_with_cache(input, return_cache_object, **kwargs)
        if callable(names) and not count:
            raise UserError(
                f"names_filter: none of its {len(wanted)} hooks fires in this pass ({wanted[0]} …)"
            )
        self._check_fired(wanted if isinstance(names, str | list | tuple) else [], count)
        tensors = cache.cache_dict if isinstance(cache, ActivationCache) else cache
        copies = {
            name: tensor.clone() if isinstance(tensor, Tensor) else tensor
            for name, tensor in tensors.items()
            if name in wanted or name.endswith("_grad")
        }
        if not isinstance(cache, ActivationCache):
            return out, copies
        return out, ThoughtCache(copies, self, has_batch_dim=cache.has_batch_dim)

    def run_with_hooks(self, input: Any, fwd_hooks: Any = (), *args: Any, **kwargs: Any) -> Any:
        """As TransformerLens's, but an edit that never happens is an error.

        Raises UserError for a forward hook whose name does not exist or does not fire in this
        pass, and for a filter of names that fits no hook that fires.
        """
        _refuse_ragged(kwargs)
        asked: list[list[str]] = []
        for name, _ in fwd_hooks:
            if callable(name):
                asked.append([n for n in self.hook_dict if self.open(n) and name(n)])
                self.check_names(asked[-1])
            else:
                self.check_names([name])
                asked.append([name])
        fired: set[str] = set()

        def note(tensor: Tensor, hook: HookPoint) -> None:
            fired.add(str(hook.name))

        points = {str(self.hook_dict[name].name) for names in asked for name in names}
        with self.hooks(fwd_hooks=[(point, note) for point in points]):
            out = super().run_with_hooks(input, list(fwd_hooks), *args, **kwargs)
        for names in asked:
            if not any(str(self.hook_dict[name].name) in fired for name in names):
                raise UserError(
                    f"{names[0]} did not fire in this pass, so nothing was changed"
                    " (embed is silent when embeddings are given, nf_head and flow when only the"
                    " backbone runs)"
                )
        return out

    def forward(self, input: Any, *args: Any, **kwargs: Any) -> Any:
        """As TransformerLens's, without the combination that leaves a ragged cache."""
        _refuse_ragged(kwargs)
        return super().forward(input, *args, **kwargs)

    def open(self, name: str) -> bool:
        """Can this hook fire, or is it behind a switch of TransformerLens's (`set_use_…`)?"""
        return self._gated_hook_reason(self.hook_dict[name].name or name) is None

    def check_names(self, names: Sequence[str]) -> None:
        """Raises UserError for no names at all and for a name that no hook has."""
        if not names:
            raise UserError("no hooks asked for; `nfcot sites MODEL` lists them")
        for name in names:
            if name not in self.hook_dict:
                close = difflib.get_close_matches(name, self.hook_dict, 3, 0.5)
                hint = f"; did you mean {', '.join(close)}?" if close else ""
                raise UserError(f"no hook is called {name}{hint} (`nfcot sites MODEL` lists them)")

    def _check_fired(self, wanted: Sequence[str], count: Counter[str]) -> None:
        silent = [name for name in wanted if not count[str(self.hook_dict[name].name)]]
        if silent:
            raise UserError(
                f"{', '.join(silent)} did not fire in this pass"
                " (embed is silent when embeddings are given: read blocks.0.hook_in)"
            )
        often = [name for name, times in count.items() if times > 1]
        if often:
            raise UserError(
                f"{', '.join(often)} fired {count[often[0]]} times: a cache keeps the last only;"
                " append in a hook instead (bridge.hooks)"
            )


def _refuse_ragged(kwargs: dict[str, Any]) -> None:
    cached = kwargs.get("past_key_values") is not None or kwargs.get("use_cache")
    if kwargs.get("stop_at_layer") is not None and cached:
        raise UserError("stop_at_layer leaves a key-value cache ragged; use one without the other")


def _copy_of(past: Any) -> Any:
    """A key-value cache of its own: a dynamic one replaces its tensors, it never writes in them."""
    if not isinstance(past, DynamicCache):
        raise UserError(
            f"past_key_values is a {type(past).__name__}, which a pass would change in place; give"
            " a DynamicCache"
        )
    own = copy.copy(past)
    own.layers = [copy.copy(layer) for layer in past.layers]
    return own


class _Streaming(NFCoTModel):
    """The same model, called for its stream of logits instead of its training loss."""

    def forward(self, input_ids: Tensor | None = None, **inputs: Any) -> Any:  # type: ignore[override]
        return self.backbone(input_ids=input_ids, **inputs)


def hooked(model: NFCoTModel) -> ThoughtBridge:
    """Where can I look into this model, and how do I change what I see?

    Returns a TransformerLens bridge over a copy that shares its weights with `model`, which is left
    as it was (`save_pretrained` and fast attention included); where TransformerLens splits a joint
    weight (the QKV of GPT-2), the parts are copies. Besides the hooks of
    the backbone there are those of `projection`, `nf_head` and `flow` (`nfcot_model.hooks.sites`),
    and of `answer_projection` in a Dual-Path model, whose backbone hooks fire on both paths.
    Attention is eager inside the bridge, so passes cost more and differ in the last bits. Raises
    UserError when TransformerLens has no adapter for the backbone.
    """
    shared = {id(t): t for t in (*model.parameters(), *model.buffers())}
    twin = copy.deepcopy(model, shared)
    twin.__class__ = _Streaming
    cfg = build_bridge_config_from_hf(
        twin.backbone.config, ARCHITECTURE, model.config.model_type, model.backbone.dtype
    )
    cfg.original_architecture = type(model.backbone).__name__
    cfg.device = str(model.device)
    cfg.two_paths = model.two_paths
    try:
        adapter = nfcot_adapter(cfg)
    except ValueError as error:
        raise UserError(f"{cfg.original_architecture}: {error}; it cannot be hooked") from None
    adapter.prepare_model(twin)
    bridge = ThoughtBridge(twin, adapter, None, driver=TransformersDriver(twin, adapter, None))
    return bridge.eval()
