"""Small files in exactly the formats that the authors of benchmarks give out, written by tests."""

from __future__ import annotations

import base64
import gzip
import json
import pickle
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

Rows = list[dict[str, Any]]

HUMANEVAL: Rows = [
    {
        "task_id": "HumanEval/0",
        "prompt": 'from typing import List\n\n\ndef total(xs: List[int]) -> int:\n    """Sum."""\n',
        "entry_point": "total",
        "canonical_solution": "    return sum(xs)\n",
        "test": "\n\nMETADATA = {}\n\n\ndef check(candidate):\n    assert candidate([1, 2]) == 3\n"
        "    assert candidate([]) == 0\n",
    },
    {
        "task_id": "HumanEval/1",
        "prompt": 'import math\n\n\ndef third(x: float) -> float:\n    """A third of x."""\n',
        "entry_point": "third",
        "canonical_solution": "    return x / 3\n",
        "test": "def check(candidate):\n    assert abs(candidate(1.0) - 0.333333) < 1e-4\n",
    },
]
HUMANEVAL_PLUS: Rows = [
    {
        "task_id": "HumanEval/2",
        "prompt": 'def thirds(xs):\n    """A third of each."""\n',
        "entry_point": "thirds",
        "canonical_solution": "    return [x / 3 for x in xs]\n",
        "contract": "    assert type(xs) == list\n",
        "base_input": [[[1.0, 2.0]]],
        "plus_input": [[[]], [[1e9, -3.5]]],
        "atol": 1e-6,
    },
    {
        "task_id": "HumanEval/32",
        "prompt": "import math\n\n\ndef poly(xs, x):\n    return xs[0] + math.fsum([xs[1] * x])\n\n"
        '\ndef find_zero(xs):\n    """A root of a line."""\n',
        "entry_point": "find_zero",
        "canonical_solution": "    return -xs[0] / xs[1]\n",
        "contract": "",
        "base_input": [[[1, 2]]],
        "plus_input": [[[3, -4]]],
        "atol": 0.0001,
    },
]
MBPP_PLUS: Rows = [
    {
        "task_id": "Mbpp/2",
        "prompt": '"""\nShared elements.\nassert set(similar_elements((3,), (3,))) == {3}\n"""\n',
        "entry_point": "similar_elements",
        "canonical_solution": "\ndef similar_elements(a, b):\n  return tuple(set(a) & set(b))\n",
        "contract": "",
        "base_input": [[[3, 4, 5], [5, 4, 10]]],
        "plus_input": [[[], []], [[1, 1], [1]]],
        "atol": 0,
        "assertion": "assert set(similar_elements((3,), (3,))) == {3}",
    },
    {
        "task_id": "Mbpp/252",
        "prompt": '"""\nPolar form.\n"""\n',
        "entry_point": "convert",
        "canonical_solution": "\nimport cmath\ndef convert(z):\n  return cmath.polar(z)\n",
        "contract": "",
        "base_input": [["(1+2j)"]],
        "plus_input": {},
        "atol": 0,
    },
    {
        "task_id": "Mbpp/794",
        "prompt": '"""\nDoes it start with a and end with b?\n"""\n',
        "entry_point": "text_starta_endb",
        "canonical_solution": "\nimport re\ndef text_starta_endb(text):\n"
        "  return re.search('a.*?b$', text)\n",
        "contract": "",
        "base_input": [["aabbbb"], ["aabAbbbc"]],
        "plus_input": [["b"]],
        "atol": 0,
    },
]
MBPP: Rows = [
    {
        "text": "Write a function to double a number.",
        "code": "def twice(x):\r\n  return 2 * x",
        "task_id": 11,
        "test_setup_code": "three = 3",
        "test_list": ["assert twice(2) == 4", "assert twice(three) == 6"],
        "challenge_test_list": [],
    },
    {
        "text": "Write a function to tell whether a number is odd.",
        "code": "def odd(x):\r\n  return x % 2 == 1",
        "task_id": 12,
        "test_setup_code": "",
        "test_list": ["assert odd(1) == True", "assert odd(2) == False"],
        "challenge_test_list": ["assert odd(-1) == True"],
    },
]
SANITIZED_MBPP: Rows = [
    {
        "source_file": "Benchmark Questions Verification V2.ipynb",
        "task_id": 21,
        "prompt": "Write a function to find the square root.",
        "code": "import math\ndef root(x):\n  return math.sqrt(x)",
        "test_imports": ["import math"],
        "test_list": ["assert math.isclose(root(2), 2 ** 0.5)"],
    }
]
GSM8K: Rows = [
    {
        "question": "Ann has 3 apples and buys 1,797 more. How many has she?",
        "answer": "She has 3 + 1797 = <<3+1797=1800>>1,800 apples.\n#### 1,800",
    },
    {"question": "Half of 3?", "answer": "Half of it is <<3/2=1.5>>1.5.\n#### 1.5"},
]


def cases_of(*cases: tuple[str, str], kind: str) -> str:
    return json.dumps([{"input": i, "output": o, "testtype": kind} for i, o in cases])


def packed(text: Any) -> str:
    """As the private tests of LiveCodeBench are packed."""
    return base64.b64encode(zlib.compress(pickle.dumps(text))).decode()


def livecodebench(question_id: str, private: str, public: str, **fields: Any) -> dict[str, Any]:
    return {
        "question_title": "A title",
        "question_content": "Double the numbers.",
        "platform": "atcoder",
        "question_id": question_id,
        "contest_id": "abc300",
        "contest_date": "2023-08-21T00:00:00",
        "starter_code": "",
        "difficulty": "easy",
        "public_test_cases": public,
        "private_test_cases": private,
        "metadata": "{}",
        **fields,
    }


LIVECODEBENCH: Rows = [
    livecodebench(
        "abc300_a",
        packed(cases_of(("2\n5 6\n", "10 12\n"), ("0\n\n", "\n"), kind="stdin")),
        cases_of(("1\n4\n", "8\n"), kind="stdin"),
    ),
    livecodebench(
        "2777",
        cases_of(("[]\n3", "[]"), kind="functional"),
        cases_of(("[1, 2]\n2", "[2, 4]"), kind="functional"),
        platform="leetcode",
        difficulty="hard",
        starter_code="class Solution:\n    def times(self, xs: List[int], k: int) -> List[int]:\n",
        metadata='{"func_name": "times"}',
    ),
]
LIVECODEBENCH_SOLUTIONS = {
    "abc300_a": "n = int(input())\nprint(*[2 * int(x) for x in input().split()])",
    "2777": "class Solution:\n    def times(self, xs: List[int], k: int) -> List[int]:\n"
    "        return [k * x for x in xs]",
}

ALL: dict[str, Rows] = {
    "humaneval": HUMANEVAL,
    "humaneval+": HUMANEVAL_PLUS,
    "mbpp": MBPP,
    "mbpp+": MBPP_PLUS,
    "livecodebench": LIVECODEBENCH,
    "gsm8k": GSM8K,
}


def write_rows(path: Path, rows: Sequence[Any]) -> Path:
    """JSON lines, gzipped for a name in .gz; one list for a name in .json."""
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    text = json.dumps(list(rows)) if path.suffix == ".json" else lines
    path.write_bytes(gzip.compress(text.encode()) if path.suffix == ".gz" else text.encode())
    return path
