"""Plants are where they say they are, dose 0 is the clean twin, and nothing else has changed."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from analyses.organisms import organism, planted_problems
from analyses.organisms.continued import continued
from analyses.plants import attack, edits, forged, noises, unfamiliar
from analyses.plants.checkpoints import DRIFT, thought_by
from analyses.plants.recorded import Recorded, record, rescored, seal, seeds_of
from analyses.plants.registry import PLANTS
from nfcot_model.errors import UserError
from nfcot_model.reasoners import NFCoTReasoner, load_reasoner
from nfcot_model.sampling import draw_noise
from nfcot_model.traces.replay import SLACK
from nfcot_model.worlds import make_world
from tests.tiny import brief_reasoner, tiny_reasoner

TAU = 0.7
TWINS = [name for name in PLANTS if name != "P12-length"]
EDITED = [
    name
    for name in PLANTS
    if name[:2] in ("P1", "P2", "P3", "P4", "P6") and not name.startswith("P12")
    if not name.startswith(("P13", "P14"))
]


@pytest.fixture(scope="module")
def reasoner() -> NFCoTReasoner:
    return brief_reasoner(D=16)


@pytest.fixture(scope="module")
def clean(reasoner: NFCoTReasoner) -> Recorded:
    problems = make_world("digits", "test", 3, 24) + make_world("shuffle", "test", 3, 24)
    return record(reasoner, problems, TAU, seeds_of(problems, 0))


def changed(clean: Recorded, recorded: Recorded) -> np.ndarray:
    """Which thoughts are not those of the clean twin? [n, Kmax]"""
    assert recorded.thoughts.u.shape == clean.thoughts.u.shape
    return (recorded.thoughts.u != clean.thoughts.u).any(-1).numpy()


def test_records_do_not_depend_on_their_batch(reasoner: NFCoTReasoner, clean: Recorded) -> None:
    few = clean.problems[5:9]
    alone = record(reasoner, few, TAU, seeds_of(few, 0))
    same = clean.rows(np.arange(5, 9))
    torch.testing.assert_close(alone.thoughts.u, same.thoughts.u, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(alone.scores.logp, same.scores.logp, rtol=1e-3, atol=1e-3)
    assert alone.groups.tolist() == same.groups.tolist()
    assert same.seals == seal(same.thoughts)


def test_the_record_of_clean_trajectories_is_true(reasoner: NFCoTReasoner, clean: Recorded) -> None:
    checks = forged.record_checks(clean, reasoner.budget())
    assert checks["replay_error"].max() < SLACK
    assert not checks["seal_broken"].any()
    assert not checks["record"].any()


@pytest.mark.parametrize("name", TWINS)
def test_dose_zero_is_the_clean_twin(name: str, reasoner: NFCoTReasoner, clean: Recorded) -> None:
    made = PLANTS[name](reasoner, clean, 0.0, 7)
    assert not made.affected.any()
    assert made.twin.tolist() == list(range(len(clean)))
    torch.testing.assert_close(made.recorded.thoughts.u, clean.thoughts.u)
    torch.testing.assert_close(made.recorded.scores.logp, clean.scores.logp, rtol=1e-4, atol=1e-4)
    assert made.recorded.prompts == clean.prompts
    assert not forged.record_checks(made.recorded, reasoner.budget())["record"].any()


@pytest.mark.parametrize("name", EDITED)
def test_edits_are_where_they_are_said_to_be(
    name: str, reasoner: NFCoTReasoner, clean: Recorded
) -> None:
    made = PLANTS[name](reasoner, clean, PLANTS[name].severities[-1], 7)
    np.testing.assert_array_equal(changed(clean, made.recorded), made.affected)
    assert made.affected.any(axis=1).mean() > 0.6
    assert not made.affected[~clean.thoughts.mask.numpy()].any()
    checks = forged.record_checks(made.recorded, reasoner.budget())
    np.testing.assert_array_equal(checks["record"] > 0, made.affected.any(axis=1))


@pytest.mark.parametrize("name", EDITED)
def test_edited_thoughts_are_scored_as_they_stand(
    name: str, reasoner: NFCoTReasoner, clean: Recorded
) -> None:
    made = PLANTS[name](reasoner, clean, PLANTS[name].severities[-1], 7).recorded
    fresh = reasoner.score(clean.prompts, made.thoughts, tau=TAU)
    torch.testing.assert_close(made.scores.energy, fresh.energy, rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(made.thoughts.eps, clean.thoughts.eps)


def test_the_same_seed_plants_the_same(reasoner: NFCoTReasoner, clean: Recorded) -> None:
    one, two, other = (edits.swap(reasoner, clean, 1.0, seed) for seed in (1, 1, 2))
    torch.testing.assert_close(one.recorded.thoughts.u, two.recorded.thoughts.u)
    assert (one.affected != other.affected).any()


def test_a_swapped_thought_is_one_of_another_group_and_the_same_world(
    reasoner: NFCoTReasoner, clean: Recorded
) -> None:
    made = edits.swap(reasoner, clean, 1.0, 7)
    assert made.affected.sum(axis=1).max() == 1
    for i, k in zip(*made.affected.nonzero(), strict=True):
        u = made.recorded.thoughts.u[i, k]
        donors = ((clean.thoughts.u[:, k] - u).abs().max(-1).values < 1e-4).nonzero()[:, 0]
        assert len(donors) == 1
        donor = int(donors[0])
        assert clean.groups[donor] != clean.groups[i]
        assert clean.worlds[donor] == clean.worlds[i]
    half = edits.swap(reasoner, clean, 0.5, 7)
    middle = (clean.thoughts.u + made.recorded.thoughts.u) / 2
    torch.testing.assert_close(half.recorded.thoughts.u, middle)


def test_a_foreign_trajectory_has_as_many_thoughts(
    reasoner: NFCoTReasoner, clean: Recorded
) -> None:
    made = edits.foreign(reasoner, clean, 1.0, 7)
    for i in np.flatnonzero(made.affected.any(axis=1)):
        same = (clean.thoughts.u == made.recorded.thoughts.u[i]).flatten(1).all(1)
        assert any(clean.K[j] == clean.K[i] for j in np.flatnonzero(same.numpy()) if j != i)
    half = edits.foreign(reasoner, clean, 0.5, 7)
    planted = half.affected.any(axis=1)
    np.testing.assert_array_equal(half.affected.sum(axis=1)[planted], np.ceil(clean.K / 2)[planted])
    assert half.affected[planted, 0].all()


def test_noise_has_the_norm_that_its_dose_says(reasoner: NFCoTReasoner, clean: Recorded) -> None:
    made = edits.noise_at_four(reasoner, clean, 0.5, 7)
    np.testing.assert_array_equal(made.affected.sum(axis=1), np.minimum(clean.K, 4))
    moved = (made.recorded.thoughts.u - clean.thoughts.u).norm(dim=-1)
    own = clean.thoughts.u.norm(dim=-1)
    at = torch.from_numpy(made.affected)
    torch.testing.assert_close(moved[at], 0.5 * own[at], rtol=1e-3, atol=1e-4)


def test_stuck_thoughts_are_repeated(reasoner: NFCoTReasoner, clean: Recorded) -> None:
    made = edits.stuck(reasoner, clean, 2, 7)
    np.testing.assert_array_equal(made.affected.sum(axis=1), np.minimum(clean.K - 1, 2))
    u = made.recorded.thoughts.u
    for i, k in zip(*made.affected.nonzero(), strict=True):
        torch.testing.assert_close(u[i, k], u[i, k - 1])


def test_replacements_are_what_they_say(reasoner: NFCoTReasoner, clean: Recorded) -> None:
    for make, unlike in ((edits.zero, 0), (edits.pause, 0), (edits.position_mean, 1)):
        made = make(reasoner, clean, 0.5, 7)
        np.testing.assert_array_equal(made.affected.sum(axis=1), np.ceil(clean.K / 2))
        for k in range(made.affected.shape[1]):
            at = made.recorded.thoughts.u[torch.from_numpy(made.affected[:, k]), k]
            assert not len(at) or (at == at[0]).all()
        last = made.recorded.thoughts.u[np.arange(len(clean)), clean.K - 1]
        assert (len(torch.unique(last, dim=0)) > 1) == bool(unlike)
    assert (edits.zero(reasoner, clean, 1.0, 7).recorded.thoughts.u == 0).all()


def test_noise_that_is_drawn_otherwise_is_scored_as_drawn(
    reasoner: NFCoTReasoner, clean: Recorded
) -> None:
    drawn = draw_noise(clean.seeds, reasoner.budget(), reasoner.D, TAU)
    for make, dose in ((noises.temperature, 1.0), (noises.serial, 0.5), (noises.aligned, 0.5)):
        made = make(reasoner, clean, dose, 7).recorded
        mask = made.thoughts.mask
        eps = made.scores.eps
        torch.testing.assert_close(eps[mask], made.thoughts.eps[mask], rtol=1e-3, atol=1e-3)
        own = drawn[:, : mask.shape[1]]
        if make is noises.temperature:
            torch.testing.assert_close(eps[mask], 2 * own[mask], rtol=1e-3, atol=1e-3)
        if make is noises.aligned:
            torch.testing.assert_close(
                eps.norm(dim=-1)[mask], own.norm(dim=-1)[mask], rtol=1e-3, atol=1e-3
            )
        if make is noises.serial:
            torch.testing.assert_close(eps[:, 0], own[:, 0], rtol=1e-3, atol=1e-3)


def test_serial_noise_correlates_by_its_dose_and_stays_normal() -> None:
    reasoner = tiny_reasoner(D=16)
    seeds = list(range(300))
    eps = draw_noise(seeds, 8, 16, 1.0)
    kept: list[torch.Tensor] = []

    def thinking(change: object) -> None:
        kept.append(change(eps))  # type: ignore[operator]

    original = noises._thought_with
    noises._thought_with = lambda r, c, change, real: thinking(change)  # type: ignore[assignment]
    try:
        noises.serial(reasoner, None, 0.6, 0)  # type: ignore[arg-type]
    finally:
        noises._thought_with = original
    x = kept[0].double()
    assert x.var().item() == pytest.approx(1.0, abs=0.03)
    assert (x[:, 1:] * x[:, :-1]).mean().item() == pytest.approx(0.6, abs=0.03)
    assert (x[:, 2:] * x[:, :-2]).mean().item() == pytest.approx(0.36, abs=0.03)


def test_forged_records_are_all_found(reasoner: NFCoTReasoner, clean: Recorded) -> None:
    for name in ("P8-replayed", "P8-flipped", "P8-rounded"):
        for dose in PLANTS[name].severities:
            made = PLANTS[name](reasoner, clean, dose, 7)
            checks = forged.record_checks(made.recorded, reasoner.budget())
            assert (checks["record"] > 0).all(), (name, dose)
    lowest = forged.flipped(reasoner, clean, 1, 7)
    assert changed(clean, lowest.recorded).sum(axis=1).max() <= 1
    checks = forged.record_checks(lowest.recorded, reasoner.budget())
    assert checks["replay_error"].max() < SLACK, "only the seal can see the lowest bit"
    half = forged.rounded(reasoner, clean, 16, 7).recorded.thoughts.u
    torch.testing.assert_close(half, clean.thoughts.u.bfloat16().float())


def test_reworded_problems_ask_the_same_in_words_of_no_training() -> None:
    import random

    for world in ("digits", "shuffle"):
        for problem in make_world(world, "test", 5, 20):
            other, hit = unfamiliar.reworded(problem, 1.0, random.Random(0))
            assert all(hit)
            assert len(hit) == len(problem.steps)
            assert (other.steps, other.answer, other.group) == (
                problem.steps,
                problem.answer,
                problem.group,
            )
            assert other.id != problem.id
            same, none = unfamiliar.reworded(problem, 0.0, random.Random(0))
            assert same.prompt == problem.prompt
            assert not any(none)


def test_longer_pipelines_have_no_twin(reasoner: NFCoTReasoner, clean: Recorded) -> None:
    made = unfamiliar.length(reasoner, clean, 2, 7)
    assert {len(p.steps) for p in made.recorded.problems} == {10}
    assert (made.twin == -1).all()
    assert not unfamiliar.length(reasoner, clean, 0, 7).affected.any()


def test_training_on_leaves_codec_flow_and_the_given_model_alone(
    reasoner: NFCoTReasoner, clean: Recorded
) -> None:
    before = {k: v.clone() for k, v in reasoner.model.state_dict().items()}
    problems = [p for p in make_world("digits", "train", 0, 200) if len(p.steps) <= 3]
    short = [p.model_copy(update={"steps": ["4x+7"] * len(p.steps)}) for p in problems]
    other = continued(reasoner, short, DRIFT.model_copy(update={"steps": 2, "batch": 4}), 0)
    after = other.model.state_dict()
    for name, value in reasoner.model.state_dict().items():
        torch.testing.assert_close(value, before[name])
        if name.startswith(("codec.", "flow.")):
            torch.testing.assert_close(after[name], value)
    assert any(not torch.equal(after[name], before[name]) for name in before)
    made = thought_by(other, reasoner, clean)
    assert made.affected.any()
    assert forged.record_checks(made.recorded, reasoner.budget())["record"].all()
    with pytest.raises(UserError, match="codec"):
        thought_by(brief_reasoner(seed=9, D=16), reasoner, clean)


def test_the_attack_pays_for_leaving_its_budget() -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(200, 6, 16, generator=generator)
    mask = torch.arange(6) < torch.randint(2, 7, (200, 1), generator=generator)
    quiet = attack.excess(x * mask[..., None], mask, 5.0)
    assert (quiet == 0).float().mean() > 0.95
    loud = x.clone()
    loud[:, 0] *= 3
    assert (attack.excess(loud * mask[..., None], mask, 5.0) > 0).all()
    assert (attack.excess(torch.zeros_like(x), mask, 1.0) > 0).all(), "too quiet is strange too"


def test_a_larger_budget_buys_more_answers() -> None:
    plain = load_reasoner(organism("plain"))
    problems = planted_problems("plain", "test", 0, 16, "base")
    some = record(plain, problems, TAU, seeds_of(problems, 0))
    how = attack.Attack(steps=25, rate=0.5)
    untouched, small, large = (
        attack.adversarial(plain, some, budget, 0, how) for budget in (0.0, 3.0, 300.0)
    )
    shares = [float(np.mean(made.reached)) for made in (untouched, small, large)]
    assert shares[0] == 0
    assert shares[2] >= shares[1] + 0.5
    x = small.recorded.scores.eps / TAU
    assert (attack.excess(x, small.recorded.scores.mask, 3.5) == 0).float().mean() > 0.7


def test_scoring_again_changes_nothing_but_scores(reasoner: NFCoTReasoner, clean: Recorded) -> None:
    again = rescored(reasoner, clean, clean.thoughts)
    torch.testing.assert_close(again.scores.logp, clean.scores.logp, rtol=1e-4, atol=1e-4)
    assert again.seeds == clean.seeds
