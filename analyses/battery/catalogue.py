"""Which statistics are there, what does each ask, and of which tensor?

Every one is folded so that higher = stranger. `COMBINED` names the default combination.
"""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["COMBINED", "OPTIONAL_STATISTICS", "STATISTICS", "Statistic"]


@dataclass(frozen=True)
class Statistic:
    """`shortest`: with fewer thoughts it is undefined, so neutral. `tensor`, `density`: of what."""

    name: str
    asks: str
    shortest: int = 1
    tensor: str = "eps / tau"
    density: str = "noise part of p(u|q)"


_VOLUME = "volume part of p(u|q)"

STATISTICS = (
    Statistic("typ_energy", "total energy too high or too low"),
    Statistic("max_step", "one thought too loud or too quiet"),
    Statistic("max_roll4", "four thoughts in a row too loud or too quiet", 4),
    Statistic("ad", "noise not normal (Anderson-Darling)"),
    Statistic("lag1", "a thought's noise goes on in the next one", 2),
    Statistic("ljung_box", "correlation at any lag up to 8", 3),
    Statistic("psd_cv", "uneven spectrum along the thoughts", 4),
    Statistic("drift", "noise leans one way"),
    Statistic("cov_dev", "covariance of the noise not the identity", 2),
    Statistic("typ_top", "energy in the principal subspace too high or too low"),
    Statistic("typ_rest", "energy outside the principal subspace too high or too low"),
    Statistic("max_proj_step", "one thought too loud or too quiet in either subspace"),
    Statistic("typ_logvol", "model's own entropy unusual, two-sided", 1, "log_sigma", _VOLUME),
    Statistic("nll", "total likelihood low, one-sided", 1, "u", "p(u|q) at tau"),
    Statistic("typ_nll", "total likelihood unusual, two-sided", 1, "u", "p(u|q) at tau"),
)

_STATES = "none: a distance"

OPTIONAL_STATISTICS = (
    Statistic("max_block", "64 dimensions of one thought too loud or too quiet (D above 64)"),
    Statistic("replay_err", "record not as drawn", 1, "u, mu, sigma, eps", "none: a comparison"),
    Statistic("maha", "mean hidden state far from clean ones", 1, "h", _STATES),
    Statistic("rel_maha", "hidden states far from their position's", 1, "h", _STATES),
    Statistic("knn", "mean hidden state far from its clean neighbours", 1, "h", _STATES),
    Statistic("cycle_err", "thoughts change when decoded and encoded again", 1, "e", _STATES),
)
"""Those that need wide thoughts, a record of the draw, hidden states, or the model."""

COMBINED = ("typ_energy", "max_step", "max_roll4", "ad", "lag1", "drift", "cov_dev")
"""The default max-quantile: the seven of the published comparison."""
