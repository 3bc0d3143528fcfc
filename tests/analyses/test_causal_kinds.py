"""The causal study on reasoners of every kind: planted truths, parts that have no meaning."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch

from analyses.causal.edits import resample
from analyses.causal.report import causal_markdown
from analyses.causal.scene import Crowd, set_scene
from analyses.causal.scope import scope_of
from analyses.causal.study import CausalResult, Plan, causal_study
from nfcot_model.errors import UserError
from nfcot_model.evaluation import swaps
from nfcot_model.reasoners import KINDS, Reasoner
from nfcot_model.reasoners.continuing import answer_from, feed_thoughts
from nfcot_model.reasoners.latent import LatentReasoner
from nfcot_model.sampling import Stream
from nfcot_model.sandbox import Sandbox
from nfcot_model.thoughts import Scores, Thoughts
from nfcot_model.traces import collect, read_run
from nfcot_model.worlds import Problem, make_world
from nfcot_model.worlds.problem import Check
from tests.nfcot_model.test_reasoners import tiny


class Blind(Stream):
    """Streams whose answers do not see the thoughts, which stand from column `opened` on."""

    opened: int

    def turn(self) -> None:
        self.attention = self.attention.clone()
        self.attention[:, self.opened :] = 0


class Planted(LatentReasoner):
    """Random weights, but what its answers can see is known: the thoughts, or the prompt.

    Where they see thoughts only, so do later thoughts: the prompt reaches the first one alone.
    """

    def __init__(self, kind: str, sees: str) -> None:
        made = tiny(kind, thoughts=2, per_step=None, max_answer_tokens=4)
        super().__init__(made.model, made.tokenizer, made.checkpoint_hash)
        self.sees = sees

    def open_prompts(self, prompts: Sequence[str], max_thoughts: int | None = None) -> Stream:
        stream: Stream = super().open_prompts(prompts, max_thoughts)
        if self.sees == "thoughts":
            stream.attention = torch.zeros_like(stream.attention)
        else:
            stream.__class__ = Blind
            stream.opened = stream.attention.shape[1]
        return stream

    def answer(self, prompts: Sequence[str], thoughts: Thoughts, **asked: object) -> list[str]:
        stream = self.open_prompts(prompts)
        feed_thoughts(self, stream, thoughts.u, thoughts.mask)
        return answer_from(self, stream)

    def answer_scored(
        self, prompts: Sequence[str], thoughts: Thoughts, *, tau: float, **asked: object
    ) -> tuple[list[str], Scores]:
        return self.answer(prompts, thoughts), self.score(prompts, thoughts, tau=tau)


def own_answers(reasoner: Reasoner, n: int) -> list[Problem]:
    """Problems whose right answer is what the reasoner says: it solves them all."""
    drawn = make_world("digits", "test", 3, n, (2, 3))
    prompts = [p.prompt for p in drawn]
    thoughts = reasoner.think(prompts, tau=0.0, noise_seeds=[0] * n)
    answers = reasoner.answer(prompts, thoughts)
    return [
        p.model_copy(update={"check": Check(kind="exact", expected=said)})
        for p, said in zip(drawn, answers, strict=True)
        if said.strip()
    ]


def studied(reasoner: Reasoner, folder: Path, n: int, plan: Plan) -> CausalResult:
    problems = own_answers(reasoner, n)
    with Sandbox() as sandbox:
        collect(reasoner, problems, folder / "run", tau=0.0, sandbox=sandbox)
    return causal_study(read_run(folder / "run"), problems, reasoner, folder / "report", plan)


@pytest.mark.parametrize("kind", ["coconut", "codi"])
def test_thoughts_that_are_all_the_answer_sees_are_called_used(kind: str, tmp_path: Path) -> None:
    reasoner = Planted(kind, "thoughts")
    result = studied(reasoner, tmp_path, 30, Plan(samples=24, edits=("donor", "zero")))
    [task] = result.summary["tasks"]
    assert task["solved"]["value"] == 1
    assert task["verdict"] == "necessary+sufficient"
    assert task["sufficiency"]["donor"]["value"] == 1
    assert task["sufficiency"]["prompt"]["value"] == 0
    moved = result.tables["moved"].query("part == 'prefix'").groupby("mode")["donor"].mean()
    assert moved["total"] == 1  # the second thought follows from the first
    assert moved["direct"] < 1


@pytest.mark.parametrize("kind", ["coconut", "codi"])
def test_thoughts_that_no_answer_sees_are_called_inert(kind: str, tmp_path: Path) -> None:
    reasoner = Planted(kind, "prompt")
    result = studied(reasoner, tmp_path, 95, Plan(samples=90, edits=("donor",)))
    [task] = result.summary["tasks"]
    assert task["solved"]["value"] == 1
    assert task["verdict"] == "inert"
    assert task["sufficiency"]["donor"]["value"] == 0
    assert task["sufficiency"]["prompt"]["value"] == 1
    assert not result.tables["single"]["flipped"].any()


@pytest.mark.parametrize("kind", ["coconut", "codi", "looped", "text", "regressed"])
def test_whole_transplants_are_the_donor_test_of_comparisons(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On the same pairs, `evaluate_swaps` counts what the study's rows say."""
    reasoner = tiny(kind, seed=4, max_answer_tokens=4)
    result = studied(reasoner, tmp_path, 24, Plan(edits=("zero",), modes=("direct",)))
    moved = result.tables["moved"].query("part == 'all'").set_index("row").sort_index()
    assert len(moved) > 8
    problems = own_answers(reasoner, 24)
    pairs = moved["giver"].reindex(range(len(problems))).to_dict()
    donors = [i if giver != giver else int(giver) for i, giver in pairs.items()]
    monkeypatch.setattr(swaps, "_donors", lambda K, rng: donors)
    with Sandbox() as sandbox:
        found = swaps.evaluate_swaps(reasoner, problems, sandbox, tau=0.0).outcomes
    assert found["donor_follow"] == moved["donor"].tolist()
    assert found["own_prompt"] == moved["prompt"].tolist()
    assert found["neither"] == moved["neither"].tolist()


def left_out_of_the_table() -> dict[str, set[str]]:
    """The table of docs/causal.md: kind -> parts that are left out."""
    lines = (Path(__file__).parents[2] / "docs" / "causal.md").read_text().splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith("| kind | thought k"))
    found: dict[str, set[str]] = {}
    for line in lines[start + 2 :]:
        if not line.startswith("|"):
            break
        kind, _, parts = (re.findall(r"`([^`]+)`", cell) for cell in line.strip("|").split("|"))
        found[kind[0]] = {*parts}.union(*(found.get(part, set()) for part in parts)) - {*found}
    return found


@pytest.mark.parametrize("kind", KINDS)
def test_what_has_no_meaning_is_left_out_as_documented(kind: str) -> None:
    documented = left_out_of_the_table()[kind]
    if kind == "direct":
        assert not documented
        return
    scope = scope_of(tiny(kind), 0.7)
    assert set(scope.left_out) == documented
    for part, why in scope.left_out.items():
        with pytest.raises(UserError, match=f"--x: says nothing about the reasoner '{kind}'") as e:
            scope.refuse("--x", part)
        assert str(e.value).endswith(why)


def test_pauses_are_constant_and_only_their_places_are_measured(tmp_path: Path) -> None:
    result = studied(tiny("pause"), tmp_path, 8, Plan())
    [task] = result.summary["tasks"]
    assert task["verdict"] == "constant"
    assert set(result.tables["single"]["edit"]) == {"zero", "noise"}
    assert set(result.tables["single"]["mode"]) == {"direct"}
    assert not len(result.tables["moved"])
    assert {effect["edit"] for effect in task["effects"]} == {"zero", "noise"}
    assert not any("not measured" in note for note in task["notes"])
    page = causal_markdown(result.summary)
    assert "Left out, all traces have the same thoughts: position_mean, donor" in page


def test_loops_are_cut_to_one_at_least_and_their_first_word_is_explained(tmp_path: Path) -> None:
    result = studied(tiny("looped"), tmp_path, 8, Plan(edits=("zero",)))
    assert result.tables["early"]["k"].min() == 1
    assert "by construction" in causal_markdown(result.summary)


def test_a_fresh_token_is_drawn_behind_its_own_prefix() -> None:
    """With the trace's own numbers it is the trace's own; none where the draw ends the text."""
    reasoner = tiny("text")
    problems = make_world("digits", "test", 3, 12, (2, 3))
    prompts = [p.prompt for p in problems]
    seeds = list(range(12))
    thoughts = reasoner.think(prompts, tau=1.0, noise_seeds=seeds)
    noise = reasoner.noise_of(prompts, seeds, 1.0)
    crowd = Crowd(thoughts.u, thoughts.mask, problems, [True] * 12, None)
    scene = set_scene(reasoner, problems, thoughts, noise, 1.0, crowd, torch.arange(12))
    scene = scene.rows((thoughts.K > 0).nonzero()[:, 0])
    k = torch.zeros(len(scene), dtype=torch.long)
    own = resample(scene, k, [seeds[i] for i in scene.own.tolist()])
    torch.testing.assert_close(own, scene.thoughts.u[:, 0])
    other = resample(scene, k, [1000 + i for i in scene.own.tolist()])
    drawn = ~other.isnan().any(-1)
    table = reasoner.model.get_input_embeddings().weight
    assert drawn.any()
    assert (torch.cdist(other[drawn], table).min(-1).values < 1e-3).all()
    assert (other[drawn] != scene.thoughts.u[drawn, 0]).any()
