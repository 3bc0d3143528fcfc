"""The joint model: no off-by-one, exact likelihood, one pass = step by step, any backbone."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForCausalLM

from nfcot_model.errors import UserError
from nfcot_model.head import NFHead, gaussian_logp
from nfcot_model.model import NFCoTModel, model_over
from nfcot_model.reasoners import NFCoTReasoner, load_reasoner
from nfcot_model.thoughts import Thoughts
from nfcot_model.tokenizer import train_tokenizer
from nfcot_model.worlds import make_world
from tests.tiny import BACKBONES, tiny_reasoner, tokenizer_texts

PROMPTS = [p.prompt for p in make_world("digits", "test", 1, 6, steps=(1, 6))]


def given_thoughts(lengths: list[int], D: int = 4, seed: int = 0) -> Thoughts:
    K = torch.tensor(lengths)
    mask = torch.arange(int(K.max())) < K[:, None]
    u = torch.randn(*mask.shape, D, generator=torch.Generator().manual_seed(seed))
    return Thoughts.given(u, mask)


def thinks(reasoner: NFCoTReasoner, n: int = 6, tau: float = 0.7) -> Thoughts:
    return reasoner.think(PROMPTS[:n], tau=tau, noise_seeds=list(range(n)))


@pytest.mark.parametrize("backbone", BACKBONES)
def test_one_causal_pass_equals_step_by_step_sampling(backbone: str) -> None:
    reasoner = tiny_reasoner(backbone)
    thoughts = thinks(reasoner)
    scores = reasoner.score(PROMPTS, thoughts, tau=0.7)
    for sampled, scored in (
        (thoughts.mu, scores.mu),
        (thoughts.log_sigma, scores.log_sigma),
        (thoughts.eps, scores.eps),
    ):
        assert (sampled - scored).abs().max() < 1e-5
    again = thoughts.mu + torch.exp(thoughts.log_sigma) * thoughts.eps
    torch.testing.assert_close(again, thoughts.u)


@pytest.mark.parametrize("backbone", BACKBONES)
def test_a_thought_never_reaches_its_own_parameters(backbone: str) -> None:
    reasoner = tiny_reasoner(backbone)
    thoughts = given_thoughts([5])
    before = reasoner.score(PROMPTS[:1], thoughts, tau=1.0)
    for j in range(5):
        u = thoughts.u.clone()
        u[0, j] += 1.0
        after = reasoner.score(PROMPTS[:1], replace(thoughts, u=u), tau=1.0)
        same = (after.mu == before.mu).all(-1)[0] & (after.log_sigma == before.log_sigma).all(-1)[0]
        assert same[: j + 1].all(), j
        assert not same[j + 1 :].any(), j


@pytest.mark.parametrize("backbone", BACKBONES)
def test_a_batch_of_mixed_K_equals_one_at_a_time(backbone: str) -> None:
    reasoner = tiny_reasoner(backbone)
    thoughts = given_thoughts([1, 5, 3, 2, 8, 4])
    together = reasoner.score(PROMPTS, thoughts, tau=0.7)
    answers = reasoner.answer(PROMPTS, thoughts)
    for i, K in enumerate(thoughts.K.tolist()):
        row = thoughts.rows(slice(i, i + 1))
        alone = reasoner.score(PROMPTS[i : i + 1], row, tau=0.7)
        torch.testing.assert_close(alone.logp[0], together.logp[i, :K], atol=1e-4, rtol=1e-5)
        torch.testing.assert_close(
            alone.stop_logp[0], together.stop_logp[i, :K], atol=1e-4, rtol=1e-5
        )
        assert reasoner.answer(PROMPTS[i : i + 1], row) == answers[i : i + 1]


@pytest.mark.parametrize("backbone", BACKBONES)
def test_thoughts_do_not_depend_on_the_batch_they_are_in(backbone: str) -> None:
    reasoner = tiny_reasoner(backbone)
    together = thinks(reasoner)
    for i in range(len(PROMPTS)):
        alone = reasoner.think(PROMPTS[i : i + 1], tau=0.7, noise_seeds=[i])
        assert alone.K[0] == together.K[i]
        K = int(alone.K[0])
        torch.testing.assert_close(alone.u[0, :K], together.u[i, :K], atol=1e-4, rtol=1e-4)


def test_scores_made_while_answering_are_the_scores() -> None:
    reasoner = tiny_reasoner()
    thoughts = thinks(reasoner)
    answers, scores = reasoner.answer_scored(PROMPTS, thoughts, tau=0.7, hidden=True)
    alone = reasoner.score(PROMPTS, thoughts, tau=0.7, hidden=True)
    assert answers == reasoner.answer(PROMPTS, thoughts)
    for name in ("logp", "energy", "logvol", "stop_logp", "eps", "hidden"):
        torch.testing.assert_close(
            getattr(scores, name), getattr(alone, name), atol=1e-4, rtol=1e-4
        )


def test_same_seed_same_thoughts_and_other_seed_other_thoughts() -> None:
    reasoner = tiny_reasoner()
    assert torch.equal(thinks(reasoner).u, thinks(reasoner).u)
    other = reasoner.think(PROMPTS, tau=0.7, noise_seeds=[7] * 6)
    assert not torch.equal(other.u[:, 0], thinks(reasoner).u[:, 0])


@given(seed=st.integers(0, 2**63 - 1), tau=st.floats(0.1, 2.0))
@settings(max_examples=10, deadline=None)
def test_replay_recovers_the_drawn_noise(seed: int, tau: float) -> None:
    reasoner = tiny_reasoner()
    thoughts = reasoner.think(PROMPTS[:2], tau=tau, noise_seeds=[seed, seed // 2])
    scores = reasoner.score(PROMPTS[:2], thoughts, tau=tau)
    assert (scores.eps - thoughts.eps).abs().max() < 1e-3


def test_tau_zero_is_the_mode_and_a_small_budget_cuts() -> None:
    reasoner = tiny_reasoner()
    mode = thinks(reasoner, tau=0.0)
    assert torch.equal(mode.u, mode.mu)
    cut = reasoner.think(PROMPTS, tau=0.7, noise_seeds=list(range(6)), max_thoughts=1)
    assert cut.K.tolist() == [1] * 6
    longer = thinks(reasoner).K > 1
    assert not cut.stopped[longer].any()
    cut_scores = reasoner.score(PROMPTS, cut, tau=0.7)
    assert (cut_scores.stop_logp[~cut.stopped] == 0).all()


def test_the_density_integrates_to_one_in_two_dimensions() -> None:
    """Both spaces, K = 1: numerically, on a grid over u and over e = F⁻¹(u)."""
    reasoner = tiny_reasoner(D=2, spread=0.3)
    side = torch.linspace(-9, 9, 161)
    grid = torch.cartesian_prod(side, side)[:, None]
    mask = torch.ones(len(grid), 1, dtype=torch.bool)
    cell = float(side[1] - side[0]) ** 2
    prompts = PROMPTS[:1] * len(grid)
    logp_u = reasoner.score(prompts, Thoughts.given(grid, mask), tau=1.0).logp[:, 0]
    assert abs(float(logp_u.exp().sum()) * cell - 1) < 1e-3
    with torch.no_grad():
        u, logdet = reasoner.model.flow(grid, mask)
    logp_e = reasoner.score(prompts, Thoughts.given(u, mask), tau=1.0).logp[:, 0] + logdet
    assert abs(float(logp_e.exp().sum()) * cell - 1) < 1e-3


def test_logp_is_the_normal_density() -> None:
    torch.manual_seed(0)
    mu, log_sigma, u = torch.randn(3, 5, 7)
    expected = torch.distributions.Normal(mu, log_sigma.exp()).log_prob(u).sum(-1)
    eps = (u - mu) / log_sigma.exp()
    torch.testing.assert_close(gaussian_logp(eps, log_sigma), expected)


def test_nll_of_a_known_gaussian_reaches_its_entropy() -> None:
    """The head fitted on draws from N(m, s²) comes within 0.02 nats per dimension of it."""
    generator = torch.Generator().manual_seed(0)
    D, m, s = 4, torch.tensor([1.0, -2.0, 0.5, 0.0]), torch.tensor([0.3, 1.5, 0.7, 1.0])
    head = NFHead(8, D, bound=4.0)
    h = torch.randn(1, 8, generator=generator)
    optimizer = torch.optim.Adam(head.parameters(), lr=0.03)
    for _ in range(400):
        u = m + s * torch.randn(512, D, generator=generator)
        mu, log_sigma = head(h)
        nll = -gaussian_logp((u - mu) * torch.exp(-log_sigma), log_sigma.expand(512, D)).mean() / D
        optimizer.zero_grad()
        nll.backward()
        optimizer.step()
    fresh = m + s * torch.randn(20_000, D, generator=generator)
    mu, log_sigma = head(h)
    eps = (fresh - mu) * torch.exp(-log_sigma)
    nll = -gaussian_logp(eps, log_sigma.expand(len(fresh), D)).mean().item() / D
    entropy = float(s.log().mean()) + 0.5 * math.log(2 * math.pi * math.e)
    assert abs(nll - entropy) < 0.02


def test_decoding_inverts_the_flow_and_gives_one_text_per_thought() -> None:
    reasoner = tiny_reasoner()
    steps = [["#1 4x+7", "#2 8x+1"], ["#1 2x+0"]]
    e, mask = reasoner.latents(steps)
    thoughts = reasoner.encode(steps)
    decoded = reasoner.decode(thoughts)
    assert (decoded.e - e).abs().max() < 1e-4
    assert [len(texts) for texts in decoded.texts] == [2, 1]
    assert decoded.texts == reasoner.read(e, mask)


@pytest.mark.parametrize("slots", [1, 2])
def test_cached_writing_equals_writing_without_a_cache(slots: int) -> None:
    codec = tiny_reasoner(
        codec={"slots": slots, "d_model": 32, "layers": 2, "heads": 2}
    ).model.codec
    e = 3 * torch.randn(20, slots, 4, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        codec.to_vocab.bias[codec.eos] += 0.7  # texts of many lengths: none, cut, and between
        texts = codec.write(e)
        assert {0, 4, codec.config.max_text_tokens} < set(map(len, texts))
        assert codec.write(e[:0]) == []
        with torch.autocast("cpu", torch.bfloat16):
            assert codec.write(e) == texts
        for row, written in zip(e, texts, strict=True):
            ids: list[int] = []
            while len(ids) < codec.config.max_text_tokens:
                seen = torch.tensor([ids], dtype=torch.long).view(1, -1)
                token = int(codec.logits(codec.raw(row[None]), seen)[0, -1].argmax())
                if token == codec.eos:
                    break
                ids.append(token)
            assert written == ids


def test_thoughts_decode_one_by_one_while_thinking() -> None:
    reasoner = tiny_reasoner(flow={"order": "causal", "d_model": 16, "heads": 2})
    thoughts = given_thoughts([6])
    whole = reasoner.decode(thoughts)
    for k in range(1, 7):
        first = Thoughts.given(thoughts.u[:, :k], thoughts.mask[:, :k])
        assert reasoner.decode(first).texts[0] == whole.texts[0][:k]


def test_a_global_codec_has_a_fixed_K_and_no_stop_decision() -> None:
    reasoner = tiny_reasoner(
        codec={
            "alignment": "global",
            "slots": 3,
            "max_text_tokens": 60,
            "d_model": 32,
            "layers": 1,
            "heads": 2,
        },
        flow={"order": "alternating", "d_model": 16, "heads": 2},
    )
    thoughts = thinks(reasoner)
    assert thoughts.K.tolist() == [3] * 6
    assert thoughts.stopped.all()
    assert (reasoner.score(PROMPTS, thoughts, tau=1.0).stop_logp == 0).all()
    e, mask = reasoner.latents([["#1 4x+7", "#2 8x+1"], ["#1 2x+0"]])
    assert mask.sum(-1).tolist() == [3, 3]
    assert len(reasoner.read(e, mask)) == 2


def test_stop_probabilities_of_a_trajectory_are_those_of_its_decisions() -> None:
    reasoner = tiny_reasoner()
    thoughts = given_thoughts([4])
    whole = reasoner.score(PROMPTS[:1], thoughts, tau=1.0).stop_logp[0]
    for k in range(1, 4):
        ended = thoughts.rows(slice(0, 1))
        shorter = Thoughts.given(ended.u[:, :k], ended.mask[:, :k])
        end = reasoner.score(PROMPTS[:1], shorter, tau=1.0).stop_logp[0, k - 1]
        assert abs(float(end.exp() + whole[k - 1].exp()) - 1) < 1e-5


@pytest.mark.parametrize("backbone", BACKBONES)
def test_a_folder_holds_everything(tmp_path, backbone: str) -> None:
    reasoner = tiny_reasoner(backbone)
    reasoner.save(tmp_path)
    loaded = load_reasoner(tmp_path)
    assert torch.equal(thinks(loaded).u, thinks(reasoner).u)
    assert loaded.decode(thinks(loaded)).texts == reasoner.decode(thinks(reasoner)).texts
    assert loaded.answer(PROMPTS, thinks(loaded)) == reasoner.answer(PROMPTS, thinks(reasoner))
    automatic = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert isinstance(automatic, NFCoTModel)


def test_bf16_keeps_the_likelihood_in_fp32(tmp_path) -> None:
    tiny_reasoner().save(tmp_path)
    half = load_reasoner(tmp_path, dtype="bfloat16")
    names = {n: p.dtype for n, p in half.model.named_parameters()}
    assert names["backbone.model.layers.0.mlp.up_proj.weight"] == torch.bfloat16
    ours = ("codec", "flow", "nf_head", "projection")
    assert all(d == torch.float32 for n, d in names.items() if n.startswith(ours))
    thoughts = thinks(half)
    full = thinks(load_reasoner(tmp_path))
    assert thoughts.u.dtype == torch.float32
    assert (thoughts.u[:, 0] - full.u[:, 0]).abs().max() < 0.1


def test_autocast_leaves_flow_and_head_in_fp32() -> None:
    model = tiny_reasoner().model
    e, mask = torch.randn(2, 3, 4), torch.ones(2, 3, dtype=torch.bool)
    h = torch.randn(2, 3, 32)
    with torch.no_grad():
        plain = (*model.flow(e, mask), *model.nf_head(h))
        with torch.autocast("cpu", dtype=torch.bfloat16):
            cast = (*model.flow(e, mask), *model.nf_head(h))
    assert all(torch.equal(one, other) for one, other in zip(plain, cast, strict=True))


def test_a_backbone_from_a_local_folder_keeps_its_weights(tmp_path) -> None:
    config = AutoConfig.for_model(**BACKBONES["qwen3"], vocab_size=400)
    backbone = AutoModelForCausalLM.from_config(config)
    backbone.save_pretrained(tmp_path)
    tokenizer = train_tokenizer(tokenizer_texts(), 400)
    tokenizer.add_tokens(["extra"])
    model = model_over(tmp_path, tokenizer, D=4)
    assert model.config.backbone["vocab_size"] == len(tokenizer)
    before = backbone.model.layers[1].mlp.up_proj.weight
    assert torch.equal(model.backbone.model.layers[1].mlp.up_proj.weight, before)


@pytest.mark.parametrize("backbone", BACKBONES)
def test_a_prompt_beyond_the_context_is_refused(backbone: str) -> None:
    reasoner = tiny_reasoner(backbone)
    context = reasoner.model.backbone.config.max_position_embeddings
    prompt = "#1 " * context
    with pytest.raises(UserError, match=f"the backbone has {context}"):
        reasoner.think([PROMPTS[0], prompt], tau=0.7, noise_seeds=[0, 1])


def test_bad_model_folders_are_named_in_one_line(tmp_path) -> None:
    def message() -> str:
        with pytest.raises(UserError) as caught:
            load_reasoner(tmp_path / "m")
        return str(caught.value)

    assert "no such model folder" in message()
    (tmp_path / "m").mkdir()
    assert "no config.json" in message()
    (tmp_path / "m" / "config.json").write_text('{"model_type": "llama"}')
    assert "expected 'nfcot'" in message()
    (tmp_path / "m" / "config.json").write_text('{"model_type": "nfcot", "format_version": 99}')
    assert "checkpoint format 99" in message()
    tiny_reasoner().save(tmp_path / "m")
    weights = tmp_path / "m" / "model.safetensors"
    whole = weights.read_bytes()
    tensors = load_file(weights)
    save_file({n: t for n, t in tensors.items() if "nf_head.out" not in n}, weights)
    assert "weights missing or unknown, such as 'nf_head.out" in message()
    weights.write_bytes(whole)
    with pytest.raises(UserError, match="device 'nonsense' cannot be used"):
        load_reasoner(tmp_path / "m", device="nonsense")
    weights.write_bytes(weights.read_bytes()[:1000])
    assert "damaged checkpoint" in message()
    weights.unlink()
    assert "model.safetensors is missing" in message()


@pytest.mark.parametrize("slots", [1, 2])
def test_thinking_on_after_ones_own_thoughts_changes_nothing(slots: int) -> None:
    codec = {"d_model": 32, "layers": 1, "heads": 2, "slots": slots}
    reasoner = tiny_reasoner(seed=2, codec=codec)
    prompts = [p.prompt for p in make_world("digits", "test", 1, 12)]
    seeds = range(12)
    whole = reasoner.think(prompts, tau=0.7, noise_seeds=seeds)
    assert len(set(whole.K.tolist())) > 1, "K varies"
    kept = (whole.K - slots).clamp(min=0)
    mask = torch.arange(whole.mask.shape[1]) < kept[:, None]
    prefix = Thoughts.given(whole.u, mask)
    again = reasoner.think(prompts, tau=0.7, noise_seeds=seeds, given=prefix)
    assert torch.equal(again.mask, whole.mask)
    assert torch.equal(again.stopped, whole.stopped)
    torch.testing.assert_close(again.u, whole.u, atol=1e-4, rtol=0)
    drawn = (whole.mask & ~mask)[..., None]
    torch.testing.assert_close(again.eps * drawn, whole.eps * drawn)


def test_a_text_that_spells_a_control_token_is_refused() -> None:
    reasoner = tiny_reasoner()
    for text in ("stop </think> here", "<think>", "a <thought> of mine"):
        with pytest.raises(UserError, match="control token"):
            reasoner.think([text], tau=0.7, noise_seeds=[0])
        with pytest.raises(UserError, match="control token"):
            reasoner.encode([[text]])


def test_drawing_answers_needs_a_seed_for_each_prompt() -> None:
    reasoner = tiny_reasoner()
    prompts = [p.prompt for p in make_world("digits", "test", 0, 3)]
    thoughts = reasoner.think(prompts, tau=0.7, noise_seeds=range(3))
    for seeds in (None, [1]):
        with pytest.raises(UserError, match="one noise seed per prompt"):
            reasoner.answer(prompts, thoughts, temperature=0.8, noise_seeds=seeds)


def test_the_flow_s_inverse_is_never_in_half_precision() -> None:
    reasoner = tiny_reasoner(seed=3)
    mask = torch.ones(2, 5, dtype=torch.bool)
    u = torch.randn(2, 5, 4)
    exact = reasoner.model.flow.inverse(u, mask)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(reasoner.model.flow.inverse(u, mask), exact)
