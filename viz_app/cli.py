"""`nfcot app` and `nfcot demo`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

__all__ = ["app_command", "demo"]

Host = Annotated[str, typer.Option(help="Address to listen on.")]
Port = Annotated[int, typer.Option(min=1, max=65535, help="Port to listen on.")]


def app_command(
    runs_dir: Annotated[Path, typer.Argument(metavar="RUNS_DIR", help="Folder with runs.")],
    host: Host = "127.0.0.1",
    port: Port = 8501,
    browser: Annotated[bool, typer.Option("--browser/--no-browser", help="Open a browser.")] = True,
    allow_remote: Annotated[
        bool, typer.Option("--allow-remote", help="Listen beyond this machine. There is no login.")
    ] = False,
) -> None:
    """Look at runs, thoughts, traces and audits in a local web page.

    Example: nfcot app runs/
    """
    from nfcot_model.terminal import console
    from viz_app.server import check_host, serve

    check_host(host, allow_remote)
    serve(runs_dir, host, port, browser=browser, tell=console.print)


def demo(
    headless: Annotated[
        bool, typer.Option("--headless", help="Do everything but serve the page.")
    ] = False,
    runs_dir: Annotated[Path, typer.Option(help="Where the demo's runs go.")] = Path("runs/demo"),
    port: Port = 8501,
    json: Annotated[bool, typer.Option("--json", help="One JSON document on stdout.")] = False,
) -> None:
    """From the shipped checkpoint to traces, a probe, an audit and the dashboard.

    Example: nfcot demo --headless
    """
    from nfcot_model.terminal import console, emit_json
    from viz_app.demo import run_demo
    from viz_app.server import check_port, serve

    if not headless:
        check_port("127.0.0.1", port)
    summary = run_demo(runs_dir=runs_dir, headless=headless)
    if json:
        emit_json(summary.to_dict())
    else:
        typer.echo(summary)
    if not headless:
        serve(runs_dir, "127.0.0.1", port, tell=console.print)
