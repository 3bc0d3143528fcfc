"""The battery: known values under the scorer, planted changes found, ragged K never mixed up."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from analyses.battery import Battery, Noise, fit_battery
from analyses.battery.cycle import cycle_error, with_cycle_error
from analyses.battery.sequence import anderson_darling, cov_dev, drift, lag1, ljung_box, psd_cv
from nfcot_model.checkpoints import demo_path
from nfcot_model.errors import UserError
from nfcot_model.reasoners import load_reasoner
from nfcot_model.traces import collect, read_run
from nfcot_model.worlds import make_world
from tests.synthetic_run import synthetic_run
from tests.tiny import brief_reasoner

D = 16


def noise(n: int, seed: int, K: tuple[int, int] = (1, 8), **given: object) -> Noise:
    rng = np.random.default_rng(seed)
    counts = rng.integers(K[0], K[1] + 1, size=n)
    eps = rng.normal(size=(counts.sum(), D))
    logvol = 16 + rng.normal(size=counts.sum())
    return Noise.of(eps, counts, logvol=logvol, name=f"{seed}-", **given)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def battery() -> Battery:
    return fit_battery(noise(3000, 1), fit=noise(500, 2))


def auroc(clean: np.ndarray, strange: np.ndarray) -> float:
    return float(stats.mannwhitneyu(strange, clean).statistic / (clean.size * strange.size))


@pytest.mark.parametrize("K", [2, 4, 8, 64])
def test_sequence_statistics_have_the_same_law_at_any_length(K: int) -> None:
    X = np.random.default_rng(K).normal(size=(4000, K, 8))
    for statistic in (drift, cov_dev):
        values = statistic(X)
        assert abs(values.mean()) < 0.1
        assert 0.8 < values.std() < 1.2
    assert 0.7 < lag1(X).mean() / np.sqrt(2 / np.pi) < 1.1
    assert np.mean(anderson_darling(X) > 2.492) == (pytest.approx(0.05, abs=0.015))
    if K >= 4:
        assert abs(ljung_box(X).mean()) < 0.15
        assert abs(psd_cv(X).mean()) < 0.25


def test_anderson_darling_is_scipys_formula() -> None:
    x = np.random.default_rng(3).normal(size=(1, 20, 3)) * 1.3
    y = np.sort(x.ravel())
    n, i = y.size, np.arange(1, y.size + 1)
    cdf = stats.norm.cdf(y)
    by_hand = -n - np.mean((2 * i - 1) * (np.log(cdf) + np.log(1 - cdf[::-1])))
    assert anderson_darling(x)[0] == pytest.approx(by_hand)


def louder(x: np.ndarray) -> None:
    x *= 1.6


def quieter(x: np.ndarray) -> None:
    x *= 0.5


def one_loud(x: np.ndarray) -> None:
    x[len(x) // 2] *= 3


def leaning(x: np.ndarray) -> None:
    x += 0.7


def stuck(x: np.ndarray) -> None:
    x[:] = x[0] + 0.3 * (x - x[0])
    x *= np.sqrt(D / np.square(x).mean(axis=1, keepdims=True) / D)


def alternating(x: np.ndarray) -> None:
    x += 0.8 * (-1.0) ** np.arange(len(x))[:, None]


@pytest.mark.parametrize(
    ("change", "statistic"),
    [
        (louder, "typ_energy"),
        (quieter, "typ_energy"),
        (quieter, "max_step"),
        (one_loud, "max_step"),
        (one_loud, "max_roll4"),
        (louder, "ad"),
        (leaning, "drift"),
        (stuck, "lag1"),
        (alternating, "psd_cv"),
        (stuck, "ljung_box"),
        (stuck, "cov_dev"),
        (louder, "typ_top"),
        (louder, "typ_rest"),
        (one_loud, "max_proj_step"),
        (louder, "nll"),
    ],
)
def test_each_statistic_sees_its_own_plant_and_not_the_null(
    battery: Battery, change: Callable[[np.ndarray], None], statistic: str
) -> None:
    clean, strange, null = (noise(400, seed, K=(6, 8)) for seed in (10, 11, 12))
    for start, K in zip(strange.first, strange.K, strict=True):
        change(strange.x[start : start + K])
    values = [battery.score(s).trajectories for s in (clean, strange, null)]
    usual, planted, again = (frame[statistic].to_numpy() for frame in values)
    assert auroc(usual, planted) > 0.85
    assert 0.42 < auroc(usual, again) < 0.58
    if change is not leaning:
        combined = [frame["score"].to_numpy() for frame in values]
        assert auroc(combined[0], combined[1]) > 0.85
        assert 0.42 < auroc(combined[0], combined[2]) < 0.58


def test_one_sided_likelihood_misses_collapse(battery: Battery) -> None:
    clean, strange = noise(400, 10), noise(400, 11)
    strange.x[:] *= 0.5
    frames = [battery.score(s).trajectories for s in (clean, strange)]
    assert auroc(*(frame["nll"].to_numpy() for frame in frames)) < 0.1
    assert auroc(*(frame["score"].to_numpy() for frame in frames)) > 0.9


@settings(max_examples=8, deadline=None)
@given(seed=st.integers(0, 1000), n=st.integers(1, 8))
def test_a_trajectory_scores_the_same_alone_and_among_others(
    battery: Battery, seed: int, n: int
) -> None:
    batch = noise(n, 5000 + seed)
    together = battery.score(batch)
    for i in range(n):
        alone = battery.score(batch.take(np.arange(n) == i))
        for whole, own in (
            (together.trajectories, alone.trajectories),
            (together.thoughts, alone.thoughts),
        ):
            mine = whole[whole["trace_id"] == batch.ids[i]].reset_index(drop=True)
            numbers = own.select_dtypes("number").columns
            np.testing.assert_allclose(mine[numbers], own[numbers], rtol=1e-9, atol=1e-9)


def test_what_is_too_short_is_neutral_and_counted(battery: Battery) -> None:
    batch = noise(50, 30, K=(1, 1))
    scores = battery.score(batch)
    short = {"max_roll4", "lag1", "ljung_box", "psd_cv", "cov_dev"}
    assert {name for name, count in scores.undefined.items() if count} == short
    assert all(scores.undefined[name] == 50 for name in short)
    assert (scores.trajectories["undefined"] == len(short)).all()
    for name in short:
        assert scores.trajectories[name].nunique() == 1
        assert (scores.trajectories["leading"] != name).all()
    assert np.isfinite(scores.trajectories["score"]).all()


def test_what_is_not_a_number_is_invalid_and_spoils_nobody_else(battery: Battery) -> None:
    batch = noise(40, 31)
    expected = battery.score(batch)
    for i, value in ((3, np.nan), (7, np.inf), (9, 1e200)):
        batch.x[batch.first[i]] = value
    scores = battery.score(batch)
    others = ~np.isin(np.arange(40), [3, 7, 9])
    assert scores.trajectories["invalid"].tolist() == (~others).tolist()
    assert np.isinf(scores.trajectories.loc[~others, [*scores.statistics, "score"]]).all(axis=None)
    left, right = (s.trajectories[others].select_dtypes("number") for s in (scores, expected))
    np.testing.assert_allclose(left, right)
    assert len(scores.thoughts) == len(batch.x)
    with pytest.raises(UserError, match="31-3 has an energy that is not a number"):
        fit_battery(batch)


def test_a_trajectory_without_thoughts_is_invalid(battery: Battery) -> None:
    batch = Noise.of(np.random.default_rng(0).normal(size=(5, D)), np.array([0, 2, 0, 3]))
    scores = battery.score(batch).trajectories
    assert scores["invalid"].tolist() == [True, False, True, False]
    assert scores["peak_k"].tolist()[0] == -1


def test_positions_and_tasks_have_their_own_usual(battery: Battery) -> None:
    def batch(n: int, seed: int) -> Noise:
        rng = np.random.default_rng(seed)
        tasks = np.array(["easy", "hard"], dtype=object)[rng.integers(2, size=n)]
        scale = np.where(np.repeat(tasks, 4) == "hard", 1.3, 1.0)
        scale *= np.where(np.tile(np.arange(4), n) == 0, 1.5, 1.0)
        eps = rng.normal(size=(4 * n, D)) * scale[:, None]
        return Noise.of(eps, np.full(n, 4), tasks=tasks, name=f"{seed}-")

    fitted = fit_battery(batch(4000, 1))
    scores = fitted.score(batch(2000, 2))
    z = scores.thoughts.assign(task=np.repeat(batch(2000, 2).tasks, 4)).groupby(["k", "task"])["z"]
    assert (z.mean().abs() < 0.12).all()
    assert z.std().between(0.9, 1.1).all()
    assert "task hard, K 4-5" in fitted.quantiles.values


def test_directions_and_features_are_optional_statistics() -> None:
    probe = np.eye(D)[2] * 4

    def batch(n: int, seed: int) -> Noise:
        part = noise(n, seed, K=(4, 8))
        place = np.outer(part.k, [0, 0, 0, 2.0, 0])
        return Noise.of(part.x, part.K, features=part.x[:, :5] + 3 + place, name=part.ids[0])

    fitted = fit_battery(batch(800, 3), directions={"intent": probe})
    clean, strange = batch(300, 4), batch(300, 5)
    strange.x[:, 2] += 1.0
    strange.features[:, 0] -= 3.0  # type: ignore[index]
    strange.features[:, 3] += 4.0  # type: ignore[index]
    usual, planted = (fitted.score(s) for s in (clean, strange))
    for name in ("dir:intent", "maha", "knn", "rel_maha"):
        assert auroc(usual.trajectories[name], planted.trajectories[name]) > 0.8
    assert planted.thoughts["dir:intent"].mean() == pytest.approx(1.0, abs=0.1)
    with pytest.raises(ValueError, match="direction"):
        fit_battery(clean, directions={"none": np.zeros(D)})


def test_a_few_dimensions_of_a_wide_thought_are_seen_in_their_block() -> None:
    """Two dimensions of one thought in 320: the energy of the thought hardly moves."""

    def wide(n: int, seed: int) -> Noise:
        counts = np.full(n, 3)
        x = np.random.default_rng(seed).normal(size=(3 * n, 320))
        x[:, 64:128] *= 1.2  # a misfit that clean noise has too
        return Noise.of(x, counts, name=f"{seed}-")

    fitted = fit_battery(wide(800, 1), fit=wide(300, 2))
    assert "max_block" in fitted.names
    clean, strange = wide(400, 3), wide(400, 4)
    strange.x[::3, 200:202] += 4.5
    usual, planted = (fitted.score(s).trajectories for s in (clean, strange))
    null = fitted.score(wide(400, 5)).trajectories
    seen = {name: auroc(usual[name], planted[name]) for name in ("max_block", "max_step")}
    assert seen["max_block"] > 0.85
    assert seen["max_block"] > seen["max_step"] + 0.1
    assert 0.43 < auroc(usual["max_block"], null["max_block"]) < 0.57
    assert "max_block" not in fit_battery(noise(100, 6)).names


def test_a_run_and_its_arrays_score_alike(tmp_path: Path) -> None:
    reference = synthetic_run(tmp_path / "reference", n=150, D=D, seed=1, activations=6)
    run = synthetic_run(tmp_path / "run", n=100, D=D, seed=2, activations=6)
    fitted = fit_battery(reference, features="h")
    scores = fitted.score(run)
    assert scores.trajectories["trace_id"].tolist() == run.traces["trace_id"].tolist()
    np.testing.assert_allclose(scores.thoughts["energy"], run.thoughts["energy"], rtol=1e-4)
    np.testing.assert_allclose(scores.thoughts["logvol"], run.thoughts["logvol"], rtol=1e-5)
    assert scores.trajectories["replay_err"].max() < 1e-3
    eps = (run.tensor("u") - run.tensor("mu")) * np.exp(-run.tensor("log_sigma").astype("f8"))
    arrays = Noise.of(eps, run.traces["K"].to_numpy(), tau=0.7)
    plain = fit_battery(reference).score(arrays).trajectories
    np.testing.assert_allclose(plain["max_step"], scores.trajectories["max_step"], rtol=1e-4)
    assert scores.scored["scorer"] == "self"
    assert scores.scored["tau"] == 0.7
    assert {"maha", "rel_maha", "knn"} <= set(scores.statistics)


def test_mixed_tau_in_one_run_is_refused(tmp_path: Path) -> None:
    run = synthetic_run(tmp_path / "run", n=70, D=D, seed=2)
    run.traces.loc[66, "tau"] = 0.9
    with pytest.raises(UserError, match=r"mixed tau, trace .* says 0.9 and the manifest 0.7"):
        fit_battery(run)


def test_cycle_error_is_small_for_texts_and_large_for_what_is_none(tmp_path: Path) -> None:
    model = load_reasoner(demo_path())
    problems = make_world("digits", "test", 3, 12)
    collect(model, problems, tmp_path / "run", tau=0.5, seed=1)
    run = read_run(tmp_path / "run")
    noise_of = with_cycle_error(run, model)
    own = noise_of.extra["cycle_err"]
    assert np.isfinite(own).all()
    K = noise_of.K
    u = run.tensor("u")
    strange = cycle_error(u + np.float32(2.0), K, model)
    assert strange.shape == (K.sum(),)
    assert np.nanmedian(strange) > 2 * np.median(cycle_error(u, K, model))
    written, mask = model.latents([list(p.steps) for p in problems])
    texts = model.from_latents(written, mask)
    exact = cycle_error(texts.u[mask].numpy(), mask.sum(-1).numpy(), model)
    assert np.median(exact) < 0.05
    fitted = fit_battery(noise_of, combine=("typ_energy", "cycle_err"))
    assert fitted.score(noise_of).trajectories["cycle_err"].tolist() == own.tolist()
    with pytest.raises(UserError, match="give the model that made the run"):
        with_cycle_error(run, brief_reasoner())
