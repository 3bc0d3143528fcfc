"""How TransformerLens finds its way through an NF-CoT model, over any backbone it knows.

Registered as `NFCoTModel` in the entry-point group `transformer_lens.architectures`.
"""

from __future__ import annotations

from typing import Any

import torch
from transformer_lens.conversion_utils.conversion_steps.base_tensor_conversion import (
    BaseTensorConversion,
)
from transformer_lens.factories.architecture_adapter_factory import ArchitectureAdapterFactory
from transformer_lens.model_bridge.architecture_adapter import ArchitectureAdapter
from transformer_lens.model_bridge.generalized_components import LinearBridge
from transformer_lens.model_bridge.generalized_components.base import GeneralizedComponent

__all__ = ["ARCHITECTURE", "nfcot_adapter"]

ARCHITECTURE = "NFCoTModel"


class _SigmaFromLog(BaseTensorConversion):
    """The head computes log sigma; hooks see and return sigma."""

    def handle_conversion(self, input_value: torch.Tensor, *context: Any) -> torch.Tensor:
        return torch.exp(input_value)

    def revert(self, input_value: torch.Tensor, *context: Any) -> torch.Tensor:
        return torch.log(input_value)


class _FlowBlocks(GeneralizedComponent):
    """One shallow block of a list of them."""

    is_list_item = True


def nfcot_adapter(cfg: Any) -> ArchitectureAdapter:
    """The adapter of the backbone, moved to its place in our model, with our parts beside it.

    `cfg.original_architecture` names the backbone's class. Raises ValueError when TransformerLens
    has no adapter for it, and for a configuration that `nfcot_model.hooks.hooked` did not make.
    """
    if getattr(cfg, "original_architecture", None) is None:
        raise ValueError("an NF-CoT model is hooked by nfcot_model.hooks.hooked(model)")
    cfg.architecture = cfg.original_architecture
    backbone = ArchitectureAdapterFactory.select_architecture_adapter(cfg)
    prepare = backbone.prepare_model
    backbone.prepare_model = lambda model: prepare(model.backbone)  # type: ignore[method-assign]
    mapping = backbone.get_component_mapping()
    for component in mapping.values():
        component.name = f"backbone.{component.name}"
    mapping |= {
        "projection": LinearBridge(name="projection"),
        "nf_head": GeneralizedComponent(
            name="nf_head",
            submodules={
                "mu": GeneralizedComponent(name="mu"),
                "sigma": GeneralizedComponent(name="sigma", conversion_rule=_SigmaFromLog()),
                "eps": GeneralizedComponent(name="eps"),
            },
        ),
        "flow": GeneralizedComponent(
            name="flow",
            submodules={
                "shallow": _FlowBlocks(
                    name="blocks",
                    submodules={
                        "x": GeneralizedComponent(name="x"),
                        "y": GeneralizedComponent(name="y"),
                    },
                ),
                "logdet": GeneralizedComponent(name="logdet"),
            },
        ),
    }
    if cfg.two_paths:
        mapping["answer_projection"] = LinearBridge(name="answer_projection")
    return backbone
