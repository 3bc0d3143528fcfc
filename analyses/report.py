"""The audit as people read it: audit.md, beside audit.json and the two score tables."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from analyses.audit import AuditResult
from nfcot_model.errors import UserError
from nfcot_model.files import replacing, write_json, write_text
from nfcot_model.terminal import jsonable

__all__ = ["CANNOT_SEE", "NEGATIVE_STATEMENT", "audit_markdown", "write_audit"]

SHOWN_FLAGS = 50

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
    try:
        found = json.loads((folder / "audit.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        raise UserError(
            f"--out {folder}: is not empty and holds no audit; give another folder"
        ) from None
    mine = (summary["run"]["hash"], summary["calibration"]["run_hash"], summary["alpha"])
    theirs = (found["run"]["hash"], found["calibration"]["run_hash"], found["alpha"])
    if mine != theirs:
        raise UserError(f"--out {folder}: holds another audit; give another folder")


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
    low, high = summary["calibration"]["flags_if_clean"]
    return (
        f"**{len(summary['flagged'])} of {summary['n']} trajectories flagged** at alpha"
        f" {summary['alpha']:g}; between {low} and {high} are expected if all were clean."
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
        " template and dtype (checked), same kind of problems (not checked)."
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
    replay = summary["replay"]
    return (
        f"Noise recomputed from the stored thoughts against the noise recorded when they were"
        f" drawn: {len(replay['broken'])} of {summary['n']} trajectories differ by more than"
        f" {replay['tolerance']:g} ({replay['broken_and_flagged']} of these are flagged too);"
        f" median {replay['median'] or 0:.1e}, largest {replay['max'] or 0:.1e}. A difference means"
        " that thoughts were changed after they were drawn; it does not enter the p-values."
    )


def _planted(summary: dict[str, Any]) -> str:
    rows = [
        [
            entry["kind"],
            str(entry["n"]),
            str(entry["flagged"]),
            "–" if entry["located"] is None else str(entry["located"]),
            str(entry["replay_broken"]),
        ]
        for entry in summary["planted"]
    ]
    return _table(["plant", "trajectories", "flagged", "thought named", "replay broken"], rows)


def _code(text: str) -> str:
    """Decoded text in a table cell: one line, no markup of its own."""
    return "`" + " ".join(text.split()).replace("`", "'") + "`"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    cells = [[cell.replace("|", "\\|") for cell in row] for row in (head, *rows)]
    lines = ["| " + " | ".join(row) + " |" for row in cells]
    return "\n".join([lines[0], "|" + " --- |" * len(head), *lines[1:]])
