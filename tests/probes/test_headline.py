"""Headlines: what the controls leave of a figure, the worst news first."""

from __future__ import annotations

import math
from typing import Any

import pytest

from probes.controls.compare import Control
from probes.controls.panel import CONTROLS
from probes.headline import headline
from probes.intervals import Estimate
from probes.permutations import Permutation

NAN = float("nan")
NONE = Estimate(NAN, NAN, NAN)
GOOD = {"auroc": Estimate(0.9, 0.85, 0.94), "accuracy": Estimate(0.8, 0.7, 0.9)}
ALL = (*CONTROLS, "control_task", "shuffled_labels", "majority_class")


def permuted(p: float | None = 0.001) -> Permutation:
    reason = "all held-out labels are equal" if p is None else None
    return Permutation("auroc", 0.9, p, None if p is None else 0.6, 999, 0, reason)


def control(name: str, low: float = 0.2, high: float = 0.5, metric: str = "auroc") -> Control:
    value = {metric: Estimate(0.55, 0.5, 0.6)}
    return Control(name, "", value, {metric: Estimate((low + high) / 2, low, high)})


def missing(name: str) -> Control:
    return Control(name, "", {}, {}, "its model cannot be loaded")


def said(*controls: Control, kind: str = "binary", p: float | None = 0.001, **other: Any) -> str:
    return headline(kind, other.get("metrics", GOOD), list(controls), permuted(p))


def test_a_probe_that_beats_every_control_says_so() -> None:
    found = said(*map(control, ALL))
    assert found == "auroc 0.900 [0.850, 0.940]; better than every control"


@pytest.mark.parametrize(
    ("name", "verdict"),
    [
        ("prompt_words", "reads the prompt"),
        ("prompt_state", "reads the prompt"),
        ("prompt_embedding", "reads the prompt"),
        ("length_position", "reads length and position"),
        ("untrained", "reads what an untrained model shows too"),
        ("random_features", "reads no more than noise of the same width"),
        ("control_task", "may know thoughts by heart"),
        ("decoded_text", "reads no more than the decoded text says"),
    ],
)
@pytest.mark.parametrize("low", [-0.1, 0.0])
def test_a_control_that_is_not_beaten_is_named(name: str, verdict: str, low: float) -> None:
    """Also when its interval only touches zero."""
    found = said(*(control(n, low if n == name else 0.2, 0.5) for n in ALL))
    assert found == f"{verdict} ({name} 0.550 alone): auroc 0.900 [0.850, 0.940]"


def test_all_that_are_not_beaten_are_named_the_prompt_first() -> None:
    found = said(*(control(n, -0.1, 0.1) for n in reversed(ALL)))
    order = ["prompt", "length", "untrained", "noise", "by heart", "decoded text"]
    places = [found.index(word) for word in order]
    assert places == sorted(places)
    assert found.startswith("reads the prompt (prompt_words 0.550, prompt_state 0.550, prompt_emb")


def test_labels_exchanged_come_before_all_controls() -> None:
    found = said(control("prompt_words", -0.1, 0.1), p=0.051)
    assert found.startswith("reads nothing: auroc 0.900 [0.850, 0.940] is no better than permuted")
    assert found.endswith("(p 0.051)")
    assert said(control("prompt_words"), p=0.05).endswith("better than every control")


def test_without_a_p_value_the_controls_still_speak() -> None:
    assert said(control("prompt_words", -0.1, 0.1), p=None).startswith("reads the prompt")


def test_controls_that_are_not_there_accuse_nobody_and_are_named() -> None:
    found = said(control("prompt_words"), missing("untrained"), missing("prompt_state"))
    assert found.endswith("better than every control (not available: untrained, prompt_state)")
    assert said(missing("untrained"), control("prompt_words", -1, 0)).startswith("reads the prompt")


def test_without_controls_nothing_is_claimed() -> None:
    assert said() == "auroc 0.900 [0.850, 0.940]; no controls were asked for"


@pytest.mark.parametrize("kind", ["binary", "multiclass"])
def test_accuracy_speaks_where_classes_are_too_rare(kind: str) -> None:
    metrics = GOOD | {"auroc": NONE, "balanced_accuracy": NONE}
    beaten = control("prompt_words", metric="accuracy")
    assert said(beaten, kind=kind, metrics=metrics).startswith("accuracy 0.800 [0.700, 0.900]; bet")
    level = control("prompt_words", -0.1, 0.1, "accuracy")
    assert "reads the prompt" in said(level, kind=kind, metrics=metrics)


def test_errors_are_better_when_smaller() -> None:
    metrics = {"r2": NONE, "mae": Estimate(1.0, 0.9, 1.1)}
    better = control("prompt_words", -0.4, -0.1, "mae")
    assert "better than every control" in said(better, kind="number", metrics=metrics)
    for low, high in ((-0.4, 0.0), (0.1, 0.4)):
        level = control("prompt_words", low, high, "mae")
        assert said(level, kind="number", metrics=metrics).startswith("reads the prompt")
    r2 = {"r2": Estimate(0.5, 0.4, 0.6), "mae": Estimate(1.0, 0.9, 1.1)}
    assert said(control("untrained", metric="r2"), kind="number", metrics=r2).startswith("r2 0.500")


def test_a_difference_without_an_interval_is_not_called_better() -> None:
    """A single test group has values but no interval."""
    metrics = {"auroc": Estimate(0.9, math.nan, math.nan), "accuracy": Estimate(0.8, 0.7, 0.9)}
    unsure = control("prompt_words", NAN, NAN)
    found = said(unsure, metrics=metrics)
    assert found.endswith("compared with no control (not available: prompt_words)")
    found = said(unsure, control("untrained"), metrics=metrics)
    assert found.endswith("better than every control (not available: prompt_words)")
