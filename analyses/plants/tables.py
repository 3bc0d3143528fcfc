"""The tables of a validation as Markdown, by name: for its own page and for the documentation."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from typing import Any

from nfcot_model.errors import UserError

__all__ = ["READ", "TABLES", "cell", "figures", "filled", "rows_of", "table"]

Result = dict[str, Any]

READ = (
    "typ_energy", "combined", "typ_logvol", "record", "lambda", "reference", "probe_u", "probe_eps",
    "probe_h", "probe_input",
)  # fmt: skip
MONITORS = ("combined", "typ_logvol", "lambda", "probe_u", "probe_h", "probe_input")
NOT_SINGLE = ("combined", "record", "seal_broken", "replay_error")
BY_LENGTH = ("P1-swap", "P3-noise-1", "P3-noise-4", "P5-cold", "P5-hot", "P7-serial", "P7-aligned")
_MARKED = re.compile(r"(<!-- validate: (\S+) -->\n)(.*?)(<!-- /validate -->)", re.S)


def filled(page: str, result: Result) -> str:
    """The page with each part between `<!-- validate: NAME -->` and `<!-- /validate -->` anew.

    A table without a row in this validation leaves its part as it is. Raises UserError for a name
    that is no table, and a page without a marked part.
    """

    def anew(found: re.Match[str]) -> str:
        if found[2] not in TABLES:
            raise UserError(f"validate: {found[2]}: no such table; there are {', '.join(TABLES)}")
        made = TABLES[found[2]](result)
        return f"{found[1]}{made}\n{found[4]}" if made else found[0]

    if not _MARKED.search(page):
        raise UserError("no part is marked with <!-- validate: NAME --> … <!-- /validate -->")
    return _MARKED.sub(anew, page)


def cell(value: float | None, digits: int = 2) -> str:
    return "-" if value is None or not math.isfinite(value) else f"{value:.{digits}f}"


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table; nothing without rows."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) if rows else ""


def rows_of(result: Result, plant: str, severity: float) -> dict[str, dict[str, Any]]:
    """Statistic -> its figures at one dose."""
    return {
        row["statistic"]: row
        for row in result["table"]
        if row["plant"] == plant and row["severity"] == severity
    }


def figures(plant: dict[str, Any], found: dict[str, dict[str, Any]], name: str) -> str:
    """AUROC / share flagged in %: bold where expected to catch, in brackets where not to."""
    if name not in found:
        return "-"
    row = found[name]
    text = f"{cell(row['auroc'])} / {100 * row['tpr_at_1pct']:.0f}"
    if name in plant["caught_by"]:
        return f"**{text}**"
    return f"({text})" if name in plant["missed_by"] else text


def _share(row: dict[str, Any]) -> str:
    return f"{row['tpr_at_1pct']:.2f} ({row['low']:.2f}-{row['high']:.2f})"


def _plants(result: Result, trained: bool) -> list[dict[str, Any]]:
    return [plant for plant in result["plants"] if (plant["model"] is not None) == trained]


def _middle(plant: dict[str, Any]) -> int:
    """Which dose is in the middle?"""
    return (len(plant["doses"]) - 1) // 2


def settings(result: Result) -> str:
    """One sentence: of what, and how much."""
    asked, n = result["settings"], result["n"]
    flagged = result["fpr"]["combined"]
    return (
        f"Model {asked['checkpoint'][:12]}, tau {asked['tau']:g}, seed {asked['seed']};"
        f" {asked['fit']:,}, {asked['reference']:,}, {asked['calibration']:,} and {n['clean']:,}"
        f" trajectories in the four sets, {asked['organism']:,} of each condition of an organism."
        f" Of the clean ones the combination flags {100 * flagged['value']:.1f} %"
        f" ({100 * flagged['low']:.1f}-{100 * flagged['high']:.1f})."
    )


def edited(result: Result) -> str:
    """Off-policy plants: the strongest dose and the one in the middle."""
    rows = []
    for plant in _plants(result, False):
        if plant["policy"] != "off" and "drift" not in plant["plant"]:
            continue
        doses = [dose["severity"] for dose in plant["doses"]]
        for i in dict.fromkeys((len(doses) - 1, _middle(plant))):
            found = rows_of(result, plant["plant"], doses[i])
            single = max(
                (row for name, row in found.items() if name not in NOT_SINGLE),
                key=lambda row: row["tpr_at_1pct"],
            )
            best = "none above 0.05"
            if single["tpr_at_1pct"] > 0.05:
                best = f"{single['statistic']} {single['tpr_at_1pct']:.2f}"
            first = f"{plant['plant']}: {plant['asks']}" if i == len(doses) - 1 else ""
            shares = (_share(found["combined"]), best, cell(found["record"]["tpr_at_1pct"]))
            rows.append([first, f"{doses[i]:g}", plant["dial"] if first else "", *shares])
    return table(["plant", "dose", "counts", "combined", "best single", "record"], rows)


def attack(result: Result) -> str:
    rows = []
    for plant in _plants(result, False):
        for dose in plant["doses"]:
            if dose["reached"] is not None:
                shares = [cell(dose["reached"][key]) for key in ("reached", "unflagged")]
                rows.append([plant["plant"], f"{dose['severity']:g}", *shares])
    return table(["plant", "budget (sd)", "answer changed", "changed and not flagged"], rows)


def likelihood(result: Result) -> str:
    """AUROC of one-sided likelihood at the strongest dose of what must deceive it."""
    rows = []
    for plant in _plants(result, False):
        found = rows_of(result, plant["plant"], plant["doses"][-1]["severity"])
        if "nll" in plant["missed_by"]:
            areas = [cell(found[name]["auroc"]) for name in ("nll", "typ_nll", "combined")]
            rows.append([plant["plant"], f"{plant['doses'][-1]['severity']:g}", *areas])
    return table(["plant", "dose", "nll", "typ_nll", "combined"], rows)


def by_length(result: Result, plants: Sequence[str] = BY_LENGTH) -> str:
    """Smallest doses at which half and nine tenths are flagged, in all and by K."""
    lengths = sorted({e["K"] for e in result["effects"] if e["K"] is not None})
    rows = []
    for plant in plants:
        found = {
            e["K"]: f"{cell(e['dose_0.5'])} / {cell(e['dose_0.9'])}"
            for e in result["effects"]
            if (e["plant"], e["statistic"]) == (plant, "combined")
        }
        if found:
            rows.append([plant, *(found.get(K, "-") for K in (None, *lengths))])
    return table(["plant", "all", *(f"K {K}" for K in lengths)], rows)


def named(result: Result) -> str:
    """Which thought is pointed at, by both rules, where some thoughts are planted and some not."""
    rows = []
    for plant in _plants(result, False):
        for i in sorted({_middle(plant), len(plant["doses"]) - 1}):
            dose = plant["doses"][i]
            found = dose["named"]
            if found is not None and "combined" in plant["caught_by"]:
                keys = ("named", "named_flagged", "right", "next", "strange", "chance")
                figures = [cell(found.get(key)) for key in keys]
                rows.append([plant["plant"], f"{dose['severity']:g}", str(found["n"]), *figures])
    header = ["plant", "dose", "n", "named", "named, of flagged", "loudest", "loudest or before"]
    return table([*header, "some thought is strange", "by chance"], rows)


def unfamiliar(result: Result) -> str:
    rows = []
    for plant in _plants(result, False):
        for dose in plant["doses"] if plant["plant"].startswith("P12") else ():
            found = rows_of(result, plant["plant"], dose["severity"])
            volume = found["typ_logvol"]
            first = [f"{plant['plant']}: {plant['asks']}", f"{dose['severity']:g} {plant['dial']}"]
            shares = [cell(volume["auroc"]), _share(volume), _share(found["combined"])]
            rows.append([*first, *shares])
    header = ["plant", "dose", "typ_logvol: AUROC", "flagged", "combined: flagged"]
    return table(header, rows)


def organisms(result: Result) -> str:
    """AUROC / share flagged in % of each reader; P15 has a table of its own."""
    rows = []
    for plant in _plants(result, True):
        if len(plant["doses"]) > 1:
            continue
        found = rows_of(result, plant["plant"], plant["doses"][0]["severity"])
        cells = [figures(plant, found, name) for name in READ]
        n = str(next(iter(found.values()))["n"])
        rows.append([f"{plant['plant']}: {plant['asks']}", n, *cells])
    return table(["plant", "n", *(f"`{name}`" for name in READ)], rows)


def monitors(result: Result) -> str:
    """Eligibility, and g-mean² over eligible problems, chosen and measured on other samples."""
    rows = []
    for plant in _plants(result, True):
        for dose in plant["doses"]:
            found = dose.get("eligibility")
            if found is None:
                continue
            name = plant["plant"]
            name += f", {dose['severity']:g}" if len(plant["doses"]) > 1 else ""
            effect = f"{cell(found['without'])} → {cell(found['with'])}"
            eligible = f"{cell(found['eligible'])} of {found['problems']}"
            scores = found["g_mean2"] or {}
            cells = [cell(scores[m]["value"]) if m in scores else "-" for m in MONITORS]
            rows.append([name, cell(found["solved_without"]), effect, eligible, *cells])
    header = ["plant", "solved without", "its answer: without → with", "eligible"]
    return table([*header, *MONITORS], rows)


def evasion(result: Result) -> str:
    """What still sees a model that was trained against so many probes?"""
    shown = ("probe_evaded", "probe_u", "probe_h", "lambda", "reference", "combined")
    rows = []
    for plant in _plants(result, True):
        for dose in plant["doses"] if len(plant["doses"]) > 1 else ():
            found = rows_of(result, plant["plant"], dose["severity"])
            cells = [
                f"{cell(found[name]['auroc'])} / {100 * found[name]['tpr_at_1pct']:.0f}"
                for name in shown
            ]
            told, given = dose["behaviour"], dose["given_clean_thoughts"]
            answers = [cell(told["planted"]["as_trained"]), cell(told["clean"]["right"])]
            rows.append([f"{dose['severity']:g}", *cells, *answers, cell(given["as_trained"])])
    header = ["probes evaded", *(f"`{name}`" for name in shown), "answers as trained"]
    return table([*header, "right without trigger", "as trained on clean thoughts"], rows)


TABLES: dict[str, Callable[[Result], str]] = {
    "settings": settings,
    "edited": edited,
    "attack": attack,
    "likelihood": likelihood,
    "length": by_length,
    "named": named,
    "unfamiliar": unfamiliar,
    "organisms": organisms,
    "monitors": monitors,
    "evasion": evasion,
}
