"""Does a recorded run say what the reasoner did, and does it survive being killed anywhere?"""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from nfcot_model.errors import UserError
from nfcot_model.reasoners import NFCoTReasoner
from nfcot_model.sandbox import Sandbox
from nfcot_model.traces import check_run, collect, read_run
from nfcot_model.worlds import Problem
from tests.tiny import brief_reasoner, digits

ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def reasoner() -> NFCoTReasoner:
    return brief_reasoner()


@pytest.fixture(scope="module")
def sandbox() -> Iterator[Sandbox]:
    with Sandbox(workers=1) as sandbox:
        yield sandbox


@pytest.fixture(scope="module")
def run_path(
    reasoner: NFCoTReasoner, sandbox: Sandbox, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    path = tmp_path_factory.mktemp("runs") / "first"
    collect(reasoner, digits(40), path, samples=2, seed=5, activations="all", sandbox=sandbox)
    return path


def tree(path: Path) -> dict[str, object]:
    """Every file of a run, by name; of the manifest all but the time it was made."""
    found: dict[str, object] = {}
    for file in sorted(p for p in path.rglob("*") if p.is_file()):
        found[str(file.relative_to(path))] = file.read_bytes()
    manifest = json.loads((path / "run.json").read_text())
    found["run.json"] = {k: v for k, v in manifest.items() if k not in ("created", "checksum")}
    return found


def test_a_run_says_what_the_reasoner_did(reasoner: NFCoTReasoner, run_path: Path) -> None:
    run = read_run(run_path)
    asked = digits(40)
    assert run.traces["problem_id"].tolist() == [p.id for p in asked for _ in range(2)]
    assert run.traces["sample"].tolist() == [0, 1] * 40
    assert run.traces["trace_id"].is_unique
    assert run.traces["seed"].is_unique

    block = run.traces.iloc[64:]
    prompts = block["prompt"].tolist()
    thoughts = reasoner.think(prompts, tau=0.7, noise_seeds=block["seed"].tolist())
    answers, scores = reasoner.answer_scored(prompts, thoughts, tau=0.7, hidden=True)
    decoded = reasoner.decode(thoughts)
    rows = run.thoughts["shard"].to_numpy() == "000001"
    mask = thoughts.mask
    assert len(set(block["K"])) > 1
    for name, drawn in (("u", thoughts.u), ("eps", thoughts.eps), ("e", decoded.e)):
        np.testing.assert_array_equal(run.tensor(name)[rows], drawn[mask].numpy(), err_msg=name)
    assert scores.hidden is not None
    for name, scored in (
        ("mu", scores.mu),
        ("log_sigma", scores.log_sigma),
        ("h", scores.hidden.transpose(1, 2)),
    ):
        np.testing.assert_allclose(run.tensor(name)[rows], scored[mask], atol=1e-5, err_msg=name)
    assert run.thoughts["text"][rows].tolist() == [t for row in decoded.texts for t in row]
    assert block["answer"].tolist() == answers == reasoner.answer(prompts, thoughts)
    np.testing.assert_allclose(block["logp_u"], scores.logp.sum(1), rtol=1e-4)
    np.testing.assert_allclose(
        block["logp_u_K"] - block["logp_u"], scores.stop_logp.sum(1), rtol=1e-4
    )
    np.testing.assert_allclose(block["logp_e"] - block["logp_u"], decoded.logdet, rtol=1e-4)
    assert decoded.logdet.abs().min() > 0
    assert block["stopped"].tolist() == thoughts.stopped.tolist()


def test_a_run_carries_its_problems(
    reasoner: NFCoTReasoner, sandbox: Sandbox, run_path: Path
) -> None:
    before = tree(run_path)
    assert read_run(run_path).problems() == digits(40)
    file = run_path / "problems.jsonl"
    for spoil, message in (
        (lambda: file.unlink(), "is missing .*repeat the trace command"),
        (lambda: file.write_bytes(file.read_bytes()[:-9]), "malformed JSON.*repeat the trace"),
        (lambda: file.write_text(file.read_text().split("\n", 1)[1]), "damaged .*other problems"),
    ):
        spoil()
        with pytest.raises(UserError, match=message):
            read_run(run_path).problems()
        collect(
            reasoner, digits(40), run_path, samples=2, seed=5, activations="all", sandbox=sandbox
        )
        assert tree(run_path) == before


def test_replay_error_can_be_recomputed_from_the_files(run_path: Path) -> None:
    run = read_run(run_path)
    eps = (run.tensor("u") - run.tensor("mu")) * np.exp(-run.tensor("log_sigma"))
    error = np.abs(eps - run.tensor("eps")).max(1)
    assert 0 < run.traces["replay_error"].max() < 1e-3
    assert error.max() == pytest.approx(run.traces["replay_error"].max(), abs=1e-5)
    changed = run.tensor("u").copy()
    changed[0] += 0.1
    moved = (changed - run.tensor("mu")) * np.exp(-run.tensor("log_sigma"))
    assert np.abs(moved - run.tensor("eps")).max() > 1e-2


def test_steps_references_and_labels_follow_the_problem(run_path: Path) -> None:
    run = read_run(run_path)
    by_id = {p.id: p for p in digits(40)}
    owners = run.traces.set_index("trace_id")["problem_id"]
    for row in run.thoughts.to_dict("records"):
        problem = by_id[owners[row["trace_id"]]]
        known = row["k"] < len(problem.steps)
        assert row["step"] == row["k"]
        assert json.loads(row["labels"]) == (problem.step_labels[row["k"]] if known else {})
        if known:
            assert row["reference"] == problem.steps[row["k"]]
        assert row["match"] is False or row["text"] == row["reference"]


def test_noise_depends_on_seed_problem_and_sample_only(
    reasoner: NFCoTReasoner, sandbox: Sandbox, run_path: Path, tmp_path: Path
) -> None:
    few = [digits(40)[i] for i in (31, 7)]
    collect(reasoner, few, tmp_path / "few", samples=2, seed=5, sandbox=sandbox)
    few_run, run = read_run(tmp_path / "few"), read_run(run_path)
    matched = few_run.traces.merge(run.traces, on=["problem_id", "sample"], suffixes=("", "_all"))
    assert len(matched) == 4
    assert (matched["seed"] == matched["seed_all"]).all()
    assert (matched["trace_id"] != matched["trace_id_all"]).all()
    for row in matched.to_dict("records"):
        np.testing.assert_allclose(
            few_run.trace_tensor("u", row["trace_id"]),
            run.trace_tensor("u", row["trace_id_all"]),
            atol=1e-4,
        )


def test_answers_are_judged(reasoner: NFCoTReasoner, sandbox: Sandbox, tmp_path: Path) -> None:
    """Every other check expects exactly what the model says, the rest something else."""
    asked = digits(6)
    collect(reasoner, asked, tmp_path / "plain", tau=0.0, sandbox=sandbox)
    said = dict(read_run(tmp_path / "plain").traces[["prompt", "answer"]].to_numpy())
    expected = [
        Problem.model_validate(
            {
                "prompt": p.prompt,
                "check": {"kind": "exact", "expected": said[p.prompt].strip() if i % 2 else "no"},
            }
        )
        for i, p in enumerate(asked)
    ]
    summary = collect(reasoner, expected, tmp_path / "exact", tau=0.0, sandbox=sandbox)
    run = read_run(tmp_path / "exact")
    assert run.traces["verdict"].tolist() == ["failed", "passed"] * 3
    assert summary.correct == 0.5
    assert run.traces["decode_match"].isna().all()
    assert run.thoughts["match"].isna().all()
    assert run.traces["reference_answer"].isna().all()


def test_tau_zero_is_the_mode(reasoner: NFCoTReasoner, sandbox: Sandbox, tmp_path: Path) -> None:
    collect(reasoner, digits(3), tmp_path / "mode", tau=0.0, sandbox=sandbox)
    run = read_run(tmp_path / "mode")
    np.testing.assert_allclose(run.traces["energy"], 0, atol=1e-6)
    np.testing.assert_allclose(run.tensor("u"), run.tensor("mu"), atol=1e-4)


def test_activations_of_the_last_layer(
    reasoner: NFCoTReasoner, sandbox: Sandbox, tmp_path: Path
) -> None:
    for kind in ("thoughts", "all", "none"):
        collect(reasoner, digits(3), tmp_path / kind, activations=kind, sandbox=sandbox)
    last, every = (read_run(tmp_path / k).tensor("h") for k in ("thoughts", "all"))
    assert last.shape[1:] == (1, 32)
    assert every.shape[1:] == (3, 32)
    np.testing.assert_array_equal(last, every[:, -1:])
    assert "h" not in read_run(tmp_path / "none").tensor_names


def test_a_codec_of_the_whole_reasoning(sandbox: Sandbox, tmp_path: Path) -> None:
    reasoner = brief_reasoner(
        codec={
            "alignment": "global",
            "slots": 3,
            "d_model": 16,
            "layers": 1,
            "heads": 2,
            "max_text_tokens": 6,
        }
    )
    collect(reasoner, digits(4), tmp_path / "run", sandbox=sandbox)
    run = read_run(tmp_path / "run")
    assert run.traces["K"].tolist() == [3] * 4
    assert set(run.thoughts["step"]) == {0}
    assert run.thoughts["reference"][0] == "\n".join(digits(4)[0].steps)
    assert run.manifest["decode"]["k_policy"] == "fixed"


def test_a_finished_run_is_left_as_it_is(
    reasoner: NFCoTReasoner, sandbox: Sandbox, run_path: Path
) -> None:
    before, advanced = tree(run_path), []
    summary = collect(
        reasoner,
        digits(40),
        run_path,
        samples=2,
        seed=5,
        activations="all",
        sandbox=sandbox,
        progress=advanced.append,
    )
    assert (summary.traces, summary.resumed, sum(advanced)) == (80, 80, 80)
    assert summary.traces_per_second == 0
    assert tree(run_path) == before


def test_a_repaired_run_is_completed(
    reasoner: NFCoTReasoner, sandbox: Sandbox, run_path: Path
) -> None:
    before = tree(run_path)
    file = run_path / "tensors" / "000000.safetensors"
    file.write_bytes(file.read_bytes()[:-3])
    assert check_run(run_path, repair=True).missing == 64
    summary = collect(
        reasoner, digits(40), run_path, samples=2, seed=5, activations="all", sandbox=sandbox
    )
    assert (summary.traces, summary.resumed) == (80, 16)
    assert tree(run_path) == before


def test_killed_before_any_file_operation_and_resumed(tmp_path: Path) -> None:
    """SIGKILL at every point of a run's life: the result is, byte for byte, the unbroken run."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.killed_trace", str(tmp_path)],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
    )
    assert done.returncode == 0, done.stderr
    points = int(done.stdout)
    assert points > 30
    whole = tree(tmp_path / "whole")
    assert len(whole) == 8
    for n in range(1, points + 1):
        assert tree(tmp_path / str(n)) == whole, f"killed before operation {n}"


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"tau": -0.1}, "--tau is -0.1"),
        ({"tau": math.nan}, "--tau is nan"),
        ({"temperature": -1.0}, "--temperature"),
        ({"samples": 0}, "--samples"),
        ({"seed": -1}, "--seed"),
        ({"activations": "most"}, "none, thoughts, all"),
        ({"max_thoughts": 0}, "--max-thoughts"),
    ],
)
def test_values_out_of_range(
    reasoner: NFCoTReasoner, tmp_path: Path, wrong: dict[str, object], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        collect(reasoner, digits(2), tmp_path / "run", **wrong)
    assert list(tmp_path.iterdir()) == []


def test_problem_sets_that_cannot_be_traced(reasoner: NFCoTReasoner, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="empty"):
        collect(reasoner, [], tmp_path / "run")
    with pytest.raises(UserError, match="more than once"):
        collect(reasoner, digits(1) * 2, tmp_path / "run")
    assert list(tmp_path.iterdir()) == []


def test_another_run_is_not_mixed_in(
    reasoner: NFCoTReasoner, sandbox: Sandbox, run_path: Path
) -> None:
    before = tree(run_path)
    with pytest.raises(UserError, match="holds another run"):
        collect(reasoner, digits(40), run_path, samples=2, seed=5, tau=0.9, sandbox=sandbox)
    with pytest.raises(UserError, match="holds another run"):
        collect(reasoner, digits(39), run_path, samples=2, seed=5, activations="all")
    assert tree(run_path) == before


def test_nothing_is_left_when_the_first_shard_fails(
    reasoner: NFCoTReasoner,
    sandbox: Sandbox,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def broken(*_: object, **__: object) -> None:
        raise UserError("no space left")

    monkeypatch.setattr("nfcot_model.traces.collecting.commit_shard", broken)
    with pytest.raises(UserError, match="no space"):
        collect(reasoner, digits(3), tmp_path / "run", sandbox=sandbox)
    assert list(tmp_path.iterdir()) == []
