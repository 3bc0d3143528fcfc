"""The documentation's code blocks run as they stand, one after another, in an empty folder."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable
from pathlib import Path

import pytest

from nfcot_model.cli import main

DOCS = Path(__file__).parent.parent / "docs"
_BLOCK = re.compile(r"^```(bash|python)\n(.*?)^```$", re.M | re.S)

Output = list[str]


@pytest.fixture
def run_page(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[[str], Output]:
    """Runs a page; returns what each of its Python blocks printed."""

    def run(name: str) -> Output:
        monkeypatch.chdir(tmp_path)
        printed, names = [], {"__name__": name}
        for kind, text in _BLOCK.findall((DOCS / name).read_text()):
            if kind == "bash":
                for line in text.replace("\\\n", " ").splitlines():
                    command, *arguments = shlex.split(line, comments=True) or ["nfcot"]
                    assert command == "nfcot", line
                    if arguments:
                        with pytest.raises(SystemExit) as stopped:
                            main(arguments)
                        assert stopped.value.code == 0, (line, capsys.readouterr().err)
            else:
                capsys.readouterr()
                exec(compile(text, name, "exec"), names)
                printed.append(capsys.readouterr().out)
        return printed

    return run


def test_hooks_page(run_page: Callable[[str], Output]) -> None:
    axes, shapes, *_, captured = [out for out in run_page("hooks.md") if out]
    assert axes.split(") (") == ["('B', 'T', 'd_model'", "'B', 'K', 'D')\n"]
    assert "128]" in shapes
    names, shape = captured.splitlines()
    for name in ("blocks.0.hook_out", "blocks.3.attn.hook_z", "nf_head.mu.hook_out"):
        assert name in names
    assert shape == "(24, 128)"


def test_causal_tutorial(run_page: Callable[[str], Output]) -> None:
    trace, told, implied, everybody = [out for out in run_page("causal.md") if out]
    assert "'#3 4x+2'" in trace
    thoughts, answer = told.splitlines()
    assert answer != trace.splitlines()[-1]
    assert "'#3 4x+7'" in thoughts
    assert implied.split("] ")[1].strip() == answer
    share = int(re.search(r"implied in (\d+)%", everybody)[1])  # type: ignore[index]
    assert share >= 90


def test_monitor_page(run_page: Callable[[str], Output]) -> None:
    (frame,) = [out for out in run_page("monitor.md") if out]
    header, *rows = frame.splitlines()
    assert header.split() == ["row", "k", "predicted", "p:4"]
    assert len(rows) > 4  # several thoughts of four traces
