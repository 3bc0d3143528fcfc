"""Evaluation: estimators against closed forms, cells on a model whose figures are known."""

from __future__ import annotations

import itertools
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest
from typer.testing import CliRunner

from nfcot_model.errors import UserError
from nfcot_model.evaluation.cells import evaluate_cell, evaluate_control, evaluate_oracle
from nfcot_model.evaluation.intervals import pass_at_k, share, wilson
from nfcot_model.evaluation.swaps import _donors, evaluate_swaps, pooled
from nfcot_model.reasoners import load_nfcot, load_reasoner
from nfcot_model.sandbox import Sandbox
from nfcot_model.worlds import Case, Check, make_world, write_problems
from nfcot_model.worlds.generate import read_steps
from tests.tiny import tiny_baseline, tiny_reasoner


def test_wilson_interval_of_a_known_case() -> None:
    low, high = wilson(8, 10)
    assert low == pytest.approx(0.4902, abs=1e-4)
    assert high == pytest.approx(0.9433, abs=1e-4)
    assert wilson(0, 0) == (0.0, 1.0)


def test_pass_at_k_equals_the_average_over_all_subsets() -> None:
    outcomes = [True] * 3 + [False] * 5
    for k in range(1, 9):
        subsets = list(itertools.combinations(outcomes, k))
        expected = sum(any(s) for s in subsets) / len(subsets)
        assert pass_at_k(3, 8, k) == pytest.approx(expected)


def test_donors_share_K_and_nobody_donates_to_itself() -> None:
    import random

    K = [2, 3, 2, 5, 3, 2]
    donors = _donors(K, random.Random(0))
    assert all(K[d] == k for d, k in zip(donors, K, strict=True))
    assert [i for i, d in enumerate(donors) if i == d] == [3]
    assert sorted(donors) == list(range(6))


class _Follower:
    """Wraps a real reasoner; answers are read off the thoughts alone, or off the prompt alone."""

    def __init__(self, problems, follows_thoughts: bool) -> None:
        self.inner = tiny_reasoner()
        self.follows = follows_thoughts
        self.by_prompt = {p.prompt: p for p in problems}
        self.known: list[tuple[object, str]] = []

    def __getattr__(self, name):
        return getattr(self.inner, name)

    def think(self, prompts, *, tau, noise_seeds):
        thoughts = self.inner.think(prompts, tau=tau, noise_seeds=noise_seeds, max_thoughts=1)
        self.known = [
            (row, self.by_prompt[p].answer) for row, p in zip(thoughts.u, prompts, strict=True)
        ]
        return thoughts

    def answer(self, prompts, thoughts):
        if not self.follows:
            return [self.by_prompt[p].answer for p in prompts]
        found = []
        for u in thoughts.u:
            same = [a for row, a in self.known if (row[:1] == u[:1]).all()]
            found.append(same[0] if same else "lambda x: None")
        return found


@pytest.mark.parametrize("follows_thoughts", [True, False])
def test_swaps_tell_a_model_that_uses_its_thoughts_from_one_that_does_not(follows_thoughts) -> None:
    problems = make_world("digits", "test", 0, 40, steps=(1, 3))
    reasoner = _Follower(problems, follows_thoughts)
    with Sandbox() as sandbox:
        figures = evaluate_swaps(reasoner, problems, sandbox, tau=0.7)
    assert figures.shares["pass_at_1"].value == 1.0
    assert figures.pairs > 20
    shares = figures.shares
    assert shares["donor_follow"].value == (1.0 if follows_thoughts else 0.0)
    assert shares["own_prompt"].value == (0.0 if follows_thoughts else 1.0)
    assert shares["neither"].value == 0.0
    assert shares["zeroed"].value == (0.0 if follows_thoughts else 1.0)
    twice = pooled([figures, figures])
    assert twice.n == 2 * figures.n
    assert twice.shares == shares, "the same groups again tell nothing new"


def test_intervals_count_groups_not_problems() -> None:
    assert share([True] * 8, list("abcdefgh"))[1:] == pytest.approx(wilson(8, 8))
    assert share([True] * 8, list("aabbccdd"))[1:] == pytest.approx(wilson(4, 4))
    assert share([], []) == (None, 0.0, 1.0)


@given(st.integers(1, 300).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_the_wilson_interval_is_scipy_s(counts: tuple[int, int]) -> None:
    expected = binomtest(*counts).proportion_ci(method="wilson")
    assert wilson(*counts) == pytest.approx((expected.low, expected.high), abs=1e-9)


def test_answers_that_pass_for_both_sides_are_no_pairs() -> None:
    """Two families of problems with different tests and one right answer for all."""
    problems = [
        p.model_copy(update={"check": Check(kind="function", cases=[Case(args=[i], expected=i)])})
        for i, p in enumerate(make_world("digits", "test", 0, 30, steps=2))
    ]
    for p in problems:
        object.__setattr__(p, "answer", "lambda x: x")
    with Sandbox() as sandbox:
        figures = evaluate_swaps(_Follower(problems, True), problems, sandbox, tau=0.7)
    assert figures.pairs == 0
    assert figures.shares["donor_follow"] == (None, 0.0, 1.0)


def test_reasoning_too_long_for_the_codec_has_no_oracle_cell() -> None:
    problems = [
        p.model_copy(update={"steps": [s * 40 for s in p.steps]})
        for p in make_world("digits", "test", 0, 8, steps=2)
    ]
    reasoner = tiny_reasoner()
    assert not reasoner.encodes([p.steps for p in problems])
    with pytest.raises(UserError, match="max_text_tokens"):
        reasoner.encode([p.steps for p in problems])
    with pytest.raises(UserError, match="max_thoughts"):
        reasoner.encode([["#1 1x+1"] * 9])


def test_cells_of_an_untrained_model_are_complete_and_wrong() -> None:
    problems = make_world("digits", "test", 0, 30, steps=(2, 3))
    with Sandbox() as sandbox:
        cell = evaluate_cell(tiny_reasoner(), problems, sandbox, steps="2-3", tau=0.7, samples=2)
        oracle = evaluate_oracle(tiny_reasoner(), problems, sandbox, steps="2-3")
        direct = evaluate_control(tiny_baseline("direct"), problems, sandbox, steps="2-3")
        text = evaluate_control(tiny_baseline("text"), problems, sandbox, steps="2-3")
    for figures in (cell, oracle, direct, text):
        assert figures.n == 30
        assert figures.pass_at_1 == 0.0
        assert (figures.low, figures.high) == pytest.approx(wilson(0, figures.groups))
    assert cell.pass_at_k == {"1": 0.0, "2": 0.0}
    assert cell.nll_per_dim is not None
    assert direct.positions == 0
    assert oracle.positions == pytest.approx(sum(len(p.steps) for p in problems) / 30)


def test_the_command_prints_one_json_document(tmp_path) -> None:
    import typer

    from nfcot_model.evaluation.cli import evaluate

    tiny_reasoner().save(tmp_path / "m")
    app = typer.Typer()
    app.command()(evaluate)
    arguments = [str(tmp_path / "m"), "--worlds", "digits", "--steps", "2", "-n", "8"]
    card = ["--markdown", str(tmp_path / "card.md")]
    result = CliRunner().invoke(app, [*arguments, "--tau", "0,0.7", "--json", *card])
    assert result.exit_code == 0, result.output
    document = json.loads(result.stdout)
    assert [(c["reasoner"], c["tau"]) for c in document["cells"]] == [
        ("nfcot", 0.0),
        ("nfcot", 0.7),
        ("oracle thoughts", None),
    ]
    assert document["controls"]["zeroed"] == 0.0
    assert document["controls"]["donor_follow"] is None, "nothing is solved by both"
    assert document["controls"]["by_world"]["digits"]["intervals"]["donor_follow"] == [0.0, 1.0]
    table = (tmp_path / "card.md").read_text().splitlines()
    assert "| -log p(u\\|q) / dim |" in table[0]
    assert table[2].startswith("| digits | 2 | nfcot | 0 | 0.000 (0.000–")
    assert table[-1].startswith("| digits | 0.7 | ")


def test_the_tau_of_swaps_is_written_in_one_place() -> None:
    import inspect

    from nfcot_model.evaluation import SWAP_TAU, cli, suite

    assert inspect.signature(suite.evaluate).parameters["swap_tau"].default is SWAP_TAU
    assert "swap_tau=" not in inspect.getsource(cli)
    assert (
        f"at tau {SWAP_TAU:g}"
        in inspect.signature(cli.evaluate, eval_str=True)
        .parameters["swaps"]
        .annotation.__metadata__[0]
        .help
    )


@pytest.mark.parametrize("steps", ["2-", "-3", "x", "2--3", ""])
def test_steps_are_a_number_or_a_range(steps) -> None:
    with pytest.raises(UserError, match="a number or a range"):
        read_steps(steps)
    assert (read_steps("4"), read_steps("2-6")) == ((4, 4), (2, 6))


def test_options_for_built_in_problems_do_not_go_with_a_file(tmp_path) -> None:
    from nfcot_model.evaluation.cli import evaluate

    path = tmp_path / "p.jsonl"
    write_problems(path, make_world("digits", "test", 0, 2))
    with pytest.raises(UserError, match="--worlds and -n"):
        evaluate(tmp_path, path, worlds="shuffle", n=1)


def test_the_shipped_controls_are_what_they_say() -> None:
    problems = make_world("digits", "test", 9, 12, (4, 4))
    prompts = [problem.prompt for problem in problems]
    text = load_reasoner("demo-text", kinds=("text",))
    thoughts = text.think(prompts, tau=0.0, noise_seeds=[])
    assert text.decode(thoughts).texts == [problem.steps for problem in problems]
    assert text.answer(prompts, thoughts) == [problem.answer for problem in problems]
    direct = load_reasoner("demo-direct", kinds=("direct",))
    nothing = direct.think(prompts, tau=0.0, noise_seeds=[])
    assert nothing.K.tolist() == [0] * 12
    guessed = direct.answer(prompts, nothing)
    right = [answer == problem.answer for answer, problem in zip(guessed, problems, strict=True)]
    assert 0 < sum(right) < len(right)
    with pytest.raises(UserError, match="reasons as 'text'"):
        load_nfcot("demo-text")
