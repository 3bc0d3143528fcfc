"""Figures as files: HTML that needs no network, and PNG where a browser can draw it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from nfcot_model.files import replacing, write_text

__all__ = ["draw"]


def draw(figures: Sequence[tuple[Path, Any]]) -> str | None:
    """Write each plotly figure to its path as .html and .png; says why there is no PNG, if so.

    One page carries plotly's script itself; several in a folder share one plotly.min.js there.
    PNG files are drawn by a Chrome or Chromium, all at once, because starting it takes seconds.
    """
    alone = len(figures) == 1
    if not alone:
        _share_script({path.parent for path, _ in figures})
    for path, figure in figures:
        script = True if alone else "directory"
        page = figure.to_html(include_plotlyjs=script, full_html=True)
        write_text(path.with_suffix(".html"), page)
    try:
        _write_png([(path.with_suffix(".png"), figure) for path, figure in figures])
    except (ImportError, RuntimeError, ValueError, OSError) as error:
        text = str(error).strip()
        return text.splitlines()[0] if text else type(error).__name__
    return None


def _share_script(folders: set[Path]) -> None:
    from plotly.offline import get_plotlyjs

    for folder in folders:
        write_text(folder / "plotly.min.js", get_plotlyjs())


def _write_png(figures: Sequence[tuple[Path, Any]]) -> None:
    import plotly.io

    temporary = [path.with_name(f".{path.stem}.tmp.png") for path, _ in figures]
    try:
        plotly.io.write_images(
            [figure for _, figure in figures],
            temporary,
            width=[figure.layout.width for _, figure in figures],
            height=[figure.layout.height for _, figure in figures],
            scale=1.5,
        )
        for (path, _), drawn in zip(figures, temporary, strict=True):
            with replacing(path) as free:
                drawn.rename(free)
    finally:
        for path in temporary:
            path.unlink(missing_ok=True)
