"""From the shipped checkpoints to runs, a probe and two audits: all that the dashboard shows."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from time import perf_counter

from analyses.audit import audit_run
from analyses.report import write_audit
from analyses.tamper import plant_run
from nfcot_model.checkpoints import SHIPPED, SMALL, demo_path
from nfcot_model.errors import UserError
from nfcot_model.reasoners import Reasoner, load_nfcot, load_reasoner
from nfcot_model.sandbox import Sandbox
from nfcot_model.terminal import console, progress
from nfcot_model.traces import Run, collect, read_run
from nfcot_model.worlds import Problem, make_world
from probes.artifact import save_probe
from probes.fit import fit_probe
from viz_app.summary import AuditLine, DemoSummary, KindLine, ProbeLine, world_lines

__all__ = ["DemoPlan", "run_demo"]


@dataclass(frozen=True)
class DemoPlan:
    """What does the demo record, and what does it ask? Counts are problems per world.

    `share`: the part of the tampered run's traces that is tampered with. The probe is fitted on
    the calibration run, which has the most traces. `others`: small reasoners of other kinds by the
    names of their runs, each asked `each` problems per world of as many steps as they were trained
    on.
    """

    model: Path = field(default_factory=demo_path)
    others: Mapping[str, Path] = field(
        default_factory=lambda: {f"small-{kind}": SHIPPED[f"small-{kind}"] for kind in SMALL}
    )
    worlds: tuple[str, ...] = ("digits", "shuffle")
    calibration: int = 500
    test: int = 300
    share: float = 0.3
    tau: float = 0.7
    seed: int = 7
    label: str = "offset"
    site: str = "u@3"
    alpha: float = 0.01
    each: int = 50
    steps: tuple[int, int] = (2, 4)


def run_demo(runs_dir: Path, headless: bool = True, plan: DemoPlan | None = None) -> DemoSummary:
    """What does the whole path give on this machine, from checkpoint to audit?

    Leaves the runs `calibration`, `clean` and `tampered`, one of each other kind of reasoner, a
    probe and two audits in `runs_dir`, where the dashboard finds them; a repetition resumes and
    reuses them. headless: no page
    follows, so the summary says how to open one. Raises UserError when `runs_dir` holds runs of
    another model or another plan.
    """
    plan = plan or DemoPlan()
    seconds: dict[str, float] = {}
    with _stage("load", seconds):
        reasoner = load_nfcot(plan.model)
    with Sandbox() as sandbox:
        with _stage("trace calibration", seconds):
            problems = _problems(plan, "calibration", plan.calibration)
            calibration = _recorded(
                runs_dir / "calibration", problems, reasoner, plan, plan.model, sandbox
            )
        with _stage("trace clean", seconds):
            problems = _problems(plan, "test", plan.test)
            clean = _recorded(runs_dir / "clean", problems, reasoner, plan, plan.model, sandbox)
        with _stage("tamper", seconds):
            out = runs_dir / "tampered"
            tampered = _tampered(out, clean, problems, reasoner, plan, sandbox)
        with _stage("trace other kinds", seconds):
            others = [
                _other(runs_dir / name, path, plan, sandbox) for name, path in plan.others.items()
            ]
    with _stage("probe", seconds):
        probe = fit_probe(calibration, plan.label, plan.site, reasoner=reasoner)
        save_probe(
            probe,
            runs_dir / "probes" / f"calibration-{plan.label}-{plan.site}-{probe.estimator}-seed0",
        )
    with _stage("audit", seconds):
        audits = [audit_run(run, calibration, plan.alpha) for run in (clean, tampered)]
        for result, run in zip(audits, (clean, tampered), strict=True):
            name = f"{run.name}-vs-{calibration.name}-alpha{plan.alpha:g}"
            write_audit(result, runs_dir / "audits" / name)
    return DemoSummary(
        runs_dir=runs_dir,
        checkpoint_hash=reasoner.checkpoint_hash,
        tau=plan.tau,
        worlds=world_lines(clean),
        replay_error_max=float(
            max(run.traces["replay_error"].max() for run in (calibration, clean))
        ),
        probe=ProbeLine.of(probe),
        clean=AuditLine.of(audits[0]),
        tampered=AuditLine.of(audits[1]),
        others=others,
        seconds=seconds,
        advice=f"look at it: nfcot app {runs_dir}" if headless else "",
    )


@contextmanager
def _stage(name: str, seconds: dict[str, float]) -> Iterator[None]:
    started = perf_counter()
    yield
    seconds[name] = perf_counter() - started
    console.print(f"{name}: {seconds[name]:.1f} s")


def _problems(
    plan: DemoPlan, split: str, n: int, steps: tuple[int, int] | None = None
) -> list[Problem]:
    return [p for world in plan.worlds for p in make_world(world, split, plan.seed, n, steps)]


def _other(out: Path, model: Path, plan: DemoPlan, sandbox: Sandbox) -> KindLine:
    problems = _problems(plan, "test", plan.each, plan.steps)
    return KindLine.of(_recorded(out, problems, load_reasoner(model), plan, model, sandbox))


def _recorded(
    out: Path,
    problems: list[Problem],
    reasoner: Reasoner,
    plan: DemoPlan,
    model: Path,
    sandbox: Sandbox,
) -> Run:
    with _own_folder(out), progress(out.name, total=len(problems)) as advance:
        collect(
            reasoner,
            problems,
            out,
            tau=plan.tau,
            seed=plan.seed,
            progress=advance,
            sandbox=sandbox,
            model_path=str(model),
        )
    return read_run(out)


def _tampered(
    out: Path,
    clean: Run,
    problems: list[Problem],
    reasoner: Reasoner,
    plan: DemoPlan,
    sandbox: Sandbox,
) -> Run:
    if (out / "run.json").exists():
        found = read_run(out)
        planted = found.manifest.get("planted", {})
        if planted.get("source") == clean.hash and len(found.traces) == len(clean.traces):
            return found
    with _own_folder(out):
        return plant_run(clean, problems, reasoner, out, share=plan.share, sandbox=sandbox)


@contextmanager
def _own_folder(out: Path) -> Iterator[None]:
    try:
        yield
    except UserError as error:
        raise UserError(
            f"{error}, or delete {_in_the_way(out)}: the demo makes it again"
        ) from error


def _in_the_way(out: Path) -> str:
    """Which folders must go before `out` is made? `tampered` is made from `clean`."""
    names = [out.name] if out.name != "clean" else ["clean", "tampered"]
    return " and ".join(str(out.parent / name) for name in names if (out.parent / name).exists())
