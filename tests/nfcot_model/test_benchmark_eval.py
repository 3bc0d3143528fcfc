"""`nfcot eval` on benchmark files: figures, records, resuming, what does not fit, the command."""

from __future__ import annotations

import itertools
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import typer
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from nfcot_model.benchmark_files import read_benchmark
from nfcot_model.errors import UserError
from nfcot_model.evaluation.benchmark import Protocol, check_ks, run_benchmark
from nfcot_model.evaluation.benchmark_records import Record, Sample
from nfcot_model.evaluation.benchmark_summary import summarise
from nfcot_model.evaluation.intervals import wilson
from nfcot_model.reasoners import load_reasoner
from nfcot_model.reasoners.room import fits
from nfcot_model.sandbox import Limits
from nfcot_model.sandbox.literal import close, decode, encode, equal, number
from nfcot_model.traces.settings import Settings
from tests.benchmark_rows import ALL, GSM8K, HUMANEVAL, MBPP, MBPP_PLUS, write_rows
from tests.tiny import brief_reasoner, tiny_baseline, tiny_reasoner

SCALARS = (
    st.none()
    | st.booleans()
    | st.integers(-3, 3)
    | st.integers()
    | st.sampled_from([0.0, 1.0, -2.5, 1e300, float("inf")])
    | st.complex_numbers(allow_nan=False)
    | st.text(max_size=3)
    | st.binary(max_size=3)
)
KEYS = SCALARS | st.tuples(SCALARS, SCALARS)
VALUES = st.recursive(
    SCALARS | st.sets(KEYS, max_size=3),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.lists(inner, max_size=3).map(tuple)
        | st.dictionaries(KEYS, inner, max_size=3)
    ),
    max_leaves=8,
)


def tree_of(value: Any) -> Any:
    return json.loads(json.dumps(encode(value, lambda v: {"opaque": type(v).__name__})))


@given(VALUES, VALUES)
def test_equal_is_python_s_equality(left: Any, right: Any) -> None:
    assert equal(tree_of(left), left)
    assert equal(tree_of(left), right) is (left == right)
    back = decode(tree_of(left))
    assert back == left
    assert type(back) is type(left)


@pytest.mark.parametrize(
    "tree",
    [{}, {"tuple": 1}, {"set": [1, 1]}, {"set": [[1], [2]]}, {"dict": [[1, 1], [1, 1]]}, [1, [2]]],
)
def test_a_forged_tree_equals_nothing(tree: Any) -> None:
    for expected in ({1, 2}, {1: 1, 2: 1}, (1, 2), [1, 2], 1, "1"):
        assert not equal(tree, expected)


def test_near_enough() -> None:
    assert close(tree_of([1.0, (2.0, 3)]), [1.0 + 1e-9, (2.0, 3)], 0.0)
    assert close(tree_of(1.05), 1.0, 0.1)
    assert not close(tree_of(1.2), 1.0, 0.1)
    assert not close(tree_of((1.0,)), [1.0], 1.0), "another type"
    assert not close(tree_of([1.0, 2.0]), [1.0], 1.0)
    assert not close(tree_of(["a"]), ["b"], 1.0)
    assert not close(tree_of(1), 1.0, 1.0)
    assert not close(tree_of(1e300), float("inf"), 1.0)
    assert close(tree_of(float("nan")), float("nan"), 0.0)
    assert not close(tree_of(10**400), 10.0**300, 1.0)
    assert number(tree_of(10**400)) is None
    assert number(tree_of(True)) == 1.0


def record(passes: list[bool], name: str = "t", **labels: str) -> Record:
    verdicts = {"base": "passed", "plus": "x"}
    outcomes = ["passed" if ok else "failed" for ok in passes]
    samples = [Sample("", "", o, verdicts, "", 1, o == "passed", False) for o in outcomes]
    return Record(name, labels, len(passes), sum(passes), True, None, None, samples)


@given(
    st.integers(1, 5).flatmap(
        lambda n: st.lists(st.lists(st.booleans(), min_size=n, max_size=n), min_size=1, max_size=4)
    )
)
def test_pass_at_k_is_the_share_over_all_subsets(outcomes: list[list[bool]]) -> None:
    n = len(outcomes[0])
    summary = summarise([record(passes) for passes in outcomes], list(range(1, n + 1)))
    for k in range(1, n + 1):
        per_problem = []
        for passes in outcomes:
            subsets = list(itertools.combinations(passes, k))
            per_problem.append(sum(map(any, subsets)) / len(subsets))
        value, low, high = summary.pass_at_k[str(k)]
        assert value == pytest.approx(sum(per_problem) / len(outcomes))
        assert low <= value + 1e-9
        assert value <= high + 1e-9
    assert summary.solved == sum(map(any, outcomes))
    assert summary.reasoning_cut == sum(not ok for passes in outcomes for ok in passes)


def test_answers_that_never_pass_are_a_result_with_an_interval() -> None:
    summary = summarise([record([False] * 3, str(i)) for i in range(20)], [1, 3])
    assert summary.pass_at_k["1"] == (0.0, *wilson(0, 20))
    assert summary.pass_at_k["1"].high > 0.1
    assert (summary.solved, summary.n, summary.outcomes) == (0, 20, {"failed": 60})


def test_parts_are_counted_apart() -> None:
    records = [record([True], "a", level="easy"), record([False], "b", level="hard")]
    summary = summarise(records, [1])
    assert summary.pass_at_k["1"].value == 0.5
    assert summary.by_label["level"]["easy"]["pass_at_k"]["1"]["value"] == 1.0
    assert summary.by_label["level"]["hard"]["n"] == 1
    assert summary.by_check["base"]["1"].value == 1.0
    assert summary.by_check["plus"]["1"].value == 0.0


def test_k_needs_as_many_samples() -> None:
    assert check_ks(None, 10) == [1, 5, 10]
    assert check_ks([3, 1, 3], 3) == [1, 3]
    with pytest.raises(UserError, match="--pass-at 10: needs --samples 10 or more, got 4"):
        check_ks([1, 10], 4)
    with pytest.raises(UserError, match="--pass-at 0"):
        check_ks([0], 4)


class _Scripted:
    """A real reasoner whose answers are given, one list for each prompt, sample after sample."""

    def __init__(self, answers: dict[str, list[str]], stop_after: int | None = None) -> None:
        self.inner = tiny_baseline("direct")
        self.answers, self.calls, self.stop_after = answers, 0, stop_after

    def made(self) -> Any:
        taken: dict[str, int] = {}

        def answer(prompts, thoughts, *, temperature, noise_seeds):
            if self.stop_after is not None and self.calls >= self.stop_after:
                raise KeyboardInterrupt
            self.calls += 1
            found = []
            for prompt in prompts:
                taken[prompt] = taken.get(prompt, -1) + 1
                found.append(self.answers[prompt][taken[prompt]])
            return found

        self.inner.answer = answer
        return self.inner


def protocol(samples: int = 1, batch: int = 64, **fields: Any) -> Protocol:
    return Protocol(Settings(0.7, 0.0, samples, **fields), batch)


def test_every_answer_is_judged_and_recorded(tmp_path: Path) -> None:
    benchmark = read_benchmark(write_rows(tmp_path / "he.jsonl", HUMANEVAL))
    benchmark = replace(benchmark, limits=Limits(wall_seconds=1.0, cpu_seconds=1))
    right, other = (row["canonical_solution"] for row in HUMANEVAL)
    answers = {
        benchmark.tasks[0].prompt: [right, "    return 0\n", "    return (\n"],
        benchmark.tasks[1].prompt: ["    while True: pass\n", "    exit()\n", other],
    }
    reasoner = _Scripted(answers).made()
    records, resumed = run_benchmark(reasoner, benchmark, protocol(3))
    assert resumed == 0
    assert [[s.outcome for s in r.samples] for r in records] == [
        ["passed", "failed", "error"],
        ["timeout", "error", "passed"],
    ]
    assert [r.reference for r in records] == ["passed", "passed"]
    assert records[0].samples[0].solution == HUMANEVAL[0]["prompt"] + right
    assert "SyntaxError" in records[0].samples[2].detail
    summary = summarise(records, [1, 3])
    assert summary.pass_at_k["1"].value == pytest.approx(1 / 3)
    assert summary.pass_at_k["3"].value == 1.0
    assert (summary.references, summary.reference_failed) == (2, [])


@pytest.mark.parametrize("format", ALL)
def test_references_as_answers_solve_everything(tmp_path: Path, format: str) -> None:
    from tests.benchmark_rows import LIVECODEBENCH_SOLUTIONS

    benchmark = read_benchmark(write_rows(tmp_path / "f.jsonl.gz", ALL[format]))
    answers = {
        task.prompt: [
            f"```python\n{task.reference or LIVECODEBENCH_SOLUTIONS[task.id]}\n```"
            if format != "gsm8k"
            else task.reference
        ]
        for task in benchmark.tasks
    }
    records, _ = run_benchmark(_Scripted(answers).made(), benchmark, protocol())
    summary = summarise(records, [1])
    assert summary.outcomes == {"passed": len(records)}
    assert summary.pass_at_k["1"].value == 1.0
    several = {"gsm8k": {"stated", "last number"}}
    expected = {"base", "plus"} if format.endswith("+") else several.get(format, set())
    assert set(summary.by_check) == expected
    assert set(summary.by_label.get("difficulty", {})) == (
        {"easy", "hard"} if format == "livecodebench" else set()
    )


def files(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*.json*"))}


def many(n: int) -> list[dict[str, Any]]:
    return [{**HUMANEVAL[0], "task_id": f"HumanEval/{i}"} for i in range(n)]


@pytest.mark.parametrize("kind", ["nfcot", "text"])
def test_a_resumed_evaluation_equals_an_uninterrupted_one(tmp_path: Path, kind: str) -> None:
    reasoner: Any = brief_reasoner() if kind == "nfcot" else tiny_baseline("text")
    benchmark = read_benchmark(write_rows(tmp_path / "f.jsonl", many(7)))
    asked = Protocol(Settings(0.9, 0.8, 2, 5), batch=4)
    whole, _ = run_benchmark(reasoner, benchmark, asked, out=tmp_path / "whole")
    think, calls = reasoner.think, []

    def killed(prompts, **options):
        if len(calls) == 2:
            raise KeyboardInterrupt
        calls.append(len(prompts))
        return think(prompts, **options)

    reasoner.think = killed
    with pytest.raises(KeyboardInterrupt):
        run_benchmark(reasoner, benchmark, asked, out=tmp_path / "cut")
    kept = files(tmp_path / "cut")
    assert 1 < len(kept) < len(files(tmp_path / "whole"))
    calls.clear()
    reasoner.think = lambda prompts, **options: (
        calls.append(len(prompts)) or think(prompts, **options)
    )
    told: list[int] = []
    again, resumed = run_benchmark(
        reasoner, benchmark, asked, out=tmp_path / "cut", advance=told.append
    )
    assert again == whole
    assert resumed == 2
    assert sum(calls) == 10, "nothing is drawn twice"
    assert sum(told) == 7
    assert files(tmp_path / "cut") == files(tmp_path / "whole")
    assert files(tmp_path / "cut").items() >= kept.items()
    assert len({s.answer for r in whole for s in r.samples}) > 7, "samples differ"


def test_a_folder_takes_one_evaluation_only(tmp_path: Path) -> None:
    benchmark = read_benchmark(write_rows(tmp_path / "f.jsonl", many(3)))
    out = tmp_path / "out"
    run_benchmark(tiny_baseline("direct"), benchmark, protocol(batch=2), out=out)
    with pytest.raises(UserError, match="holds an evaluation with seed 0, asked is 1"):
        run_benchmark(tiny_baseline("direct"), benchmark, protocol(batch=2, seed=1), out=out)
    with pytest.raises(UserError, match="holds an evaluation with checkpoint_hash"):
        run_benchmark(tiny_baseline("direct", seed=1), benchmark, protocol(batch=2), out=out)
    other = read_benchmark(write_rows(tmp_path / "g.jsonl", many(4)))
    with pytest.raises(UserError, match="holds an evaluation with file_hash"):
        run_benchmark(tiny_baseline("direct"), other, protocol(batch=2), out=out)
    block = out / "records" / "00001.jsonl"
    block.write_text(block.read_text()[:-20])
    with pytest.raises(UserError, match=r"00001\.jsonl: damaged; remove the file and repeat"):
        run_benchmark(tiny_baseline("direct"), benchmark, protocol(batch=2), out=out)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes").touch()
    with pytest.raises(UserError, match="holds other files"):
        run_benchmark(tiny_baseline("direct"), benchmark, protocol(), out=tmp_path / "mine")
    with pytest.raises(UserError, match=r"f\.jsonl: is a file; give a folder"):
        run_benchmark(tiny_baseline("direct"), benchmark, protocol(), out=tmp_path / "f.jsonl")
    with pytest.raises(UserError, match="does not exist; make it first"):
        run_benchmark(tiny_baseline("direct"), benchmark, protocol(), out=tmp_path / "no" / "no")


KINDS = ("direct", "pause", "coconut", "codi", "looped", "text")


@pytest.mark.parametrize("kind", [*KINDS, "nfcot"])
def test_what_does_not_fit_the_context_is_counted_and_named(tmp_path: Path, kind: str) -> None:
    """The longest prompt that fits is answered; one more token is not, and nothing fails."""
    reasoner: Any = (
        tiny_reasoner("gpt2", max_answer_tokens=8)
        if kind == "nfcot"
        else tiny_baseline(kind, backbone="gpt2")
    )
    lengths = [n for n in range(200, 256) if fits(reasoner, ["?" * n])[0]]
    assert 200 in lengths
    assert 255 not in lengths
    longest = max(lengths)
    rows = [{"question": "?" * n, "answer": "#### 1"} for n in (3, longest - 1, longest)]
    benchmark = read_benchmark(write_rows(tmp_path / "f.jsonl", rows))  # a newline is added
    records, _ = run_benchmark(reasoner, benchmark, protocol(2, batch=3))
    assert [r.fits for r in records] == [True, True, False]
    assert [len(r.samples) for r in records] == [2, 2, 0]
    summary = summarise(records, [1])
    assert summary.context == ["2"]
    assert summary.outcomes["context"] == 2
    assert summary.pass_at_k["1"].value == 0.0


def test_tasks_without_a_judge_count_as_not_passed(tmp_path: Path) -> None:
    broken = {**MBPP_PLUS[0], "task_id": "Mbpp/9", "canonical_solution": "import numpy\n"}
    benchmark = read_benchmark(write_rows(tmp_path / "f.jsonl", [MBPP_PLUS[0], broken]))
    text = "def similar_elements(a, b): return set(a)"
    answers = {task.prompt: [text] * 2 for task in benchmark.tasks}
    records, _ = run_benchmark(_Scripted(answers).made(), benchmark, protocol())
    summary = summarise(records, [1])
    assert list(summary.unjudged) == ["Mbpp/9"]
    assert "numpy" in summary.unjudged["Mbpp/9"]
    assert summary.outcomes["unjudged"] == 1
    assert summary.reference_failed == ["Mbpp/9"]


def test_a_template_stands_around_each_prompt(tmp_path: Path) -> None:
    benchmark = read_benchmark(write_rows(tmp_path / "f.jsonl", GSM8K[:1]))
    asked = Protocol(Settings(), template="Q: {prompt}A:")
    assert asked.prompt(benchmark.tasks[0]) == f"Q: {GSM8K[0]['question']}\nA:"
    with pytest.raises(UserError, match=r"does not hold \{prompt\}"):
        Protocol(Settings(), template="Q:")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model") / "m"
    brief_reasoner().save(folder)
    return folder


def run(*arguments: object) -> Any:
    from nfcot_model.evaluation.cli import evaluate

    app = typer.Typer()
    app.command()(evaluate)
    return CliRunner().invoke(app, list(map(str, arguments)))


@pytest.mark.parametrize("format", ALL)
def test_the_command_evaluates_every_format(tmp_path: Path, model: Path, format: str) -> None:
    path = write_rows(tmp_path / "f.jsonl.gz", ALL[format])
    out, samples = tmp_path / "out", tmp_path / "samples.jsonl"
    arguments = (model, path, "-o", out, "--samples-out", samples, "--samples", 2, "--json")
    first = run(*arguments, "--pass-at", "1,2")
    assert first.exit_code == 0, first.output
    document = json.loads(first.stdout)
    n = len(ALL[format])
    assert (document["benchmark"], document["n"], document["resumed"]) == (format, n, 0)
    assert document["pass_at_k"]["1"]["value"] == 0.0
    assert document["pass_at_k"]["2"]["high"] == pytest.approx(wilson(0, n)[1])
    assert document["tau"] == 0.7
    assert sum(document["outcomes"].values()) == 2 * n
    assert document["reasoner"] == "nfcot"
    exported = samples.read_text()
    again = json.loads(run(*arguments, "--pass-at", "1,2").stdout)
    assert again["resumed"] == n
    assert samples.read_text() == exported
    for changed in ("resumed", "seconds"):
        document.pop(changed)
        again.pop(changed)
    assert again == document
    assert json.loads((out / "summary.json").read_text()) == document


def test_the_command_says_what_stood_in_the_way(tmp_path: Path, model: Path) -> None:
    rows = [*MBPP, {**MBPP[0], "task_id": 3, "code": "import numpy"}]
    result = run(model, write_rows(tmp_path / "f.jsonl", rows), "--tau", "0", "--samples", "2")
    assert result.exit_code == 0, result.output
    text = " ".join(result.stderr.split())
    assert "0 of 3 problems solved by at least one of 2 samples" in text
    assert "of 3 reference solutions 1 do not pass here" in text
    assert "all samples of a problem are alike" in text
    assert "answers are as long as the model may write" in text
    assert result.stdout == ""


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--tau", "0,1"], "--tau 0,1: give one temperature"),
        (["--pass-at", "2"], "--pass-at 2: needs --samples 2"),
        (["--pass-at", "x"], "--pass-at x: expected numbers"),
        (["--worlds", "digits"], "--worlds: not for a benchmark file"),
        (["--control", "demo-text"], "--control: not for a benchmark file"),
        (["--batch", "0"], "--batch 0: expected at least 1"),
        (["--timeout", "-1"], "--timeout -1.0: expected seconds above 0"),
        (["--max-answer-tokens", "0"], "--max-answer-tokens 0: expected at least 1"),
        (["--dtype", "int8"], "dtype 'int8'"),
        (["--samples", "0"], "--samples 0: expected at least 1"),
        (["--temperature", "-1"], "--temperature is -1.0"),
        (["--template", "/nowhere"], "--template /nowhere: cannot be read"),
        (["--samples-out", "/nowhere/x"], "--samples-out /nowhere/x: expected a file"),
        (["--format", "mbpp"], "field 'task_id'"),
        (["--format", "problems", "-o", "x"], "--out: only for a benchmark file"),
    ],
)
def test_bad_options_are_one_line(
    tmp_path: Path, model: Path, arguments: list[str], message: str
) -> None:
    path = write_rows(tmp_path / "f.jsonl", HUMANEVAL)
    result = run(model, path, *arguments)
    assert isinstance(result.exception, UserError), result.output
    assert message in str(result.exception)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["f.jsonl"]


def test_answers_may_be_longer_than_the_model_s_own(tmp_path: Path, model: Path) -> None:
    path = write_rows(tmp_path / "f.jsonl", GSM8K)
    arguments = ("--max-answer-tokens", 30, "--dtype", "bfloat16", "--json")
    document = json.loads(run(model, path, "-o", tmp_path / "o", *arguments).stdout)
    assert (document["max_answer_tokens"], document["dtype"]) == (30, "bfloat16")
    lines = (tmp_path / "o" / "records" / "00000.jsonl").read_text().splitlines()
    (sample,) = json.loads(lines[0])["samples"]
    assert sample["answer_cut"] is (document["answers_cut"] > 0)
    tokens = load_reasoner(model).tokens([sample["answer"]])[0]
    assert len(tokens) > 6


def test_a_format_needs_a_file(model: Path) -> None:
    result = run(model, "--format", "mbpp")
    assert "--format mbpp: names the format of a file" in str(result.exception)


def test_any_reasoner_is_evaluated(tmp_path: Path) -> None:
    path = write_rows(tmp_path / "f.jsonl", GSM8K)
    for kind in ("direct", "text", "coconut"):
        tiny_baseline(kind).save(tmp_path / kind)
        assert load_reasoner(tmp_path / kind).name == kind
        document = json.loads(run(tmp_path / kind, path, "--json").stdout)
        assert (document["reasoner"], document["n"]) == (kind, 2)
        assert document["tau"] == (0.7 if kind == "text" else 0.0)
