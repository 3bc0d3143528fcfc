"""An audit's sections as one Markdown page, or as one HTML page that needs nothing else."""

from __future__ import annotations

import html
import math
import re
from collections.abc import Callable, Sequence
from typing import Any

from analyses.report.blocks import Block, Curve, Profile, Table, Text
from analyses.report.sections import headline, sections

__all__ = ["STYLE", "as_html", "audit_html", "audit_markdown"]

WIDTH, HEIGHT, LEFT, FOOT = 460, 150, 56, 26
Scale = Callable[[float], float]
STYLE = """
:root{color-scheme:light dark;--ink:#1c2330;--dim:#5b6472;--line:#d7dce3;--paper:#fff;
--mark:#c2410c;--band:#dbe6f5;--wash:#f4f6f9}
@media(prefers-color-scheme:dark){:root{--ink:#e6e9ee;--dim:#9aa4b2;--line:#38404c;--paper:#14181e;
--mark:#fb923c;--band:#26384f;--wash:#1c222a}}
body{font:16px/1.55 system-ui,sans-serif;color:var(--ink);background:var(--paper);max-width:60rem;
margin:2.5rem auto;padding:0 1.25rem}
h1{font-size:1.7rem;margin:0 0 .5rem}h2{font-size:1.15rem;margin:2.2rem 0 .5rem;
border-top:1px solid var(--line);padding-top:1rem}
p{margin:.6rem 0;overflow-wrap:anywhere}code{font:.86em ui-monospace,monospace;
background:var(--wash);padding:.1em .3em;border-radius:3px;overflow-wrap:anywhere}
.scroll{overflow-x:auto}table{border-collapse:collapse;font-size:.86rem;margin:.7rem 0;
font-variant-numeric:tabular-nums}
th,td{text-align:left;padding:.3rem .8rem .3rem 0;border-bottom:1px solid var(--line);
vertical-align:top}th{color:var(--dim);font-weight:600}
figure{margin:1rem 0}figcaption{font-size:.86rem;color:var(--dim)}svg text{fill:var(--dim);
font:11px system-ui,sans-serif}
"""


def audit_markdown(summary: dict[str, Any]) -> str:
    """What does the audit say, in one page? `summary` as in audit.json."""
    parts = [f"# Audit of {summary['run']['name']}", headline(summary)]
    for i, section in enumerate(sections(summary), start=1):
        parts.append(f"## {i}. {section.title}")
        parts += [_as_markdown(block) for block in section.blocks]
    return "\n\n".join(part for part in parts if part) + "\n"


def audit_html(summary: dict[str, Any]) -> str:
    """The same page as HTML, with pictures, without scripts and without anything to fetch."""
    title = html.escape(f"Audit of {summary['run']['name']}")
    parts = [f"<h1>{title}</h1>", f"<p>{_inline(headline(summary))}</p>"]
    for i, section in enumerate(sections(summary), start=1):
        parts.append(f"<h2>{i}. {html.escape(section.title)}</h2>")
        parts += [as_html(block) for block in section.blocks]
    body = "\n".join(parts)
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{title}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n{body}\n</body>\n</html>\n"
    )


def _as_markdown(block: Block) -> str:
    if isinstance(block, Text):
        return block.text
    if isinstance(block, Table):
        cells = [[cell.replace("|", "\\|") for cell in row] for row in (block.head, *block.rows)]
        lines = ["| " + " | ".join(row) + " |" for row in cells]
        return "\n".join([lines[0], "|" + " --- |" * len(block.head), *lines[1:]])
    return ""  # pictures repeat what tables and text say


def _inline(text: str) -> str:
    safe = html.escape(text)
    safe = re.sub(r"`([^`]*)`", r"<code>\1</code>", safe)
    return re.sub(r"\*\*(.+?)\*\*", r"<strong>\1</strong>", safe)


def as_html(block: Block) -> str:
    """A block as HTML for a page in `STYLE`."""
    if isinstance(block, Text):
        paragraphs = (part.strip() for part in block.text.split("\n\n"))
        return "\n".join(f"<p>{_inline(part)}</p>" for part in paragraphs if part)
    if isinstance(block, Table):
        head = "".join(f"<th>{_inline(cell)}</th>" for cell in block.head)
        rows = "".join(
            "<tr>" + "".join(f"<td>{_inline(cell)}</td>" for cell in row) + "</tr>"
            for row in block.rows
        )
        top = f"<thead><tr>{head}</tr></thead>" if any(block.head) else ""
        return f'<div class="scroll"><table>{top}<tbody>{rows}</tbody></table></div>'
    drawn = _profile(block) if isinstance(block, Profile) else _curve(block)
    return f"<figure>{drawn}<figcaption>{_inline(block.title)}</figcaption></figure>"


def _frame(label: str, low: float, high: float, marks: Sequence[str], ends: tuple[str, str]) -> str:
    return (
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" height="{HEIGHT}" role="img"'
        f' aria-label="{html.escape(label, quote=True)}">'
        f'<text x="0" y="14">{high:.3g}</text><text x="0" y="{HEIGHT - FOOT}">{low:.3g}</text>'
        f'<text x="{LEFT}" y="{HEIGHT - 3}">{ends[0]}</text>'
        f'<text x="{WIDTH}" y="{HEIGHT - 3}" text-anchor="end">{ends[1]}</text>'
        + "".join(marks)
        + "</svg>"
    )


def _scale(low: float, high: float, n: int) -> tuple[Scale, Scale]:
    """Where place i of n, and a value between low and high, stand in the picture."""
    wide = (WIDTH - LEFT - 16) / max(n - 1, 1)
    tall = (HEIGHT - FOOT - 10) / (high - low if high > low else 1.0)
    return (
        lambda i: LEFT + 8 + (i * wide if n > 1 else (WIDTH - LEFT) / 2),
        lambda v: 10 + (high - v) * tall,
    )


def _points(pairs: Sequence[tuple[float, float]]) -> str:
    return " ".join(f"{x:.1f},{y:.1f}" for x, y in pairs)


def _log(value: float) -> float:
    return math.log10(max(value, 1e-3))


def _profile(block: Profile) -> str:
    values = [(k, v) for k, v in enumerate(block.energy) if v is not None and math.isfinite(v)]
    usual = [row for row in block.band if row["k"] < len(block.energy)]
    reach = [v for _, v in values] + [row[q] for row in usual for q in ("q05", "q99")]
    if not reach:
        return ""
    low, high = min(reach), max(reach)
    x, y = _scale(_log(low), _log(high), len(block.energy))
    marks = []
    if usual:
        upper = [(x(row["k"]), y(_log(row["q99"]))) for row in usual]
        lower = [(x(row["k"]), y(_log(row["q05"]))) for row in reversed(usual)]
        marks.append(f'<polygon points="{_points(upper + lower)}" style="fill:var(--band)"/>')
    line = _points([(x(k), y(_log(v))) for k, v in values])
    marks.append(
        f'<polyline points="{line}" style="fill:none;stroke:var(--ink);stroke-width:1.5"/>'
    )
    for k, v in values:
        colour = "var(--mark)" if k in block.named else "var(--ink)"
        marks.append(f'<circle cx="{x(k):.1f}" cy="{y(_log(v)):.1f}" r="4" style="fill:{colour}"/>')
    ends = ("thought 0", f"thought {len(block.energy) - 1}")
    return _frame("energy of each thought over the usual band", low, high, marks, ends)


def _curve(block: Curve) -> str:
    if not block.values:
        return ""
    low = min(0.0, *block.values)
    high = max(block.limit, *block.values)
    x, y = _scale(low, high, len(block.values))
    line = _points([(x(i), y(v)) for i, v in enumerate(block.values)])
    limit = y(block.limit)
    marks = [
        f'<line x1="{LEFT}" x2="{WIDTH}" y1="{limit:.1f}" y2="{limit:.1f}"'
        ' style="stroke:var(--mark);stroke-dasharray:4 3"/>',
        f'<polyline points="{line}" style="fill:none;stroke:var(--ink);stroke-width:1.5"/>',
    ]
    ends = ("first trace", f"after {block.every * len(block.values):,} traces")
    return _frame(block.title, low, high, marks, ends)
