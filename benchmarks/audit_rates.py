"""Are the promised error rates kept on a real model's clean traces?

    nfcot world make digits --split calibration --seed 11 -n 10000 -o cal.jsonl
    nfcot world make digits --split test --seed 12 -n 10000 -o test.jsonl
    nfcot trace demo cal.jsonl -o runs/cal --seed 11
    nfcot trace demo test.jsonl -o runs/test --seed 12
    python benchmarks/audit_rates.py runs/cal runs/test [--calibration 5000] [--batches 200]

One line of JSON for each question. Rates: the share of clean test trajectories (one per group)
flagged, beside the exact range, for the combined score and for every statistic ranked alone. FDR:
over random splits of all traces into calibration and batch, in which a tenth of the batch is made
louder (eps times 1.5), the mean share of false flags.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
from scipy import stats

from analyses.battery import Battery, Noise, fit_battery, run_noise
from analyses.battery.noise import joined
from analyses.calibrate import Rule, clean_flag_range, conformal_p, fpr_band, guaranteed_rank
from analyses.decide import decide
from analyses.ranks import Ranks, one_per_group, rank_clean
from nfcot_model.traces import read_run

LOUDER = 1.5


def say(**row: object) -> None:
    sys.stdout.write(json.dumps(row, default=float) + "\n")
    sys.stdout.flush()


def distinct(path: Path) -> Noise:
    """The run's noise, one trace per group."""
    noise = run_noise(read_run(path, verify=False))
    return noise.take(one_per_group(noise.groups, noise.ids))


def rates(battery: Battery, ranks: Ranks, clean: Noise, test: Noise) -> None:
    """Realised rates of the audit as it is used, and of every statistic alone."""
    scores, own = battery.score(test), battery.score(clean)
    for rule in (Rule(0.01), Rule(0.05), Rule(0.01, guaranteed=True)):
        decision = decide(scores, ranks, rule)
        cells = []
        for cell, (n, m) in decision.cells.items():
            limit = rule.threshold(n)
            flags = int(decision.flagged[decision.cell == cell].sum())
            low, high = fpr_band(n, limit)
            cells.append(
                {"cell": cell, "n": n, "m": m, "flags": flags, "fpr": flags / m,
                 "band": [low, high], "range": clean_flag_range(n, limit, m),
                 "rank": guaranteed_rank(n, rule.rate) if rule.guaranteed else None}
            )  # fmt: skip
        say(alpha=rule.rate, guaranteed=rule.guaranteed, m=test.n,
            fpr=float(decision.flagged.mean()), cells=cells)  # fmt: skip
    combined = [s.trajectories["score"].to_numpy() for s in (own, scores)]
    p = conformal_p(combined[1], combined[0])
    say(
        ks_two_sample=stats.ks_2samp(*combined).pvalue, ks_uniform=stats.kstest(p, "uniform").pvalue
    )
    alone = {}
    for name in ["score", *scores.statistics]:
        p = conformal_p(scores.trajectories[name].to_numpy(), own.trajectories[name].to_numpy())
        alone[name] = [round(float(np.mean(p <= alpha)), 4) for alpha in (0.01, 0.05)]
    say(pooled_rates_at_1_and_5_pct=alone, band_1=fpr_band(own.trajectories.shape[0], 0.01),
        band_5=fpr_band(own.trajectories.shape[0], 0.05))  # fmt: skip


def false_discoveries(
    take: Callable[[np.ndarray], Noise], battery: Battery, n: int, calibration: int, batches: int
) -> None:
    """The mean share of false flags at q = 0.1 over random splits."""
    rng, rule, size = np.random.default_rng(0), Rule(alpha=None, fdr=0.1), 500
    everyone = take(np.arange(n))
    loud = Noise(everyone.x * LOUDER, everyone.K, everyone.ids, everyone.groups, everyone.tasks,
                 everyone.logvol, everyone.replay_error)  # fmt: skip
    usual, planted = battery.score(everyone).trajectories, battery.score(loud).trajectories
    shares, caught = [], []
    for _ in range(batches):
        order = rng.permutation(n)
        ranked = usual["score"].to_numpy()[order[:calibration]]
        batch = order[calibration : calibration + size]
        truth = np.arange(size) < size // 10
        score = np.where(
            truth, planted["score"].to_numpy()[batch], usual["score"].to_numpy()[batch]
        )
        adjusted = stats.false_discovery_control(conformal_p(score, ranked))
        flagged = adjusted <= rule.rate
        shares.append((flagged & ~truth).sum() / max(flagged.sum(), 1))
        caught.append(flagged[truth].mean())
    error = np.std(shares) / np.sqrt(batches)
    say(q=rule.rate, batches=batches, fdr=np.mean(shares), two_se=2 * error,
        kept=bool(np.mean(shares) <= rule.rate + 2 * error), share_95=np.quantile(shares, 0.95),
        caught=np.mean(caught))  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("clean", type=Path)
    parser.add_argument("test", type=Path)
    parser.add_argument("--calibration", type=int, default=5000)
    parser.add_argument("--batches", type=int, default=200)
    asked = parser.parse_args()
    clean, test = distinct(asked.clean), distinct(asked.test)
    order = np.random.default_rng(1).permutation(clean.n)
    role = np.empty(clean.n, dtype=int)
    role[order] = np.arange(clean.n)
    rest = clean.n - asked.calibration
    fit, reference = clean.take(role < rest // 5), clean.take((role >= rest // 5) & (role < rest))
    ranked = clean.take(role >= rest)
    say(groups=[clean.n, test.n], fit=fit.n, reference=reference.n, calibration=ranked.n)
    battery = fit_battery(reference, fit=fit)
    ranks = rank_clean(battery, battery.score(ranked), fit.n, reference.n)
    rates(battery, ranks, ranked, test)
    pool = joined([ranked, test])

    def take(rows: np.ndarray) -> Noise:
        return pool.take(np.isin(np.arange(pool.n), rows))

    false_discoveries(take, battery, pool.n, asked.calibration, asked.batches)


if __name__ == "__main__":
    main()
