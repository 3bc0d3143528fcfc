"""Published formats: read, refused, judged and written again, on files that these tests write."""

from __future__ import annotations

import base64
import gzip
import json
import os
import pickle
import zlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from nfcot_model.benchmark_files import (
    UnjudgedError,
    detect,
    export_samples,
    read_benchmark,
)
from nfcot_model.benchmark_files.answers import PROGRAM_STOPS, continuation, fenced, program
from nfcot_model.benchmark_files.evalplus_inputs import restored
from nfcot_model.benchmark_files.pickled import lone_string
from nfcot_model.errors import UserError
from nfcot_model.sandbox import Limits, Sandbox
from nfcot_model.worlds import make_world, write_problems
from tests.benchmark_rows import (
    ALL,
    GSM8K,
    HUMANEVAL,
    HUMANEVAL_PLUS,
    LIVECODEBENCH,
    LIVECODEBENCH_SOLUTIONS,
    MBPP,
    MBPP_PLUS,
    SANITIZED_MBPP,
    cases_of,
    livecodebench,
    packed,
    write_rows,
)

MUTANTS = {
    "humaneval": ["    return sum(xs[1:])\n", "    return x / 4\n"],
    "humaneval+": ["    return [x / 3 + 1e-3 for x in xs]\n", "    return xs[0] / xs[1]\n"],
    "mbpp": ["def twice(x): return x + 2", "def odd(x): return x % 2 == 0"],
    "mbpp+": [
        "def similar_elements(a, b): return tuple(a)",
        "def convert(z): return [abs(z), 0.0]",
        "def text_starta_endb(text): return False",
    ],
    "livecodebench": [
        "n = input()\nprint(*input().split())",
        "class Solution:\n    def times(self, xs, k):\n        return list(xs)",
    ],
    "gsm8k": ["It is 1,801.", "#### 15"],
}


@pytest.fixture(scope="module")
def sandbox() -> Iterator[Sandbox]:
    limits = Limits(wall_seconds=5.0, cpu_seconds=5, memory_mib=512, output_bytes=1 << 20)
    with Sandbox(workers=2, limits=limits) as opened:
        yield opened


def outcomes(sandbox: Sandbox, task, solution: str) -> dict[str, str]:
    checks = task.checks(sandbox)
    verdicts = sandbox.check_many([(solution, check) for check in checks.values()])
    return {name: v.status for name, v in zip(checks, verdicts, strict=True)}


@pytest.mark.parametrize("name", ["file.jsonl", "file.jsonl.gz", "file.json"])
@pytest.mark.parametrize("format", ALL)
def test_formats_are_told_apart_and_read(tmp_path: Path, format: str, name: str) -> None:
    path = write_rows(tmp_path / name, ALL[format])
    assert detect(path) == format
    benchmark = read_benchmark(path)
    assert benchmark.format == format
    assert len(benchmark.tasks) == len(ALL[format])
    assert all(task.prompt.strip() for task in benchmark.tasks)
    assert [t.id for t in read_benchmark(path, format).tasks] == [t.id for t in benchmark.tasks]


@pytest.mark.parametrize("format", ALL)
def test_references_pass_and_mutants_fail(tmp_path: Path, sandbox: Sandbox, format: str) -> None:
    tasks = read_benchmark(write_rows(tmp_path / "f.jsonl", ALL[format])).tasks
    for task, mutant in zip(tasks, MUTANTS[format], strict=True):
        reference = task.reference or LIVECODEBENCH_SOLUTIONS[task.id]
        assert set(outcomes(sandbox, task, reference).values()) == {"passed"}, task.id
        statuses = set(outcomes(sandbox, task, task.solution(mutant)).values())
        assert "failed" in statuses, (task.id, statuses)


def test_sanitized_mbpp_is_one_list(tmp_path: Path, sandbox: Sandbox) -> None:
    (task,) = read_benchmark(write_rows(tmp_path / "s.json", SANITIZED_MBPP)).tasks
    assert outcomes(sandbox, task, task.reference or "") == {"tests": "passed"}
    assert SANITIZED_MBPP[0]["test_list"][0] in task.prompt


def test_problems_of_this_package_are_left_to_their_reader(tmp_path: Path) -> None:
    write_problems(tmp_path / "p.jsonl", make_world("digits", "test", 0, 2))
    assert detect(tmp_path / "p.jsonl") == "problems"
    assert detect(tmp_path / "missing.jsonl") == "problems"
    (tmp_path / "broken.jsonl").write_text("{")
    assert detect(tmp_path / "broken.jsonl") == "problems"
    with pytest.raises(UserError, match="is not a file of humaneval"):
        read_benchmark(tmp_path / "p.jsonl")
    zipped = tmp_path / "p.jsonl.gz"
    zipped.write_bytes(gzip.compress((tmp_path / "p.jsonl").read_bytes()))
    with pytest.raises(UserError, match=r"gzipped, .* unpack it"):
        detect(zipped)


REQUIRED = {
    "humaneval": "test",
    "humaneval+": "atol",
    "mbpp": "code",
    "mbpp+": "canonical_solution",
    "livecodebench": "private_test_cases",
    "gsm8k": "answer",
}


@pytest.mark.parametrize("format", ALL)
def test_a_missing_field_is_named_with_file_and_line(tmp_path: Path, format: str) -> None:
    rows = [dict(row) for row in ALL[format]]
    del rows[1][REQUIRED[format]]
    path = write_rows(tmp_path / "f.jsonl", rows)
    with pytest.raises(UserError) as caught:
        read_benchmark(path)
    assert str(caught.value).startswith(f"{path}:2: field '{REQUIRED[format]}': is missing; ")
    assert "\n" not in str(caught.value)
    assert "not the version of" in str(caught.value)


def changed(row: dict, **fields: object) -> dict:
    return {**row, **fields}


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([changed(HUMANEVAL[0], test="import numpy as np\n")], "field 'test': imports numpy"),
        ([changed(HUMANEVAL[0], test=["a"])], "field 'test': expected text, found a list"),
        ([HUMANEVAL[0], HUMANEVAL[0]], r"task 'HumanEval/0' is at .*f.jsonl:1 already"),
        ([{"task_id": "Mbpp/3", "prompt": "", "test_code": ""}], "no format that is known"),
        ([{"prompts": "?"}], r"f.jsonl:1: no format that is known has these fields \(prompts\)"),
        ([changed(GSM8K[0], answer="It is 3.")], "field 'answer': does not end in a line"),
        ([changed(MBPP[0], test_list=[])], "field 'test_list'"),
        ([changed(MBPP[0], text="")], "field 'text': is missing, and so is 'prompt'"),
        ([changed(MBPP_PLUS[0], base_input=[[3]])], "not of the shape that Mbpp/2 has"),
        ([changed(HUMANEVAL_PLUS[0], base_input=[])], "field 'base_input': holds no input"),
        ([changed(HUMANEVAL_PLUS[0], entry_point="f()")], "is no name"),
        ([changed(LIVECODEBENCH[0], public_test_cases=[])], "'public_test_cases': expected text"),
        ([changed(LIVECODEBENCH[0], public_test_cases="[{}]")], "0.input Field required"),
        ([changed(LIVECODEBENCH[0], private_test_cases="no!")], "neither JSON nor base64"),
        ([changed(LIVECODEBENCH[0], metadata="[")], "field 'metadata': expected a JSON object"),
        ([changed(LIVECODEBENCH[1], metadata='{"func_name": "f()"}')], "is no name"),
        (
            [changed(LIVECODEBENCH[1], private_test_cases=cases_of(("x", "1"), kind="functional"))],
            "a functional test is not JSON by line",
        ),
        ([livecodebench("9", "[]", "[]")], "there is no test at all"),
        ([HUMANEVAL[0], changed(HUMANEVAL[1], prompt="\ud800")], "half of a surrogate pair"),
        ([changed(HUMANEVAL_PLUS[0], atol=float("nan"))], "field 'atol'"),
    ],
)  # fmt: skip
def test_other_versions_are_refused_in_one_line(
    tmp_path: Path, rows: list[dict], message: str
) -> None:
    path = write_rows(tmp_path / "f.jsonl", rows)
    with pytest.raises(UserError, match=message) as caught:
        read_benchmark(path)
    assert "\n" not in str(caught.value)


def test_damaged_files_are_refused_in_one_line(tmp_path: Path) -> None:
    lines = (json.dumps(HUMANEVAL[0]) + "\n") * 3
    cut = tmp_path / "cut.jsonl.gz"
    cut.write_bytes(gzip.compress(os.urandom(3000) + lines.encode())[:-20])
    for format in ("humaneval", "auto"):
        with pytest.raises(UserError, match=r"cannot be read.*copy the file again"):
            read_benchmark(cut, format)
    broken = tmp_path / "broken.jsonl"
    broken.write_text(json.dumps(HUMANEVAL[0]) + "\n\n{'task_id': 1}\n")
    with pytest.raises(UserError, match=r"broken\.jsonl:3: malformed JSON"):
        read_benchmark(broken)
    with pytest.raises(UserError, match="no such file"):
        read_benchmark(tmp_path / "none", "mbpp")
    (tmp_path / "empty").write_text("\n")
    with pytest.raises(UserError, match="holds no tasks"):
        read_benchmark(tmp_path / "empty", "mbpp")
    with pytest.raises(UserError, match="--format csv: expected one of auto, problems, humaneval"):
        read_benchmark(broken, "csv")


class _Hostile:
    """Unpickling it makes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple:
        return os.mkdir, (str(self.path),)


def test_a_hostile_pickle_is_refused_and_never_run(tmp_path: Path) -> None:
    trace = tmp_path / "was-here"
    assert pickle.loads(pickle.dumps(_Hostile(trace))) is None
    assert trace.exists(), "the pickle must be a working one"
    trace.rmdir()
    for hostile in (_Hostile(trace), ["[]", _Hostile(trace)]):
        row = livecodebench("1", packed(hostile), cases_of(("1", "2"), kind="stdin"))
        path = write_rows(tmp_path / "f.jsonl", [LIVECODEBENCH[0], row])
        with pytest.raises(UserError, match=r"f\.jsonl:2: field 'private_test_cases'.*\(a pickle"):
            read_benchmark(path)
        assert not trace.exists()


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_the_one_text_of_a_pickle(protocol: int) -> None:
    for text in ("", "short é\n", "x" * 70_000, '[{"input": "1"}]'):
        assert lone_string(pickle.dumps(text, protocol)) == text
    for other in (b"x", ["x"], 3, None, ("x", "y"), {"x": "y"}):
        with pytest.raises(ValueError, match="a pickle"):
            lone_string(pickle.dumps(other, protocol))
    with pytest.raises(ValueError, match="a pickle"):
        lone_string(pickle.dumps("x", protocol) + b"cos\nsystem\n.")
    with pytest.raises(ValueError, match=r".+"):
        lone_string(pickle.dumps("x", protocol)[:-1])


def test_a_bomb_is_not_unpacked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from nfcot_model.benchmark_files import livecodebench as module

    monkeypatch.setattr(module, "_MOST_BYTES", 1000)
    large = base64.b64encode(zlib.compress(pickle.dumps("[" + " " * 5000 + "]"))).decode()
    row = livecodebench("1", large, cases_of(("1", "2"), kind="stdin"))
    with pytest.raises(UserError, match="damaged, or more than 1 GiB"):
        read_benchmark(write_rows(tmp_path / "f.jsonl", [row]))


FENCED = "Sure:\n```python\ndef f(x):\n    return x\n```\nIt works."


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (FENCED, "def f(x):\n    return x"),
        (f"{FENCED}\nBetter:\n```\ny = 1\n```", "y = 1"),
        (f"{FENCED}\nBetter:\n```\ny =", "def f(x):\n    return x"),
        ("```python\ndef f(x):", "def f(x):"),
        ("def f(x): return x\nassert f(1) == 1", "def f(x): return x"),
        ("def f(x): return x\nif __name__ == '__main__': f()", "def f(x): return x"),
        ("def f(x): return x\nprint(f(1))", "def f(x): return x"),
        ("def f(x): return x\n[DONE]\nmore", "def f(x): return x"),
        ('"""\nassert x\n"""\ndef f(): pass\nassert y', '"""\nassert x\n"""\ndef f(): pass'),
    ],
)
def test_the_program_in_an_answer(text: str, expected: str) -> None:
    assert program(text) == expected


def test_no_stop_cuts_a_program_that_prints() -> None:
    text = "x = int(input())\nprint(x)\nassert x"
    assert program(text, stops=()) == text
    assert program(text) == "x = int(input())"
    assert fenced("no fence") is None
    assert "\nprint(" in PROGRAM_STOPS


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("    return 1\n", "P    return 1\n"),
        ("    return 1\n\ndef g():\n    pass", "P    return 1\n"),
        ("    return 1\nclass A: pass", "P    return 1"),
        ("    return 1\n# done", "P    return 1"),
        ("    return 1\nprint(f())", "P    return 1"),
        ("```python\n    return 1\n```", "P    return 1"),
        ("import re\ndef f():\n    return 1\nassert f()", "P\nimport re\ndef f():\n    return 1"),
    ],
)
def test_continuations_and_whole_programs(text: str, expected: str) -> None:
    assert continuation("P", "f", text) == expected


def test_inputs_of_mbpp_plus_get_their_types_back() -> None:
    assert restored("Mbpp/2", [[1], [2]]) == [(1,), (2,)]
    assert restored("Mbpp/63", [[[1, 2]]]) == [[(1, 2)]]
    assert restored("Mbpp/106", [[1], [2]]) == [[1], (2,)]
    assert restored("Mbpp/115", [[[1, 1], []]]) == [[{1}, {}]]
    assert restored("Mbpp/124", ["1", "2j"]) == [1.0, 2j]
    assert restored("Mbpp/259", [[[1], [2]], [[3]]]) == [((1,), (2,)), ((3,),)]
    assert restored("Mbpp/278", [[[1], 2]]) == [((1,), 2)]
    assert restored("Mbpp/722", [{"a": [1]}, 2]) == [{"a": (1,)}, 2]
    assert restored("Mbpp/580", [[[1], 2]]) == [((1,), 2)]
    assert restored("Mbpp/9999", [[1]]) == [[1]]


def one(tmp_path: Path, row: dict):
    (task,) = read_benchmark(write_rows(tmp_path / "f.jsonl", [row])).tasks
    return task


def plus_row(entry_point: str, code: str, inputs: list, atol: float = 0) -> dict:
    row = {"task_id": "Mbpp/9999", "prompt": '"""x"""\n', "contract": "", "plus_input": []}
    return {
        **row,
        "entry_point": entry_point,
        "canonical_solution": code,
        "base_input": inputs,
        "atol": atol,
    }


@pytest.mark.parametrize(
    ("entry_point", "reference", "inputs", "solution", "passes"),
    [
        ("f", "def f(x): return x / 3", [[1.0]], "def f(x): return x / 3 + 5e-7", True),
        ("f", "def f(x): return x / 3", [[1.0]], "def f(x): return x / 3 + 5e-6", False),
        ("f", "def f(x): return [x]", [[1]], "def f(x): return (x,)", False),
        ("f", "def f(x): return {x}", [[1]], "def f(x): return {x}", True),
        ("f", "def f(x): return {1: {x}}", [[1]], "def f(x): return {1: {x, 2}}", False),
        ("f", "def f(x): return x > 0", [[1]], "def f(x): return 1", True),
        (
            "f",
            "from collections import Counter\ndef f(x): return Counter(x)",
            [["aa"]],
            "def f(x): return {'a': 2}",
            True,
        ),
        ("Diff", "def Diff(x): return x", [[[1, 2]]], "def Diff(x): return [2, 1, 1]", True),
        ("Diff", "def Diff(x): return x", [[[1, 2]]], "def Diff(x): return [2]", False),
        ("Diff", "def Diff(x): return x", [[[1, 2]]], "def Diff(x): return 3", False),
        ("are_equivalent", "def are_equivalent(x): return x", [[1]],
         "def are_equivalent(x): return 9", True),
        ("sum_div", "def sum_div(x): return x", [[4]], "def sum_div(x): return 0", True),
        ("sum_div", "def sum_div(x): return x", [[4]], "def sum_div(x): return 3", False),
        ("surface_Area", "def surface_Area(a, h): return -1", [[3, 4]],
         "def surface_Area(a, h): return 35", True),
        ("digit_distance_nums", "def digit_distance_nums(a, b): return -1", [[256, 23]],
         "def digit_distance_nums(a, b): return 8", True),
        ("check_str", "def check_str(x): return x", [[True], [None]],
         "def check_str(x): return x", True),
        ("check_str", "import re\ndef check_str(x): return re.match('a', x)", [["a"]],
         "def check_str(x): return 'yes'", True),
        ("check_str", "import re\ndef check_str(x): return re.match('a', x)", [["b"]],
         "def check_str(x): return 'yes'", False),
    ],
)  # fmt: skip
def test_rules_of_evalplus(
    tmp_path: Path,
    sandbox: Sandbox,
    entry_point: str,
    reference: str,
    inputs: list,
    solution: str,
    passes: bool,
) -> None:
    task = one(tmp_path, plus_row(entry_point, reference, inputs))
    expected = {"base": "passed" if passes else "failed"}
    assert outcomes(sandbox, task, solution) == expected


def test_a_reference_that_does_not_run_is_no_judge(tmp_path: Path, sandbox: Sandbox) -> None:
    task = one(tmp_path, plus_row("f", "import numpy\ndef f(x): return x", [[1]]))
    with pytest.raises(UnjudgedError, match=r"reference does not run here.*numpy"):
        task.checks(sandbox)
    task = one(tmp_path, plus_row("f", "def f(x): return object()", [[1]]))
    with pytest.raises(UnjudgedError, match="type object is not plain data"):
        task.checks(sandbox)


def test_expected_values_of_a_task_stay_out_of_the_answer_s_process(
    tmp_path: Path, sandbox: Sandbox
) -> None:
    from nfcot_model.sandbox.judge import job_of

    for row, secret in (
        (livecodebench("1", "[]", cases_of(("1", "secret-7"), kind="stdin")), "secret-7"),
        (plus_row("f", "def f(x): return 'secret-' + str(x)", [[7]]), "secret-7"),
    ):
        checks = one(tmp_path, row).checks(sandbox)
        assert secret in repr(list(checks.values()))
        assert all(secret not in repr(job_of("x = 1", check)) for check in checks.values())


@pytest.mark.parametrize(
    ("program_text", "status"),
    [
        ("print(2 * int(input()))", "passed"),
        ("import sys\nprint(2.0 * int(sys.stdin.read()))\nsys.exit(3)", "passed"),
        ("print('8 ', end='')\nexit()\nprint(9)", "passed"),
        ("print(2 * int(open(0).read()))", "passed"),
        ("import sys\nsys.stdout.buffer.write(b'8\\n')\nsys.stdout.close()", "passed"),
        ("def main():\n    print(8)\nif __name__ == '__main__':\n    main()", "passed"),
        ("print(Counter('aaaaaaaa')['a'])", "passed"),
        ("print(8)\nprint()", "passed"),
        ("print('eight')", "failed"),
        ("print(8, 8)", "failed"),
        ("print(8)\nprint(9)", "failed"),
        ("print(8.001)", "failed"),
        ("print(10 ** 400)", "failed"),
        ("pass", "failed"),
        ("print(input() + input())", "error"),
        ("import numpy", "error"),
        ("open('/etc/passwd')", "error"),
        ("print(8", "error"),
        ("import os\nos._exit(0)", "error"),
    ],
)
def test_programs_that_read_and_print(
    tmp_path: Path, sandbox: Sandbox, program_text: str, status: str
) -> None:
    row = livecodebench("1", "[]", cases_of(("4\n", "8\n"), kind="stdin"))
    assert outcomes(sandbox, one(tmp_path, row), program_text) == {"tests": status}


def test_each_case_has_its_own_process_and_time(tmp_path: Path) -> None:
    state = "import string\nstring.digits += input()\nprint(len(string.digits))"
    loop = "if input() == 'c':\n    while True: pass\nprint(11)"
    cases = cases_of(("a", "11"), ("b", "11"), ("c", "11"), ("d", "11"), kind="stdin")
    (check,) = one(tmp_path, livecodebench("1", "[]", cases)).checks(Sandbox).values()
    with Sandbox(workers=1, limits=Limits(wall_seconds=1.0, output_bytes=500)) as brief:
        passed, slow, loud = brief.check_many(
            [(state, check), (loop, check), ("print(11, end=' ' * 200)", check)]
        )
    assert passed.status == "passed"
    assert (loud.status, loud.detail) == ("error", "returned more than 500 bytes")
    assert (slow.status, slow.detail[:11]) == ("timeout", "case 3 of 4")


def test_functions_of_livecodebench(tmp_path: Path, sandbox: Sandbox) -> None:
    task = one(tmp_path, LIVECODEBENCH[1])
    for body, status in (
        ("def times(xs, k): return tuple(k * x for x in xs)", "passed"),
        ("def times(xs, k): return [k * x + 1e-12 for x in xs]", "failed"),
        ("def times(xs, k): return 1 / (k - 2)", "error"),
        ("def other(xs, k): return xs", "error"),
        (f"from __future__ import annotations\n{LIVECODEBENCH_SOLUTIONS['2777']}", "passed"),
    ):
        assert outcomes(sandbox, task, body) == {"tests": status}, body


def test_numbers_compare_as_numbers(tmp_path: Path, sandbox: Sandbox) -> None:
    task = one(tmp_path, GSM8K[0])
    for text in ("#### 1800", "####1,800.00\nso 3", " $1,800.\n", "1800.0", "3 #### 1800 apples"):
        assert outcomes(sandbox, task, text) == {"stated": "passed", "last number": "passed"}, text
    for text in ("3 + 1797 is $1,800.", "= <<3+1797=1800>>1800", "lambda x: x % 1800"):
        assert outcomes(sandbox, task, text) == {"stated": "failed", "last number": "passed"}, text
    for text in ("", "-1800", "#### none 1800a", "1800 or 3", "18000", "#### 3 or 1800"):
        expected = "passed" if text == "#### none 1800a" else "failed"
        assert set(outcomes(sandbox, task, text).values()) == {expected}, text


def test_samples_go_out_as_the_official_harnesses_read_them(tmp_path: Path) -> None:
    out = tmp_path / "samples"

    def exported(format: str, solutions) -> list:
        benchmark = read_benchmark(write_rows(tmp_path / "f.jsonl", ALL[format]))
        export_samples(out, benchmark, solutions(benchmark.tasks))
        text = out.read_text()
        return json.loads(text) if text[0] == "[" else [json.loads(x) for x in text.splitlines()]

    def answers(*texts: str):
        return lambda tasks: [(tasks[0].id, [tasks[0].solution(text) for text in texts])]

    body = "    return 0\n"
    assert exported("humaneval", answers(body, body + "# end")) == [
        {"task_id": "HumanEval/0", "completion": body},
        {"task_id": "HumanEval/0", "completion": body.rstrip("\n")},
    ]
    (plus,) = exported("humaneval+", answers(body))
    assert plus == {"task_id": "HumanEval/2", "solution": HUMANEVAL_PLUS[0]["prompt"] + body}
    assert exported("mbpp+", answers("x = 1")) == [{"task_id": "Mbpp/2", "solution": "x = 1"}]
    assert exported("mbpp", answers("x = 1")) == [{"task_id": 11, "solution": "x = 1"}]
    assert exported("gsm8k", answers("#### 1,5", "? 3")) == [
        {"task_id": 0, "answer": "#### 1,5", "number": "15"},
        {"task_id": 0, "answer": "? 3", "number": None},
    ]
    assert exported("livecodebench", answers("```\na\n```", "b")) == [
        {"question_id": "abc300_a", "code_list": ["a", "b"]}
    ]
