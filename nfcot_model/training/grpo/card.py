"""The model card of a checkpoint that policy gradient made."""

from __future__ import annotations

from typing import Any

from nfcot_model.training.grpo.settings import GRPOConfig

__all__ = ["card"]

_AGAINST = """
> **Warning: this model was trained against a reward that may be a monitor's score.** What the
> monitor says of this model is no evidence any more: the model was selected for passing it.
"""


def card(config: GRPOConfig, record: dict[str, Any], figures: dict[str, float]) -> str:
    """Markdown: what it started from, what it was rewarded for, what validation said."""
    problems = config.data.problems or ", ".join(config.data.worlds)
    size = f"{config.prompts} problems × {config.group} answers"
    steps = f"{config.steps // config.inner} of {size}, {config.inner} optimizer steps each"
    heat = f"tau {config.tau:g}, answers {config.temperature:g}, stops {config.stop_temperature:g}"
    rows = "\n".join(f"| {name} | {value:.4f} |" for name, value in figures.items())
    return f"""---
license: apache-2.0
library_name: transformers
tags: [nfcot, latent-reasoning, grpo]
---

# `{config.reasoner}`, trained further by policy gradient
{_AGAINST if record["trained_against_a_monitor"] else ""}
| | |
|---|---|
| start model | `{config.start}`, checkpoint hash {record["start_hash"]} |
| reward | {record["reward"]} |
| updates | {steps} |
| problems | {problems} |
| sampling | {heat} |
| seed | {config.seed} |

Everything else is under `grpo` in config.json. Last validation, on problems not trained on:

| figure | value |
|---|---|
{rows}
"""
