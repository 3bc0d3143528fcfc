"""Fit a retrofit flow on a run, and say how well it describes what it was not fitted on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import stats
from sklearn.feature_extraction.text import HashingVectorizer
from torch import Tensor

from nfcot_model.config import FlowConfig
from nfcot_model.errors import UserError
from nfcot_model.retrofit.flow import RetrofitFlow
from nfcot_model.traces import Run

__all__ = [
    "Fit",
    "FitSettings",
    "Quality",
    "fit_retrofit",
    "fresh_flow",
    "prompt_features",
    "score_run",
]

# From where on a fit is called a misfit: see `Quality.warnings`.
MOST_KS, MOST_MEAN, MOST_GAP, MOST_WORSE = 0.05, 0.1, 0.2, 0.05
VARIANCES = (0.8, 1.25)

MIN_GROUPS = 20
BATCH = 64


@dataclass(frozen=True)
class FitSettings:
    """How is it fitted? `noise` is added to whitened thoughts, so that the density cannot collapse
    onto thoughts that are functions of their prompts."""

    steps: int = 1500
    lr: float = 1e-3
    noise: float = 0.1
    features: int = 256
    blocks: int = 3
    layers: int = 1
    d_model: int = 64
    heads: int = 4
    order: str = "alternating"
    held_out: float = 0.25
    seed: int = 0


@dataclass(frozen=True)
class Quality:
    """How does the flow fit groups it was not fitted on? Nats per dimension; eps pooled.

    `ks` is the largest distance between the distribution of held-out eps and N(0, 1); `energy_ks`
    that between twice the energies and the chi-squared law. `baseline` is the NLL of one Gaussian
    per dimension of the whitened thoughts, the same for all prompts.
    """

    nll: float
    nll_train: float
    baseline: float
    mean: float
    variance: float
    ks: float
    energy_ks: float
    thoughts: int
    groups: int

    @property
    def warnings(self) -> list[str]:
        """Where does it misfit? One line each; empty when nothing was found."""
        low, high = VARIANCES
        found = []
        if not self.ks <= MOST_KS:
            found.append(f"held-out eps is {self.ks:.3f} from N(0, 1) (KS; at most {MOST_KS})")
        if not abs(self.mean) <= MOST_MEAN:
            found.append(f"held-out eps has mean {self.mean:+.2f} (at most {MOST_MEAN} from 0)")
        if not low <= self.variance <= high:
            found.append(f"held-out eps has variance {self.variance:.2f} ({low} to {high})")
        if not self.nll - self.nll_train <= MOST_GAP:
            found.append(
                f"held-out NLL is {self.nll - self.nll_train:.2f} nats per dimension worse than on"
                " what it was fitted on: more traces are needed"
            )
        if not self.nll - self.baseline <= MOST_WORSE:
            found.append(
                f"held-out NLL is {self.nll - self.baseline:.2f} nats per dimension worse than one"
                " Gaussian for all prompts"
            )
        return found

    def to_dict(self) -> dict[str, Any]:
        return {**asdict(self), "warnings": self.warnings}


@dataclass(frozen=True)
class Fit:
    """A fitted flow, its quality, and the problem groups it has seen."""

    flow: RetrofitFlow
    settings: FitSettings
    quality: Quality
    groups: tuple[str, ...]
    max_thoughts: int


def prompt_features(prompts: Sequence[str], features: int) -> Tensor:
    """Words and pairs of words of the prompts, hashed: [B, features], of unit length."""
    hashing = HashingVectorizer(n_features=features, ngram_range=(1, 2), token_pattern=r"\S+")
    return torch.from_numpy(hashing.transform(prompts).toarray()).float()


def fit_retrofit(
    run: Run,
    settings: FitSettings,
    report: Callable[[int, float], object] = lambda step, loss: None,
) -> Fit:
    """Fit `log p(u | prompt)` on three quarters of the run's problem groups, measure on the rest.

    Conditioned on hashed words of the prompt, it knows about the prompt what words tell. Raises
    UserError for a run with fewer than 20 groups that have thoughts.
    """
    u, mask = _trajectories(run)
    groups = run.traces["group"].to_numpy(dtype=object)
    thinking = mask.any(1).numpy()
    names = sorted(set(groups[thinking]))
    if len(names) < MIN_GROUPS:
        raise UserError(
            f"{run.name}: {len(names)} problem groups have thoughts, a retrofit flow needs"
            f" {MIN_GROUPS}; trace more problems"
        )
    rng = np.random.default_rng(settings.seed)
    shuffled = rng.permutation(np.array(names, dtype=object))
    fitted = set(shuffled[max(1, round(settings.held_out * len(names))) :])
    chosen = torch.from_numpy(np.isin(groups, list(fitted)) & thinking)
    held = torch.from_numpy(~np.isin(groups, list(fitted)) & thinking)
    features = prompt_features(run.traces["prompt"].tolist(), settings.features)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings.seed)
        flow = fresh_flow(run.D, settings, u.shape[1])
        flow.fit_whitening(u[chosen][mask[chosen]])
        _optimise(flow, u[chosen], mask[chosen], features[chosen], settings, report)
    seen, unseen = ((u[part], mask[part], features[part]) for part in (chosen, held))
    quality = _quality(flow, seen, unseen, len(names) - len(fitted))
    return Fit(flow.eval(), settings, quality, tuple(sorted(fitted)), u.shape[1])


def fresh_flow(D: int, settings: FitSettings, max_thoughts: int) -> RetrofitFlow:
    """An unfitted flow of the shape that the settings say."""
    config = FlowConfig(
        order=settings.order,  # type: ignore[arg-type]
        blocks=settings.blocks,
        layers=settings.layers,
        d_model=settings.d_model,
        heads=settings.heads,
    )
    return RetrofitFlow(D, settings.features, config, max_thoughts)


def _trajectories(run: Run) -> tuple[Tensor, Tensor]:
    """The run's thoughts [traces, Kmax, D] and their mask."""
    K = torch.from_numpy(run.traces["K"].to_numpy(dtype=np.int64))
    mask = torch.arange(max(1, int(K.max()))) < K[:, None] if len(K) else torch.zeros(0, 1).bool()
    u = torch.zeros(*mask.shape, run.D)
    u[mask] = torch.from_numpy(run.tensor("u"))
    return u, mask


def _optimise(
    flow: RetrofitFlow,
    u: Tensor,
    mask: Tensor,
    features: Tensor,
    settings: FitSettings,
    report: Callable[[int, float], object],
) -> None:
    optimizer = torch.optim.AdamW(flow.parameters(), lr=settings.lr, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, settings.lr, settings.steps)
    x = flow.whiten(u)
    for step in range(settings.steps):
        rows = torch.randint(len(x), (min(BATCH, len(x)),))
        noisy = x[rows] + settings.noise * torch.randn_like(x[rows])
        scores = flow(noisy, mask[rows], features[rows])
        loss = -scores.logp.sum() / (mask[rows].sum() * flow.D)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(flow.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        report(step + 1, float(loss.detach()))


Part = tuple[Tensor, Tensor, Tensor]


@torch.no_grad()
def _quality(flow: RetrofitFlow, fitted: Part, held: Part, groups: int) -> Quality:
    (_, fitted_logp), (eps, logp) = (_scored(flow, *part) for part in (fitted, held))
    flat: NDArray[np.float64] = eps.double().numpy()
    x = flow.whiten(held[0][held[1]]).double()
    gaussian = 0.5 * x.square() + 0.5 * np.log(2 * np.pi) + torch.log(flow.scale.double())
    energies = np.square(flat).sum(-1)
    return Quality(
        nll=-float(logp.mean()) / flow.D,
        nll_train=-float(fitted_logp.mean()) / flow.D,
        baseline=float(gaussian.mean()),
        mean=float(flat.mean()),
        variance=float(flat.var()),
        ks=float(stats.kstest(flat.ravel(), "norm").statistic),
        energy_ks=float(stats.kstest(energies, "chi2", args=(flow.D,)).statistic),
        thoughts=len(flat),
        groups=groups,
    )


def _scored(flow: RetrofitFlow, u: Tensor, mask: Tensor, features: Tensor) -> tuple[Tensor, Tensor]:
    """eps [rows, D] and logp [rows] of the thoughts, in the order of a run."""
    parts = [
        flow(flow.whiten(u[i : i + BATCH]), mask[i : i + BATCH], features[i : i + BATCH])
        for i in range(0, len(u), BATCH)
    ]
    eps = torch.cat([part.eps for part in parts])
    logp = torch.cat([part.logp for part in parts])
    return eps[mask], logp[mask]


@torch.no_grad()
def score_run(
    flow: RetrofitFlow, run: Run, features: int, max_thoughts: int
) -> tuple[Tensor, Tensor]:
    """eps [rows, D] and logp [rows] of a run's thoughts, row by row as in `run.thoughts`.

    Raises UserError for a run of another width, or of more thoughts than the flow was made for.
    """
    u, mask = _trajectories(run)
    if run.D != flow.D or int(mask.sum(-1).max()) > max_thoughts:
        raise UserError(
            f"{run.name}: has up to {int(mask.sum(-1).max())} thoughts of width {run.D}, the"
            f" retrofit flow reads {max_thoughts} of width {flow.D}"
        )
    return _scored(flow, u, mask, prompt_features(run.traces["prompt"].tolist(), features))
