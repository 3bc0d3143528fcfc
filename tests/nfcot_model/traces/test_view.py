"""Does text from models and files reach the terminal as text only?"""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from nfcot_model.traces import Run
from nfcot_model.traces.view import printable, run_view, trace_view
from tests.synthetic_run import synthetic_run

HOSTILE = "\x1b[2J\x1b]0;owned\x07 \x9b31m \x08 \r [red]kept\u2028"


@pytest.fixture
def hostile(tmp_path: Path) -> Run:
    run = synthetic_run(tmp_path / "run", n=3)
    columns = ("problem_id", "group", "prompt", "answer", "reference_answer", "verdict_detail")
    traces = run.traces.assign(**dict.fromkeys((*columns, "verdict"), HOSTILE))
    thoughts = run.thoughts.assign(text=HOSTILE, reference=HOSTILE)
    return replace(run, traces=traces, thoughts=thoughts)


def rendered(view: object) -> str:
    stream = io.StringIO()
    Console(file=stream, width=400, highlight=False).print(view)
    return stream.getvalue()


def test_escape_sequences_in_a_run_do_not_reach_the_terminal(hostile: Run) -> None:
    trace_id = hostile.traces["trace_id"][0]
    for text in (rendered(run_view(hostile)), rendered(trace_view(hostile, trace_id))):
        assert "[red]kept" in text
        assert not [c for c in text if (ord(c) < 32 and c != "\n") or 127 <= ord(c) < 160]


def test_printable_keeps_lines_tabs_and_letters() -> None:
    assert printable("a\tb\né\x00\x7f\x85") == "a\tb\né���"
