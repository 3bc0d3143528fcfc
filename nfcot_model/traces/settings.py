"""What was asked of a run: checked before anything is written, kept in its manifest."""

from __future__ import annotations

import platform
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from nfcot_model import __version__
from nfcot_model.errors import UserError
from nfcot_model.reasoners import Reasoner
from nfcot_model.traces.schema import NO_SCORER
from nfcot_model.worlds.problem import Problem, problem_set_hash

__all__ = ["ACTIVATIONS", "Settings", "check_problems", "new_manifest"]

ACTIVATIONS = ("none", "thoughts", "all")
# Beyond these, products leave the range of single precision.
MAX_TAU = 100.0
MIN_TEMPERATURE, MAX_TEMPERATURE = 1e-3, 100.0
LIBRARIES = ("torch", "transformers", "numpy", "pyarrow", "safetensors")


@dataclass(frozen=True)
class Settings:
    """How are the traces of a run drawn? Raises UserError for a value out of range."""

    tau: float = 0.7
    temperature: float = 0.0
    samples: int = 1
    seed: int = 0
    activations: str = "none"
    max_thoughts: int | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.tau <= MAX_TAU:
            raise UserError(f"--tau is {self.tau}; expected 0 (the mode) to {MAX_TAU:g}")
        if not (self.temperature == 0 or MIN_TEMPERATURE <= self.temperature <= MAX_TEMPERATURE):
            raise UserError(
                f"--temperature is {self.temperature}; expected 0 (greedy) or"
                f" {MIN_TEMPERATURE:g} to {MAX_TEMPERATURE:g}"
            )
        if self.samples < 1:
            raise UserError(f"--samples is {self.samples}; expected at least 1")
        if not 0 <= self.seed < 2**63:
            raise UserError(f"--seed is {self.seed}; expected 0 to 2**63 - 1")
        if self.activations not in ACTIVATIONS:
            raise UserError(
                f"--activations is '{self.activations}'; expected one of {', '.join(ACTIVATIONS)},"
                " or hook names (`nfcot sites MODEL` lists them)"
            )
        if self.max_thoughts is not None and self.max_thoughts < 1:
            raise UserError(f"--max-thoughts is {self.max_thoughts}; expected at least 1")


def check_problems(problems: Sequence[Problem]) -> None:
    """Can these problems be traced? Raises UserError when there is none or an id occurs twice."""
    if not problems:
        raise UserError("the problem set is empty; give at least one problem")
    seen: set[str] = set()
    for problem in problems:
        if problem.id in seen:
            raise UserError(f"problem id '{problem.id}' occurs more than once; ids must be unique")
        seen.add(problem.id)


def new_manifest(
    reasoner: Reasoner, problems: Sequence[Problem], settings: Settings, model_path: Path | str
) -> dict[str, Any]:
    """The manifest of a new run, but for what `open_run` adds.

    A reasoner that draws nothing is recorded at tau 0, whatever was asked; one without a density
    as `scorer` "none". Raises UserError for a reasoner that cannot read its thoughts as text.
    """
    if not reasoner.has_decoder:
        raise UserError(f"reasoner '{reasoner.name}' has no decoder to record")
    scorer = {} if reasoner.has_likelihood else {"scorer": NO_SCORER}
    return scorer | {
        "reasoner": reasoner.name,
        "checkpoint_hash": reasoner.checkpoint_hash,
        "model_path": str(model_path),
        "config": reasoner.config,
        "decode": {
            "tau": abs(float(settings.tau)) if reasoner.draws else 0.0,  # -0.0 is 0
            "temperature": abs(float(settings.temperature)),
            "samples": settings.samples,
            "seed": settings.seed,
            "max_thoughts": settings.max_thoughts,
            "dtype": reasoner.config.get("dtype", "float32"),
            "template": reasoner.prompt_template,
            "k_policy": "model" if reasoner.variable_k else "fixed",
        },
        "problem_set_hash": problem_set_hash(problems),
        "traces": len(problems) * settings.samples,
        "activations": settings.activations,
        "versions": {"nfcot-scope": __version__, "python": platform.python_version()}
        | {library: version(library) for library in LIBRARIES},
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
    }
