"""Edits do what they say, one that changes nothing has no effect, verdicts follow the shares."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file

from analyses.causal.edits import (
    EDITS,
    MODES,
    decode_edit_encode,
    edited,
    moved_along,
    placebo,
    steer,
)
from analyses.causal.influence import influence, influences
from analyses.causal.interventions import answered, base_of, compare, intervene
from analyses.causal.mediation import mediations, probe_spaces, probe_subspace
from analyses.causal.report import causal_markdown, slug
from analyses.causal.scene import Crowd, Scene, set_scene, state_of
from analyses.causal.states import STATE_EDITS, _seen, intervene_on_states, wire
from analyses.causal.study import Plan, causal_study
from analyses.causal.summary import _read_from, means_of
from analyses.causal.trajectories import counterfactuals, early_answers, transplants
from analyses.causal.verdict import Thresholds, commitment, verdict
from nfcot_model.errors import UserError
from nfcot_model.evaluation.intervals import wilson
from nfcot_model.sampling import draw_noise
from nfcot_model.sandbox import Sandbox
from nfcot_model.thoughts import Thoughts
from nfcot_model.traces import collect, read_run
from nfcot_model.worlds import make_world
from probes.intervals import Estimate, cluster_bootstrap
from tests.tiny import brief_reasoner, tiny_reasoner

N = 24


@pytest.fixture(scope="module")
def scene() -> Scene:
    reasoner = tiny_reasoner(seed=2, max_answer_tokens=8)
    problems = make_world("digits", "test", 1, N, (2, 4))
    noise = draw_noise(range(N), reasoner.max_thoughts, reasoner.D, 0.7)
    thoughts = reasoner.think([p.prompt for p in problems], tau=0.7, noise_seeds=(), noise=noise)
    crowd = Crowd(thoughts.u, thoughts.mask, problems, [True] * N)
    return set_scene(reasoner, problems, thoughts, noise, 0.7, crowd, torch.arange(N))


def firsts(scene: Scene) -> torch.Tensor:
    return torch.zeros(len(scene), dtype=torch.long)


SEEDS = list(range(100, 100 + N))


@pytest.mark.parametrize("mode", ["direct", "total"])
def test_a_thought_replaced_by_itself_changes_nothing(scene: Scene, mode: str) -> None:
    k = scene.thoughts.K - 1
    own = scene.at(scene.thoughts.u, k)
    same = edited(scene, k, own, mode).thoughts
    assert torch.equal(same.mask, scene.thoughts.mask)
    torch.testing.assert_close(same.u, scene.thoughts.u, atol=1e-4, rtol=0)


def test_rethinking_everything_gives_the_trace_back(scene: Scene) -> None:
    again = scene.rethought(scene.thoughts.u, firsts(scene)).thoughts
    assert torch.equal(again.mask, scene.thoughts.mask)
    torch.testing.assert_close(again.u, scene.thoughts.u, atol=1e-4, rtol=0)


def test_edits_are_what_they_say(scene: Scene) -> None:
    k = firsts(scene)
    u = scene.at(scene.thoughts.u, k)
    norm = u.norm(dim=-1)
    done = {name: edit(scene, k, SEEDS) for name, edit in EDITS.items()}
    again = {name: edit(scene, k, SEEDS) for name, edit in EDITS.items()}
    for name, values in done.items():
        torch.testing.assert_close(values, again[name], equal_nan=True, msg=name)
    assert not done["zero"].any()
    torch.testing.assert_close(done["noise"].norm(dim=-1), norm)
    torch.testing.assert_close(done["position_mean"], u.mean(0).expand_as(u), atol=1e-5, rtol=1e-5)
    mu, log_sigma, eps = (
        scene.at(t, k) for t in (scene.thoughts.mu, scene.thoughts.log_sigma, scene.thoughts.eps)
    )
    torch.testing.assert_close(done["noise_edit"], mu - log_sigma.exp() * eps)
    z = (done["resample"] - mu) / log_sigma.exp() / scene.tau
    assert 0.6 < float(z.std()) < 1.4
    direction = torch.arange(1.0, scene.reasoner.D + 1)
    moved = moved_along(u, direction, 0.5) - u
    torch.testing.assert_close(moved.norm(dim=-1), 0.5 * norm)
    pushed = placebo(u, done["zero"], SEEDS)
    torch.testing.assert_close((pushed - u).norm(dim=-1), norm)


def test_what_is_random_hangs_on_the_row_alone(scene: Scene) -> None:
    k = firsts(scene)
    index = torch.tensor([5, 2, 5])
    for name, edit in EDITS.items():
        whole = edit(scene, k, SEEDS)[index]
        some = edit(scene.rows(index), k[index], [SEEDS[i] for i in index.tolist()])
        torch.testing.assert_close(whole, some, equal_nan=True, atol=1e-5, rtol=1e-5, msg=name)


def test_steering_goes_from_one_mean_to_another(scene: Scene) -> None:
    k, codes = firsts(scene), scene.crowd.labelled("offset")[:, 0]
    moved = steer(scene, k, SEEDS, "offset") - scene.thoughts.u[:, 0]
    means = {c: scene.crowd.u[torch.from_numpy(codes == c), 0].mean(0) for c in set(codes)}
    for i in range(N):
        ways = [m - means[codes[i]] for c, m in means.items() if c != codes[i]]
        assert min(float((moved[i] - way).abs().max()) for way in ways) < 1e-4
    assert steer(scene, k, SEEDS, "nothing").isnan().all()


def test_donors_are_of_another_group_and_of_the_asked_value(scene: Scene) -> None:
    k = firsts(scene)
    problems, K = scene.crowd.problems, scene.crowd.K
    for name, wanted in (
        ("donor", None),
        ("swap_same_value", True),
        ("swap_different_value", False),
    ):
        values = EDITS[name](scene, k, SEEDS)
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


def test_what_a_thought_says_goes_by_slots_and_by_solved_traces(scene: Scene) -> None:
    one = scene.crowd
    two = Crowd(one.u, one.mask, one.problems, one.solved, slots=2)
    paired = one.K.numpy() >= 2
    assert paired.sum() > 10
    assert (two.states[paired, 1] == two.states[paired, 0]).all()
    assert (two.states[paired, 0] >= 0).all()
    assert (one.states[paired, 1] != one.states[paired, 0]).any()
    whole = Crowd(one.u, one.mask, one.problems, one.solved, slots=None)
    assert (whole.states == -1).all()
    wrong = Crowd(one.u, one.mask, one.problems, [i > 0 for i in range(N)])
    assert (wrong.states[0] == -1).all()
    assert (wrong.states[1:] >= 0).any(1).all()


def test_a_step_told_differently_goes_through_codec_and_flow(scene: Scene) -> None:
    told = decode_edit_encode(scene, firsts(scene), ["#1 4x+7"] * N)
    assert told.u.shape == scene.thoughts.u.shape
    e = scene.reasoner.decode(told).e
    wanted, _ = scene.reasoner.latents([["#1 4x+7"]])
    torch.testing.assert_close(e[:, 0], wanted[:, 0].expand(N, -1), atol=1e-4, rtol=1e-4)
    before = scene.reasoner.decode(scene.thoughts).e
    torch.testing.assert_close(e[:, 1:], before[:, 1:], atol=1e-4, rtol=1e-4)
    with pytest.raises(UserError, match="step 9: its trace has"):
        decode_edit_encode(scene, firsts(scene) + 9, ["#2 4x+7"] * N)


def test_influence_goes_forward_only(scene: Scene) -> None:
    second = firsts(scene) + 1
    moved = influence(scene, second, torch.zeros(N, scene.reasoner.D))
    assert not moved[:, :2].any()
    later = scene.thoughts.mask[:, 2:]
    assert (moved[:, 2:][later] > 0).all()
    assert not moved[:, 2:][~later].any()
    still = influence(scene, second, scene.thoughts.u[:, 1])
    assert float(still.max()) < 1e-4
    rows = influences(scene)
    assert (rows["j"] > rows["k"]).all()
    assert (rows["moved"] > 0).all()


def test_rows_of_interventions_are_what_slow_and_plain_code_finds(scene: Scene) -> None:
    few = scene.rows(torch.arange(4))
    edits = {name: EDITS[name] for name in ("zero", "resample")}
    with Sandbox() as sandbox:
        base = base_of(few, sandbox)
        rows, values = intervene(few, base, sandbox, 0, edits)
        early = early_answers(few, base, sandbox)
    reasoner, prompts = few.reasoner, few.prompts
    assert base.answers == reasoner.answer(prompts, few.thoughts)
    assert len(rows) == len(values) == 4 * int(few.thoughts.K.sum())
    assert not rows.isna().any().any()
    for row, value in zip(rows.to_dict("records"), values, strict=True):
        i, k = row["row"], row["k"]
        u, mask = few.thoughts.u[[i]].clone(), few.thoughts.mask[[i]]
        u[0, k] = value
        thoughts = Thoughts.given(u, mask)
        if row["mode"] == "total":
            before = Thoughts.given(u, torch.arange(u.shape[1])[None] <= k)
            thoughts = reasoner.think(
                [prompts[i]], tau=0.7, noise_seeds=(), noise=few.noise[[i]], given=before
            )
        said = base.answers[i]
        answer = reasoner.answer([prompts[i]], thoughts)[0]
        assert (row["answer"], row["flipped"]) == (answer, answer != said)
        assert row["K_after"] == int(thoughts.K)
        found = reasoner.answer_logp([prompts[i]], thoughts, [said])
        own = reasoner.answer_logp([prompts[i]], few.thoughts.rows(slice(i, i + 1)), [said])
        assert abs(row["logp_change"] - float(found.logp - own.logp)) < 2e-3
        p, q = own.distributions, found.distributions
        assert abs(row["kl"] - float((p.exp() * (p - q)).sum(-1).mean())) < 2e-3
    whole = early[early["k"] == early["K"]]
    assert whole["same"].all()


def test_an_edit_of_a_state_is_that_edit(scene: Scene) -> None:
    """Its own state changes nothing; what enters the first layer is the thought itself."""
    few = scene.rows(torch.arange(3))
    sites = ["blocks.0.hook_in", "blocks.1.hook_out", "blocks.1.attn.hook_v"]
    wired = wire(few.reasoner, sites)
    again = wired.scene(few)
    with Sandbox() as sandbox:
        base = base_of(again, sandbox)
        own = {"own": lambda wired, scene, k, site, seeds, own: own}
        still = intervene_on_states(wired, again, base, sandbox, sites, 0, own)
        assert not still["flipped"].any()
        assert still["logp_change"].abs().max() < 1e-3
        # What enters the first layer at a thought is the thought: its edit is an edit of it.
        thought = {"zero": EDITS["zero"]}
        rows, _ = intervene(few, base_of(few, sandbox), sandbox, 0, thought)
        model = few.reasoner.model
        nothing = model.project(torch.zeros(1, few.reasoner.D)).detach()
        same = {"zero": lambda wired, scene, k, site, seeds, own: nothing.expand(len(own), -1)}
        state = intervene_on_states(wired, again, base, sandbox, sites[:1], 0, same)
        assert state["answer"].tolist() == rows["answer"].tolist()
        assert np.allclose(state["logp_change"], rows["logp_change"], atol=2e-3)
        # A value put in stands in the cache, where every later position reads it.
        put = torch.arange(3.0)[:, None].expand(3, 16)
        values = "blocks.1.attn.hook_v"
        _, branch = _seen(wired, again, again.thoughts.u, firsts(again), values, put)
        cached = branch.stream.cache.layers[1].values[:, :, -1]
        torch.testing.assert_close(cached.flatten(1), put)
        changed = intervene_on_states(wired, again, base, sandbox, sites[2:], 0)
    assert set(changed["edit"]) == set(STATE_EDITS)
    assert (changed["logp_change"].abs() > 1e-4).mean() > 0.5
    assert (changed[changed["edit"] == "zero"]["distance"] > 0).all()
    with pytest.raises(UserError, match="no hook is called blocks"):
        wire(few.reasoner, ["blocks.7.hook_out"])
    with pytest.raises(UserError, match="expected a site of a layer"):
        wire(few.reasoner, ["nf_head.mu.hook_out"])


def test_a_probe_finds_the_planted_direction() -> None:
    rng = np.random.default_rng(0)
    X = rng.normal(size=(300, 6))
    y = (X[:, 2] > 0).astype(int)
    basis = probe_subspace(X, y)
    assert basis.shape == (6, 1)
    assert abs(float(basis[2, 0])) > 0.95
    y3 = np.digitize(X[:, 2], [-0.5, 0.5]) + 3 * (X[:, 4] > 0)
    assert probe_subspace(X, y3, 2)[[2, 4]].norm() > 1.3  # of sqrt 2


def test_parts_of_a_swap_add_up(scene: Scene) -> None:
    few = scene.rows(torch.arange(6))
    with Sandbox() as sandbox:
        base = base_of(few, sandbox)
        rows = mediations(few, base, probe_spaces(few.crowd, "operation"))
        told = counterfactuals(few, base, sandbox)
        moved = transplants(few, base, sandbox)
    shares = rows.pivot_table(index=["row", "k"], columns="part", values="share")
    assert len(shares)
    assert np.allclose(shares["all"], 1, atol=1e-5)
    assert np.allclose(shares["probe"] + shares["rest"], 1, atol=1e-4)
    assert np.allclose(shares["random"], shares["probe"], atol=1e-4)  # equally far
    sizes = rows.pivot_table(index=["row", "k"], columns="part", values="dimensions")
    assert (sizes["probe"] == sizes["random"]).all()
    assert (sizes["probe"] + sizes["rest"] == few.reasoner.D).all()
    # A random model solves nothing, and only solved traces are transplanted or told otherwise.
    assert not len(told)
    assert not len(moved)


def test_a_stream_that_is_compared_stays_as_it_was(scene: Scene) -> None:
    few = scene.rows(torch.arange(3))
    with Sandbox() as sandbox:
        base = base_of(few, sandbox)
    branch = few.given(few.thoughts.u, few.thoughts.mask)
    first = compare(few, base, torch.arange(3), branch)
    assert not any(first["flipped"])
    assert answered(few, branch.stream) == base.answers
    assert compare(few, base, torch.arange(3), branch)["flipped"] == first["flipped"]


@pytest.fixture(scope="module")
def traced(tmp_path_factory: pytest.TempPathFactory) -> tuple:
    reasoner = brief_reasoner()
    problems = make_world("digits", "test", 1, 40, (2, 3))
    run = tmp_path_factory.mktemp("causal") / "run"
    collect(reasoner, problems, run)
    return reasoner, read_run(run)


def test_a_study_resumes_where_it_was_stopped(traced: tuple, tmp_path) -> None:
    reasoner, run = traced
    plan = Plan(samples=36, edits=("resample", "donor"), label="coefficient")
    whole = causal_study(run, run.problems(), reasoner, tmp_path / "a", plan)
    seen: list[int] = []

    def stop(n: int) -> None:
        seen.append(n)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        causal_study(run, run.problems(), reasoner, tmp_path / "b", plan, progress=stop)
    assert seen == [32]
    broken = tmp_path / "b" / "rows" / "00000-early.parquet"
    broken.write_bytes(broken.read_bytes()[:50])
    again = causal_study(run, run.problems(), reasoner, tmp_path / "b", plan)
    assert again.summary == whole.summary
    for name, table in whole.tables.items():
        pd.testing.assert_frame_equal(again.tables[name], table)
    single = whole.tables["single"]
    assert set(single["mode"]) == set(MODES)
    assert single["trace_id"].nunique() == 36
    kept = load_file(tmp_path / "a" / "rows" / "00000-values.safetensors")["u"]
    assert kept.shape[1] == reasoner.D
    task = whole.summary["tasks"][0]
    assert task["verdict"] == "undetermined"  # nothing is solved by a random model
    assert "no trace's own answer is right" in task["notes"][0]
    assert task["early_decision"] == []


def test_more_samples_go_on_from_fewer(traced: tuple, tmp_path) -> None:
    reasoner, run = traced
    plan = Plan(samples=34, edits=("resample",))
    causal_study(run, run.problems(), reasoner, tmp_path, plan)
    kept = (tmp_path / "rows" / "00000-single.parquet").stat().st_mtime_ns
    more = causal_study(run, run.problems(), reasoner, tmp_path, replace(plan, samples=40))
    assert (tmp_path / "rows" / "00000-single.parquet").stat().st_mtime_ns == kept
    assert more.tables["early"]["row"].nunique() == 40
    # The same traces asked about other problems are another study.
    others = [p.model_copy(update={"group": "one"}) for p in run.problems()]
    with pytest.raises(UserError, match="holds another causal study"):
        causal_study(run, others, reasoner, tmp_path, plan)


def test_worlds_may_be_called_anything(tmp_path) -> None:
    reasoner = brief_reasoner()
    ours = make_world("digits", "test", 1, 6, (2, 3))
    theirs = [
        p.model_copy(update={"world": "../my [red]|world", "id": f"mine{i}", "step_labels": []})
        for i, p in enumerate(make_world("digits", "test", 2, 6, (2, 3)))
    ]
    collect(reasoner, [*ours, *theirs], tmp_path / "run")
    run = read_run(tmp_path / "run")
    plan = Plan(edits=("donor", "steer"))
    result = causal_study(run, run.problems(), reasoner, tmp_path / "report", plan)
    assert [task["task"] for task in result.summary["tasks"]] == ["../my [red]|world", "digits"]
    page = causal_markdown(result.summary)
    assert "my [red]" in page
    assert "/" not in slug("../my [red]|world")
    assert slug("digits") == "digits"


def test_a_study_refuses_what_does_not_belong_to_the_run(traced: tuple, tmp_path) -> None:
    reasoner, run = traced
    problems = run.problems()
    with pytest.raises(UserError, match="another checkpoint"):
        causal_study(run, problems, brief_reasoner(seed=3, D=2), tmp_path / "a")
    with pytest.raises(UserError, match="--problems: lacks"):
        causal_study(run, problems[1:], reasoner, tmp_path / "a")
    with pytest.raises(UserError, match="--label 'colour': steps have coefficient, offset"):
        causal_study(run, problems, reasoner, tmp_path / "a", Plan(label="colour"))
    with pytest.raises(UserError, match="--edits 'shout'"):
        Plan(edits=("shout",))
    assert not (tmp_path / "a").exists()
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "mine.txt").write_text("keep")
    with pytest.raises(UserError, match="not empty"):
        causal_study(run, problems, reasoner, tmp_path / "b")


def test_at_tau_zero_there_is_no_second_draw(traced: tuple, tmp_path) -> None:
    reasoner, run = traced
    problems = run.problems()
    collect(reasoner, problems[:8], tmp_path / "flat", tau=0.0)
    flat = read_run(tmp_path / "flat")
    with pytest.raises(UserError, match=r"--edits resample: .* nothing is drawn at tau 0"):
        causal_study(flat, problems, reasoner, tmp_path / "a", Plan(edits=("zero", "resample")))
    assert not (tmp_path / "a").exists()
    found = causal_study(flat, problems, reasoner, tmp_path / "a", Plan(samples=4))
    assert {left["part"] for left in found.summary["left_out"]} == {"resample", "noise_edit"}
    edits = set(found.tables["single"]["edit"])
    assert {"zero", "donor"} <= edits
    assert not edits & {"resample", "noise_edit"}


def test_commitment_is_where_the_answer_stays() -> None:
    same = {0: [0, 1, 0, 1, 1], 1: [0, 0, 0, 0, 1], 2: [1, 1, 1, 1, 1]}
    early = pd.DataFrame(
        [{"row": r, "k": k, "same": bool(s)} for r, row in same.items() for k, s in enumerate(row)]
    )
    assert commitment(early).to_dict() == {0: 3, 1: 4, 2: 0}


@pytest.mark.parametrize(("carrier", "place"), [("last", -1), ("first", 0)])
def test_the_thought_that_is_read_is_found_from_either_end(carrier: str, place: int) -> None:
    rows = [
        {
            "group": str(i),
            "mode": "direct",
            "k": k,
            "back": k - K,
            "dropped": k == (K - 1 if carrier == "last" else 0),
        }
        for i in range(40)
        for K in (3 + i % 2,)
        for k in range(K)
    ]
    assert _read_from(pd.DataFrame(rows), 0.5) == place
    assert _read_from(pd.DataFrame(rows).assign(dropped=False), 0.5) is None
    assert _read_from(pd.DataFrame(rows).query("group < '12'"), 0.5) is None  # four groups


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
        (0.0, 1.0, 0.08, 0.0, "decodable-only"),
        (0.0, 1.0, 0.0, 0.045, "undetermined"),
        (np.nan, np.nan, 0.9, 0.9, "undetermined"),
        (0.99, 0.0, np.nan, np.nan, "undetermined"),
    ],
)
def test_verdicts(donor: float, prompt: float, drop: float, effect: float, said: str) -> None:
    figures = (estimate(donor), estimate(prompt), estimate(drop), estimate(effect))
    assert verdict(*figures, Thresholds()) == said


def test_intervals_cover_at_the_nominal_rate() -> None:
    """A synthetic reader whose answers flip with probability 0.3, alike within a group."""
    rng = np.random.default_rng(0)
    covered = careless = 0
    for _ in range(200):
        flips = (rng.random(60) < 0.3).repeat(4)
        frame = pd.DataFrame({"flipped": flips, "group": np.arange(60).repeat(4).astype(str)})
        interval = means_of(frame, ("flipped",))["flipped"]
        covered += interval.low <= 0.3 <= interval.high
        frame["group"] = np.arange(240).astype(str)
        alone = means_of(frame, ("flipped",))["flipped"]
        careless += alone.low <= 0.3 <= alone.high
    assert 0.90 <= covered / 200 <= 0.985
    assert careless / 200 < 0.80  # rows of one group counted as if they were independent


def test_what_never_varies_is_not_certain() -> None:
    frame = pd.DataFrame(
        {"flipped": [False] * 40, "excess": [0.0] * 40, "group": list("abcde") * 8}
    )
    found = means_of(frame, ("flipped", "excess"))
    assert found["flipped"].low == 0
    assert found["flipped"].high == pytest.approx(wilson(0, 5)[1])
    assert (found["excess"].low, found["excess"].high) == (-wilson(0, 5)[1], wilson(0, 5)[1])
    few = means_of(frame[frame["group"] < "d"], ("flipped",))["flipped"]
    assert few.value == 0
    assert np.isnan(few.high)


def test_means_by_group_are_the_cluster_bootstrap() -> None:
    rng = np.random.default_rng(1)
    values = rng.normal(size=200)
    values[:20] = np.nan
    groups = rng.integers(25, size=200).astype(str).astype(object)
    frame = pd.DataFrame({"x": values, "group": groups})
    mine = means_of(frame, ("x",))["x"]
    theirs = cluster_bootstrap(
        lambda rows: {"x": float(np.nanmean(values[rows]))}, groups, 0, draws=4000
    )["x"]
    assert mine.value == pytest.approx(theirs.value)
    assert (mine.low, mine.high) == pytest.approx((theirs.low, theirs.high), abs=0.02)
