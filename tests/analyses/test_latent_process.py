"""The battery on the synthetic process gives the published figures: a part of the benchmark."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from analyses.battery import Battery, fit_battery
from analyses.calibrate import conformal_p
from analyses.latent_process import ANOMALIES, LatentProcess, Scorer

N = 250
# Published AUROC of anomalies by statistic.
PUBLISHED = {
    "swap 1 thought": {
        "score": 0.86, "max_step": 0.88, "typ_energy": 0.70, "ad": 0.55, "lag1": 0.55, "maha": 0.49,
        "knn": 0.49,
    },
    "wrong prompt": {"score": 1.0, "typ_energy": 0.99, "psd_cv": 0.55, "maha": 0.50},
    "collapse tau .5": {
        "score": 1.0, "nll": 0.0, "typ_energy": 1.0, "drift": 0.03, "lag1": 0.18, "psd_cv": 0.52,
        "maha": 0.03,
    },
    "offset in-manif.": {"score": 0.50, "max_step": 0.51, "drift": 0.50, "cov_dev": 0.50},
    "serial rho .3": {
        "score": 1.0, "lag1": 1.0, "psd_cv": 1.0, "nll": 0.49, "typ_energy": 0.53, "ad": 0.61,
        "cov_dev": 0.89, "drift": 0.93,
    },
    "energy-matched": {
        "score": 1.0, "nll": 0.50, "typ_energy": 0.50, "max_step": 0.50, "drift": 1.0,
        "ad": 0.89, "psd_cv": 1.0, "lag1": 1.0,
    },
    "stuck x8": {
        "score": 1.0, "typ_energy": 0.69, "ad": 0.79, "psd_cv": 0.99, "lag1": 1.0, "maha": 0.94,
    },
    "noise 1": {
        "score": 1.0, "typ_energy": 1.0, "psd_cv": 0.26, "lag1": 0.66, "maha": 0.91,
    },
}  # fmt: skip


@pytest.fixture(scope="module")
def made() -> tuple[LatentProcess, Scorer, Battery, dict[str, np.ndarray]]:
    process = LatentProcess(0)
    scorer = process.learn(process.draw(600))
    battery = fit_battery(scorer.noise(process.draw(500), "r"))
    clean = battery.score(scorer.noise(process.draw(600), "c")).trajectories
    return process, scorer, battery, {name: clean[name].to_numpy() for name in battery.names} | {
        "score": clean["score"].to_numpy()
    }  # fmt: skip


def test_the_scorer_inverts_its_own_samples(made: tuple) -> None:
    process, scorer, *_ = made
    clean = process.draw(20)
    eps = process.rng.normal(size=clean.u.shape)
    np.testing.assert_allclose(scorer.eps(scorer.sample(eps, clean.q, clean.hard)), eps, atol=1e-8)
    noise = scorer.eps(process.draw(100)).reshape(-1, 32)
    assert np.abs(np.cov(noise.T) - np.eye(32)).max() < 0.12


@pytest.mark.parametrize("anomaly", PUBLISHED)
def test_statistics_see_what_they_are_published_to_see(made: tuple, anomaly: str) -> None:
    process, scorer, battery, clean = made
    strange = ANOMALIES[anomaly](process, scorer, process.draw(N))
    found = battery.score(scorer.noise(strange, "a")).trajectories
    for name, expected in PUBLISHED[anomaly].items():
        values = found[name].to_numpy()
        auroc = stats.mannwhitneyu(values, clean[name]).statistic / (N * clean[name].size)
        assert auroc == pytest.approx(expected, abs=0.1), name
    if PUBLISHED[anomaly]["score"] == 1.0:
        assert np.mean(conformal_p(found["score"].to_numpy(), clean["score"]) <= 0.01) > 0.9


def test_the_thought_named_is_the_swapped_one_or_the_next(made: tuple) -> None:
    process, scorer, battery, _ = made
    clean = process.draw(N)
    swapped = ANOMALIES["swap 1 thought"](process, scorer, clean)
    place = np.abs(swapped.u - clean.u).sum(axis=2).argmax(axis=1)
    found = battery.score(scorer.noise(swapped, "a")).trajectories["peak_k"].to_numpy()
    assert np.mean(found == place) > 0.55
    assert np.mean((found == place) | (found == place + 1)) > np.mean(found == place)
