"""Edits do what they say, one that changes nothing has no effect, verdicts follow the shares."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch
from torch import Generator

from analyses.causal.edits import (
    EDITS,
    decode_edit_encode,
    placebo,
    rethought,
    state_of,
    steer,
    with_thought,
)
from analyses.causal.interventions import base_of, intervene
from analyses.causal.scene import Crowd, Scene
from analyses.causal.trajectories import early_answers, influence
from analyses.causal.verdict import Thresholds, commitment, mean_of, verdict
from nfcot_model.errors import UserError
from nfcot_model.sampling import draw_noise
from nfcot_model.sandbox import Sandbox
from nfcot_model.worlds import make_world
from probes.intervals import Estimate
from tests.tiny import tiny_reasoner

N = 24


@pytest.fixture(scope="module")
def scene() -> Scene:
    reasoner = tiny_reasoner(seed=2)
    problems = make_world("digits", "test", 1, N, (2, 4))
    noise = draw_noise(range(N), reasoner.max_thoughts, reasoner.D, 0.7)
    thoughts = reasoner.think([p.prompt for p in problems], tau=0.7, noise_seeds=(), noise=noise)
    crowd = Crowd(thoughts.u, thoughts.mask, problems, [True] * N)
    return Scene(reasoner, problems, thoughts, noise, 0.7, crowd, torch.arange(N))


def firsts(scene: Scene) -> torch.Tensor:
    return torch.zeros(len(scene), dtype=torch.long)


def seeded(seed: int = 0) -> Generator:
    return Generator().manual_seed(seed)


@pytest.mark.parametrize("mode", ["direct", "total"])
def test_a_thought_replaced_by_itself_changes_nothing(scene: Scene, mode: str) -> None:
    k = scene.thoughts.K - 1
    own = scene.at(scene.thoughts.u, k)
    same = with_thought(scene, k, own, mode)
    assert torch.equal(same.mask, scene.thoughts.mask)
    torch.testing.assert_close(same.u, scene.thoughts.u, atol=1e-4, rtol=0)


def test_rethinking_everything_gives_the_trace_back(scene: Scene) -> None:
    again = rethought(scene, scene.thoughts.u, firsts(scene))
    assert torch.equal(again.mask, scene.thoughts.mask)
    torch.testing.assert_close(again.u, scene.thoughts.u, atol=1e-4, rtol=0)


def test_edits_are_what_they_say(scene: Scene) -> None:
    k = firsts(scene)
    u = scene.at(scene.thoughts.u, k)
    norm = u.norm(dim=-1)
    edited = {name: edit(scene, k, seeded()) for name, edit in EDITS.items()}
    again = {name: edit(scene, k, seeded()) for name, edit in EDITS.items()}
    for name, values in edited.items():
        torch.testing.assert_close(values, again[name], equal_nan=True, msg=name)
    assert not edited["zero"].any()
    torch.testing.assert_close(edited["noise"].norm(dim=-1), norm)
    torch.testing.assert_close(
        edited["position_mean"], u.mean(0).expand_as(u), atol=1e-5, rtol=1e-5
    )
    mu, log_sigma, eps = (
        scene.at(t, k) for t in (scene.thoughts.mu, scene.thoughts.log_sigma, scene.thoughts.eps)
    )
    torch.testing.assert_close(edited["noise_edit"], mu - log_sigma.exp() * eps)
    z = (edited["resample"] - mu) / log_sigma.exp() / scene.tau
    assert 0.6 < float(z.std()) < 1.4
    direction = torch.randn(scene.reasoner.D, generator=seeded())
    moved = steer(scene, k, seeded(), direction, 0.5) - u
    torch.testing.assert_close(moved.norm(dim=-1), 0.5 * norm)
    pushed = placebo(scene, k, edited["zero"], seeded())
    torch.testing.assert_close((pushed - u).norm(dim=-1), norm)


def test_donors_are_of_another_group_and_of_the_asked_value(scene: Scene) -> None:
    k = firsts(scene)
    problems, K = scene.crowd.problems, scene.crowd.K
    for name, wanted in (
        ("donor", None),
        ("swap_same_value", True),
        ("swap_different_value", False),
    ):
        values = EDITS[name](scene, k, seeded())
        found = 0
        for i in range(N):
            if values[i].isnan().any():
                continue
            found += 1
            match = (scene.crowd.u[:, 0] == values[i]).all(-1).nonzero()[:, 0].tolist()
            fits = [
                j
                for j in match
                if problems[j].group != problems[i].group
                and (name == "swap_same_value" or K[j] == K[i])
                and (
                    wanted is None
                    or (state_of(problems[j].steps[0]) == state_of(problems[i].steps[0])) is wanted
                )
            ]
            assert fits, (name, i)
        assert found > 3, name


def test_a_step_told_differently_goes_through_codec_and_flow(scene: Scene) -> None:
    told = decode_edit_encode(scene, 0, ["#1 4x+7"] * N)
    assert told.u.shape == scene.thoughts.u.shape
    e = scene.reasoner.decode(told).e
    wanted, _ = scene.reasoner.latents([["#1 4x+7"]])
    torch.testing.assert_close(e[:, 0], wanted[:, 0].expand(N, -1), atol=1e-4, rtol=1e-4)
    before = scene.reasoner.decode(scene.thoughts).e
    torch.testing.assert_close(e[:, 1:], before[:, 1:], atol=1e-4, rtol=1e-4)
    with pytest.raises(UserError, match="step 1: some trace has 1 steps"):
        decode_edit_encode(scene, 1, ["#2 4x+7"] * N)


def test_influence_goes_forward_only(scene: Scene) -> None:
    moved = influence(scene, 1, torch.zeros(N, scene.reasoner.D))
    assert not moved[:, :2].any()
    later = scene.thoughts.mask[:, 2:]
    assert (moved[:, 2:][later] > 0).all()
    assert not moved[:, 2:][~later].any()
    still = influence(scene, 1, scene.thoughts.u[:, 1])
    assert float(still.max()) < 1e-4


def test_rows_of_interventions_are_complete(scene: Scene) -> None:
    few = scene.rows(torch.arange(4))
    with Sandbox() as sandbox:
        base = base_of(few, sandbox)
        rows = intervene(few, base, sandbox, seeded(), ("zero", "resample"))
        early = early_answers(few, base, sandbox)
    assert len(rows) == 4 * int(few.thoughts.K.sum())
    assert set(rows["mode"]) == {"direct", "total"}
    assert not rows.isna().any().any()
    flipped = [a != base.answers[i] for a, i in zip(rows["answer"], rows["row"], strict=True)]
    assert rows["flipped"].tolist() == flipped
    assert (rows["kl"] > -1e-5).all()
    whole = early[early["k"] == early["K"]]
    assert whole["same"].all()


def test_commitment_is_where_the_answer_stays() -> None:
    same = {0: [0, 1, 0, 1, 1], 1: [0, 0, 0, 0, 1], 2: [1, 1, 1, 1, 1]}
    early = pd.DataFrame(
        [{"row": r, "k": k, "same": bool(s)} for r, row in same.items() for k, s in enumerate(row)]
    )
    assert commitment(early).to_dict() == {0: 3, 1: 4, 2: 0}


def estimate(value: float, spread: float = 0.01) -> Estimate:
    return Estimate(value, value - spread, value + spread)


@pytest.mark.parametrize(
    ("donor", "prompt", "drop", "effect", "said"),
    [
        (0.99, 0.0, 0.98, 0.99, "necessary+sufficient"),
        (0.99, 0.0, 0.2, 0.9, "sufficient"),
        (0.99, 0.4, 0.2, 0.9, "decodable-only"),
        (0.3, 0.1, 0.9, 0.9, "necessary"),
        (0.0, 1.0, 0.0, 0.0, "inert"),
        (0.0, 1.0, 0.0, 0.06, "decodable-only"),
        (np.nan, np.nan, np.nan, np.nan, "decodable-only"),
    ],
)
def test_verdicts(donor: float, prompt: float, drop: float, effect: float, said: str) -> None:
    figures = (estimate(donor), estimate(prompt), estimate(drop), estimate(effect))
    assert verdict(*figures, Thresholds()) == said


def test_intervals_cover_at_the_nominal_rate() -> None:
    """A synthetic reader whose answers flip with probability 0.3, alike within a group."""
    rng = np.random.default_rng(0)
    covered = 0
    for repetition in range(200):
        flips = (rng.random(60) < 0.3).repeat(4)
        frame = pd.DataFrame({"flipped": flips, "group": np.arange(60).repeat(4).astype(str)})
        interval = mean_of(frame, "flipped", seed=repetition, draws=300)
        covered += interval.low <= 0.3 <= interval.high
    assert 0.90 <= covered / 200 <= 0.985
