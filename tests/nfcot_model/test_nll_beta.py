"""`nll_beta`: the gradient's weights, and what they must leave alone."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from nfcot_model.errors import UserError
from nfcot_model.flow import FlowBlock
from nfcot_model.model import NFCoTModel, _spread
from nfcot_model.reasoners import NFCoTReasoner, load_reasoner
from nfcot_model.training.collate import joint_batch
from nfcot_model.training.config import PRESETS, load_config
from nfcot_model.training.stages import train
from nfcot_model.worlds import make_world
from tests.tiny import tiny_reasoner

PROBLEMS = make_world("digits", "train", 1, 6, steps=(1, 5))


def losses(reasoner: NFCoTReasoner, beta: float) -> dict[str, Tensor]:
    layout, e = joint_batch(reasoner, PROBLEMS)
    out = reasoner.model(**vars(layout), e=e, nll_beta=beta)
    return dict(out.items())


def gradients(model: NFCoTModel, loss: Tensor) -> dict[str, Tensor]:
    model.zero_grad()
    loss.backward()
    return {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}


def logp_of_e(reasoner: NFCoTReasoner) -> tuple[Tensor, Tensor, Tensor]:
    """`log p(e_kd | q, e_<k)` and spread of each number of the reference thoughts [B, K, D]."""
    layout, e = joint_batch(reasoner, PROBLEMS)
    model = reasoner.model
    u, terms = model.flow.by_number(e, layout.mask)
    states = model.stream(layout, u).last_hidden_state
    rows = torch.arange(len(u))[:, None]
    mu, log_sigma = model.nf_head(states[rows, layout.thought_at - 1])
    normal = torch.distributions.Normal(mu, log_sigma.exp()).log_prob(u)
    return (normal + terms) * layout.mask[..., None], _spread(log_sigma, terms), layout.mask


@pytest.mark.parametrize("reasoner", ["nfcot", "dual"])
def test_the_likelihood_is_the_same_and_without_beta_the_loss_too(reasoner: str) -> None:
    tiny = tiny_reasoner(reasoner=reasoner)
    plain, weighted = losses(tiny, 0.0), losses(tiny, 0.5)
    assert torch.equal(plain["loss"], plain["nll"] + plain["answer"] + plain["stop"])
    for name in ("nll", "answer", "stop"):
        assert torch.equal(plain[name], weighted[name]), name
    assert not torch.equal(plain["loss"], weighted["loss"])


@settings(deadline=None, max_examples=5)
@given(seed=st.integers(0, 1000), beta=st.floats(0.05, 1.0))
def test_each_number_s_own_gradient_is_multiplied_by_its_spread(seed: int, beta: float) -> None:
    tiny = tiny_reasoner(seed=seed)
    out = losses(tiny, beta)
    model = tiny.model
    got = gradients(model, out["loss"])
    logp, spread, mask = logp_of_e(tiny)
    nll = -(spread ** (2 * beta) * logp).sum() / (mask.sum() * tiny.D)
    answered = losses(tiny, 0.0)
    wanted = gradients(model, nll + answered["answer"] + answered["stop"])
    assert got.keys() == wanted.keys()
    for name, gradient in got.items():
        torch.testing.assert_close(gradient, wanted[name], atol=1e-5, rtol=1e-3)


def test_beta_one_weighs_squared_errors_alike() -> None:
    """Whatever the sigma of a number is, the gradient of its mu is the squared error's."""
    tiny = tiny_reasoner(spread=0.0)
    out = tiny.model.nf_head.out
    found = []
    for log_sigma in (torch.zeros(tiny.D), torch.linspace(-1.5, 1.0, tiny.D)):
        with torch.no_grad():
            out.bias.zero_()
            out.bias[tiny.D :] = 4 * torch.atanh(log_sigma / 4)
            for block in tiny.model.flow.blocks:
                block.out.bias.zero_()
        found.append(gradients(tiny.model, losses(tiny, 1.0)["loss"])["nf_head.out.bias"])
    torch.testing.assert_close(found[0][: tiny.D], found[1][: tiny.D])


def test_the_spread_is_that_of_e_however_flow_and_head_share_it() -> None:
    tiny = tiny_reasoner()
    layout, e = joint_batch(tiny, PROBLEMS)
    mask = layout.mask
    block = tiny.model.flow.blocks[-1]
    assert isinstance(block, FlowBlock)
    log_sigma = torch.randn(*mask.shape, tiny.D)
    with torch.no_grad():
        terms = tiny.model.flow.by_number(e, mask)[1]
        block.out.bias[tiny.D :] += torch.linspace(0.2, 0.7, tiny.D)
        moved = tiny.model.flow.by_number(e, mask)[1]
    # What the flow stretches less, the head's sigma is smaller by.
    less = terms - moved
    assert (less[mask] > 0).all()
    torch.testing.assert_close(
        _spread(log_sigma - less, moved)[mask], _spread(log_sigma, terms)[mask]
    )


def test_the_spread_is_how_far_a_number_of_e_moves_with_its_noise() -> None:
    tiny = tiny_reasoner()
    layout, e = joint_batch(tiny, PROBLEMS[-1:])
    model, K = tiny.model, int(layout.mask.sum())
    with torch.no_grad():
        u, terms = model.flow.by_number(e, layout.mask)
        log_sigma = torch.linspace(-1, 0.5, K * tiny.D).view(1, K, tiny.D)
        spread = _spread(log_sigma, terms[:, :K])[0, -1]
        for d in range(tiny.D):
            moved = u.clone()
            moved[0, K - 1, d] += 0.1 * log_sigma[0, -1, d].exp()
            less = model.flow.inverse(moved, layout.mask) - model.flow.inverse(u, layout.mask)
            expected = torch.zeros_like(e)
            expected[0, K - 1, d] = 0.1 * spread[d]
            torch.testing.assert_close(less, expected, atol=1e-5, rtol=1e-3)


def test_the_weight_of_a_thought_knows_nothing_of_the_thought() -> None:
    """So that the weighted loss, too, is least at the true density of each thought."""
    tiny = tiny_reasoner()
    layout, e = joint_batch(tiny, PROBLEMS[-1:])
    model, K = tiny.model, int(layout.mask.sum())

    def spread(e: Tensor) -> Tensor:
        u, terms = model.flow.by_number(e, layout.mask)
        states = model.stream(layout, u).last_hidden_state
        return _spread(model.nf_head(states[0, layout.thought_at - 1])[1], terms)[0]

    before = spread(e)
    for k in range(K):
        other = e.clone()
        other[0, k] += 1.0
        same = torch.isclose(spread(other), before, rtol=1e-5).all(-1)
        assert same[: k + 1].all(), k
        assert not same[k + 1 : K].any(), k


@pytest.mark.parametrize("beta", [0.5, 1.0])
def test_weighted_training_ends_at_the_true_density(beta: float) -> None:
    """Known thoughts of two spreads: mean and sigma of both are found, whatever the weights."""
    tiny = tiny_reasoner(D=2, spread=0.0)
    model = tiny.model
    mask = torch.ones(256, 2, dtype=torch.bool)
    true = torch.tensor([[-1.0, -0.5], [0.5, 0.0]])
    generator = torch.Generator().manual_seed(0)
    mu, log_sigma = torch.zeros(2, 2, requires_grad=True), torch.zeros(2, 2, requires_grad=True)
    with torch.no_grad():
        for block in model.flow.blocks:
            block.out.bias.zero_()
    optimizer = torch.optim.Adam([mu, log_sigma], lr=0.05)
    for _ in range(300):
        e = 1.5 + true.exp() * torch.randn(256, 2, 2, generator=generator)
        u, terms = model.flow.by_number(e, mask)
        weight = _spread(log_sigma.expand_as(u), terms) ** (2 * beta)
        logp = torch.distributions.Normal(mu, log_sigma.exp()).log_prob(u) + terms
        optimizer.zero_grad()
        (-(weight * logp).mean()).backward()
        optimizer.step()
    assert (log_sigma - true).abs().max() < 0.1
    assert (mu - 1.5).abs().max() < 0.3


def test_a_training_with_beta_runs_and_reports_the_likelihood(tmp_path) -> None:
    config = load_config("tiny", None)
    steps = {"codec": 4, "warmup": 0, "joint": 3}
    sections = {n: getattr(config, n).model_copy(update={"steps": s}) for n, s in steps.items()}
    sections["joint"] = sections["joint"].model_copy(update={"nll_beta": 0.5})
    figures = train(config.model_copy(update=sections), ["codec", "joint"], tmp_path / "out")
    joint = figures["joint"]
    assert joint["loss"] != pytest.approx(joint["nll"] + joint["answer"] + joint["stop"])
    assert joint["nll"] > 0.5


def test_a_flow_that_is_not_learned_stays_the_identity(tmp_path) -> None:
    config = load_config("tiny", None)
    steps = {"codec": 4, "warmup": 2, "joint": 3}
    sections = {n: getattr(config, n).model_copy(update={"steps": s}) for n, s in steps.items()}
    for learned in (True, False):
        out = tmp_path / str(learned)
        flow = replace(config.model.flow, learned=learned)
        model = config.model.model_copy(update={"flow": flow})
        train(config.model_copy(update={**sections, "model": model}), list(steps), out)
        reasoner = load_reasoner(out / "joint" / "model")
        assert isinstance(reasoner, NFCoTReasoner)
        e, mask = reasoner.latents([p.steps for p in PROBLEMS[:3]])
        u = reasoner.from_latents(e, mask).u
        assert torch.equal(u[mask], e[mask]) != learned
        assert reasoner.model.nf_head.out.weight.abs().max() > 0
        said = {} if learned else {"learned": False}  # older models do not say so
        assert {k: v for k, v in reasoner.config["flow"].items() if k == "learned"} == said


def test_no_preset_weighs() -> None:
    for preset in PRESETS.glob("*.yaml"):
        config = load_config(preset.stem, None)
        assert config.joint.nll_beta == config.warmup.nll_beta == 0, preset


def weighed(tmp_path: Path, order: str, reasoner: str) -> None:
    data = yaml.safe_load((PRESETS / "tiny.yaml").read_text())
    data["joint"]["nll_beta"] = 0.5
    data["model"]["flow"] = {"order": order}
    (tmp_path / "train.yaml").write_text(yaml.safe_dump({**data, "reasoner": reasoner}))
    load_config(None, tmp_path / "train.yaml")


def test_only_a_causal_flow_has_the_density_that_is_weighed(tmp_path) -> None:
    weighed(tmp_path, "causal", "nfcot")
    weighed(tmp_path, "alternating", "regressed")
    with pytest.raises(UserError, match=r"nll_beta: .*alternating.* set it to 0, or order"):
        weighed(tmp_path, "alternating", "nfcot")
