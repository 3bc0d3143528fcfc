"""Does the served dashboard work in a real browser, and does it talk to this machine only?"""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from analyses.audit import audit_run
from analyses.report import write_audit
from nfcot_model.traces import read_run
from tests.synthetic_run import synthetic_run

pytestmark = pytest.mark.browser
playwright = pytest.importorskip("playwright.sync_api")

ROOT = Path(__file__).parents[2]
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
BINARY = next(filter(None, map(shutil.which, BROWSERS)), None)
ARGUMENTS = [
    "--no-sandbox",
    "--use-angle=swiftshader",
    "--enable-unsafe-swiftshader",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-default-apps",
    "--disable-sync",
    "--no-first-run",
]
PATIENCE = 90_000
BACKGROUND = "getComputedStyle(document.querySelector('.stApp')).backgroundColor"
if BINARY is None:
    pytest.skip("no Chromium found; install it to run the browser test", allow_module_level=True)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs")
    clean = synthetic_run(folder / "clean", n=260, D=4, steps=(2, 4), seed=1)
    options = {"tamper": "swap", "tamper_every": 4}
    tampered = synthetic_run(folder / "tampered", n=40, D=4, steps=(2, 4), seed=2, **options)
    write_audit(audit_run(tampered, clean, 0.05), folder / "audits" / "tampered")
    return folder


@pytest.fixture(scope="module")
def address(store: Path) -> Iterator[str]:
    """Serves the store with the command's own function in a process of its own."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    code = (
        "from pathlib import Path; from viz_app.cli import app_command; "
        f"app_command(Path({str(store)!r}), port={port}, browser=False)"
    )
    environment = os.environ | {"PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"}
    server = subprocess.Popen(
        [sys.executable, "-c", code],
        cwd=store,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        assert server.stdout is not None
        said = ""
        for line in server.stdout:
            said += line
            if f"http://127.0.0.1:{port}" in line:
                break
        assert server.poll() is None, said
        yield f"http://127.0.0.1:{port}"
    finally:
        server.terminate()
        server.wait(20)


@pytest.fixture(scope="module")
def browser() -> Iterator[object]:
    with playwright.sync_playwright() as tool:
        chromium = tool.chromium.launch(executable_path=BINARY, args=ARGUMENTS)
        yield chromium
        chromium.close()


@pytest.fixture
def page(browser, tmp_path: Path) -> Iterator[object]:
    """A page that remembers its errors and its requests to other machines."""
    context = browser.new_context(
        viewport={"width": 1400, "height": 1000},
        color_scheme="light",
        accept_downloads=True,
    )
    context.set_default_timeout(PATIENCE)
    page = context.new_page()
    problems: list[str] = []
    page.on("pageerror", lambda error: problems.append(f"page error: {error}"))
    page.on("console", lambda message: problems.extend(complaint(message)))
    page.on("request", lambda sent: problems.extend(foreign(sent.url)))
    yield page
    page.screenshot(path=tmp_path / "last.png")
    context.close()
    assert not problems


def complaint(message) -> list[str]:
    """A console error, unless it is Streamlit asking where its server's root is.

    Opened below the root, it asks `/map/_stcore/...` and `/_stcore/...` and takes what answers.
    """
    where = message.location.get("url", "")
    if message.type != "error" or (urlsplit(where).path.count("/") > 2 and "/_stcore/" in where):
        return []
    return [f"console: {message.text} ({where})"]


def foreign(url: str) -> list[str]:
    parts = urlsplit(url)
    ours = parts.hostname in {"127.0.0.1", "localhost"} or parts.scheme in {"data", "blob"}
    return [] if ours else [f"request to {url}"]


def menu(page, label: str):
    return page.get_by_role("combobox", name=label, exact=True)


def wait_for_chart(page) -> None:
    page.locator(".js-plotly-plot .main-svg").first.wait_for()


def point_on_screen(page, k: int) -> dict[str, float]:
    """Where is the first drawn thought with this k, in page coordinates? With its row number."""
    return page.evaluate(
        """k => {
            const plot = document.querySelector('.js-plotly-plot');
            const {xaxis, yaxis} = plot._fullLayout;
            const box = plot.querySelector('.nsewdrag').getBoundingClientRect();
            const trace = plot._fullData[0];
            const i = trace.customdata.findIndex(data => data[1] === k);
            return {x: box.left + xaxis.d2p(trace.x[i]), y: box.top + yaxis.d2p(trace.y[i]),
                    row: trace.customdata[i][0]};
        }""",
        k,
    )


def test_from_the_runs_to_a_point_its_trace_and_the_audit(page, address, store) -> None:
    run = read_run(store / "tampered")

    page.goto(address)
    page.get_by_role("heading", name="Runs").wait_for()
    menu(page, "Run").click()
    page.get_by_role("option", name="tampered").click()
    page.get_by_text(run.hash, exact=True).wait_for()
    page.get_by_role("link", name="Map of thoughts").click()

    page.get_by_role("heading", name="Map of thoughts").wait_for()
    page.get_by_text(
        f"{len(run.thoughts)} of {len(run.thoughts)} thoughts of 40 traces shown"
    ).wait_for()
    wait_for_chart(page)
    assert "run=tampered" in page.url
    spot = point_on_screen(page, k=1)
    page.mouse.move(spot["x"] - 40, spot["y"])
    page.mouse.move(spot["x"], spot["y"])
    page.locator(".hoverlayer .hovertext").wait_for()
    page.mouse.click(spot["x"], spot["y"])
    page.get_by_text("Selected trace", exact=True).wait_for()
    clicked = menu(page, "Trace").input_value()
    assert clicked == run.thoughts["trace_id"].iloc[spot["row"]]
    trace = run.traces.set_index("trace_id").loc[clicked]
    page.get_by_text(trace["prompt"]).wait_for()
    page.wait_for_url(f"**trace={clicked}*")

    page.get_by_role("link", name="Open the trace").click()
    page.get_by_text("Likelihood profile").wait_for()
    wait_for_chart(page)
    assert menu(page, "Trace").input_value() == clicked
    ids = run.traces["trace_id"].tolist()
    following = ids[min(ids.index(clicked) + 1, len(ids) - 1)]
    page.get_by_role("heading", name="Trace", exact=True).click()
    page.keyboard.press("j")
    page.wait_for_url(f"**trace={following}*")
    page.keyboard.press("k")
    page.wait_for_url(f"**trace={clicked}*")

    page.get_by_role("link", name="Audit").click()
    summary = json.loads((store / "audits/tampered/audit.json").read_text())
    page.get_by_text("What an audit cannot see").wait_for()
    page.get_by_text("p-values against uniform").wait_for()
    wait_for_chart(page)
    with page.expect_download() as caught:
        page.get_by_role("button", name="JSON").click()
    assert json.loads(Path(caught.value.path()).read_text()) == summary
    flag = summary["flagged"][0]["trace_id"]
    assert menu(page, "Flag").input_value() == flag
    page.get_by_role("link", name="Open the trace").click()
    page.get_by_text("flagged by tampered").wait_for()
    assert menu(page, "Trace").input_value() == flag


def test_a_deep_link_opens_its_trace_and_follows_the_theme(page, address, store) -> None:
    trace = read_run(store / "clean").traces.iloc[5]
    page.goto(f"{address}/trace?run=clean&trace={trace['trace_id']}&measure=logp")
    page.get_by_text(trace["prompt"]).wait_for()
    assert menu(page, "Trace").input_value() == trace["trace_id"]
    light = background(page)
    page.emulate_media(color_scheme="dark")
    page.wait_for_function(
        "old => getComputedStyle(document.querySelector('.stApp')).backgroundColor !== old",
        arg=light,
    )
    assert sum(background_levels(light)) > sum(background_levels(background(page)))


def test_pages_keep_the_run_and_their_address_says_so(page, address) -> None:
    page.goto(f"{address}/trace?run=tampered&subset=flagged")
    page.wait_for_url("**&trace=*")
    trace = menu(page, "Trace").input_value()
    page.get_by_role("link", name="Map").click()
    page.wait_for_url(f"**/map?run=tampered&trace={trace}")
    page.get_by_text("thoughts of 40 traces shown").wait_for()
    assert menu(page, "Run").input_value() == "tampered"
    assert menu(page, "Trace").input_value() == trace
    page.goto(f"{address}/audit?audit=tampered")
    page.get_by_text("What an audit cannot see").wait_for()
    page.get_by_role("link", name="Trace", exact=True).click()
    page.wait_for_url("**/trace?run=tampered&trace=*")
    assert menu(page, "Run").input_value() == "tampered"
    page.go_back()
    page.wait_for_url("**/audit?audit=tampered")
    page.wait_for_function(
        "document.querySelector('[role=combobox][aria-label*=Audit], input[role=combobox]')"
        "?.value === 'tampered'"
    )


def test_back_leaves_a_page_at_the_first_press(page, address) -> None:
    page.goto("about:blank")
    before = page.evaluate("history.length")
    page.goto(f"{address}/trace?run=tampered&subset=flagged")
    page.wait_for_url("**&trace=*")
    page.get_by_text("Likelihood profile").wait_for()
    assert page.evaluate("history.length") == before + 1
    page.get_by_role("link", name="Map").click()
    page.wait_for_url("**/map?run=tampered&trace=*")
    page.get_by_text("thoughts of 40 traces shown").wait_for()
    page.get_by_role("link", name="Open the trace").click()
    page.wait_for_url("**/trace?run=tampered&*")
    page.get_by_text("Likelihood profile").wait_for()
    assert page.evaluate("history.length") == before + 3
    page.go_back()
    page.wait_for_url("**/map?run=tampered&trace=*")
    page.get_by_text("thoughts of 40 traces shown").wait_for()
    page.go_back()
    page.wait_for_url("**/trace?run=tampered&*")
    page.get_by_text("Likelihood profile").wait_for()


def background(page) -> str:
    return page.evaluate(BACKGROUND)


def background_levels(colour: str) -> list[int]:
    return [int(level) for level in colour.removeprefix("rgb(").removesuffix(")").split(",")]
