"""What must an audit.json hold? The published schema, as models and as `audit.schema.json`.

Further fields may come; none of these goes, and none changes its meaning, without another `schema`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

__all__ = ["SCHEMA_FILE", "AuditDocument", "json_schema"]

SCHEMA_FILE = Path(__file__).with_name("audit.schema.json")


class _Open(BaseModel):
    model_config = ConfigDict(extra="allow")


class Scored(_Open):
    """Under which model, after which context, of which tensor and density the scores are."""

    scorer: str
    context: str
    tau: float
    tensor: str
    density: str


class StatisticRow(_Open):
    """One statistic of the battery."""

    name: str
    asks: str
    density: str
    shortest_K: int  # noqa: N815
    undefined: int
    combined: bool


class NamedThought(_Open):
    """The first thought beyond maxT (`origin`), or that of the largest |z|. null: not a number."""

    k: int
    z: float | None
    adjusted_p: float
    text: str


class FlagProfile(_Open):
    """Per thought, in order. null: not a number."""

    energy: list[float | None]
    z: list[float | None]
    adjusted_p: list[float]


class Flag(_Open):
    """One flagged trajectory. `score` null: invalid, above every number."""

    trace_id: str
    p_value: float
    adjusted_p: float
    thoughts: list[int]
    origin: NamedThought | None = None
    stands_out: NamedThought | None
    score: float | None
    leading: str
    statistics: dict[str, float | None]
    cell: str
    replay_error: float | None
    replay_error_stored: float | None
    invalid: bool
    texts: list[str]
    profile: FlagProfile


class Invalid(_Open):
    """A trajectory that has no score."""

    trace_id: str
    reason: str
    p_value: float


class BaseRate(_Open):
    """The share of flags that is true, at a base rate and a share caught."""

    base_rate: float
    caught: float
    ppv: float | None


class Batch(_Open):
    """What the flags of the batch amount to."""

    m: int
    flags: int
    false_share_bound: float | None
    fewest_flags: int | None
    false_positive_rate: float
    ppv: list[BaseRate]


class CellRow(_Open):
    """One cell of trajectories that are ranked among each other."""

    cell: str
    n: int
    m: int
    threshold: float
    band: tuple[float, float]


class Calibration(_Open):
    """The clean traces, and what they allow."""

    run: str
    run_hash: str
    hash: str
    n: int
    n_fit: int
    n_reference: int
    level: float
    band: tuple[float, float]
    flags_if_clean: tuple[int, int]
    cells: list[CellRow]
    replay_error_max: float


class RunIdentity(_Open):
    """What was audited."""

    name: str
    hash: str
    reasoner: str
    checkpoint_hash: str
    tau: float
    max_thoughts: int | None
    k_policy: str
    template: str
    dtype: str
    worlds: list[str]
    D: int
    K: tuple[int, int]


class Replay(_Open):
    """Records that do not replay or disagree with themselves."""

    tolerance: float
    max: float | None
    median: float | None
    broken: list[str]
    broken_and_flagged: int
    record_broken: list[str]


class DriftPath(_Open):
    """The martingale along the run."""

    method: str
    alpha: float
    alarm_log10: float
    log10_highest: float
    log10_last: float
    alarm: bool
    alarm_at: int | None
    alarm_trace: str | None
    every: int
    path: list[float]


class Coverage(_Open):
    """What was scored, and what is missing."""

    expected: int
    scored: int
    missing: int
    invalid: int
    undefined: dict[str, int]
    thoughts: int
    seconds: float
    thoughts_per_second: float


class Evidence(_Open):
    """Other documents, as their commands wrote them; null where none was attached."""

    validation: dict[str, Any] | None
    probes: dict[str, Any] | None
    monitorability: dict[str, Any] | None
    causal: dict[str, Any] | None


class AuditDocument(_Open):
    """audit.json of `nfcot audit run`. Exactly one of alpha and fdr is a number."""

    schema_: Literal["nfcot-audit/2"] = Field(alias="schema")
    scorer: str
    scored: Scored
    statistic: str
    statistics: list[StatisticRow]
    alpha: float | None
    fdr: float | None
    guaranteed: bool
    delta: float | None
    n: int
    flagged: list[Flag]
    invalid: list[Invalid]
    batch: Batch
    calibration: Calibration
    run: RunIdentity
    replay: Replay
    drift: DriftPath
    coverage: Coverage
    planted: list[dict[str, Any]]
    band_by_k: list[dict[str, float]]
    evidence: Evidence
    deviations: list[str]
    versions: dict[str, str]


def json_schema() -> dict[str, Any]:
    """The schema as published in `audit.schema.json`."""
    schema = AuditDocument.model_json_schema(by_alias=True)
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}
