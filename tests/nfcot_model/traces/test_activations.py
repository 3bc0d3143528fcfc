"""Are captured activations what the model computes, in the run's order, and do they survive?"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections import namedtuple
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from nfcot_model import cli
from nfcot_model.errors import UserError
from nfcot_model.hooks import capture, hooked, plan_activations, record
from nfcot_model.reasoners import NFCoTReasoner, load_reasoner
from nfcot_model.sandbox import Sandbox
from nfcot_model.traces import Run, check_run, collect, read_run
from nfcot_model.traces.activations import write_activations
from nfcot_model.worlds import write_problems
from tests.tiny import brief_reasoner, digits

ROOT = Path(__file__).parents[3]
SITES = ("blocks.*.hook_in", "blocks.*.hook_out", "ln_final.hook_out", "nf_head.mu.hook_out")


@pytest.fixture(scope="module")
def sandbox() -> Iterator[Sandbox]:
    with Sandbox(workers=1) as sandbox:
        yield sandbox


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    brief_reasoner().save(folder)
    return folder


@pytest.fixture(scope="module")
def reasoner(model: Path) -> NFCoTReasoner:
    return load_reasoner(model)


@pytest.fixture(scope="module")
def traced(
    model: Path,
    reasoner: NFCoTReasoner,
    sandbox: Sandbox,
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    path = tmp_path_factory.mktemp("runs") / "traced"
    asked = digits(70)
    collect(reasoner, asked, path, activations="all", sandbox=sandbox, model_path=model)
    return path


@pytest.fixture
def run(traced: Path, tmp_path: Path) -> Run:
    shutil.copytree(traced, tmp_path / "run")
    return read_run(tmp_path / "run")


def files(run: Run) -> dict[str, bytes]:
    """Every captured file; of manifests all but the time."""
    found = {}
    for file in sorted((run.path / "derived").rglob("*.*")):
        found[str(file.relative_to(run.path))] = file.read_bytes()
        if file.suffix == ".json":
            manifest = json.loads(file.read_bytes())
            kept = {k: v for k, v in manifest.items() if k not in ("created", "checksum")}
            found[str(file.relative_to(run.path))] = json.dumps(kept).encode()
    return found


def test_captured_states_are_those_that_the_trace_stored(run: Run, reasoner: NFCoTReasoner) -> None:
    plan = plan_activations(run, reasoner, SITES)
    summary = record(plan)
    again = read_run(run.path)
    names = [f"blocks.{i}.hook_{end}" for i in range(2) for end in ("in", "out")]
    assert sorted(again.activations()) == sorted([*names, *SITES[2:]]) == summary.sites
    h = again.tensor("h")
    assert len(set(again.traces["K"])) > 1
    for site, layer in (("blocks.0.hook_in", 0), ("blocks.0.hook_out", 1), (SITES[2], 2)):
        np.testing.assert_allclose(again.activation(site), h[:, layer], atol=1e-5, rtol=1e-5)
    np.testing.assert_array_equal(
        again.activation("blocks.1.hook_in"), again.activation("blocks.0.hook_out")
    )
    np.testing.assert_allclose(again.activation(SITES[3]), again.tensor("mu"), atol=1e-5)
    assert plan.bytes == summary.bytes_estimated == 4 * len(run.thoughts) * (5 * 32 + 4)
    assert 0 < summary.bytes - plan.bytes < 8192, "headers only"
    assert (summary.shards, summary.captured, summary.thoughts) == (2, 2, len(run.thoughts))


def test_captured_states_are_those_seen_while_thinking(run: Run, reasoner: NFCoTReasoner) -> None:
    """Step-by-step hooks on the traces' own noise against the command's single pass."""
    record(plan_activations(run, reasoner))
    bridge = hooked(reasoner.model)
    inside = NFCoTReasoner(bridge.original_model, reasoner.tokenizer)
    seen: list[torch.Tensor] = []

    def keep(tensor: torch.Tensor, hook: object) -> None:
        seen.append(tensor[:, -1].clone())

    block = run.traces.iloc[:64]
    with bridge.hooks(fwd_hooks=[("blocks.1.hook_out", keep)]):
        thoughts = inside.think(
            block["prompt"].tolist(), tau=0.7, noise_seeds=block["seed"].tolist()
        )
    assert thoughts.K.tolist() == block["K"].tolist()
    steps = torch.stack(seen[1 : 1 + thoughts.mask.shape[1]], dim=1)[thoughts.mask]
    captured = run.activation("blocks.1.hook_out")[: len(steps)]
    np.testing.assert_allclose(captured, steps, atol=1e-5, rtol=1e-4)


def test_the_answer_does_not_reach_back(run: Run, reasoner: NFCoTReasoner) -> None:
    """The pass leaves it out: with any answer behind it, a thought's state is the same."""
    part = run.traces.head(8)
    bridge = hooked(reasoner.model)
    u = torch.zeros(8, int(part["K"].max()), reasoner.D)
    for i, trace in enumerate(part["trace_id"]):
        own = torch.from_numpy(run.trace_tensor("u", trace))
        u[i, : len(own)] = own
    states = []
    for answers in (None, part["answer"].tolist(), ["lambda x: 7"] * 8):
        layout = reasoner.layout(
            part["prompt"].tolist(), part["K"].tolist(), answers=answers, side="right"
        )
        states.append(capture(bridge, layout, u, ["blocks.1.hook_out"])["blocks.1.hook_out"])
    for other in states[1:]:
        torch.testing.assert_close(states[0], other, atol=1e-5, rtol=1e-5)


def test_bfloat16_agrees_to_its_own_precision_and_no_further(
    model: Path, sandbox: Sandbox, tmp_path: Path
) -> None:
    reasoner = load_reasoner(model, dtype="bfloat16")
    collect(reasoner, digits(12), tmp_path / "half", activations="all", sandbox=sandbox)
    run = read_run(tmp_path / "half")
    record(plan_activations(run, reasoner, ["blocks.*.hook_in"]))
    states, h = run.activation("blocks.1.hook_in"), run.tensor("h")[:, 1]
    away = np.abs(states - h).max() / np.abs(h).max()
    assert away < 2**-6, "two roundings of eight bits"
    np.testing.assert_array_equal(states, torch.from_numpy(states).bfloat16().float())
    (manifest,) = (tmp_path / "half" / "derived").rglob("manifest.json")
    found = json.loads(manifest.read_text())
    assert (found["dtype"], found["stored"]) == ("bfloat16", "float32")


def test_damage_is_named_and_made_again(run: Run, reasoner: NFCoTReasoner) -> None:
    record(plan_activations(run, reasoner))
    whole = files(run)
    first, second = sorted((run.path / "derived").rglob("*.safetensors"))
    spoiled: list[Callable[[], object]] = [
        lambda: first.unlink(),
        lambda: first.write_bytes(first.read_bytes()[:-5]),
        lambda: first.write_bytes(flipped(first.read_bytes(), -7)),
        lambda: first.write_bytes(flipped(first.read_bytes(), 100)),
        lambda: first.write_bytes(second.read_bytes()),
        lambda: (first.parent / ".000000.safetensors.12.tmp").write_bytes(b"half"),
    ]
    for spoil in spoiled:
        spoil()
        if first.exists() and first.read_bytes() == whole[str(first.relative_to(run.path))]:
            assert run.activation("blocks.0.hook_out").shape == (len(run.thoughts), 32)
        else:
            with pytest.raises(UserError, match=r"nfcot activations"):
                [run.activation(f"blocks.{i}.hook_out") for i in range(2)]
        plan = plan_activations(run, reasoner)
        assert plan.bytes_missing < plan.bytes
        record(plan)
        assert files(run) == whole


def test_a_damaged_set_does_not_hide_a_whole_one(run: Run, reasoner: NFCoTReasoner) -> None:
    record(plan_activations(run, reasoner, ["blocks.0.hook_out"]))
    record(plan_activations(run, reasoner, ["blocks.0.hook_out", "blocks.1.hook_out"]))
    before = run.activation("blocks.0.hook_out")
    [manifest] = [
        file
        for file in (run.path / "derived").rglob("*.json")
        if "blocks.1.hook_out" in file.read_text()
    ]
    shard = next(manifest.parent.glob("*.safetensors"))
    whole = shard.read_bytes()
    shard.write_bytes(whole[:-5])
    np.testing.assert_array_equal(run.activation("blocks.0.hook_out"), before)
    with pytest.raises(UserError, match=r"--sites blocks\.1\.hook_out"):
        run.activation("blocks.1.hook_out")
    shard.write_bytes(whole)
    manifest.write_text("{")
    np.testing.assert_array_equal(run.activation("blocks.0.hook_out"), before)
    assert run.activations() == ["blocks.0.hook_out"]
    with pytest.raises(UserError, match=rf"{manifest} is damaged"):
        run.activation("blocks.1.hook_out")


def test_a_run_finds_its_model_from_anywhere(
    capsys: pytest.CaptureFixture[str],
    model: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    write_problems(tmp_path / "problems.jsonl", digits(2))
    monkeypatch.chdir(model.parent)
    out = tmp_path / "run"
    assert nfcot(capsys, "trace", model.name, tmp_path / "problems.jsonl", "-o", out)[0] == 0
    monkeypatch.chdir(tmp_path)
    assert nfcot(capsys, "activations", out)[0] == 0
    code, _, err = nfcot(capsys, "activations", out, "--device", "abacus")
    assert code == 2
    assert "device 'abacus'" in err
    assert "--model" not in err


def flipped(data: bytes, at: int) -> bytes:
    changed = bytearray(data)
    changed[at] ^= 1
    return bytes(changed)


def test_a_killed_capture_goes_on_and_is_not_read_as_a_whole_one(
    run: Run, reasoner: NFCoTReasoner, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(file: Path, *rest: object) -> None:
        if file.stem == "000001":
            raise KeyboardInterrupt
        write_activations(file, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(sys.modules[record.__module__], "write_activations", killed)
    with pytest.raises(KeyboardInterrupt):
        record(plan_activations(run, reasoner))
    assert run.activations() == []
    with pytest.raises(UserError, match="captured in part only"):
        run.activation("blocks.0.hook_out")
    monkeypatch.undo()
    plan = plan_activations(run, reasoner)
    assert plan.missing == ("000001",)
    assert record(plan).captured == 1
    assert run.activations() == ["blocks.0.hook_out", "blocks.1.hook_out"]


def test_killed_before_any_file_operation_and_repeated(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tests.killed_capture", str(tmp_path)],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
    )
    assert done.returncode == 0, done.stderr
    points = int(done.stdout)
    assert points > 6
    whole = files(read_run(tmp_path / "whole"))
    assert len(whole) == 3
    for n in range(1, points + 1):
        assert files(read_run(tmp_path / str(n))) == whole, f"killed before operation {n}"


def test_activations_of_other_thoughts_are_not_taken_for_these(
    run: Run, reasoner: NFCoTReasoner
) -> None:
    record(plan_activations(run, reasoner))
    changed = run.traces.copy()
    changed.loc[3, "u_sha256"] = "0" * 64
    other = Run(run.path, run.manifest, changed, run.thoughts)
    with pytest.raises(UserError, match="captured at other thoughts"):
        other.activation("blocks.0.hook_out")
    assert plan_activations(other, reasoner).missing == ("000000",)
    elsewhere = Run(run.path, run.manifest | {"hash": "another"}, run.traces, run.thoughts)
    assert elsewhere.activations() == []


def test_what_cannot_be_captured_writes_nothing(
    run: Run, reasoner: NFCoTReasoner, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = brief_reasoner(seed=5)
    for who, sites, said in (
        (reasoner, ["blocks.0.hook_uot"], "did you mean blocks.0.hook_out"),
        (reasoner, ["blocks.0.attn.hook_pattern"], r"is not \[B, T, …\]"),
        (other, ["blocks.0.hook_out"], "checkpoint_hash is"),
    ):
        with pytest.raises(UserError, match=said):
            plan_activations(run, who, sites)
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(10**9, 10**9, 1000))
    with pytest.raises(UserError, match=r"2 sites need .* MB, 0 MB are free; free some space"):
        plan_activations(run, reasoner)
    assert not (run.path / "derived").exists()


def test_fsck_leaves_what_was_derived_alone(run: Run, reasoner: NFCoTReasoner) -> None:
    record(plan_activations(run, reasoner))
    health = check_run(run.path)
    assert health.whole
    assert health.leftovers == []
    before = files(run)
    check_run(run.path, repair=True)
    assert files(run) == before


def test_a_run_without_captures_says_how_to_make_them(run: Run) -> None:
    assert run.activations() == []
    with pytest.raises(UserError, match=r"not captured; run `nfcot activations .*captured: none"):
        run.activation("blocks.0.hook_out")


def nfcot(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as stop:
        cli.main([str(a) for a in arguments])
    captured = capsys.readouterr()
    return int(stop.value.code or 0), captured.out, captured.err


def test_the_commands(
    capsys: pytest.CaptureFixture[str], model: Path, run: Run, tmp_path: Path
) -> None:
    code, out, _ = nfcot(capsys, "sites", model, "--json")
    assert code == 0
    table = {site["name"]: site for site in json.loads(out)["sites"]}
    assert table["blocks.1.hook_out"]["axes"] == ["B", "T", "d_model"]
    assert table["blocks.1.hook_resid_post"]["same_as"] == "blocks.1.hook_out"
    assert "blocks.0.attn.hook_pattern" not in table
    code, out, _ = nfcot(capsys, "sites", model)
    (line,) = [row for row in out.splitlines() if row.startswith("blocks.N.hook_out ")]
    assert "N=0..1" in line
    assert "residual stream after layer N (also blocks.N.hook_resid_post)" in line
    code, out, _ = nfcot(capsys, "sites", model, "--all")
    assert "blocks.N.attn.hook_pattern" in out
    assert "silent" in out

    code, out, err = nfcot(capsys, "activations", run.path, "--json")
    summary = json.loads(out)
    assert code == 0
    assert summary["sites"] == ["blocks.0.hook_out", "blocks.1.hook_out"] == run.activations()
    assert summary["bytes_estimated"] == 4 * len(run.thoughts) * 64
    assert f"{summary['bytes_estimated'] / 1e6:.1f} MB" in err
    code, _, err = nfcot(capsys, "activations", run.path)
    assert (code, "0 of 2 shards made now" in " ".join(err.split())) == (0, True)
    for wrong, said in (
        (("--sites", "blocks.0.hook_uot"), "did you mean"),
        (("--sites", " , "), "names no hook"),
        (("--model", tmp_path), "config.json"),
    ):
        code, out, err = nfcot(capsys, "activations", run.path, *wrong)
        assert (code, out, err.count("\n")) == (2, "", 1)
        assert said in err


def test_the_model_must_be_the_run_s(
    capsys: pytest.CaptureFixture[str], run: Run, tmp_path: Path
) -> None:
    brief_reasoner(seed=5).save(tmp_path / "other")
    code, _, err = nfcot(capsys, "activations", run.path, "--model", tmp_path / "other")
    assert code == 2
    assert "give that one as --model" in err
    assert not (run.path / "derived").exists()


def test_trace_captures_hooks_by_name(
    capsys: pytest.CaptureFixture[str], model: Path, tmp_path: Path
) -> None:
    write_problems(tmp_path / "problems.jsonl", digits(3))
    line = ("trace", model, tmp_path / "problems.jsonl", "-o", tmp_path / "run", "--json")
    for wrong in ("blocks.0.hook_uot", "blocks.0.attn.hook_pattern", "some"):
        code, _, _ = nfcot(capsys, *line, "--activations", wrong)
        assert code == 2
        assert not (tmp_path / "run").exists()
    code, out, _ = nfcot(capsys, *line, "--activations", "blocks.1.hook_out,nf_head.mu.hook_out")
    assert code == 0
    assert json.loads(out)["activations"]["captured"] == 1
    run = read_run(tmp_path / "run")
    assert run.manifest["activations"] == "none"
    assert run.activations() == ["blocks.1.hook_out", "nf_head.mu.hook_out"]
    np.testing.assert_allclose(run.activation("nf_head.mu.hook_out"), run.tensor("mu"), atol=1e-5)
    assert os.listdir(tmp_path / "run" / "derived") == ["activations"]


@pytest.mark.parametrize("command", ["sites", "activations"])
def test_without_transformer_lens_the_extra_is_named(command: str, run: Run) -> None:
    code = (
        "import sys; sys.modules['transformer_lens'] = None\n"
        f"from nfcot_model.cli import main; main([{command!r}, {str(run.path)!r}])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert "install the extra 'hooks'" in done.stderr
    assert done.stderr.count("\n") == 1
