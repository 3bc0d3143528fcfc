"""Probes and audits on runs of every kind: they work, or say plainly what is missing."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from analyses.audit import audit_run
from analyses.battery import fit_battery
from analyses.calibrate import Rule
from analyses.clean import Identity, clean_set
from analyses.context.study import context_study
from analyses.encoded_study import encoded_study
from analyses.explain.explanation import explain_trace
from analyses.live_calibration import calibrate_live
from analyses.live_watch import watch
from analyses.reference import score_under
from analyses.scoring import stored_run
from nfcot_model.cli import main
from nfcot_model.errors import UserError
from nfcot_model.reasoners import NFCoTReasoner
from nfcot_model.reasoners.regressed import RegressedReasoner
from nfcot_model.traces import Run, collect, read_run
from nfcot_model.traces.model_of import model_of
from probes.artifact import save_probe
from probes.fit import Options, fit_probe
from probes.sites import available_sites, parse_site, real_site, sweep_sites
from tests.tiny import digits, tiny_baseline, tiny_reasoner

QUICK = Options(draws=100, permutations=19, controls=False)


def regressed() -> NFCoTReasoner:
    made = tiny_reasoner(reasoner="regressed")
    return RegressedReasoner(made.model, made.tokenizer, made.checkpoint_hash)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Run]:
    folder = tmp_path_factory.mktemp("runs")
    found = {}
    for kind in ("text", "direct", "pause", "coconut", "codi", "looped"):
        collect(tiny_baseline(kind), digits(120), folder / kind, activations="thoughts")
        found[kind] = read_run(folder / kind)
    collect(regressed(), digits(24), folder / "regressed")
    return found | {"regressed": read_run(folder / "regressed")}


@pytest.mark.parametrize(
    ("kind", "label"),
    [("coconut", "operation"), ("text", "operation"), ("codi", "steps"), ("looped", "steps")],
)
def test_thoughts_of_other_kinds_can_be_probed(
    kind: str, label: str, runs: dict[str, Run], tmp_path: Path
) -> None:
    for site in ("u@0", "h@-1@0"):
        result = fit_probe(runs[kind], label, site, QUICK)
        assert result.n > 100
        assert 0 <= result.metrics["accuracy"].value <= 1
    assert save_probe(result, tmp_path / "p")


def test_a_control_that_needs_an_nfcot_model_says_so(runs: dict[str, Run]) -> None:
    result = fit_probe(runs["coconut"], "steps", "u@0", Options(draws=100, permutations=19))
    reasons = {control.name: control.reason for control in result.controls}
    for name in ("prompt_state", "prompt_embedding", "untrained"):
        assert "is of the reasoner 'coconut', these controls need an NF-CoT model" in reasons[name]
    for name in ("prompt_words", "length_position", "random_features"):
        assert reasons[name] is None


def test_a_pause_says_nothing(runs: dict[str, Run]) -> None:
    result = fit_probe(runs["pause"], "steps", "u@0", QUICK)
    assert result.permutation.p_value is None or result.permutation.p_value > 0.05
    u = runs["pause"].tensor("u")
    assert (u == u[0]).all()


def test_sites_are_those_that_the_run_has(runs: dict[str, Run]) -> None:
    with pytest.raises(UserError, match="no trace of the run has a thought"):
        fit_probe(runs["direct"], "steps", "u@0")
    run = runs["coconut"]
    assert available_sites(run).startswith("u@K, h@-1@K with")
    assert {site.source for site in sweep_sites(run)} == {"u", "h@-1"}
    for space in ("eps", "mu"):
        with pytest.raises(UserError, match=f"coconut has no {space} .its thoughts have no dens"):
            real_site(run, parse_site(f"{space}@0"))
        with pytest.raises(UserError, match="existing sites: u@K, h@-1@K"):
            sweep_sites(run, [space])
    assert {site.source for site in sweep_sites(runs["regressed"])} == {"u", "e"}


@pytest.mark.parametrize("kind", ["coconut", "text", "regressed"])
def test_without_a_density_every_audit_says_so(kind: str, runs: dict[str, Run]) -> None:
    run = runs[kind]
    trace: str = run.traces["trace_id"].iloc[0]
    nfcot = tiny_reasoner()
    identity = Identity(run.name, run.settings, [], {})
    asks: list[Callable[[], object]] = [
        lambda: audit_run(run, run, 0.05),
        lambda: clean_set(run, Rule(alpha=0.05)),
        lambda: fit_battery(run),
        lambda: fit_battery(run.path),
        lambda: stored_run(run.path, identity),
        lambda: context_study(run, nfcot),
        lambda: explain_trace(run, nfcot, trace),
        lambda: encoded_study(run, nfcot),
        lambda: score_under(run, nfcot, nfcot),
        lambda: calibrate_live(run, 0.05),
    ]
    for ask in asks:
        with pytest.raises(UserError, match=f"'{kind}' thoughts have no density"):
            ask()
    with pytest.raises(UserError, match=f"is of the reasoner '{kind}', this needs"):
        model_of(run)


def test_a_regressed_model_is_not_watched() -> None:
    with pytest.raises(UserError, match="the reasoner 'regressed' has none"):
        watch(regressed(), ["add 3"], tau=0.7, noise_seeds=[0])


def test_commands_refuse_in_one_line(
    runs: dict[str, Run], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = runs["coconut"]
    trace = run.traces["trace_id"].iloc[0]
    tiny_baseline("coconut").save(tmp_path / "m")
    for line in (
        f"audit calibrate {run.path} -o {tmp_path}/c",
        f"audit run {run.path} --calibration {run.path} -o {tmp_path}/a",
        f"audit lambda {run.path}",
        f"audit reference {run.path} --reference {tmp_path}/m",
        f"audit live {tmp_path}/m {run.path}/problems.jsonl",
        f"audit text {run.path}",
        f"audit explain {run.path} {trace}",
        f"lens {run.path}",
        f"causal {run.path} -o {tmp_path}/x",
        f"activations {run.path}",
    ):
        with pytest.raises(SystemExit) as stopped:
            main(line.split())
        out, err = capsys.readouterr()
        assert (stopped.value.code, out) == (2, ""), line
        assert "coconut" in err, line
        assert "Traceback" not in err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["m"]
