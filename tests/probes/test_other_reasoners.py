"""Probes and audits on runs of every kind: they work, or say plainly what is missing."""

from __future__ import annotations

from pathlib import Path

import pytest

from analyses.audit import audit_run
from nfcot_model.errors import UserError
from nfcot_model.traces import Run, collect, read_run
from probes.fit import fit_probe, save_probe
from tests.tiny import digits, tiny_baseline


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Run]:
    folder = tmp_path_factory.mktemp("runs")
    found = {}
    for kind in ("text", "direct", "pause", "coconut", "codi", "looped"):
        collect(tiny_baseline(kind), digits(120), folder / kind, activations="thoughts")
        found[kind] = read_run(folder / kind)
    return found


@pytest.mark.parametrize(
    ("kind", "label"),
    [("coconut", "operation"), ("text", "operation"), ("codi", "steps"), ("looped", "steps")],
)
def test_thoughts_of_other_kinds_can_be_probed(
    kind: str, label: str, runs: dict[str, Run], tmp_path: Path
) -> None:
    for site in ("u@0", "h@-1@0"):
        result = fit_probe(runs[kind], label, site)
        assert result.n > 100
        assert 0 <= result.metrics["accuracy"].value <= 1
    assert save_probe(result, tmp_path / "p")


def test_a_pause_says_nothing(runs: dict[str, Run]) -> None:
    result = fit_probe(runs["pause"], "steps", "u@0")
    majority = next(c for c in result.controls if c.name == "majority_class")
    assert result.metrics["accuracy"].low <= majority.metrics["accuracy"].value
    assert not runs["pause"].tensor("u").std(axis=0).any()


def test_what_is_missing_is_said(runs: dict[str, Run]) -> None:
    with pytest.raises(UserError, match="no trace of the run has a thought"):
        fit_probe(runs["direct"], "steps", "u@0")
    with pytest.raises(UserError, match="no tensor 'eps'; it has h, u"):
        fit_probe(runs["coconut"], "operation", "eps@0")
    for kind in ("coconut", "text"):
        with pytest.raises(UserError, match=f"'{kind}' thoughts have no density"):
            audit_run(runs[kind], runs[kind], 0.05)
