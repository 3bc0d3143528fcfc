"""Does the root command find the others, stay light, and turn bad input into one line?"""

from __future__ import annotations

import errno
import json
import subprocess
import sys
from importlib.metadata import EntryPoint
from pathlib import Path

import numpy as np
import pytest
import typer

from nfcot_model import __version__, cli, terminal
from nfcot_model.errors import UserError


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as stop:
        cli.main(arguments)
    captured = capsys.readouterr()
    return int(stop.value.code or 0), captured.out, captured.err


@pytest.fixture
def plugged(monkeypatch: pytest.MonkeyPatch) -> None:
    """A plug-in command `odd` and a plug-in group `kit`, beside a command that cannot load."""
    points = {
        "odd": EntryPoint("odd", f"{__name__}:odd", cli.GROUP),
        "kit": EntryPoint("kit", f"{__name__}:kit", cli.GROUP),
        "train": EntryPoint("train", "no_such_module:app", cli.GROUP),
    }
    monkeypatch.setattr(cli, "available", lambda: points)


def odd(how: str = "user") -> None:
    """Fail in one of several ways."""
    if how == "user":
        raise UserError("problems.jsonl:3: field 'prompt':\n  missing")
    if how == "full":
        raise OSError(errno.ENOSPC, "No space left on device", "runs/a")
    if how == "there":
        raise FileExistsError(errno.EEXIST, "File exists", "runs/a")
    if how == "memory":
        raise type("OutOfMemoryError", (RuntimeError,), {})("CUDA out of memory.\nTried 2 GiB")
    if how == "check":
        raise typer.Exit(1)
    if how == "bug":
        raise ZeroDivisionError


kit = typer.Typer(help="A group from a plug-in.")


@kit.command()
def first() -> None:
    """Write one document."""
    terminal.emit_json({"a": np.float64("nan"), "b": np.arange(2), "c": Path("x")})


@kit.command()
def second() -> None:
    """The other one."""


def test_help_lists_every_command_with_its_line(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = run(capsys, "--help")
    assert (code, err) == (0, "")
    for name, summary in cli.SUMMARIES.items():
        assert name in out
        assert summary.split(".")[0][:40] in out
    assert set(cli.available()) >= set(cli.SUMMARIES)


def test_help_imports_no_command() -> None:
    code = (
        "import sys\nfrom nfcot_model.cli import main\ntry:\n    main(['--help'])\n"
        "except SystemExit:\n    pass\n"
        "loaded = set(sys.modules) - {'nfcot_model.cli', 'typer.cli'}\n"
        "print(sorted(m for m in loaded if m in ('torch', 'pandas', 'streamlit', 'probes')"
        " or m.endswith('.cli')), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stderr.strip() == "[]"
    assert "audit" in done.stdout


@pytest.mark.parametrize("name", sorted(cli.SUMMARIES))
def test_a_command_helps_with_an_example(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, name, "--help")
    assert code == 0
    assert f"nfcot {name}" in out


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(capsys, "--version") == (0, f"nfcot {__version__}\n", "")


@pytest.mark.usefixtures("plugged")
@pytest.mark.parametrize(
    ("how", "code", "line"),
    [
        ("user", 2, "error: problems.jsonl:3: field 'prompt': missing\n"),
        (
            "full",
            2,
            "error: runs/a: No space left on device; free some space or choose another output"
            " folder\n",
        ),
        (
            "there",
            2,
            "error: runs/a: File exists; something stands there already; choose another path\n",
        ),
        (
            "memory",
            2,
            "error: ran out of memory (CUDA out of memory. Tried 2 GiB); give fewer samples or a"
            " smaller --batch where the command has them, --dtype bfloat16, or another --device\n",
        ),
        ("check", 1, ""),
        ("fine", 0, ""),
    ],
)
def test_exit_codes(how: str, code: int, line: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(capsys, "odd", "--how", how) == (code, "", line)


@pytest.mark.usefixtures("plugged")
def test_a_bug_keeps_its_traceback_and_is_no_failed_check(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Exit code 1 means that a check failed; a monitor must not mistake a crash for it."""
    code, out, err = run(capsys, "odd", "--how", "bug")
    assert (code, out) == (cli.DEFECT, "")
    assert err.rstrip().endswith("ZeroDivisionError")
    assert "Traceback" in err


@pytest.mark.usefixtures("plugged")
@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (("nonsense",), "No such command 'nonsense'"),
        (("odd", "--nonsense"), "No such option"),
        (("kit", "third"), "No such command 'third'"),
    ],
)
def test_a_usage_error_is_one_line(
    arguments: tuple[str, ...], part: str, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, err = run(capsys, *arguments)
    assert (code, out) == (2, "")
    assert part in err
    assert err.count("\n") == 1


@pytest.mark.usefixtures("plugged")
def test_json_is_one_document(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = run(capsys, "kit", "first")
    assert (code, err) == (0, "")
    assert json.loads(out) == {"a": None, "b": [0, 1], "c": "x"}


@pytest.mark.usefixtures("plugged")
def test_plug_ins_are_listed_with_where_they_come_from(capsys: pytest.CaptureFixture[str]) -> None:
    _, out, _ = run(capsys, "--help")
    assert f"From {__name__}:odd." in out


def test_progress_leaves_stdout_alone(capsys: pytest.CaptureFixture[str]) -> None:
    with terminal.progress("thinking", total=3) as advance:
        advance()
        advance(2)
    assert capsys.readouterr().out == ""


def test_what_has_no_json_form_is_refused() -> None:
    with pytest.raises(TypeError, match="object has no JSON form"):
        terminal.jsonable({"a": object()})
