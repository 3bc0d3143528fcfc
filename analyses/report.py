"""The audit as people read it: audit.md, beside audit.json and the two score tables."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from analyses.audit import AuditResult
from nfcot_model.errors import UserError
from nfcot_model.files import read_json_object, replacing, write_json, write_text
from nfcot_model.terminal import jsonable
from nfcot_model.traces.view import printable

__all__ = ["CANNOT_SEE", "NEGATIVE_STATEMENT", "audit_markdown", "write_audit"]

SHOWN_FLAGS = 50
SHOWN_RECORDS = 10

NEGATIVE_STATEMENT = (
    "Absence of flags bounds only how often trajectories with unusually loud or quiet noise occur"
    " in traffic exchangeable with the calibration run; it is not evidence of aligned reasoning."
)

CANNOT_SEE = (
    "The scorer is the model itself (`self`): thoughts that a model samples from its own density"
    " give back exactly the noise that was drawn, so this score carries no information about"
    " intent. A backdoored or deceptive model that thinks on-policy looks perfectly usual (AUROC"
    " 0.50). What can be seen is thoughts that this model, prompt and temperature did not produce:"
    " swapped, edited, injected, replayed, or drawn at another temperature. Shifts that leave the"
    " noise energy usual, such as correlated noise or a small consistent offset, are invisible"
    " here too. A thought can also stand out because the one before it was changed: the one named"
    " is the likeliest place, not a proof."
)


def write_audit(result: AuditResult, folder: Path) -> None:
    """Put audit.md, the tables and, last, audit.json into `folder`.

    Raises UserError when the folder holds something else or the audit of another run.
    """
    _refuse_foreign(folder, result.summary)
    folder.mkdir(parents=True, exist_ok=True)
    for name, frame in (("trajectories", result.trajectories), ("thoughts", result.thoughts)):
        with replacing(folder / f"{name}.parquet") as temporary:
            frame.to_parquet(temporary, index=False, compression="zstd")
    write_text(folder / "audit.md", audit_markdown(result.summary))
    write_json(folder / "audit.json", jsonable(result.summary))


def _refuse_foreign(folder: Path, summary: dict[str, Any]) -> None:
    if folder.exists() and not folder.is_dir():
        raise UserError(f"--out {folder}: is a file; give a folder")
    if not folder.is_dir() or not any(folder.iterdir()):
        return
    file = folder / "audit.json"
    if not file.is_file():
        raise UserError(f"--out {folder}: is not empty and holds no audit; give another folder")
    try:
        found = read_json_object(file)
    except UserError as error:
        raise UserError(f"--out {folder}: {error}; give another folder") from None
    if _audited(found) is None:
        raise UserError(f"--out {folder}: {file.name} there is not an audit's; give another folder")
    if _audited(found) != _audited(summary):
        raise UserError(f"--out {folder}: holds another audit; give another folder")


def _audited(summary: dict[str, Any]) -> tuple[Any, Any, Any] | None:
    """Which run was audited against which, and at which rate? None for what is no audit."""
    run, calibration = summary.get("run"), summary.get("calibration")
    if not isinstance(run, dict) or not isinstance(calibration, dict):
        return None
    found = (run.get("hash"), calibration.get("run_hash"), summary.get("alpha"))
    return None if None in found else found


def audit_markdown(summary: dict[str, Any]) -> str:
    """What does the audit say, in one page? `summary` as in audit.json."""
    parts = [
        f"# Audit of {summary['run']['name']}",
        _headline(summary),
        "## What was scored",
        _identity(summary),
        "## Calibration",
        _calibration(summary),
        "## Flagged trajectories",
        _flags(summary),
        "## Invalid scores",
        _invalid(summary),
        "## Replay",
        _replay(summary),
    ]
    if summary["planted"]:
        parts += ["## Known plants in this run", _planted(summary)]
    parts += ["## What this audit cannot see", CANNOT_SEE, NEGATIVE_STATEMENT]
    return "\n\n".join(parts) + "\n"


def _headline(summary: dict[str, Any]) -> str:
    c = summary["calibration"]
    low, high = c["flags_if_clean"]
    return (
        f"**{len(summary['flagged'])} of {summary['n']} trajectories flagged** at alpha"
        f" {summary['alpha']:g}; {low} to {high} are expected if all were clean"
        f" ({100 * c['level']:.0f} % range)."
    )


def _identity(summary: dict[str, Any]) -> str:
    run = summary["run"]
    return _table(
        ["", ""],
        [
            ["run", f"{run['name']} (`{run['hash']}`)"],
            ["model", f"{run['reasoner']}, checkpoint `{run['checkpoint_hash']}`"],
            ["scorer", f"`{summary['scorer']}`"],
            ["tensor", f"`{summary['scored']['tensor']}`, {summary['scored']['density']}"],
            ["statistic", f"`{summary['statistic']}`: max of |total| and the largest |z|"],
            ["tau", f"{run['tau']:g}"],
            ["K, D", f"{run['K'][0]} to {run['K'][1]}, {run['D']}"],
            ["dtype, K policy", f"{run['dtype']}, {run['k_policy']}"],
            ["prompt template", f"`{run['template']}`"],
        ],
    )


def _calibration(summary: dict[str, Any]) -> str:
    c = summary["calibration"]
    low, high = c["band"]
    return (
        f"Ranks among {c['n']} clean trajectories of `{c['run']}` (`{c['run_hash']}`), one per"
        f" problem group; {c['n_reference']} further traces of other groups set the usual energy"
        f" at each position. p = (1 + clean scores at least as high) / {c['n'] + 1}. With this"
        f" calibration set the long-run share of false alarms among clean trajectories lies in"
        f" **{100 * low:.2f} to {100 * high:.2f} %** ({100 * c['level']:.0f} % exact Beta band)."
        " This holds for trajectories exchangeable with the clean ones: same checkpoint, tau,"
        f" template and dtype (checked), problems of the same worlds (checked:"
        f" {', '.join(map(_code, summary['run']['worlds']))}) in the same mixture, difficulty and"
        " wording (not checked)."
    )


def _flags(summary: dict[str, Any]) -> str:
    flagged = summary["flagged"]
    if not flagged:
        return "None."
    rows = []
    for entry in flagged[:SHOWN_FLAGS]:
        top = entry["stands_out"]
        rows.append(
            [
                f"`{entry['trace_id']}`" + (" (invalid)" if entry["invalid"] else ""),
                f"{entry['p_value']:.4g}",
                f"{entry['adjusted_p']:.4g}",
                ", ".join(map(str, entry["thoughts"])) or "none alone",
                f"{top['k']} (z {top['z']:+.1f}, p {top['adjusted_p']:.4g})" if top else "–",
                _code(top["text"]) if top else "–",
            ]
        )
    head = ["trace", "p", "BH p", "thoughts beyond alpha", "stands out most", "its decoded text"]
    more = len(flagged) - SHOWN_FLAGS
    rest = f"\n\n{more} more are in audit.json." if more > 0 else ""
    return _table(head, rows) + rest


def _invalid(summary: dict[str, Any]) -> str:
    rows = [
        [f"`{entry['trace_id']}`", entry["reason"], f"{entry['p_value']:.4g}"]
        for entry in summary["invalid"]
    ]
    if not rows:
        return "None: every trajectory has a score."
    return "Not dropped; ranked above every number.\n\n" + _table(["trace", "why", "p"], rows)


def _replay(summary: dict[str, Any]) -> str:
    replay, run = summary["replay"], summary["run"]
    usual = summary["calibration"]["replay_error_max"]
    text = (
        f"Noise recomputed from the stored thoughts, `(u - mu) / sigma`, against the noise recorded"
        f" when they were drawn: {len(replay['broken'])} of {summary['n']} trajectories differ by"
        f" more than {replay['tolerance']:.2g} ({replay['broken_and_flagged']} of these are flagged"
        f" too); median {replay['median']:.1e}, largest {replay['max']:.1e} (on record: median"
        f" {_number(replay['stored_median'])}, largest {_number(replay['stored_max'])}); largest of"
        f" the calibration run {usual:.1e}."
    )
    if run["dtype"] != "float32":
        text += (
            f" The run is {run['dtype']}: thinking and scoring round differently there, so the"
            " threshold is twice the calibration run's largest error (float32: 1e-3), and smaller"
            " changes of thoughts cannot be told from rounding."
        )
    if replay["broken"]:
        text += (
            " In these the thoughts, the recorded noise or the mean and scale were changed after"
            " the draw, or the run was computed otherwise than the calibration run."
        )
    if replay["record_broken"]:
        named = ", ".join(_code(trace) for trace in replay["record_broken"][:SHOWN_RECORDS])
        text += (
            f"\n\n**{len(replay['record_broken'])} trajectories have another replay error or energy"
            f" on record than their tensors give** ({named}): tensors or tables were changed after"
            " scoring, and the p-values, which come from the recorded energies, do not hold for"
            " these."
        )
    return text + (
        "\n\nNone of this enters the p-values. It does not see thoughts, noise, mean and scale that"
        " were all changed to fit each other; only scoring with the model again would."
    )


def _number(value: float | None) -> str:
    return "not a number" if value is None or value != value else f"{value:.1e}"


def _planted(summary: dict[str, Any]) -> str:
    rows = [
        [
            _code(entry["kind"]),
            str(entry["n"]),
            str(entry["flagged"]),
            "–" if entry["located"] is None else str(entry["located"]),
            str(entry["replay_broken"]),
        ]
        for entry in summary["planted"]
    ]
    return _table(["plant", "trajectories", "flagged", "thought named", "replay broken"], rows)


def _code(text: str) -> str:
    """Decoded text in a table cell: one line, no markup and no control characters of its own."""
    return "`" + printable(" ".join(text.split())).replace("`", "'") + "`"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    cells = [[cell.replace("|", "\\|") for cell in row] for row in (head, *rows)]
    lines = ["| " + " | ".join(row) + " |" for row in cells]
    return "\n".join([lines[0], "|" + " --- |" * len(head), *lines[1:]])
