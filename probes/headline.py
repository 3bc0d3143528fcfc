"""What do the controls leave of a probe's figure? One sentence, the worst news first."""

from __future__ import annotations

import math
from collections.abc import Sequence

from probes.controls.compare import Control
from probes.controls.panel import PROMPT_ONLY
from probes.intervals import Estimate
from probes.permutations import Permutation

__all__ = ["HEADLINE_METRIC", "headline"]

HEADLINE_METRIC = {"binary": "auroc", "multiclass": "balanced_accuracy", "number": "r2"}
SIGNIFICANT = 0.05
LENGTH = "length_position"
# A control that is not beaten, and what the probe may then be doing.
SUSPECTS = (
    (PROMPT_ONLY, "reads the prompt"),
    ((LENGTH,), "reads length and position"),
    (("untrained",), "reads what an untrained model shows too"),
    (("random_features",), "reads no more than noise of the same width"),
    (("control_task",), "may know thoughts by heart"),
    (("decoded_text",), "reads no more than the decoded text says"),
    (("shuffled_labels",), "reads no more than labels of other groups"),
    (("majority_class",), "does no better than the shares of classes"),
)
LOOKED_AT = tuple(name for names, _ in SUSPECTS for name in names)


def headline(
    kind: str,
    metrics: dict[str, Estimate],
    controls: Sequence[Control],
    permutation: Permutation,
) -> str:
    """Which controls does the probe not beat, by the lower end of the paired 95 % interval?

    By AUROC, balanced accuracy or R², or accuracy where classes are too rare for these.
    """
    name = HEADLINE_METRIC[kind]
    if math.isnan(metrics[name].value):
        name = "accuracy" if kind != "number" else "mae"
    value = metrics[name]
    shown = f"{name} {value.value:.3f} [{value.low:.3f}, {value.high:.3f}]"
    found = {control.name: control for control in controls if control.name in LOOKED_AT}
    # the p-value is about what is read beyond lengths: a probe of lengths has its own verdict
    enough = 1 + permutation.permutations >= 1 / SIGNIFICANT
    chance = found.get("majority_class")
    above = value.low > 0 if chance is None else _beaten(chance, name)
    only_length = above and LENGTH in found and not _beaten(found[LENGTH], name)
    alike = permutation.p_value is not None and permutation.p_value > SIGNIFICANT
    if enough and alike and not only_length:
        return (
            f"reads nothing: {shown} is no better than permuted labels"
            f" (p {permutation.p_value:.3f})"
        )
    verdicts = []
    for names, verdict in SUSPECTS:
        unbeaten = [found[n] for n in names if n in found and not _beaten(found[n], name)]
        if unbeaten:
            figures = ", ".join(f"{c.name} {c.metrics[name].value:.3f}" for c in unbeaten)
            verdicts.append(f"{verdict} ({figures} alone)")
    if verdicts:
        return f"{'; '.join(verdicts)}: {shown}"
    if not found:
        return f"{shown}; no controls were asked for"
    left_out = [c.name for c in found.values() if not _comparable(c, name)]
    without = f" (not available: {', '.join(left_out)})" if left_out else ""
    if len(left_out) == len(found):
        return f"{shown}; compared with no control{without}"
    return f"{shown}; better than every control{without}"


def _comparable(control: Control, name: str) -> bool:
    """Is there a difference with an interval? Not where the control, or its figure, is missing."""
    return name in control.difference and not math.isnan(control.difference[name].low)


def _beaten(control: Control, name: str) -> bool:
    """Controls that cannot be compared accuse nobody."""
    if not _comparable(control, name):
        return True
    less = control.difference[name]
    return less.high < 0 if name == "mae" else less.low > 0
