"""Do `nfcot trace`, `nfcot show` and `nfcot run fsck` do what they say, or say why not?"""

from __future__ import annotations

import json
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import pytest

from nfcot_model import cli
from nfcot_model.traces import read_run
from nfcot_model.worlds import write_problems
from tests.synthetic_run import synthetic_run
from tests.tiny import brief_reasoner, digits

COMMANDS = {
    "trace": "nfcot_model.traces.cli:trace",
    "show": "nfcot_model.traces.cli:show",
    "run": "nfcot_model.traces.cli:run_app",
}


class Terminal:
    """Runs `nfcot …` here and keeps what it wrote."""

    def __init__(self, capsys: pytest.CaptureFixture[str]) -> None:
        self.capsys = capsys
        self.error = ""

    def __call__(self, *arguments: object, code: int = 0) -> str:
        with pytest.raises(SystemExit) as stop:
            cli.main([str(a) for a in arguments])
        captured = self.capsys.readouterr()
        self.error = captured.err
        assert int(stop.value.code or 0) == code, captured.err
        return captured.out

    def json(self, *arguments: object, code: int = 0) -> Any:
        return json.loads(self(*arguments, "--json", code=code))


@pytest.fixture
def nfcot(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Terminal:
    points = {name: EntryPoint(name, target, cli.GROUP) for name, target in COMMANDS.items()}
    monkeypatch.setattr(cli, "available", lambda: points)
    return Terminal(capsys)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    brief_reasoner().save(folder)
    return folder


@pytest.fixture
def asked(tmp_path: Path) -> Path:
    write_problems(tmp_path / "problems.jsonl", digits(3))
    return tmp_path / "problems.jsonl"


def test_trace_then_show(nfcot: Terminal, model: Path, asked: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    summary = nfcot.json("trace", model, asked, "-o", out, "--samples", 2, "--tau", 0.9)
    run = read_run(out)
    assert summary["traces"] == len(run.traces) == 6
    assert summary["thoughts"] == len(run.thoughts)
    assert summary["run"] == str(out)
    assert summary["replay_error_max"] < 1e-3
    assert summary["seconds"] > 0
    assert summary["traces_per_second"] > 0
    assert run.manifest["model_path"] == str(model)
    assert run.manifest["decode"]["tau"] == 0.9

    again = nfcot("trace", model, asked, "-o", out, "--samples", 2, "--tau", 0.9)
    assert again == ""
    assert "6 traces (6 already there)" in " ".join(nfcot.error.split())

    overview = nfcot("show", out)
    assert all(i in overview for i in run.traces["trace_id"])
    facts = nfcot.json("show", out)
    assert (facts["traces"], facts["hash"]) == (6, run.hash)


def test_show_one_trace(nfcot: Terminal, tmp_path: Path) -> None:
    run = synthetic_run(tmp_path / "run", n=30)
    trace = run.traces.iloc[7]
    text = nfcot("show", run.path, trace["trace_id"][:12])
    thoughts = run.thoughts[run.thoughts["trace_id"] == trace["trace_id"]]
    for expected in (trace["prompt"], trace["answer"], "passed", *thoughts["text"]):
        assert expected in text
    for energy in thoughts["energy"]:
        assert f"{energy:.2f}" in text
    facts = nfcot.json("show", run.path, trace["trace_id"])
    assert facts["thoughts"][1]["logp"] == pytest.approx(thoughts["logp"].iloc[1])
    assert facts["steps"] == trace["steps"]

    nfcot("show", run.path, "nobody", code=2)
    assert "holds no trace 'nobody'" in nfcot.error
    nfcot("show", run.path, "", code=2)
    assert "30 traces start with" in nfcot.error


def test_fsck(nfcot: Terminal, tmp_path: Path) -> None:
    run = synthetic_run(tmp_path / "run", n=70).path
    assert nfcot.json("run", "fsck", run)["missing"] == 0
    file = run / "tensors" / "000000.safetensors"
    file.write_bytes(file.read_bytes()[:-1])
    assert list(nfcot.json("run", "fsck", run, code=1)["damaged"]) == ["000000"]
    nfcot("show", run, code=2)
    assert "tensors/000000.safetensors" in nfcot.error
    repaired = nfcot.json("run", "fsck", run, "--repair")
    assert len(repaired["repaired"]) == 3
    assert repaired["missing"] == 64


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"prompt": "x", "check"', "bad.jsonl:1: malformed JSON"),
        ('{"check": {"kind": "exact", "expected": "1"}}', "bad.jsonl:1: field 'prompt'"),
        ('{"prompt": "", "check": {"kind": "exact", "expected": "1"}}', "field 'prompt'"),
        ("", "holds no problems"),
    ],
)
def test_bad_problems(
    nfcot: Terminal, model: Path, tmp_path: Path, line: str, message: str
) -> None:
    (tmp_path / "bad.jsonl").write_text(line + "\n")
    nfcot("trace", model, tmp_path / "bad.jsonl", "-o", tmp_path / "run", code=2)
    assert message in nfcot.error
    assert nfcot.error.count("\n") == 1
    assert not (tmp_path / "run").exists()


def test_bad_arguments_write_nothing(
    nfcot: Terminal, model: Path, asked: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    for arguments, message in (
        ((tmp_path / "no-model", asked), "no such model folder"),
        ((tmp_path, asked), "config.json"),
        ((model, tmp_path / "no.jsonl"), "no such file"),
        ((model, asked, "--tau", -1), "--tau is -1.0"),
        ((model, asked, "--activations", "some"), "none, thoughts, all"),
        ((model, asked, "--dtype", "float8"), "float8"),
    ):
        nfcot("trace", *arguments, "-o", out, code=2)
        assert message in nfcot.error
        assert not out.exists()
    nfcot("trace", model, asked, "-o", asked, code=2)
    assert "is a file" in nfcot.error
    nfcot("trace", model, asked, "-o", tmp_path, code=2)
    assert "is not empty" in nfcot.error
