"""Retrofit flows: an exact conditional density, honest about its fit, read by audits as it is."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from analyses.audit import audit_run
from analyses.battery.source import run_noise
from analyses.report import write_audit
from nfcot_model.cli import main
from nfcot_model.config import FlowConfig
from nfcot_model.errors import UserError
from nfcot_model.retrofit.artifact import load_retrofit, save_retrofit
from nfcot_model.retrofit.fit import FitSettings, Quality, fit_retrofit
from nfcot_model.retrofit.flow import RetrofitFlow
from nfcot_model.retrofit.scoring import score_into
from nfcot_model.traces import Run, check_run, collect, read_run
from nfcot_model.worlds import write_problems
from tests.synthetic_run import synthetic_run
from tests.tiny import digits, tiny_baseline

QUICK = FitSettings(steps=150, lr=3e-3, features=32, blocks=2, d_model=16, heads=2, noise=0.05)


def moved(order: str, D: int = 3, features: int = 5) -> RetrofitFlow:
    """A random flow away from the identity, with a whitening of its own."""
    torch.manual_seed(0)
    config = FlowConfig(order=order, blocks=3, d_model=8, heads=2)
    flow = RetrofitFlow(D, features, config, 4)
    with torch.no_grad():
        for block in flow.flow.blocks:
            block.out.weight.normal_(std=0.3)
            block.out.bias.normal_(std=0.3)
    flow.fit_whitening(torch.randn(50, D) @ torch.randn(D, D) + 1)
    return flow.double()


@pytest.mark.parametrize("order", ["causal", "alternating"])
def test_the_density_is_exact(order: str) -> None:
    """log p is that of the base Gaussian plus log|det| of autograd's Jacobian, per condition."""
    flow = moved(order)
    mask = torch.tensor([[True, True, True, False]])
    u = torch.randn(1, 4, 3).double()
    for features in (torch.zeros(1, 5).double(), torch.randn(1, 5).double()):

        def eps_of(flat: torch.Tensor, features: torch.Tensor = features) -> torch.Tensor:
            padded = torch.cat([flat.view(1, 3, 3), u[:, 3:]], dim=1)
            return flow(flow.whiten(padded), mask, features).eps[0, :3].flatten()

        jacobian = torch.autograd.functional.jacobian(eps_of, u[0, :3].flatten())
        scores = flow(flow.whiten(u), mask, features)
        eps = scores.eps[0, :3]
        base = -0.5 * eps.square().sum() - 0.5 * 9 * math.log(2 * math.pi)
        expected = base + torch.linalg.slogdet(jacobian)[1]
        torch.testing.assert_close(scores.logp.sum(), expected)
        assert (scores.eps[0, 3] == 0).all()
        assert scores.logp[0, 3] == 0


def test_the_condition_matters_and_padding_does_not() -> None:
    flow = moved("alternating")
    x, mask = torch.randn(1, 2, 3).double(), torch.ones(1, 2, dtype=torch.bool)
    features = torch.randn(1, 5).double()
    alone = flow(x, mask, features)
    wide = torch.cat([x, 9 * torch.ones(1, 2, 3).double()], dim=1)
    padded = flow(wide, torch.tensor([[True, True, False, False]]), features)
    torch.testing.assert_close(padded.eps[:, :2], alone.eps)
    assert not torch.allclose(flow(x, mask, features + 1).eps, alone.eps)


@pytest.fixture(scope="module")
def gaussian(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Thoughts that are one Gaussian around a mean that their place tells."""
    folder = tmp_path_factory.mktemp("runs")
    options = {"manifest": {"scorer": "none"}, "signal": False}
    return synthetic_run(folder / "g", n=400, D=4, steps=(2, 3), seed=5, **options)


def test_a_density_that_it_can_express_is_fitted_and_calibrated(gaussian: Run) -> None:
    quality = fit_retrofit(gaussian, replace(QUICK, steps=60)).quality
    truth = (
        gaussian.tensor("log_sigma").mean() + math.log(0.7) + 0.5 * math.log(2 * math.pi * math.e)
    )
    assert quality.nll == pytest.approx(float(truth), abs=0.1)
    assert quality.warnings == []
    assert quality.ks < 0.05


def test_heavy_tails_and_shifts_are_warned_of(gaussian: Run) -> None:
    flow = fit_retrofit(gaussian, replace(QUICK, steps=5, noise=2.0)).quality
    assert any("variance" in words for words in flow.warnings)
    fine = Quality(1.0, 0.9, 1.5, 0.0, 1.0, 0.01, 0.02, 100, 10)
    assert fine.warnings == []
    for change, named in (
        ({"ks": 0.2}, "KS"),
        ({"mean": 0.5}, "mean"),
        ({"nll_train": 0.2}, "more traces"),
        ({"nll": 1.6, "nll_train": 1.5}, "worse than one Gaussian"),
        ({"ks": float("nan")}, "KS"),
    ):
        assert any(named in words for words in replace(fine, **change).warnings), change


def test_few_groups_are_refused(tmp_path) -> None:
    run = synthetic_run(tmp_path / "r", n=10, manifest={"scorer": "none"})
    with pytest.raises(UserError, match=r"10 problem groups have thoughts, .* needs 20"):
        fit_retrofit(run, QUICK)


@pytest.fixture(scope="module")
def coconut(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Run]:
    folder = tmp_path_factory.mktemp("coconut")
    reasoner = tiny_baseline("coconut")
    runs = {}
    for i, name in enumerate(("fitted", "clean", "test")):
        collect(reasoner, digits(64, seed=10 + i), folder / name)
        runs[name] = read_run(folder / name)
    return runs


def test_a_scored_run_is_audited_as_any_other(coconut: dict[str, Run], tmp_path) -> None:
    document = save_retrofit(
        fit_retrofit(coconut["fitted"], QUICK), coconut["fitted"], tmp_path / "f"
    )
    assert document["scorer"] == "retrofit"
    retrofit = load_retrofit(tmp_path / "f")
    scored = {}
    for name in ("clean", "test"):
        done = score_into(retrofit, coconut[name], tmp_path / name)
        assert done.traces == len(coconut[name].traces)
        again = score_into(retrofit, coconut[name], tmp_path / name)
        assert again == done, "it resumes"
        assert check_run(tmp_path / name).whole
        scored[name] = read_run(tmp_path / name)
    run = scored["test"]
    assert run.scorer == "retrofit"
    np.testing.assert_array_equal(run.tensor("u"), coconut["test"].tensor("u"))
    energy = 0.5 * np.square(run.tensor("eps").astype(np.float64)).sum(-1)
    np.testing.assert_allclose(run.thoughts["energy"], energy, rtol=1e-5)
    audit = audit_run(run, scored["clean"], 0.2)
    summary = audit.summary
    assert summary["scorer"] == summary["scored"]["scorer"] == "retrofit"
    np.testing.assert_allclose(audit.thoughts["nll"], -run.thoughts["logp"], rtol=1e-4, atol=1e-4)
    memory, disk = run_noise(run), run_noise(run.path)
    np.testing.assert_array_equal(memory.x, disk.x)
    np.testing.assert_array_equal(memory.logvol, disk.logvol)
    write_audit(audit, tmp_path / "audit")
    report = (tmp_path / "audit" / "audit.md").read_text()
    assert "a flow fitted afterwards" in report
    assert "(u - mu) / sigma" not in report
    assert json.dumps(summary)
    with pytest.raises(UserError, match="no density"):
        audit_run(coconut["test"], coconut["clean"], 0.2)
    other = fit_retrofit(coconut["fitted"], replace(QUICK, seed=1))
    save_retrofit(other, coconut["fitted"], tmp_path / "g")
    score_into(load_retrofit(tmp_path / "g"), coconut["clean"], tmp_path / "mixed")
    with pytest.raises(UserError, match="reasoner is 'coconut\\+retrofit:"):
        audit_run(run, read_run(tmp_path / "mixed"), 0.2)


def test_what_the_flow_was_fitted_on_is_said(coconut: dict[str, Run], tmp_path) -> None:
    fit = fit_retrofit(coconut["fitted"], replace(QUICK, steps=2))
    save_retrofit(fit, coconut["fitted"], tmp_path / "f")
    retrofit = load_retrofit(tmp_path / "f")
    assert score_into(retrofit, coconut["fitted"], tmp_path / "r").seen == len(fit.groups) > 0
    with pytest.raises(UserError, match="has a density of its own"):
        score_into(retrofit, read_run(tmp_path / "r"), tmp_path / "s")
    collect(tiny_baseline("coconut", seed=4), digits(4), tmp_path / "foreign")
    with pytest.raises(UserError, match=r"is of checkpoint .* fit one on a run of this model"):
        score_into(retrofit, read_run(tmp_path / "foreign"), tmp_path / "s")
    assert not (tmp_path / "s").exists()
    weights = tmp_path / "f" / "flow.safetensors"
    weights.write_bytes(weights.read_bytes()[:-4])
    with pytest.raises(UserError, match="damaged"):
        load_retrofit(tmp_path / "f")
    with pytest.raises(UserError, match=r"holds no retrofit\.json"):
        load_retrofit(tmp_path / "none")


@pytest.mark.parametrize(
    ("scorer", "arguments", "message"),
    [
        ("self", "", "has a density of its own (scorer self)"),
        ("none", "-o p.jsonl", "-o p.jsonl: is a file; give a folder"),
        ("none", "--noise inf", "Invalid value for '--noise'"),
        ("none", f"--seed {2**70}", "Invalid value for '--seed'"),
    ],
)
def test_what_cannot_be_fitted_is_refused_before_it_is_tried(
    tmp_path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    scorer: str,
    arguments: str,
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    synthetic_run(tmp_path / "r", n=30, manifest={"scorer": scorer})
    (tmp_path / "p.jsonl").touch()
    with pytest.raises(SystemExit) as stopped:
        main(f"run retrofit r --steps 1 {arguments}".split())
    assert stopped.value.code == 2
    assert message in capsys.readouterr().err
    assert sorted(p.name for p in tmp_path.iterdir()) == ["p.jsonl", "r"]


def test_the_commands_from_problems_to_a_scored_run(
    tmp_path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def told(line: str) -> tuple[str, str]:
        with pytest.raises(SystemExit) as stopped:
            main(line.split())
        out, err = capsys.readouterr()
        assert stopped.value.code == 0, err
        return out, " ".join(err.split())

    monkeypatch.chdir(tmp_path)
    tiny_baseline("coconut").save(tmp_path / "m")
    write_problems(tmp_path / "p.jsonl", digits(30, seed=3))
    assert "coconut draws no thoughts: recorded at tau 0" in told("trace m p.jsonl -o runs/c")[1]
    fitted, _ = told("run retrofit runs/c -o flow --steps 2 --json")
    assert json.loads(fitted)["quality"]["warnings"]
    _, said = told("run rescore runs/c --flow flow -o runs/s")
    assert "30 traces, 22 of groups it was fitted on; scorer: retrofit" in said
    assert "warning: held-out eps" in said
    assert json.loads(told("run fsck runs/s --json")[0])["traces"] == 30
    assert json.loads(told("show runs/s --json")[0])["replay_error_max"] == 0.0
