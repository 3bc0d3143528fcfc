"""Our model inside TransformerLens, with the silent traps of its caches turned into errors."""

from __future__ import annotations

import copy
import difflib
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor
from transformer_lens.ActivationCache import ActivationCache
from transformer_lens.factories.architecture_adapter_factory import ArchitectureAdapterFactory
from transformer_lens.model_bridge import TransformerBridge
from transformer_lens.model_bridge.sources import build_bridge_config_from_hf
from transformer_lens.model_bridge.sources.transformers_driver import TransformersDriver

from nfcot_model.errors import UserError
from nfcot_model.hooks.adapter import ARCHITECTURE
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

    def run_with_cache(self, input: Any, *args: Any, **kwargs: Any) -> Any:
        """As TransformerLens's, but nothing is lost in silence.

        Raises UserError when a requested hook does not exist, does not fire or fires more than
        once, and for `stop_at_layer` on a key-value cache. Cached tensors are copies.
        """
        if kwargs.get("stop_at_layer") is not None and kwargs.get("past_key_values") is not None:
            raise UserError("stop_at_layer with past_key_values leaves a ragged cache; use one")
        names = kwargs.get("names_filter")
        wanted = [names] if isinstance(names, str) else names
        if wanted is not None and not callable(wanted):
            self.check_names(wanted)
        count: Counter[str] = Counter()

        def counting(tensor: Tensor, hook: Any) -> None:
            count[hook.name] += 1

        chosen = (
            wanted if callable(wanted) else None if wanted is None else set(wanted).__contains__
        )
        with self.hooks(fwd_hooks=[(chosen or (lambda name: True), counting)]):
            out, cache = super().run_with_cache(input, *args, **kwargs)
        self._check_fired(wanted, count)
        tensors = cache.cache_dict if isinstance(cache, ActivationCache) else cache
        for name, tensor in tensors.items():
            tensors[name] = tensor.clone() if isinstance(tensor, Tensor) else tensor
        if isinstance(cache, ActivationCache):
            cache = ThoughtCache(tensors, self, has_batch_dim=cache.has_batch_dim)
        return out, cache

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

    def _check_fired(
        self, wanted: Sequence[str] | Callable[[str], bool] | None, count: Counter[str]
    ) -> None:
        if wanted is not None and not callable(wanted):
            silent = [name for name in wanted if not count[self.hook_dict[name].name]]
            if silent:
                raise UserError(
                    f"{', '.join(silent)} did not fire in this pass"
                    " (embed.* is silent when embeddings are given: read blocks.0.hook_in)"
                )
        elif callable(wanted) and not count:
            raise UserError("names_filter matches no hook that fires in this pass")
        often = [name for name, times in count.items() if times > 1]
        if often and wanted is not None:
            raise UserError(
                f"{', '.join(often)} fired {count[often[0]]} times: a cache keeps the last only;"
                " append in a hook instead (bridge.hooks)"
            )


class _Streaming(NFCoTModel):
    """The same model, called for its stream of logits instead of its training loss."""

    def forward(self, input_ids: Tensor | None = None, **inputs: Any) -> Any:  # type: ignore[override]
        return self.backbone(input_ids=input_ids, **inputs)


def hooked(model: NFCoTModel) -> ThoughtBridge:
    """Where can I look into this model, and how do I change what I see?

    Returns a TransformerLens bridge over a copy that shares every weight with `model`; `model`
    itself is left as it was (`save_pretrained` and fast attention included). Besides the hooks of
    the backbone there are those of `projection`, `nf_head` and `flow` (`nfcot_model.hooks.sites`).
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
    try:
        adapter = ArchitectureAdapterFactory.select_architecture_adapter(cfg)
    except ValueError as error:
        raise UserError(f"{cfg.original_architecture}: {error}; it cannot be hooked") from None
    adapter.prepare_model(twin)
    bridge = ThoughtBridge(twin, adapter, None, driver=TransformersDriver(twin, adapter, None))
    return bridge.eval()
