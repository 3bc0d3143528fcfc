"""Fitted probes and sweeps, gathered from their folders into one page."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from markdown_it import MarkdownIt

from nfcot_model.errors import UserError
from nfcot_model.files import read_json_object, write_json, write_text
from nfcot_model.terminal import jsonable
from probes.artifact import JSON_FILE, read_probe
from probes.report import collected_markdown

__all__ = ["Collected", "collect", "write_report"]

SWEEP_FILE = "sweep.json"
STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 76rem; margin: 2rem auto; padding: 0 1rem;
  color: #222; background: #fff; }
table { border-collapse: collapse; display: block; overflow-x: auto; font-size: 13px; }
td, th { border-bottom: 1px solid #ddd; padding: .3rem .6rem; text-align: left;
  white-space: nowrap; }
h2 { margin-top: 2.5rem; }
@media (prefers-color-scheme: dark) { body { color: #ddd; background: #181818; }
  td, th { border-color: #444; } }
"""


@dataclass(frozen=True)
class Collected:
    """What was found: `probes` as in probe.json, `sweeps` as in sweep.json, each with its `folder`.

    `damaged`: what could not be read, and why. Nothing is computed again; every figure is that of
    the fit.
    """

    probes: list[dict[str, Any]]
    sweeps: list[dict[str, Any]]
    damaged: list[str]

    def to_dict(self) -> dict[str, Any]:
        """The fields of `nfcot probe report --json`."""
        return dict(vars(self))


def collect(folders: Sequence[Path]) -> Collected:
    """Which probes and sweeps are in these folders, or one or two levels below?

    Raises UserError for a folder that is missing, and when there is none that can be read.
    """
    probes: list[dict[str, Any]] = []
    sweeps: list[dict[str, Any]] = []
    damaged: list[str] = []
    for folder in folders:
        if not folder.is_dir():
            raise UserError(f"{folder}: no such folder; give a probe, a sweep or what holds them")
        for name, kept, read in (
            (JSON_FILE, probes, lambda file: read_probe(file.parent).meta),
            (SWEEP_FILE, sweeps, read_json_object),
        ):
            for file in _files(folder, name):
                try:
                    kept.append(read(file) | {"folder": str(file.parent)})
                except UserError as error:
                    damaged.append(str(error))
    if not probes and not sweeps and damaged:
        raise UserError(damaged[0])
    if not probes and not sweeps:
        named = ", ".join(map(str, folders))
        raise UserError(f"{named}: holds no fitted probe; make one with nfcot probe fit or sweep")
    return Collected(probes, sweeps, damaged)


def _files(folder: Path, name: str) -> list[Path]:
    return sorted({*folder.glob(name), *folder.glob(f"*/{name}"), *folder.glob(f"*/*/{name}")})


def write_report(found: Collected, folder: Path) -> None:
    """Write report.md, report.html (one file, no network) and report.json into the folder."""
    if folder.exists() and not folder.is_dir():
        raise UserError(f"--out {folder}: is a file; give a folder")
    folder.mkdir(parents=True, exist_ok=True)
    text = collected_markdown(found.probes, found.sweeps, found.damaged)
    body = MarkdownIt("commonmark", {"html": False}).enable("table").render(text)
    page = (
        "<!doctype html>\n<html lang=en><meta charset=utf-8><title>Probes</title>"
        f"<style>{STYLE}</style>\n<body>\n{body}\n</body></html>\n"
    )
    write_text(folder / "report.md", text)
    write_text(folder / "report.html", page)
    write_json(folder / "report.json", jsonable(found.to_dict()))
