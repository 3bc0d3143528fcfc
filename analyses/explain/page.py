"""An explanation in the terminal, as Markdown, or as one HTML file that needs nothing else."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Group, RenderableType
from rich.markup import escape
from rich.table import Table as RichTable

from analyses.explain.sections import Section, Table, sections
from analyses.report.blocks import Profile
from analyses.report.markup import STYLE, as_html
from nfcot_model.errors import UserError
from nfcot_model.files import write_text
from nfcot_model.traces.view import printable

__all__ = [
    "check_page",
    "explanation_html",
    "explanation_markdown",
    "explanation_view",
    "write_explanation",
]

MARK = "<!-- nfcot explanation -->"


def explanation_view(summary: Mapping[str, Any]) -> RenderableType:
    """For the terminal."""
    parts: list[RenderableType] = []
    for section in sections(summary):
        parts += ["", f"[bold]{_safe(section.title)}[/]"]
        parts += [f"[dim]{_safe(words.replace('**', ''))}[/]" for words in section.words]
        if section.table is not None:
            table = RichTable(show_header=any(section.table.head))
            for column in section.table.head:
                table.add_column(_safe(column), overflow="fold")
            for i, row in enumerate(section.table.rows):
                table.add_row(*(_tinted(section.table, i, j, cell) for j, cell in enumerate(row)))
            parts.append(table)
    return Group(*parts)


def _tinted(table: Table, row: int, column: int, cell: str) -> str:
    value = table.shade[row][column] if table.shade else None
    style = "" if value is None or abs(value) < 0.25 else "bold red" if value > 0 else "bold blue"
    return f"[{style}]{_safe(cell)}[/]" if style else _safe(cell)


def explanation_markdown(summary: Mapping[str, Any]) -> str:
    """One page of Markdown."""
    parts = [MARK]
    for i, section in enumerate(sections(summary)):
        parts += [f"{'#' if i == 0 else '##'} {_line(section.title)}", *map(_words, section.words)]
        if section.table is not None:
            parts.append(_markdown_table(section.table))
    return "\n\n".join(parts) + "\n"


def _words(text: str) -> str:
    return _line(text).replace("<", "\\<")


def _markdown_table(table: Table) -> str:
    lines = [[_cell(cell) for cell in row] for row in (table.head, *table.rows)]
    made = ["| " + " | ".join(line) + " |" for line in lines]
    return "\n".join([made[0], "|" + " --- |" * len(table.head), *made[1:]])


def _cell(text: str) -> str:
    """Text of others in a table cell: one line, without markup of its own."""
    plain = _line(text)
    for sign in ("\\", "`", "*", "_", "<", "[", "|"):
        plain = plain.replace(sign, f"\\{sign}")
    return plain


def explanation_html(summary: Mapping[str, Any]) -> str:
    """One HTML page, everything inside."""
    title = f"Trace {summary['trace']['trace_id']}"
    body = []
    for i, section in enumerate(sections(summary)):
        body.append(_html_section(section, "h1" if i == 0 else "h2"))
        if section.title == "Thoughts" and summary["calibration"]:
            body.append(_profile(summary["thoughts"]))
    head = (
        '<meta charset="utf-8"><meta name="viewport" content="width=device-width">'
        f"<title>{_escape(title)}</title><style>{STYLE}</style>"
    )
    return (
        f'<!doctype html>{MARK}\n<html lang="en"><head>{head}</head>'
        f"<body>\n{''.join(body)}</body></html>\n"
    )


def _html_section(section: Section, tag: str) -> str:
    words = "".join(f"<p>{_bold(_escape(w))}</p>" for w in section.words)
    table = "" if section.table is None else _html_table(section.table)
    return f"<{tag}>{_escape(section.title)}</{tag}>\n{words}\n{table}"


def _html_table(table: Table) -> str:
    head = "".join(f"<th>{_escape(cell)}</th>" for cell in table.head)
    rows = []
    for i, row in enumerate(table.rows):
        cells = []
        for j, cell in enumerate(row):
            value = table.shade[i][j] if table.shade else None
            cells.append(f"<td{_background(value)}>{_escape(cell)}</td>")
        rows.append(f"<tr>{''.join(cells)}</tr>")
    top = f"<tr>{head}</tr>" if any(table.head) else ""
    return f'<div class="scroll"><table>{top}{"".join(rows)}</table></div>\n'


def _background(value: float | None) -> str:
    if value is None:
        return ""
    colour = "214,69,65" if value > 0 else "65,105,214"
    return f' style="background:rgba({colour},{min(1.0, abs(value)) * 0.8:.2f})"'


def _profile(thoughts: Sequence[Mapping[str, Any]]) -> str:
    """Energy of each thought over the band of clean ones."""
    bands = [(t["k"], t["energy"], t["clean"]["energy"].get("quantiles")) for t in thoughts]
    usual = [{"k": k, "q05": band[1], "q99": band[4]} for k, _, band in bands if band]
    beyond = [k for k, energy, band in bands if band and energy is not None and energy > band[4]]
    title = "Energy of each thought over the clean band, 5 to 99 %, on a logarithmic scale."
    return as_html(Profile(title, [energy for _, energy, _ in bands], usual, beyond))


def check_page(path: Path) -> None:
    """Raise UserError for a name that says no format, and a file that is no explanation."""
    if path.suffix.lower() not in _FORMATS:
        raise UserError(f"--out {path}: expected a name that ends in {' or '.join(_FORMATS)}")
    if path.exists() and not (path.is_file() and MARK in path.read_text(errors="replace")[:200]):
        raise UserError(f"--out {path}: holds something else; choose another name")


def write_explanation(summary: Mapping[str, Any], path: Path) -> None:
    """Write the page as HTML or Markdown, by the file's name. Raises as `check_page` does."""
    check_page(path)
    write_text(path, _FORMATS[path.suffix.lower()](summary))


_FORMATS = {".html": explanation_html, ".md": explanation_markdown}


def _escape(text: str) -> str:
    return html.escape(printable(text))


def _bold(text: str) -> str:
    parts = text.split("**")
    if len(parts) % 2 == 0:
        return text
    return "".join(f"<b>{part}</b>" if i % 2 else part for i, part in enumerate(parts))


def _line(text: str) -> str:
    return printable(" ".join(text.split()))


def _safe(text: str) -> str:
    return escape(printable(text))
