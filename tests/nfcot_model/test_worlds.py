"""Worlds: true labels, disjoint splits, reproducible ids, and errors that name the line."""

from __future__ import annotations

import json
from itertools import combinations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nfcot_model.errors import UserError
from nfcot_model.worlds import (
    SPLITS,
    WORLDS,
    Problem,
    make_world,
    problem_set_hash,
    read_problems,
    what_if,
    write_problems,
)


@pytest.mark.parametrize("world", WORLDS)
def test_reference_answers_pass_their_own_checks(world: str) -> None:
    for problem in make_world(world, "test", 3, 200):
        function = eval(problem.answer or "")
        for case in problem.check.cases:
            assert function(*case.args) == case.expected


@given(seed=st.integers(0, 10_000), steps=st.integers(1, 12))
@settings(max_examples=40, deadline=None)
def test_every_digit_step_is_the_closed_form_of_the_operations_before_it(seed, steps) -> None:
    problem = make_world("digits", "train", seed, 1, steps)[0]
    words = problem.prompt.split("#")[1:]
    assert len(words) == steps == len(problem.steps) == len(problem.step_labels)
    for x in range(10):
        value = x
        for label, text, wording in zip(problem.step_labels, problem.steps, words, strict=True):
            operand = next(int(c) for c in wording.split(" ", 1)[1] if c.isdigit())
            value = {
                "add": value + operand,
                "subtract": value - operand,
                "multiply": value * operand,
            }[str(label["operation"])] % 10
            assert value == (label["coefficient"] * x + label["offset"]) % 10
            assert text.endswith(f" {label['coefficient']}x+{label['offset']}")


@given(seed=st.integers(0, 10_000), steps=st.integers(1, 12))
@settings(max_examples=40, deadline=None)
def test_every_shuffle_step_is_a_permutation_with_its_parity(seed, steps) -> None:
    problem = make_world("shuffle", "train", seed, 1, steps)[0]
    before = "abcde"
    for label, text in zip(problem.step_labels, problem.steps, strict=True):
        row = text.split(" ")[1:]
        assert sorted(row) == list("abcde")
        assert [label[f"place_{i}"] for i in range(1, 6)] == row
        assert label["parity"] == sum(a > b for a, b in combinations(row, 2)) % 2
        moved = "".join(row)
        if label["operation"] == "rotate":
            assert moved in (before + before)
        before = moved


@pytest.mark.parametrize("world", WORLDS)
def test_splits_share_no_pipeline(world: str) -> None:
    groups = {s: {p.group for p in make_world(world, s, 0, 400)} for s in SPLITS}
    for one, other in combinations(SPLITS, 2):
        assert not groups[one] & groups[other], (one, other)


def test_unseen_words_never_occur_in_training() -> None:
    def words(split: str) -> set[str]:
        return {w for p in make_world("digits", split, 0, 2000) for w in p.prompt.split()}

    assert {"lower", "stretch", "raise"} <= words("unseen-words") - words("train")


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


GOOD = '{"prompt": "a", "check": {"kind": "exact", "expected": "b"}}'


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
        (GOOD + "\n" + GOOD, "duplicate id"),
        ("[1]", "p.jsonl:1: field"),
        ("[" * 100_000, "nested too deeply"),
        ('{"prompt": " ", "check": {"kind": "exact", "expected": "b"}}', "field 'prompt'"),
    ],
)
def test_bad_problem_files_are_named_by_line_and_field(tmp_path, text, named) -> None:
    path = tmp_path / "p.jsonl"
    path.write_text(text)
    with pytest.raises(UserError, match=r"p\.jsonl") as caught:
        read_problems(path)
    assert named in str(caught.value)
    assert "\n" not in str(caught.value)


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
