"""Is the dashboard private, offline and clear about bad input before it starts?"""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from nfcot_model.errors import UserError
from tests.synthetic_run import synthetic_run
from viz_app.cli import app_command
from viz_app.server import check_host, check_port, check_runs_dir, serve, server_config


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "::1", "127.8.8.8"])
def test_loopback_hosts_are_served(host: str) -> None:
    check_host(host, allow_remote=False)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "10.1.2.3", "example.org", ""])
def test_other_hosts_need_allow_remote(host: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="--allow-remote"):
        app_command(tmp_path, host=host)
    check_host(host, allow_remote=True)


def test_a_missing_folder_and_a_run_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such folder"):
        app_command(tmp_path / "nothing")
    synthetic_run(tmp_path / "run", n=2)
    with pytest.raises(UserError, match=f"nfcot app {tmp_path}"):
        app_command(tmp_path / "run")
    assert check_runs_dir(tmp_path) == tmp_path.resolve()


def test_a_taken_port_is_named() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(UserError, match=f"--port {port}"):
            check_port("127.0.0.1", port)


def test_streamlit_knows_every_option_and_stays_private() -> None:
    from streamlit import config

    options = server_config("127.0.0.1", 8501, browser=False)
    known = config.get_config_options()
    assert not options.keys() - known.keys()
    assert options["server.address"] == "127.0.0.1"
    assert options["server.headless"] is True
    assert options["browser.gatherUsageStats"] is False
    assert "*" not in options["server.allowedHosts"]
    assert {"theme.light.primaryColor", "theme.dark.primaryColor"} <= options.keys()


def test_nothing_offers_to_install_files(monkeypatch: pytest.MonkeyPatch) -> None:
    """Streamlit offers files to coding agents found on the machine, in the page itself."""
    from streamlit import config
    from streamlit.web import skills

    monkeypatch.setattr(skills, "agent_harness_present", lambda: True)
    options = server_config("127.0.0.1", 8501, browser=True)
    monkeypatch.setattr(config, "get_option", lambda key: options.get(key, False))
    assert skills.nudge_suppression_reason() == "welcome_hidden"


@pytest.mark.parametrize(("host", "named"), [("::1", "[::1]"), ("127.0.0.1", "127.0.0.1")])
def test_the_address_is_told_before_serving(
    host: str, named: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import streamlit

    told: list[str] = []
    ran: list[dict] = []
    monkeypatch.setattr(
        streamlit.App, "run", lambda self, config: (ran.append(config), told.append("runs"))
    )
    monkeypatch.setenv("NFCOT_RUNS_DIR", "")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    serve(tmp_path, host, port, browser=False, tell=told.append)
    assert told == [f"http://{named}:{port}", "runs"]
    assert ran[0]["server.port"] == port


def test_the_theme_loads_nothing_from_elsewhere() -> None:
    options = server_config("127.0.0.1", 8501, browser=False)
    assert not [key for key, value in options.items() if "//" in str(value)]
