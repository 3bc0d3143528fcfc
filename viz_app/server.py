"""How is the dashboard served, to whom, and in which colours?"""

from __future__ import annotations

import ipaddress
import os
import socket
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from nfcot_model.errors import UserError

__all__ = [
    "RUNS_DIR_VARIABLE",
    "check_host",
    "check_port",
    "check_runs_dir",
    "serve",
    "server_config",
]

RUNS_DIR_VARIABLE = "NFCOT_RUNS_DIR"
HERE = Path(__file__).parent


def is_loopback(host: str) -> bool:
    """Can only this machine reach `host`? Names other than localhost count as remote."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def check_host(host: str, allow_remote: bool) -> None:
    """May the dashboard listen on `host`? It has no login, so beyond loopback only on request.

    Raises UserError when `host` is not a loopback address and `allow_remote` is False.
    """
    if not allow_remote and not is_loopback(host):
        raise UserError(
            f"--host {host}: the dashboard has no login and listens on this machine only; "
            "use 127.0.0.1 with an SSH tunnel, or add --allow-remote behind an "
            "authenticating proxy"
        )


def check_port(host: str, port: int) -> None:
    """Is `port` free on `host`? Raises UserError when it is taken or `host` is not ours."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise UserError(
                f"--port {port}: cannot listen on {host}:{port} ({error.strerror}); "
                "choose another with --port"
            ) from error


def check_runs_dir(runs_dir: Path) -> Path:
    """Is this a folder that can hold runs? Returns it absolute, raises UserError otherwise."""
    if not runs_dir.is_dir():
        raise UserError(f"{runs_dir}: no such folder; RUNS_DIR is the folder that holds the runs")
    if (runs_dir / "run.json").exists():
        raise UserError(
            f"{runs_dir}: this is one run; give the folder that holds it: "
            f"nfcot app {runs_dir.resolve().parent}"
        )
    return runs_dir.resolve()


def flat(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested TOML tables as dotted configuration keys."""
    options: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, dict):
            options |= flat(value, f"{prefix}{key}.")
        else:
            options[f"{prefix}{key}"] = value
    return options


def server_config(host: str, port: int, browser: bool) -> dict[str, Any]:
    """Which Streamlit options make the server private, offline and calm to look at?

    The packaged `theme.toml` gives the light and the dark theme; the reader's system decides.
    """
    everywhere = host in {"0.0.0.0", "::"}
    hosts = ["*"] if everywhere else sorted({"localhost", "127.0.0.1", "::1", host})
    return flat(tomllib.loads((HERE / "theme.toml").read_text())) | {
        "server.address": host,
        "server.port": port,
        "server.headless": not browser,
        "server.allowedHosts": hosts,
        "server.fileWatcherType": "none",
        "browser.serverAddress": "localhost" if everywhere else host,
        "browser.gatherUsageStats": False,
        # With its welcome goes Streamlit's offer to install files for coding agents.
        "logger.hideWelcomeMessage": True,
        "client.toolbarMode": "viewer",
        "global.disableWidgetStateDuplicationWarning": True,
    }


def serve(
    runs_dir: Path,
    host: str = "127.0.0.1",
    port: int = 8501,
    browser: bool = True,
    tell: Callable[[str], object] = lambda address: None,
) -> None:
    """Serve the dashboard of `runs_dir` until interrupted; `tell` is given its address first.

    Raises UserError for a taken port.
    """
    runs_dir = check_runs_dir(runs_dir)
    check_port(host, port)
    try:
        import plotly  # noqa: F401
        import streamlit as st
    except ModuleNotFoundError as error:
        raise UserError(
            f"the dashboard needs {error.name}; install it in the source folder with: "
            "pip install -c constraints.txt -e '.[app]'"
        ) from error
    from starlette.middleware import Middleware

    from viz_app.history import OneEntryAPage

    os.environ[RUNS_DIR_VARIABLE] = str(runs_dir)
    app = st.App(HERE / "app.py", middleware=[Middleware(OneEntryAPage)])
    config = server_config(host, port, browser)
    named = config["browser.serverAddress"]
    tell(f"http://[{named}]:{port}" if ":" in named else f"http://{named}:{port}")
    app.run(config=config)
