"""Conformal p-values and their exact law; who may be in which half."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from analyses.battery import BatteryScores, Noise
from analyses.calibrate import (
    Rule,
    allowed_rank,
    clean_flag_range,
    conformal_p,
    fpr_band,
    guaranteed_rank,
    stop_threshold,
    traces_needed,
)
from analyses.decide import Decision, decide, false_share_bound, ppv
from analyses.ranks import Ranks, calibrate, one_per_group, rank_clean, split_groups
from nfcot_model.errors import UserError


def drawn(
    n: int,
    seed: int,
    *,
    D: int = 8,
    K: tuple[int, int] = (2, 6),
    samples: int = 1,
    tasks: tuple[str, ...] = ("digits",),
) -> Noise:
    """A batch drawn from the model itself; groups are named by seed, so seeds never share one."""
    rng = np.random.default_rng(seed)
    counts = rng.integers(K[0], K[1] + 1, size=n)
    kind = rng.integers(len(tasks), size=n)
    names = np.array([f"{seed}-{i}" for i in range(n)], dtype=object)
    return Noise(
        x=rng.normal(size=(counts.sum(), D)),
        K=counts,
        ids=names,
        groups=np.array([f"{seed}-{i // samples}" for i in range(n)], dtype=object),
        tasks=np.array(tasks, dtype=object)[kind],
    )


def decided(batch: Noise, ranks: Ranks, rule: Rule) -> Decision:
    return decide(ranks.battery.score(batch), ranks, rule)


def test_p_is_the_rank_with_ties_counted_against() -> None:
    clean = np.array([3.0, 1.0, 2.0, 2.0])
    scores = np.array([0.5, 2.0, 2.5, 9.0, np.inf])
    assert conformal_p(scores, clean).tolist() == [1.0, 0.8, 0.4, 0.2, 0.2]


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10_000), n=st.integers(5, 60), ties=st.booleans())
def test_p_is_super_uniform_for_exchangeable_scores(seed: int, n: int, ties: bool) -> None:
    rng = np.random.default_rng(seed)
    values = rng.normal(size=(4000, n + 1))
    values = values.round(1) if ties else values
    p = np.array([conformal_p(row[:1], row[1:])[0] for row in values])
    for alpha in (0.05, 0.2, 0.5):
        rate = np.mean(p <= alpha)
        assert rate <= alpha + 4.5 * np.sqrt(alpha * (1 - alpha) / 4000)
        if not ties:
            exact = allowed_rank(n, alpha) / (n + 1)
            assert rate >= exact - 4.5 * np.sqrt(0.25 / 4000)


def test_band_has_the_published_values() -> None:
    low, high = fpr_band(5000, 0.01)
    assert (round(100 * low, 2), round(100 * high, 2)) == (0.78, 1.24)
    low, high = fpr_band(1000, 0.01)
    assert (round(100 * low, 2), round(100 * high, 2)) == (0.54, 1.57)
    assert fpr_band(98, 0.01) == (0.0, 0.0)


@pytest.mark.parametrize(("alpha", "n"), [(0.01, 99), (0.001, 999), (0.05, 20), (0.5, 20)])
def test_needed_traces_are_just_enough(alpha: float, n: int) -> None:
    assert traces_needed(alpha) == n
    assert allowed_rank(n, alpha) >= 1
    if n > 20:
        assert allowed_rank(n - 1, alpha) == 0


def test_guaranteed_ranks_have_the_published_values() -> None:
    assert [guaranteed_rank(n, 0.01) for n in (1000, 5000, 10_000)] == [5, 39, 84]
    assert guaranteed_rank(298, 0.01) == 0
    assert guaranteed_rank(299, 0.01) == 1
    assert Rule(alpha=0.01, guaranteed=True).needed == 299


@settings(max_examples=40, deadline=None)
@given(n=st.integers(20, 3000), alpha=st.sampled_from([0.01, 0.05, 0.2]))
def test_a_guaranteed_rank_is_the_largest_that_keeps_its_word(n: int, alpha: float) -> None:
    rank = guaranteed_rank(n, alpha)
    assert rank <= allowed_rank(n, alpha)
    if rank:
        assert stats.beta.cdf(alpha, rank, n + 1 - rank) >= 0.95
    assert stats.beta.cdf(alpha, rank + 1, n - rank) < 0.95


def test_guaranteed_mode_keeps_the_rate_in_95_of_100_calibrations() -> None:
    rule, plain = Rule(alpha=0.05, guaranteed=True), Rule(alpha=0.05)
    rng = np.random.default_rng(0)
    broken = {rule: 0, plain: 0}
    for _ in range(600):
        clean = rng.normal(size=400)
        for asked in broken:
            limit = np.sort(clean)[-round(asked.threshold(400) * 401 - 1e-9)]
            broken[asked] += bool(stats.norm.sf(limit) > 0.05)
    assert broken[rule] <= stats.binom(600, 0.05).ppf(0.999)
    assert broken[plain] > 200


def test_realised_rate_follows_the_exact_beta_law() -> None:
    alpha, n = 0.05, 120
    clean, batch = drawn(60 * 2 * n, 1), drawn(24_000, 2)
    battery = calibrate(drawn(1000, 3), Rule(alpha)).battery
    own = battery.score(clean).trajectories["score"].to_numpy().reshape(-1, n)
    new = battery.score(batch).trajectories["score"].to_numpy().reshape(120, -1)
    counts = [
        (conformal_p(scores, ranked) <= alpha + 1e-12).sum()
        for ranked, scores in zip(own, new, strict=True)
    ]
    rank = allowed_rank(n, alpha)
    law = stats.betabinom(200, rank, n + 1 - rank)
    jitter = np.random.default_rng(4).uniform(size=len(counts))
    uniform = law.cdf(np.array(counts) - 1) + jitter * law.pmf(counts)
    assert stats.kstest(uniform, "uniform").pvalue > 1e-3
    low, high = clean_flag_range(n, alpha, 200)
    assert 0.83 <= np.mean((low <= np.array(counts)) & (np.array(counts) <= high)) <= 1


def test_the_three_sets_share_no_group() -> None:
    clean = drawn(600, 5, samples=2)
    sets = split_groups(clean.groups)
    members = {which: set(clean.groups[sets == which]) for which in set(sets)}
    assert set(members) == {"fit", "reference", "calibration"}
    assert sum(map(len, members.values())) == len(set(clean.groups))
    assert [len(members[w]) for w in ("fit", "reference", "calibration")] == [30, 120, 150]
    ranks = calibrate(clean, Rule(0.05))
    assert (ranks.n, ranks.n_fit, ranks.n_reference, ranks.unused) == (150, 60, 240, 150)


def test_one_trace_stands_for_each_group() -> None:
    groups = np.array(["a", "b", "a", "a", "b"], dtype=object)
    ids = np.array(list("vwxyz"), dtype=object)
    keep = one_per_group(groups, ids)
    assert sorted(groups[keep]) == ["a", "b"]
    order = [3, 1, 4, 0, 2]
    assert set(ids[order][one_per_group(groups[order], ids[order])]) == set(ids[keep])


def test_too_few_traces_say_how_many_are_needed() -> None:
    with pytest.raises(UserError, match=r"run1: 90 calibration traces.*at least 99.*198 problems"):
        calibrate(drawn(180, 1), Rule(0.01), "run1")
    assert calibrate(drawn(198, 1), Rule(0.01)).n == 99
    with pytest.raises(UserError, match=r"guaranteed with confidence 0.95 needs at least 299"):
        calibrate(drawn(198, 1), Rule(0.01, guaranteed=True))
    with pytest.raises(UserError, match=r"fdr 0.001 needs at least 999.*raise --fdr"):
        calibrate(drawn(198, 1), Rule(alpha=None, fdr=0.001))


def test_samples_of_one_problem_do_not_count_as_traces() -> None:
    with pytest.raises(UserError, match=r"50 calibration traces"):
        calibrate(drawn(400, 1, samples=4), Rule(0.01))


@pytest.mark.parametrize("alpha", [0.0, 1.0, -0.1, 2.0, float("nan"), None])
def test_alpha_is_a_rate(alpha: float | None) -> None:
    with pytest.raises(UserError, match=r"--alpha"):
        Rule(alpha)


def test_rates_are_not_mixed() -> None:
    with pytest.raises(UserError, match=r"--fdr: give it alone"):
        Rule(alpha=0.01, fdr=0.05)
    with pytest.raises(UserError, match=r"--fdr 1"):
        Rule(alpha=None, fdr=1.0)


def test_calibration_traces_must_be_whole() -> None:
    clean = drawn(300, 1)
    for which in ("fit", "reference", "calibration"):
        broken = clean.take(np.ones(clean.n, dtype=bool))
        broken.x[np.flatnonzero((split_groups(broken.groups) == which)[broken.owner])[7]] = np.nan
        with pytest.raises(UserError, match=r"trace 1-.* not a number"):
            calibrate(broken, Rule(0.05))


def test_thought_p_values_control_the_whole_trajectory() -> None:
    batch = drawn(4000, 77)
    decision = decided(batch, calibrate(drawn(2000, 78), Rule(0.05)), Rule(0.05))
    best = np.ones(batch.n)
    np.minimum.at(best, batch.owner, decision.thought_p)
    rates = [np.mean(best[decision.cell == cell] <= 0.05) for cell in decision.cells]
    for rate, (n, m) in zip(rates, decision.cells.values(), strict=True):
        low, high = clean_flag_range(n, 0.05, m, 0.999)
        assert low <= rate * m <= high


def test_adjusted_p_is_benjamini_hochberg() -> None:
    batch = drawn(50, 3)
    batch.x[batch.owner < 5] *= 2.5
    decision = decided(batch, calibrate(drawn(800, 4), Rule(0.05)), Rule(0.05))
    ordered = np.sort(decision.p_value)
    by_hand = np.minimum.accumulate((ordered * 50 / np.arange(1, 51))[::-1])[::-1]
    np.testing.assert_allclose(np.sort(decision.adjusted_p), np.minimum(by_hand, 1.0))
    assert decision.flagged[:5].all()


def test_false_discoveries_are_kept_below_q_and_below_the_bound() -> None:
    rule = Rule(alpha=None, fdr=0.1)
    shares, beyond, caught = [], 0, 0
    for seed in range(120):
        rng = np.random.default_rng(seed)
        clean, scores = rng.normal(size=1000), rng.normal(size=300)
        scores[:20] += 5
        p = conformal_p(scores, clean)
        adjusted = stats.false_discovery_control(p)
        flagged = adjusted <= 0.1
        empty = np.empty(0)
        cell = np.full(300, "all", dtype=object)
        made = Decision(p, adjusted, flagged, cell, empty, empty.astype(bool), {"all": (1000, 300)})
        share = flagged[20:].sum() / max(flagged.sum(), 1)
        shares.append(share)
        caught += int(flagged[:20].sum())
        bound = false_share_bound(made)
        beyond += bool(flagged.any() and share > bound)
    error = np.std(shares) / np.sqrt(len(shares))
    assert np.mean(shares) <= rule.rate + 2 * error
    assert caught > 0.9 * 20 * 120
    assert beyond <= stats.binom(120, 0.05).ppf(0.999)


def scored(n: int, seed: int) -> BatteryScores:
    """Scores with a fifth of hard trajectories, whose spread is 1.5 times as wide."""
    rng = np.random.default_rng(seed)
    hard = rng.uniform(size=n) < 0.2
    score = rng.normal(size=n) * np.where(hard, 1.5, 1.0)
    names = [f"{seed}-{i}" for i in range(n)]
    tasks = np.where(hard, "hard", "easy")
    frame = {"trace_id": names, "group": names, "task": tasks, "K": 1, "invalid": False}
    trajectories = pd.DataFrame(frame | {"score": score, "peak": np.abs(score)})
    thoughts = pd.DataFrame({"trace_id": names, "k": 0, "z": score})
    return BatteryScores(trajectories, thoughts, {}, {})


def test_tasks_are_ranked_among_their_own_where_there_are_enough() -> None:
    rule, battery = Rule(0.01), calibrate(drawn(100, 1), Rule(0.05)).battery
    ranks = rank_clean(battery, scored(20_000, 1), 0, 0)
    batch = scored(20_000, 2)
    hard = (batch.trajectories["task"] == "hard").to_numpy()
    own = decide(batch, ranks, rule)
    assert set(own.cells) == {"task easy, K 1", "task hard, K 1"}
    for cell, (n, m) in own.cells.items():
        low, high = clean_flag_range(n, 0.01, m, 0.999)
        assert low <= own.flagged[own.cell == cell].sum() <= high
    pooled = decide(batch, Ranks(battery, {"all": ranks.cells["all"]}, 0, 0, 0), rule)
    assert pooled.flagged[hard].mean() > 0.025
    assert pooled.flagged[~hard].mean() < 0.006


def test_small_cells_fall_back_to_the_task_and_then_to_all() -> None:
    rule = Rule(0.05)
    ranks = calibrate(drawn(1000, 1, tasks=("a", "b", "b", "b", "b", "b", "b")), rule)
    decision = decided(drawn(200, 2, tasks=("a", "b")), ranks, rule)
    assert {cell.split(",")[0] for cell in decision.cells} == {"all", "task b"}
    assert all(n >= rule.cell_minimum for n, _ in decision.cells.values())
    strict = decided(drawn(200, 2, tasks=("a", "b")), ranks, Rule(0.01))
    assert set(strict.cells) == {"all"}


def test_a_stop_threshold_stops_clean_generations_at_its_rate() -> None:
    ranks = calibrate(drawn(2000, 1), Rule(0.05))
    peaks = ranks.cells["all"].peaks
    new = ranks.battery.score(drawn(4000, 2)).trajectories["peak"].to_numpy()
    for rule in (Rule(0.05), Rule(0.05, guaranteed=True)):
        limit = stop_threshold(peaks, rule)
        low, high = fpr_band(peaks.size, rule.threshold(peaks.size), 0.999)
        assert low - 0.01 <= np.mean(new >= limit) <= high + 0.01
    assert stop_threshold(peaks, Rule(0.05)) < stop_threshold(peaks, Rule(0.05, guaranteed=True))
    assert stop_threshold(peaks[:50], Rule(0.01)) == np.inf


def test_what_a_flag_is_worth_at_published_base_rates() -> None:
    found = [100 * ppv(1e-3, 0.95, fpr) for fpr in (0.01, 0.001, 0.0001)]
    assert [round(value, 1) for value in found] == [8.7, 48.7, 90.5]
