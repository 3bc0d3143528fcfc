"""Worlds: true labels, disjoint splits, reproducible ids, and errors that name the line."""

from __future__ import annotations

import json
import random
import re
from itertools import combinations
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nfcot_model.errors import UserError
from nfcot_model.sandbox.judge import job_of
from nfcot_model.worlds import (
    SPLITS,
    WORLDS,
    Check,
    Problem,
    make_world,
    problem_set_hash,
    read_problems,
    shuffle,
    what_if,
    write_problems,
)
from nfcot_model.worlds.generate import read_steps

UNSEEN = "unseen-words"


@pytest.mark.parametrize("world", WORLDS)
def test_reference_answers_pass_their_own_checks(world: str) -> None:
    for problem in make_world(world, "test", 3, 200):
        function = eval(problem.answer or "")
        for case in problem.check.cases:
            assert function(*case.args) == case.expected


# What the words of a prompt say, read without the generators: pattern → what happens to a value.
DIGIT_WORDS = {
    r"(?:add|plus|increase by|count up|raise it by) (\d)": lambda x, n: x + n,
    r"put (\d) more on top": lambda x, n: x + n,
    r"(?:minus|subtract|take away|decrease by|lower it by) (\d)": lambda x, n: x - n,
    r"drop (\d) from it": lambda x, n: x - n,
    r"(?:times|multiply by|scale by|stretch by a factor) (\d)": lambda x, n: x * n,
    r"make it (\d) fold": lambda x, n: x * n,
    r"repeat it (\d) times over": lambda x, n: x * n,
}


def exchanged(row: str, i: int, j: int) -> str:
    return "".join(row[{i: j, j: i}.get(place, place) - 1] for place in range(1, 6))


def turned_left(row: str, n: int) -> str:
    return "".join(row[(place + n) % 5] for place in range(5))


def mirrored(row: str, i: int, j: int) -> str:
    return "".join(row[(i + j - p if i <= p <= j else p) - 1] for p in range(1, 6))


SHUFFLE_WORDS = {
    r"(?:swap|switch) (\d) and (\d)": exchanged,
    r"exchange (\d) with (\d)": exchanged,
    r"trade (\d) for (\d)": exchanged,
    r"put (\d) where (\d) is and back": exchanged,
    r"(?:rotate left|turn left by|cycle left|move the row left) (\d)": turned_left,
    r"shift everything (\d) to the left": turned_left,
    r"(?:reverse|flip|mirror|turn around) (\d) to (\d)": mirrored,
    r"read (\d) to (\d) backwards": mirrored,
}


def wordings(problem: Problem) -> list[str]:
    """The operations of a prompt in words, in the order of their numbers."""
    found = re.findall(r"#(\d+) ([^;.]+)", problem.prompt)
    assert [int(number) for number, _ in found] == list(range(1, len(problem.steps) + 1))
    return [words for _, words in found]


def follow(words: str, meanings: dict, value: Any) -> Any:
    (result,) = (
        meaning(value, *map(int, match.groups()))
        for pattern, meaning in meanings.items()
        if (match := re.fullmatch(pattern, words))
    )
    return result


@given(
    seed=st.integers(0, 10_000), steps=st.integers(2, 12), split=st.sampled_from(["train", UNSEEN])
)
@settings(max_examples=60, deadline=None)
def test_every_digit_step_is_the_closed_form_of_the_words_before_it(seed, steps, split) -> None:
    problem = make_world("digits", split, seed, 1, steps)[0]
    values = list(range(10))
    for label, text, words in zip(
        problem.step_labels, problem.steps, wordings(problem), strict=True
    ):
        values = [follow(words, DIGIT_WORDS, value) % 10 for value in values]
        assert values == [(label["coefficient"] * x + label["offset"]) % 10 for x in range(10)]
        assert text.endswith(f" {label['coefficient']}x+{label['offset']}")
    for case in problem.check.cases:
        assert case.expected == values[case.args[0] % 10]


@given(
    seed=st.integers(0, 10_000), steps=st.integers(2, 12), split=st.sampled_from(["train", UNSEEN])
)
@settings(max_examples=60, deadline=None)
def test_every_shuffle_step_is_the_row_after_the_words_before_it(seed, steps, split) -> None:
    problem = make_world("shuffle", split, seed, 1, steps)[0]
    row = "abcde"
    for label, text, words in zip(
        problem.step_labels, problem.steps, wordings(problem), strict=True
    ):
        row = follow(words, SHUFFLE_WORDS, row)
        assert text.split(" ")[1:] == list(row)
        assert [label[f"place_{i}"] for i in range(1, 6)] == list(row)
        assert label["parity"] == sum(a > b for a, b in combinations(row, 2)) % 2
    for case in problem.check.cases:
        (items,) = case.args
        assert case.expected == [items["abcde".index(item)] for item in row]


OPERATIONS = [("swap", 2, 4), ("swap", 1, 5), ("rotate", 1), ("rotate", 2), ("reverse", 1, 4)]


@pytest.mark.parametrize("operation", [*OPERATIONS, ("reverse", 2, 5), ("reverse", 1, 5)])
@pytest.mark.parametrize("unseen", [False, True])
def test_every_wording_of_a_move_says_what_the_move_does(operation, unseen) -> None:
    move = shuffle.Operation(*operation)
    expected = "".join("abcde"[i] for i in move.apply(tuple(range(5))))
    for seed in range(20):
        words = shuffle.word(move, random.Random(seed), unseen)
        assert follow(words, SHUFFLE_WORDS, "abcde") == expected


@pytest.mark.parametrize("world", WORLDS)
def test_splits_share_no_pipeline(world: str) -> None:
    groups = {s: {p.group for p in make_world(world, s, 0, 400)} for s in SPLITS}
    for one, other in combinations(SPLITS, 2):
        assert not groups[one] & groups[other], (one, other)


@pytest.mark.parametrize("world", WORLDS)
def test_unseen_words_occur_in_their_split_and_in_no_other(world: str) -> None:
    module = WORLDS[world]

    def listed(table: dict[str, tuple[str, ...]]) -> set[str]:
        return {text.format(n=0, i=0, j=0) for texts in table.values() for text in texts}

    usual, unseen = listed(module.WORDINGS), listed(module.UNSEEN_WORDINGS)
    assert not usual & unseen
    assert module.WORDINGS.keys() == module.UNSEEN_WORDINGS.keys()
    for split in SPLITS:
        problems = make_world(world, split, 0, 500)
        used = {re.sub(r"\d", "0", words) for p in problems for words in wordings(p)}
        assert used == (unseen if split == UNSEEN else usual), split


def test_same_arguments_give_the_same_problems_and_seeds_differ() -> None:
    one, again = make_world("shuffle", "test", 7, 50), make_world("shuffle", "test", 7, 50)
    assert problem_set_hash(one) == problem_set_hash(again)
    assert problem_set_hash(one) != problem_set_hash(make_world("shuffle", "test", 8, 50))
    assert len({p.id for p in one}) == 50


def test_jsonl_round_trip(tmp_path) -> None:
    problems = make_world("digits", "long", 0, 20)
    write_problems(tmp_path / "p.jsonl", problems)
    assert read_problems(tmp_path / "p.jsonl") == problems


def test_line_separators_inside_a_prompt_survive(tmp_path) -> None:
    check = {"kind": "exact", "expected": "x"}
    problem = Problem.model_validate({"prompt": "a\u2028b\x85c", "check": check})
    write_problems(tmp_path / "p.jsonl", [problem])
    assert read_problems(tmp_path / "p.jsonl") == [problem]


def test_only_regular_files_are_replaced(tmp_path) -> None:
    with pytest.raises(UserError, match="not a regular file"):
        write_problems(tmp_path, make_world("digits", "test", 0, 1))


def test_a_users_problem_needs_only_prompt_and_check(tmp_path) -> None:
    line = {"prompt": "2+2?", "check": {"kind": "exact", "expected": "4"}}
    (tmp_path / "p.jsonl").write_text(json.dumps(line) + "\n")
    (problem,) = read_problems(tmp_path / "p.jsonl")
    assert problem.id == problem.group
    assert problem.world == "user"


def case(expected: str, args: str = "[1]", extra: str = "") -> str:
    """The line of a problem with one case, its values as JSON text."""
    cases = f'[{{"args": [0], "expected": 0}}, {{"args": {args}, "expected": {expected}}}]'
    return f'{{{extra}"prompt": "a", "check": {{"kind": "function", "cases": {cases}}}}}'


@pytest.mark.parametrize(
    ("expected", "args"),
    [
        ("9" * 4300, "[]"),
        ('"\\ud83d\\ude00 é"', "[-0.0, 1e300]"),
        ("[" * 80 + "]" * 80, "[null]"),
    ],
    ids=["integer", "pair", "nested"],
)
def test_extreme_values_survive_a_round_trip_and_can_be_checked(tmp_path, expected, args) -> None:
    (tmp_path / "p.jsonl").write_text(case(expected, args))
    problems = read_problems(tmp_path / "p.jsonl")
    write_problems(tmp_path / "q.jsonl", problems)
    again = read_problems(tmp_path / "q.jsonl")
    assert again == problems
    assert problem_set_hash(again) == problem_set_hash(problems)
    assert job_of("lambda x: x", problems[0].check)["kind"] == "function"


@pytest.mark.parametrize("extra", ["", '"id": "given", '])
@pytest.mark.parametrize(
    ("expected", "args", "reason"),
    [
        ("9" * 5000, "[1]", "expected': is an integer of more than 4300 digits"),
        ("-" + "9" * 5000, "[1]", "expected': is an integer of more than 4300 digits"),
        ("[" * 600 + "]" * 600, "[1]", "expected': is nested more than 90 deep"),
        ('{"a":' * 200 + "1" + "}" * 200, "[1]", "expected': is nested more than 90 deep"),
        ('"\\ud800"', "[1]", "expected': has half of a surrogate pair"),
        ('{"\\ud800": 1}', "[1]", "expected': has half of a surrogate pair"),
        ("NaN", "[1]", "expected': is nan"),
        ("[1, Infinity]", "[1]", "expected': is inf"),
        ("1e999", "[1]", "expected': is inf"),
        ("1", "[-Infinity]", "args': is -inf"),
        ("1", '["\\udfff"]', "args': has half of a surrogate pair"),
    ],
    ids=lambda text: text[:12],
)
def test_values_that_json_cannot_hold_are_refused_by_place(
    tmp_path, expected, args, reason, extra
) -> None:
    path = tmp_path / "p.jsonl"
    path.write_text(GOOD + "\n" + case(expected, args, extra))
    with pytest.raises(UserError) as caught:
        read_problems(path)
    assert f"p.jsonl:2: field 'check.cases.1.{reason}" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("value", [float("nan"), [10**5000], "\ud800", {1: 2}])
def test_a_problem_made_in_python_can_be_written(value: object) -> None:
    check = Check.model_validate({"kind": "function", "cases": [{"args": [], "expected": [value]}]})
    for content in (check, check.model_dump()):
        with pytest.raises(ValueError, match=r"is nan|is an integer|has half|has the key"):
            Problem.model_validate({"prompt": "a", "check": content})


GOOD = '{"prompt": "a", "check": {"kind": "exact", "expected": "b"}}'


def with_field(field: str) -> str:
    return f"{GOOD[:-1]}, {field}}}"


NAMED = with_field('"id": "i"')
LIBRARY_WORDS = ("Value error", "Extra inputs", "Input should", "Field required", "pydantic")


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("", "holds no problems"),
        (GOOD + "\n{broken", "p.jsonl:2: malformed JSON"),
        ('{"check": {"kind": "exact", "expected": "b"}}', "p.jsonl:1: field 'prompt'"),
        ('{"prompt": "", "check": {"kind": "exact", "expected": "b"}}', "field 'prompt'"),
        ('{"prompt": "a"}', "field 'check'"),
        ('{"prompt": "a", "check": {"kind": "function"}}', "field 'check'"),
        ('{"prompt": "a", "promt": 1, "check": {"kind": "exact", "expected": "b"}}', "'promt'"),
        (GOOD + "\n\n" + GOOD, "p.jsonl:3: the problem of line 1 again"),
        ("[1]", "p.jsonl:1: expected a mapping, found a list"),
        ("[" * 100_000, "nested too deeply"),
        ('{"prompt": " ", "check": {"kind": "exact", "expected": "b"}}', "field 'prompt'"),
        ('{"prompt": "\\ud800", "check": {"kind": "exact", "expected": "b"}}', "field 'prompt'"),
        ('{"prompt": "a", "check": {"kind": "exact", "expected": " \\n"}}', "field 'check'"),
        ('{"prompt": "a", "x\\ny": 1, "check": {"kind": "exact", "expected": "b"}}', "'x\\ny'"),
        (GOOD[:-1] + ', "labels": {"x": NaN}}', "field 'labels.x': is nan"),
        (GOOD[:-1] + ', "id": "\\n"}\n' + GOOD[:-1] + ', "id": "\\n"}', "id '\\n'"),
        (NAMED + "\n" + NAMED.replace('"a"', '"c"'), "2: duplicate id 'i', the problem on line 1"),
        (with_field('"id": 5'), "field 'id': expected text, found 5"),
        (with_field('"promt": 1'), "field 'promt': is not known; expected one of id, world"),
        (with_field('"steps": "x"'), "field 'steps': expected a list, found 'x'"),
        (with_field('"labels": {"x": []}'), "'labels.x': expected text, a number or true or false"),
        (with_field('"step_labels": [{}]'), "p.jsonl:1: step_labels has 1 entries for 0 steps"),
        ('{"prompt": "a"}', "field 'check': is missing"),
        ('{"prompt": "a", "check": {"kind": "function"}}', "'check': a check of kind 'function'"),
        (
            '{"prompt": "a", "check": {"kind": "x"}}',
            "'check.kind': expected 'function', ",
        ),
    ],
)
def test_bad_problem_files_are_named_by_line_and_field(tmp_path, text, named) -> None:
    path = tmp_path / "p.jsonl"
    path.write_text(text)
    with pytest.raises(UserError, match=r"p\.jsonl") as caught:
        read_problems(path)
    assert named in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not any(words in str(caught.value) for words in LIBRARY_WORDS)


def test_missing_and_unreadable_files(tmp_path) -> None:
    with pytest.raises(UserError, match="no such file"):
        read_problems(tmp_path / "none.jsonl")
    (tmp_path / "binary.jsonl").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UserError, match="cannot be read"):
        read_problems(tmp_path / "binary.jsonl")


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (("nowhere", "test", 0, 5), "world 'nowhere'"),
        (("digits", "nosplit", 0, 5), "split 'nosplit'"),
        (("digits", "test", 0, 0), "-n 0"),
        (("digits", "test", 0, 5, 13), "--steps"),
        (("digits", "test", 0, 5000, 1), "different problems"),
    ],
)
def test_impossible_requests_say_what_is_possible(arguments, named) -> None:
    with pytest.raises(UserError, match=named):
        make_world(*arguments)


def test_an_empty_range_of_steps_is_named() -> None:
    assert read_steps("2-5") == (2, 5)
    with pytest.raises(UserError, match=r"--steps 5-2: is empty; .*, 2-5"):
        read_steps("5-2")


@pytest.mark.parametrize("world", ["digits", "shuffle"])
@pytest.mark.parametrize("split", ["test", "unseen-words"])
def test_what_if_nothing_changes_nothing(world: str, split: str) -> None:
    for problem in make_world(world, split, 3, 40):
        for step, text in enumerate(problem.steps):
            same = what_if(problem, step, text)
            assert same.steps == problem.steps
            assert same.step_labels == problem.step_labels
            assert (same.answer, same.check, same.labels) == (
                problem.answer,
                problem.check,
                problem.labels,
            )


def test_what_if_a_step_had_been_another() -> None:
    problem = Problem.model_validate(
        {
            "prompt": "Digit x: #1 times 4; #2 plus 7; #3 times 2. Compile it.",
            "world": "digits",
            "steps": ["#1 4x+0", "#2 4x+7", "#3 8x+4"],
            "step_labels": [{}, {}, {}],
            "answer": "lambda x: (8*x+4)%10",
            "check": {"kind": "function", "cases": [{"args": [1], "expected": 2}]},
        }
    )
    changed = what_if(problem, 1, "4x+2")
    assert changed.steps == ["#1 4x+0", "#2 4x+2", "#3 8x+4"]
    changed = what_if(problem, 0, "#1 3x+1")
    assert changed.steps == ["#1 3x+1", "#2 3x+8", "#3 6x+6"]
    assert changed.answer == "lambda x: (6*x+6)%10"
    assert changed.check.cases[1].expected == 2
    assert what_if(problem, 2, "#3 1x+1").answer == "lambda x: (1*x+1)%10"


@pytest.mark.parametrize(
    ("step", "text", "said"),
    [(0, "4y", "no state"), (9, "4x+7", "not 9"), (-1, "4x+7", "not -1")],
)
def test_what_if_refuses_what_the_world_has_not(step: int, text: str, said: str) -> None:
    problem = make_world("digits", "test", 0, 1, 3)[0]
    with pytest.raises(UserError, match=said):
        what_if(problem, step, text)
    with pytest.raises(UserError, match="interpreter"):
        what_if(problem.model_copy(update={"world": "mine"}), 0, "4x+7")
