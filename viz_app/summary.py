"""What did the demo find? Its figures as plain values, and as one screen of text."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from analyses.audit import AuditResult
from nfcot_model.terminal import jsonable
from nfcot_model.traces import Run
from probes.fit import ProbeResult
from probes.intervals import Estimate

__all__ = ["AuditLine", "DemoSummary", "KindLine", "ProbeLine", "WorldLine", "world_lines"]


@dataclass(frozen=True)
class WorldLine:
    """One world of one run. Rates in 0..1, `nll_per_dim` = -Σ log p(u|q) / Σ K·D in nats.

    `decode_match`: share of thoughts whose decoded text equals the true step.
    """

    world: str
    traces: int
    pass_at_1: float
    decode_match: float
    nll_per_dim: float
    thoughts_per_trace: float


@dataclass(frozen=True)
class KindLine:
    """How often did a reasoner of another kind pass, by world, and how long were its thoughts?"""

    run: str
    reasoner: str
    traces: int
    thoughts_per_trace: float
    pass_at_1: dict[str, float]

    @staticmethod
    def of(run: Run) -> KindLine:
        passed = run.traces.groupby("world")["correct"].mean()
        return KindLine(
            run.name,
            run.manifest["reasoner"],
            len(run.traces),
            float(run.traces["K"].mean()),
            {str(world): float(rate) for world, rate in passed.items()},
        )


@dataclass(frozen=True)
class ProbeLine:
    """How well is a label read at a site, and by a probe fitted on shuffled labels?"""

    label: str
    site: str
    classes: int
    n_test: int
    accuracy: Estimate
    shuffled: Estimate

    @staticmethod
    def of(result: ProbeResult) -> ProbeLine:
        control = next(c for c in result.controls if c.name == "shuffled_labels")
        return ProbeLine(
            result.label,
            result.site,
            len(result.classes or ()),
            result.n_test,
            result.metrics["accuracy"],
            control.metrics["accuracy"],
        )


@dataclass(frozen=True)
class AuditLine:
    """How many trajectories of a run are flagged, and how many of each planted kind?

    `band`: where the long-run false-positive rate of this calibration set lies (exact Beta law).
    `flags_if_clean`: how many flags n clean trajectories give by chance. Both are central ranges
    of probability `level`. `planted`: one entry per kind with n, flagged, located.
    """

    run: str
    alpha: float
    calibration_n: int
    n: int
    flagged: int
    band: tuple[float, float]
    flags_if_clean: tuple[int, int]
    level: float
    planted: list[dict[str, Any]]

    @staticmethod
    def of(result: AuditResult) -> AuditLine:
        summary = result.summary
        calibration = summary["calibration"]
        low, high = calibration["band"]
        few, many = calibration["flags_if_clean"]
        return AuditLine(
            run=summary["run"]["name"],
            alpha=summary["alpha"],
            calibration_n=calibration["n"],
            n=summary["n"],
            flagged=result.flags,
            band=(low, high),
            flags_if_clean=(few, many),
            level=calibration["level"],
            planted=[row for row in summary["planted"] if row["kind"] != "none"],
        )


def world_lines(run: Run) -> list[WorldLine]:
    """What does each world of a run look like? One line per world, by name."""
    traces = run.traces
    matches = run.thoughts["match"].groupby(run.thoughts["trace_id"], sort=False)
    known = traces["trace_id"].map(matches.count()).fillna(0).to_numpy(dtype=np.float64)
    right = traces["trace_id"].map(matches.sum()).fillna(0).to_numpy(dtype=np.float64)
    lines = []
    for world in sorted(set(traces["world"])):
        mine = (traces["world"] == world).to_numpy()
        K = traces["K"].to_numpy()[mine]
        lines.append(
            WorldLine(
                world=world,
                traces=int(mine.sum()),
                pass_at_1=float(traces["correct"][mine].mean()),
                decode_match=float(right[mine].sum() / max(known[mine].sum(), 1)),
                nll_per_dim=float(-traces["logp_u"][mine].sum() / max(K.sum() * run.D, 1)),
                thoughts_per_trace=float(K.mean()),
            )
        )
    return lines


@dataclass(frozen=True)
class DemoSummary:
    """Everything `make demo HEADLESS=1` prints. `seconds`: wall time by stage."""

    runs_dir: Path
    checkpoint_hash: str
    tau: float
    worlds: list[WorldLine]
    replay_error_max: float
    probe: ProbeLine
    clean: AuditLine
    tampered: AuditLine
    others: list[KindLine]
    seconds: dict[str, float]
    advice: str

    def to_dict(self) -> dict[str, Any]:
        """The same as plain JSON values."""
        plain: dict[str, Any] = jsonable(self)
        return plain

    def __str__(self) -> str:
        return "\n".join(
            [
                f"checkpoint {self.checkpoint_hash}, tau {self.tau:g}, unseen problems",
                "",
                *self._worlds(),
                "",
                f"replay error at most {self.replay_error_max:.1e} (thoughts as recorded give back"
                " the noise they were drawn with)",
                "",
                *self._probe(),
                "",
                *self._audits(),
                "",
                *self._others(),
                "seconds: "
                + ", ".join(f"{stage} {took:.1f}" for stage, took in self.seconds.items())
                + f"; {sum(self.seconds.values()):.1f} in all",
                *([self.advice] if self.advice else []),
            ]
        )

    def _worlds(self) -> list[str]:
        head = (
            f"{'world':<10}{'traces':>8}{'pass@1':>9}{'decoded':>10}{'-log p(u|q)/dim':>18}{'K':>6}"
        )
        return [head] + [
            f"{w.world:<10}{w.traces:>8}{w.pass_at_1:>9.3f}{w.decode_match:>10.3f}"
            f"{w.nll_per_dim:>18.3f}{w.thoughts_per_trace:>6.1f}"
            for w in self.worlds
        ]

    def _probe(self) -> list[str]:
        probe = self.probe
        return [
            f"probe for {probe.label} at {probe.site}: {probe.classes} classes, {probe.n_test}"
            " held-out traces, accuracy with 95 % interval",
            f"  fitted           {_interval(probe.accuracy)}",
            f"  shuffled labels  {_interval(probe.shuffled)}",
        ]

    def _audits(self) -> list[str]:
        clean = self.clean
        few, many = clean.flags_if_clean
        low, high = clean.band
        inside = "inside" if few <= clean.flagged <= many else "outside"
        return [
            f"audit at alpha {clean.alpha:g}, calibrated on {clean.calibration_n} clean"
            f" trajectories (false alarms {low:.2%} to {high:.2%}, {clean.level:.0%} range)",
            f"  {'clean':<7}{clean.flagged:>4} of {clean.n:>4} flagged"
            f"   {inside} the {clean.level:.0%} range by chance, {few} to {many}",
            *(
                f"  {row['kind']:<7}{row['flagged']:>4} of {row['n']:>4} flagged"
                + (
                    ""
                    if row["located"] is None
                    else f"   strangest thought is the planted one in {row['located']}"
                )
                for row in self.tampered.planted
            ),
            "  an unflagged trajectory is not evidence of safety",
        ]

    def _others(self) -> list[str]:
        if not self.others:
            return []
        return [
            "pass@1 of other kinds of latent reasoner, small ones, on short problems",
            *(
                f"  {o.reasoner:<10}"
                + "".join(f"{world} {rate:.2f}   " for world, rate in o.pass_at_1.items())
                + f"K {o.thoughts_per_trace:.1f}"
                for o in self.others
            ),
            "",
        ]


def _interval(estimate: Estimate) -> str:
    return f"{estimate.value:.3f} [{estimate.low:.3f}, {estimate.high:.3f}]"
