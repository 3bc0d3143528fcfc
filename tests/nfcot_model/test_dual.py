"""Dual-Path: the same density as Unified, an answer that reads `e` on a path of its own."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM

from nfcot_model import sampling
from nfcot_model.cli import main
from nfcot_model.errors import UserError
from nfcot_model.hooks import capture, hooked, sites
from nfcot_model.layout import IGNORE, lay_out
from nfcot_model.model import NFCoTModel
from nfcot_model.reasoners import NFCoTReasoner, load_nfcot, load_reasoner
from nfcot_model.reasoners.continuing import (
    answer_from,
    answer_logp_from,
    feed_thoughts,
)
from nfcot_model.thoughts import Thoughts
from nfcot_model.traces import read_run
from nfcot_model.training.config import TrainConfig, load_config
from nfcot_model.training.stages import train
from nfcot_model.worlds import make_world, write_problems
from tests.tiny import BACKBONES, tiny_reasoner

PROBLEMS = make_world("digits", "test", 1, 5, steps=(1, 5))
PROMPTS = [p.prompt for p in PROBLEMS]
ORDERS = ("causal", "alternating")


def dual(backbone: str = "qwen3", **config) -> NFCoTReasoner:
    made = {"max_answer_tokens": 8, "seed": 2, "reasoner": "dual", **config}
    return tiny_reasoner(backbone, **made)


def thinks(reasoner: NFCoTReasoner, tau: float = 0.8) -> Thoughts:
    return reasoner.think(PROMPTS, tau=tau, noise_seeds=range(5))


def some_thoughts(K: list[int], seed: int = 0) -> Thoughts:
    mask = torch.arange(max(K)) < torch.tensor(K)[:, None]
    noise = torch.randn(*mask.shape, 4, generator=torch.Generator().manual_seed(seed))
    return Thoughts.given(noise, mask)


@torch.no_grad()
def answer_states(reasoner: NFCoTReasoner, prompt: str, u: torch.Tensor, said: list[int]):
    """The states behind `[prompt] <think> e </think> said`, in one plain pass."""
    model = reasoner.model
    ids = [*reasoner.tokens([prompt], opening=True)[0], model.ids.think]
    e = model.flow.inverse(u[None], torch.ones(1, len(u), dtype=torch.bool))[0]
    tokens = model.get_input_embeddings()
    embedded = torch.cat(
        [
            tokens(torch.tensor(ids)),
            model.answer_projection(e),
            tokens(torch.tensor([model.ids.end_think, *said])),
        ]
    )
    return model.backbone.base_model(inputs_embeds=embedded[None]).last_hidden_state[0]


def test_thinking_is_that_of_a_unified_model_with_the_same_weights() -> None:
    two = dual()
    one = tiny_reasoner(seed=2, max_answer_tokens=8)
    weights = two.model.state_dict()
    own = {name for name in weights if name.startswith("answer_projection")}
    assert own == {"answer_projection.weight", "answer_projection.bias"}
    one.model.load_state_dict({n: w for n, w in weights.items() if n not in own})
    thoughts = thinks(two)
    assert torch.equal(thoughts.u, thinks(one).u)
    mine, theirs = (r.score(PROMPTS, thoughts, tau=0.8, hidden=True) for r in (two, one))
    for name in ("logp", "stop_logp", "eps", "hidden"):
        assert torch.equal(getattr(mine, name), getattr(theirs, name))
    said = ["lambda x: x"] * 5
    away = (
        two.answer_logp(PROMPTS, thoughts, said).logp
        - one.answer_logp(PROMPTS, thoughts, said).logp
    )
    assert (away.abs() > 1e-3).all()


@pytest.mark.parametrize("backbone", BACKBONES)
def test_one_pass_gives_what_step_by_step_drew(backbone: str) -> None:
    reasoner = dual(backbone, seed=4)
    thoughts = thinks(reasoner)
    assert int(thoughts.K.max()) > 1
    scores = reasoner.score(PROMPTS, thoughts, tau=0.8)
    for name in ("eps", "mu", "log_sigma"):
        torch.testing.assert_close(
            getattr(scores, name), getattr(thoughts, name), atol=3e-4, rtol=1e-4
        )


@settings(max_examples=8, deadline=None)
@given(seed=st.integers(0, 2**32), tau=st.floats(0.1, 1.5), order=st.sampled_from(ORDERS))
def test_replay_recovers_the_drawn_noise(seed: int, tau: float, order: str) -> None:
    reasoner = dual(flow={"d_model": 16, "heads": 2, "order": order})
    thoughts = reasoner.think(PROMPTS, tau=tau, noise_seeds=[seed + i for i in range(5)])
    _, scores = reasoner.answer_scored(PROMPTS, thoughts, tau=tau)
    assert (scores.eps - thoughts.eps).abs().max() < 1e-3


def test_the_density_integrates_to_one_in_both_spaces() -> None:
    """K = 1, D = 2, on a grid: of `u` as it is drawn, and of the `e` that the answer reads."""
    reasoner = dual(D=2, spread=0.3)
    side = torch.linspace(-8, 8, 49)
    grid = torch.cartesian_prod(side, side)[:, None]
    mask = torch.ones(len(grid), 1, dtype=torch.bool)
    cell = float(side[1] - side[0]) ** 2
    prompts = PROMPTS[:1] * len(grid)
    with torch.no_grad():
        u, logdet = reasoner.model.flow(grid, mask)
    logp = reasoner.score(prompts, Thoughts.given(grid, mask), tau=1.0).logp[:, 0]
    logp_e = reasoner.score(prompts, Thoughts.given(u, mask), tau=1.0).logp[:, 0] + logdet
    for density in (logp, logp_e):
        assert abs(float(density.exp().sum()) * cell - 1) < 1e-3


@pytest.mark.parametrize("backbone", BACKBONES)
@pytest.mark.parametrize("order", ORDERS)
def test_the_answer_follows_from_e_behind_the_prompt(backbone: str, order: str) -> None:
    """On one cache behind the thinking, in a pass of its own, and by hand: one answer."""
    reasoner = dual(backbone, flow={"d_model": 16, "heads": 2, "order": order})
    thoughts = some_thoughts([3, 1, 5, 2, 4])
    answers = reasoner.answer(PROMPTS, thoughts)
    scored, scores = reasoner.answer_scored(PROMPTS, thoughts, tau=1.0, hidden=True)
    alone = reasoner.score(PROMPTS, thoughts, tau=1.0, hidden=True)
    assert scored == answers
    torch.testing.assert_close(scores.logp, alone.logp, atol=1e-3, rtol=1e-4)
    torch.testing.assert_close(scores.hidden, alone.hidden, atol=1e-3, rtol=1e-3)
    logp = reasoner.answer_logp(PROMPTS, thoughts, answers).logp
    for i, K in enumerate(thoughts.K.tolist()):
        said = reasoner.tokens([answers[i]])[0]
        states = answer_states(reasoner, PROMPTS[i], thoughts.u[i, :K], said)
        chosen = reasoner.model.lm_logits(states[-len(said) - 1 :]).log_softmax(-1)
        wanted = torch.tensor([*said, reasoner.model.ids.eos])
        by_hand = chosen.gather(-1, wanted[:, None]).sum()
        torch.testing.assert_close(logp[i], by_hand, atol=2e-3, rtol=1e-3)


@pytest.mark.parametrize("backbone", BACKBONES)
def test_continuations_on_one_cache_equal_whole_passes(backbone: str) -> None:
    """Thoughts fed in pieces, ragged, in copies and none at all; then answers and their logp."""
    reasoner = dual(backbone)
    whole = thinks(reasoner)
    noise = sampling.draw_noise(range(5), reasoner.max_thoughts, reasoner.D, 0.8)
    index = torch.tensor([3, 0, 3, 4, 1, 2])
    kept = torch.minimum(torch.tensor([1, 0, 2, 1, 3, 0]), whole.K[index])
    u = whole.u[index]
    mask = torch.arange(u.shape[1]) < kept[:, None]
    opened = reasoner.open_prompts(PROMPTS)
    asked = [PROMPTS[i] for i in index.tolist()]

    stream = opened.rows(index)
    feed_thoughts(reasoner, stream, u, mask)
    on = reasoner.think_on(stream, noise[index], u, kept)
    torch.testing.assert_close(on.u, whole.u[index][:, : on.u.shape[1]], atol=1e-3, rtol=1e-3)
    expected = reasoner.answer(asked, on)
    assert answer_from(reasoner, stream.rows(torch.arange(6))) == expected

    said = expected[1:] + expected[:1]
    found, greedy = answer_logp_from(reasoner, stream, said)
    wanted = reasoner.answer_logp(asked, on, said)
    torch.testing.assert_close(found.logp, wanted.logp, atol=3e-3, rtol=1e-3)
    # Not the other way round: a random model's words are not always cut into the same tokens.
    assert all(a == b for a, b, same in zip(said, expected, greedy, strict=True) if same)

    stream = opened.rows(index)
    feed_thoughts(reasoner, stream, u, mask)
    assert answer_from(reasoner, stream) == reasoner.answer(asked, Thoughts.given(u, mask))


def test_the_answer_does_not_see_the_path_of_thinking() -> None:
    """What the cache holds of `u` can be anything once the paths have turned; not before."""

    def behind(turned: bool, noisy: bool) -> torch.Tensor:
        thoughts = some_thoughts([3, 1, 5, 2, 4])
        layout = reasoner.layout(PROMPTS, [0] * 5, close=False)
        stream = sampling.Stream(reasoner.model, layout, torch.zeros(5, 1, 4))
        prompt = stream.attention.shape[1]
        stream.feed(thoughts.u, thoughts.mask)
        if noisy:
            for layer in stream.cache.layers:
                layer.keys[:, :, prompt:] = 5.0
                layer.values[:, :, prompt:] = 5.0
        if turned:
            stream.turn()
        stream.close()
        return stream.state

    reasoner = dual()
    assert torch.equal(behind(True, False), behind(True, True))
    assert not torch.allclose(behind(False, False), behind(False, True), atol=1e-2)


def test_without_thoughts_both_paths_are_the_prompt() -> None:
    reasoner = dual()
    none = Thoughts.given(torch.zeros(5, 1, 4), torch.zeros(5, 1, dtype=torch.bool))
    assert reasoner.answer_scored(PROMPTS, none, tau=1.0)[0] == reasoner.answer(PROMPTS, none)


def test_each_loss_reaches_its_own_path() -> None:
    reasoner = dual()
    model = reasoner.model
    prompts = reasoner.tokens(PROMPTS, opening=True)
    answers = reasoner.tokens([str(p.answer) for p in PROBLEMS])
    thoughts = some_thoughts([3, 1, 5, 2, 4])
    layout = lay_out(prompts, thoughts.K.tolist(), model.ids, answers=answers)

    def reached(name: str) -> set[str]:
        model.zero_grad()
        out = model(**vars(layout), e=thoughts.u, target_noise=0.0)
        getattr(out, name).backward()
        return {
            n.split(".")[0]
            for n, p in model.named_parameters()
            if p.grad is not None and bool(p.grad.abs().max() > 0)
        }

    assert reached("nll") == {"backbone", "flow", "projection", "nf_head"}
    assert reached("stop") == {"backbone", "flow", "projection"}
    assert reached("answer") == {"backbone", "answer_projection"}
    # And the losses are those of the two paths, thought by thought and word by word.
    with torch.no_grad():
        out = model(**vars(layout), e=thoughts.u, target_noise=0.0)
        u, logdet = model.flow(thoughts.u, thoughts.mask)
    scored = reasoner.score(PROMPTS, Thoughts.given(u, thoughts.mask), tau=1.0).logp.sum()
    nll = -(scored + logdet.sum()) / (thoughts.mask.sum() * 4)
    torch.testing.assert_close(out.nll, nll, atol=1e-4, rtol=1e-4)
    logp = reasoner.answer_logp(
        PROMPTS, Thoughts.given(u, thoughts.mask), [str(p.answer) for p in PROBLEMS]
    ).logp
    per_word = -logp.sum() / (layout.targets != IGNORE).sum()
    torch.testing.assert_close(out.answer, per_word, atol=1e-3, rtol=1e-4)


def brief(**steps: int) -> TrainConfig:
    config = load_config("tiny", None, reasoner="dual")
    sections = {
        name: getattr(config, name).model_copy(
            update={"steps": count, "batch": 4, "accumulate": 1, "validate_every": 100}
        )
        for name, count in {"codec": 2, "warmup": 3, "joint": 3, **steps}.items()
    }
    model = config.model.model_copy(update={"max_answer_tokens": 4, "max_thoughts": 12})
    return config.model_copy(update={**sections, "model": model})


def test_stages_train_what_they_should_and_folders_are_not_mixed(tmp_path: Path) -> None:
    config = brief()
    stages = ["codec", "warmup", "joint"]
    train(config, stages, tmp_path / "t")
    states = {
        s: load_nfcot(tmp_path / "t" / s / "model").model.state_dict()
        for s in ("codec", "warmup", "joint")
    }

    def moved(earlier: str, later: str) -> set[str]:
        changed = (n for n, t in states[later].items() if not torch.equal(t, states[earlier][n]))
        return {name.split(".")[0] for name in changed}

    ours = {"flow", "nf_head", "projection", "answer_projection"}
    assert moved("codec", "warmup") == ours
    assert moved("warmup", "joint") == ours | {"backbone"}
    unified = config.model_copy(update={"reasoner": "nfcot"})
    with pytest.raises(UserError, match="holds another training"):
        train(unified, stages, tmp_path / "t")


@pytest.mark.parametrize("backbone", BACKBONES)
def test_a_folder_holds_both_paths(backbone: str, tmp_path: Path) -> None:
    reasoner = dual(backbone)
    reasoner.save(tmp_path)
    loaded = load_nfcot(tmp_path)
    assert (loaded.name, loaded.has_likelihood, loaded.draws) == ("dual", True, True)
    thoughts = thinks(loaded)
    assert torch.equal(thoughts.u, thinks(reasoner).u)
    assert loaded.answer(PROMPTS, thoughts) == reasoner.answer(PROMPTS, thoughts)
    automatic = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert isinstance(automatic, NFCoTModel)
    assert automatic.two_paths
    half = load_reasoner(tmp_path, dtype="bfloat16").model
    assert half.answer_projection.weight.dtype == torch.float32


def test_one_form_does_not_load_as_the_other(tmp_path: Path) -> None:
    dual().save(tmp_path / "dual")
    tiny_reasoner().save(tmp_path / "nfcot")
    for held, asked in (("dual", "nfcot"), ("nfcot", "dual")):
        with pytest.raises(UserError, match=f"reasons as '{held}', expected a model of {asked}$"):
            load_reasoner(tmp_path / held, kinds=(asked,))
        path = tmp_path / held / "config.json"
        config = json.loads(path.read_text())
        path.write_text(json.dumps({**config, "reasoner": asked}))
        with pytest.raises(UserError, match="2 weights missing or unknown, such as 'answer_proj"):
            load_reasoner(tmp_path / held)


def test_config_files_from_before_are_unified() -> None:
    config = load_reasoner("demo").model.config
    assert (config.reasoner, load_reasoner("demo").model.two_paths) == ("nfcot", False)


def test_hooks_read_the_path_of_thinking_and_what_the_answer_reads() -> None:
    reasoner = dual()
    bridge = hooked(reasoner.model)
    table = {site.name: site for site in sites(bridge)}
    assert table["answer_projection.hook_in"].axes == ("B", "K", "D")
    assert table["answer_projection.hook_out"].axes == ("B", "K", "d_model")
    assert "answer_projection.hook_in" not in hooked(tiny_reasoner().model).hook_dict
    thoughts = some_thoughts([3, 1, 5, 2, 4])
    layout = reasoner.layout(PROMPTS, thoughts.K.tolist())
    names = ["answer_projection.hook_in", "blocks.1.hook_out", "nf_head.eps.hook_out"]
    found = capture(bridge, layout, thoughts.u, names)
    decoded = reasoner.decode(thoughts)
    torch.testing.assert_close(found[names[0]], decoded.e, atol=1e-5, rtol=1e-5)
    scores = reasoner.score(PROMPTS, thoughts, tau=1.0, hidden=True)
    torch.testing.assert_close(found[names[2]], scores.eps, atol=1e-4, rtol=1e-4)
    inside = NFCoTReasoner(bridge.original_model, reasoner.tokenizer)
    assert inside.name == "dual"
    fired: list[tuple[int, ...]] = []
    with bridge.hooks(fwd_hooks=[(names[1], lambda state, hook: fired.append(state.shape[:2]))]):
        inside.answer_scored(PROMPTS, thoughts, tau=1.0)
    width = layout.input_ids.shape[1] - 1
    assert fired[:3] == [(5, width), (5, 5), (5, 1)]  # prompt and u; e; </think>


def test_the_commands_from_a_config_to_an_audit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def told(line: str) -> dict:
        with pytest.raises(SystemExit) as stopped:
            main(line.split())
        out, err = capsys.readouterr()
        assert stopped.value.code == 0, err
        return json.loads(out)

    monkeypatch.chdir(tmp_path)
    (tmp_path / "dual.yaml").write_text(brief().model_dump_json())  # JSON is YAML
    trained = told("train all --config dual.yaml -o work --json")
    assert set(trained["validation"]) == {"codec", "warmup", "joint"}
    assert trained["validation"]["joint"]["nll"] > 0
    drawn = make_world("digits", "test", 5, 128, (3, 4))
    for name, problems in (("clean", drawn[::2]), ("test", drawn[1::2])):
        write_problems(tmp_path / f"{name}.jsonl", problems)
        traced = told(f"trace work/joint/model {name}.jsonl -o {name} --max-thoughts 3 --json")
        assert traced["traces"] == 64
        assert traced["replay_error_max"] < 1e-3
        assert told(f"run fsck {name} --json")["traces"] == 64
    assert read_run("test").manifest["reasoner"] == "dual"
    probed = told("probe fit clean --label steps --site u@0 --draws 100 --permutations 9 --json")
    assert probed["site"] == "u@0"
    audited = told("audit run test --calibration clean --alpha 0.2 -o audit --json")
    assert audited["n"] == 64
    captured = told("activations test --sites answer_projection.hook_in --json")
    assert captured["thoughts"] == int(read_run("test").traces["K"].sum())


def test_an_adversary_s_gradient_goes_through_what_the_answer_reads() -> None:
    """By finite differences: the likelihood of an answer as a function of one thought."""
    reasoner = dual()
    thoughts = some_thoughts([3, 1, 5, 2, 4])
    answers = [str(p.answer) for p in PROBLEMS]
    layout = reasoner.layout(PROMPTS, thoughts.K.tolist(), side="right", answers=answers)
    said = layout.targets != IGNORE

    def loss(u: torch.Tensor) -> torch.Tensor:
        states = reasoner.model.answering(layout, u).last_hidden_state
        logp = reasoner.model.lm_logits(states[said]).log_softmax(-1)
        return logp.gather(-1, layout.targets[said][:, None]).sum()

    u = thoughts.u.clone().requires_grad_()
    (slope,) = torch.autograd.grad(loss(u), [u])
    step = torch.zeros_like(u)
    step[2, 1, 3] = 1e-2
    with torch.no_grad():
        rise = (loss(u + step) - loss(u - step)) / 2e-2
    torch.testing.assert_close(slope[2, 1, 3], rise, atol=2e-2, rtol=2e-2)
