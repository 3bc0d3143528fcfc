"""Which scores does an audit start from? The energies a run recorded when it was scored.

The audit does not run the model. The energies were computed by one causal pass over the thoughts
as they stand in the run (`scorer: self`): the same model that is supposed to have drawn them. A
run whose thoughts were changed afterwards must be scored again, as `analyses.tamper` does.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from nfcot_model.errors import UserError
from nfcot_model.traces import Run

__all__ = ["SCORER", "RunEnergies", "run_energies"]

SCORER = "self"


@dataclass(frozen=True)
class RunEnergies:
    """The energies of a run. `energy`, `k`, `trajectory`: [rows]; `trace_ids`, `groups`: [n]."""

    name: str
    D: int
    energy: NDArray[np.float64]
    k: NDArray[np.int64]
    trajectory: NDArray[np.int64]
    trace_ids: NDArray[np.object_]
    groups: NDArray[np.object_]

    @property
    def n(self) -> int:
        return int(self.trace_ids.size)


def run_energies(run: Run) -> RunEnergies:
    """What is the noise energy of each thought of the run?

    Raises UserError at tau = 0, where thoughts are the model's means and there is no noise, and
    for a run without a density.
    """
    if run.scorer == "none":
        raise UserError(
            f"{run.name}: '{run.manifest['reasoner']}' thoughts have no density, so there is no"
            " noise energy to audit; score them with a retrofit flow first (nfcot run retrofit,"
            " then nfcot run rescore)"
        )
    tau = float(run.manifest["decode"]["tau"])
    if tau <= 0:
        raise UserError(
            f"{run.name}: traced at tau {tau:g}, so its thoughts carry no noise and there is"
            " nothing to score; trace with --tau above 0"
        )
    position = {trace_id: i for i, trace_id in enumerate(run.traces["trace_id"])}
    thoughts = run.thoughts
    return RunEnergies(
        name=run.name,
        D=run.D,
        energy=thoughts["energy"].to_numpy(dtype=np.float64),
        k=thoughts["k"].to_numpy(dtype=np.int64),
        trajectory=thoughts["trace_id"].map(position).to_numpy(dtype=np.int64),
        trace_ids=run.traces["trace_id"].to_numpy(dtype=object),
        groups=run.traces["group"].to_numpy(dtype=object),
    )
