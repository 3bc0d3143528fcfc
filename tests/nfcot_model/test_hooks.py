"""Hooks see what the model computes, change it where asked, and never lose anything in silence."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

from nfcot_model.errors import UserError
from nfcot_model.hooks import ThoughtBridge, capture, choose_sites, hooked, sites
from nfcot_model.model import at
from nfcot_model.reasoners import NFCoTReasoner, load_reasoner
from tests.tiny import BACKBONES, digits, tiny_reasoner

RESIDUAL = ["blocks.0.hook_in", "blocks.0.hook_out", "blocks.1.hook_out", "ln_final.hook_out"]
PROMPTS = [p.prompt for p in digits(5)]


@pytest.fixture(scope="module", params=list(BACKBONES))
def pair(request: pytest.FixtureRequest) -> tuple[NFCoTReasoner, ThoughtBridge]:
    reasoner = tiny_reasoner(request.param)
    return reasoner, hooked(reasoner.model)


@pytest.fixture(scope="module")
def plain() -> tuple[NFCoTReasoner, ThoughtBridge]:
    reasoner = tiny_reasoner()
    return reasoner, hooked(reasoner.model)


def under_hooks(reasoner: NFCoTReasoner, bridge: ThoughtBridge) -> NFCoTReasoner:
    return NFCoTReasoner(bridge.original_model, reasoner.tokenizer)


def test_the_bridge_thinks_and_scores_as_the_model_does(pair) -> None:
    reasoner, bridge = pair
    inside = under_hooks(reasoner, bridge)
    thoughts = reasoner.think(PROMPTS, tau=0.7, noise_seeds=range(5))
    again = inside.think(PROMPTS, tau=0.7, noise_seeds=range(5))
    torch.testing.assert_close(again.u, thoughts.u, atol=1e-4, rtol=0)
    assert torch.equal(again.mask, thoughts.mask)
    logp = inside.score(PROMPTS, thoughts, tau=0.7).logp
    torch.testing.assert_close(logp, reasoner.score(PROMPTS, thoughts, tau=0.7).logp)
    assert inside.decode(thoughts).texts == reasoner.decode(thoughts).texts


def test_weights_are_shared_and_the_original_can_still_be_saved(pair, tmp_path: Path) -> None:
    reasoner, bridge = pair
    inside = {id(p) for p in bridge.original_model.parameters()}
    assert {id(p) for p in reasoner.model.parameters()} <= inside
    reasoner.save(tmp_path)
    loaded = load_reasoner(tmp_path)
    for name, value in loaded.model.state_dict().items():
        assert torch.equal(value, reasoner.model.state_dict()[name]), name


def test_every_part_of_ours_has_a_site_with_its_shape(pair) -> None:
    _, bridge = pair
    table = {site.name: site for site in sites(bridge)}
    assert list(table) == list(dict.fromkeys(table)), "names are unique"
    assert set(table) == set(bridge.hook_dict)
    for name in ("mu", "sigma", "eps"):
        assert table[f"nf_head.{name}.hook_out"].axes == ("B", "K", "D")
    assert table["nf_head.hook_in"].axes == ("B", "K", "d_model")
    assert table["projection.hook_out"].axes == ("B", "K", "d_model")
    assert table["flow.logdet.hook_out"].axes == ("B",)
    assert table["flow.shallow.1.y.hook_out"].axes == ("B", "K", "D")
    for name in RESIDUAL:
        assert table[name].axes == ("B", "T", "d_model")
        assert table[name].per_thought
    assert not table["blocks.0.attn.hook_pattern"].per_thought


@pytest.mark.parametrize("backbone", ["gpt2", "qwen3"])
def test_sites_of_a_model_with_a_short_context_or_few_thoughts(backbone: str, monkeypatch) -> None:
    """Learned positions end early; sizes that coincide (16 heads, 16 thoughts) are told apart."""
    short = {"gpt2": {"n_positions": 64}, "qwen3": {"num_attention_heads": 16, "head_dim": 2}}
    monkeypatch.setitem(BACKBONES, backbone, {**BACKBONES[backbone], **short[backbone]})
    for max_thoughts in (1, 16):
        bridge = hooked(tiny_reasoner(backbone, max_thoughts=max_thoughts).model)
        table = {site.name: site for site in sites(bridge)}
        assert table["blocks.1.hook_out"].axes == ("B", "T", "d_model")
        assert table["blocks.1.hook_out"].row == (32,)
        assert table["nf_head.mu.hook_out"].axes == ("B", "K", "D")
        assert table["blocks.0.attn.hook_pattern"].axes[2:] == ("T", "T")
        heads = "16" if backbone == "qwen3" else "4"
        assert table["blocks.0.attn.hook_pattern"].axes[1] == heads
        assert not table["blocks.0.attn.hook_pattern"].per_thought


def test_what_can_be_read_by_thought_says_so_and_what_cannot_says_why(pair) -> None:
    """Every site that claims it can be captured is; every other one is refused with its reason."""
    reasoner, bridge = pair
    thoughts = reasoner.think(PROMPTS, tau=0.7, noise_seeds=range(5))
    layout = reasoner.layout(PROMPTS, thoughts.K.tolist(), side="right")
    table = sites(bridge)
    readable = [site.name for site in table if site.per_thought]
    got = capture(bridge, layout, thoughts.u, readable)
    for site in table:
        if site.per_thought:
            assert got[site.name].shape == (*thoughts.mask.shape, *(site.row or ()))
    refused = {site.refusal: site.name for site in table if not site.per_thought}
    for reason, name in refused.items():
        with pytest.raises(UserError) as stopped:
            capture(bridge, layout, thoughts.u, [name])
        assert reason in str(stopped.value)
    native = {site.name: site.same_as for site in table if site.same_as and site.per_thought}
    assert native["blocks.1.hook_resid_post"] == "blocks.1.hook_out"
    for alias, name in native.items():
        assert torch.equal(got[alias], got[name]), alias


def test_stars_stand_for_one_part_of_a_name(plain) -> None:
    _, bridge = plain
    chosen = choose_sites(bridge, ["ln_final.hook_out", "blocks.*.hook_out", "blocks.1.hook_out"])
    names = [site.name for site in chosen]
    assert names == ["ln_final.hook_out", "blocks.0.hook_out", "blocks.1.hook_out"]


def test_a_flow_read_back_to_front_is_not_read_by_thought() -> None:
    reasoner = tiny_reasoner(flow={"d_model": 16, "heads": 2, "order": "alternating"})
    table = {site.name: site for site in sites(hooked(reasoner.model))}
    assert table["flow.shallow.0.hook_in"].per_thought
    assert not table["flow.shallow.1.hook_in"].per_thought
    assert "back to front" in table["flow.shallow.1.x.hook_out"].refusal


def test_one_pass_sees_what_hooks_see_step_by_step(pair) -> None:
    reasoner, bridge = pair
    inside = under_hooks(reasoner, bridge)
    seen: dict[str, list[torch.Tensor]] = {name: [] for name in RESIDUAL}

    def keep(tensor: torch.Tensor, hook) -> None:
        seen[hook.name].append(tensor[:, -1].clone())

    with bridge.hooks(fwd_hooks=[(name, keep) for name in RESIDUAL]):
        thoughts = inside.think(PROMPTS, tau=0.7, noise_seeds=range(5))
    layout = reasoner.layout(PROMPTS, thoughts.K.tolist(), answers=["x"] * 5, side="right")
    once = capture(bridge, layout, thoughts.u, RESIDUAL)
    for name in RESIDUAL:
        steps = torch.stack(seen[name][1 : 1 + thoughts.mask.shape[1]], dim=1)
        assert once[name].shape == steps.shape
        mask = thoughts.mask[..., None]
        torch.testing.assert_close(once[name], steps * mask, atol=1e-5, rtol=1e-4)


def test_capture_gives_the_model_s_own_numbers(plain) -> None:
    reasoner, bridge = plain
    thoughts = reasoner.think(PROMPTS, tau=0.7, noise_seeds=range(5))
    scores = reasoner.score(PROMPTS, thoughts, tau=0.7, hidden=True)
    layout = reasoner.layout(PROMPTS, thoughts.K.tolist())
    names = ["nf_head.mu.hook_out", "nf_head.sigma.hook_out", "nf_head.eps.hook_out", *RESIDUAL]
    got = capture(bridge, layout, thoughts.u, names)
    mask = thoughts.mask[..., None]
    close = {"atol": 1e-5, "rtol": 1e-4}
    torch.testing.assert_close(got["nf_head.mu.hook_out"], scores.mu, **close)
    torch.testing.assert_close(
        got["nf_head.sigma.hook_out"], scores.log_sigma.exp() * mask, **close
    )
    torch.testing.assert_close(got["nf_head.eps.hook_out"], thoughts.eps, **close)
    assert scores.hidden is not None
    torch.testing.assert_close(got["blocks.0.hook_in"], scores.hidden[:, 0], **close)
    torch.testing.assert_close(got["ln_final.hook_out"], scores.hidden[:, -1], **close)


def test_edits_under_hooks_reach_the_thoughts(plain) -> None:
    reasoner, bridge = plain
    inside = under_hooks(reasoner, bridge)
    free = reasoner.think(PROMPTS, tau=0.7, noise_seeds=range(5))
    with bridge.hooks(fwd_hooks=[("nf_head.eps.hook_out", lambda t, hook: torch.zeros_like(t))]):
        mode = inside.think(PROMPTS, tau=0.7, noise_seeds=range(5))
    torch.testing.assert_close(mode.u, mode.mu)
    assert not mode.eps.any(), "the recorded noise is the one that was used"
    with bridge.hooks(fwd_hooks=[("nf_head.sigma.hook_out", lambda t, hook: t * 2)]):
        wide = inside.think(PROMPTS, tau=0.7, noise_seeds=range(5))
    first = (wide.u - wide.mu)[:, 0] / (free.u - free.mu)[:, 0]
    torch.testing.assert_close(first, torch.full_like(first, 2.0), atol=1e-3, rtol=1e-3)
    after = reasoner.think(PROMPTS, tau=0.7, noise_seeds=range(5))
    assert torch.equal(after.u, free.u), "hooks are gone with their context"


def test_a_patched_state_changes_only_what_comes_after(plain) -> None:
    reasoner, bridge = plain
    thoughts = reasoner.think(PROMPTS[:1], tau=0.7, noise_seeds=[0], max_thoughts=4)
    layout = reasoner.layout(PROMPTS[:1], thoughts.K.tolist())
    place = int(layout.thought_at[0, 0])

    def push(tensor: torch.Tensor, hook) -> torch.Tensor:
        changed = tensor.clone()
        changed[:, place] += 1.0
        return changed

    E = bridge.original_model.embed(layout, thoughts.u)
    with torch.no_grad():
        before = bridge(E)
        after = bridge.run_with_hooks(E, fwd_hooks=[("blocks.0.hook_out", push)])
    assert torch.equal(before[:, :place], after[:, :place])
    assert (before[:, place:] - after[:, place:]).abs().amax() > 1e-3


def embeddings(reasoner: NFCoTReasoner) -> torch.Tensor:
    thoughts = reasoner.think(PROMPTS[:2], tau=0.7, noise_seeds=[0, 1])
    layout = reasoner.layout(PROMPTS[:2], thoughts.K.tolist(), side="right")
    with torch.no_grad():
        return reasoner.model.embed(layout, thoughts.u)


@pytest.mark.parametrize(
    ("names", "said"),
    [
        (["blocks.0.hook_inn"], "did you mean blocks.0.hook_in"),
        ([], "no hooks asked for"),
        ("hook_embed", "did not fire"),
        (["blocks.0.hook_out", "nf_head.mu.hook_out"], "did not fire"),
    ],
)
def test_hooks_that_catch_nothing_are_errors(plain, names, said) -> None:
    reasoner, bridge = plain
    with pytest.raises(UserError, match=said):
        bridge.run_with_cache(embeddings(reasoner), names_filter=names)


def test_a_hook_that_fires_twice_is_an_error(plain) -> None:
    reasoner, bridge = plain
    E = embeddings(reasoner)
    block = bridge.original_model.backbone.base_model

    def twice(*args, **kwargs):
        block(*args, **kwargs)
        return original(*args, **kwargs)

    original = bridge.original_model.forward
    bridge.original_model.forward = lambda input_ids=None, inputs_embeds=None, **rest: twice(
        inputs_embeds=inputs_embeds
    )
    try:
        with pytest.raises(UserError, match="fired 2 times"):
            bridge.run_with_cache(E, names_filter=["blocks.0.hook_out"])
    finally:
        del bridge.original_model.forward


def test_sums_without_the_embedding_term_are_refused(plain) -> None:
    reasoner, bridge = plain
    _, cache = bridge.run_with_cache(embeddings(reasoner))
    with pytest.raises(UserError, match="embedding term"):
        cache.decompose_resid()
    ids = reasoner.layout(PROMPTS[:2], [0, 0], side="right").input_ids
    _, whole = bridge.run_with_cache(ids)
    total = whole.decompose_resid(layer=-1).sum(0)
    torch.testing.assert_close(total, whole["blocks.1.hook_out"], atol=1e-4, rtol=1e-4)


def test_ragged_caches_are_refused(plain) -> None:
    reasoner, bridge = plain
    E = embeddings(reasoner)
    _, past = bridge(E, return_type="logits_and_cache", use_cache=True)
    for call in (bridge, bridge.run_with_cache):
        with pytest.raises(UserError, match="ragged"):
            call(E[:, -1:], past_key_values=past, stop_at_layer=1)


def test_reading_leaves_a_key_value_cache_as_it_was(plain) -> None:
    """TransformerLens's own call appends to it, and a second reading would see other positions."""
    reasoner, bridge = plain
    E = embeddings(reasoner)
    for E_ in (E, E.clone().requires_grad_()):
        _, past = bridge(E_[:, :-1], return_type="logits_and_cache", use_cache=True)
        length = past.get_seq_length()
        read = {"past_key_values": past, "names_filter": ["blocks.1.hook_out"]}
        first, second = (bridge.run_with_cache(E_[:, -1:], **read)[1] for _ in range(2))
        assert past.get_seq_length() == length
        assert torch.equal(first["blocks.1.hook_out"], second["blocks.1.hook_out"])
        _, whole = bridge.run_with_cache(E_, names_filter=["blocks.1.hook_out"])
        torch.testing.assert_close(
            first["blocks.1.hook_out"], whole["blocks.1.hook_out"][:, -1:], atol=1e-5, rtol=1e-4
        )
    with pytest.raises(UserError, match="tuple, which a pass would change"):
        bridge.run_with_cache(E[:, -1:], **(read | {"past_key_values": ()}))


def test_a_cache_holds_the_names_asked_for_and_no_others(plain) -> None:
    reasoner, bridge = plain
    E = embeddings(reasoner)
    for names in ("blocks.0.hook_resid_post", ["blocks.0.hook_resid_post"]):
        _, cache = bridge.run_with_cache(E, names_filter=names)
        assert list(cache.keys()) == ["blocks.0.hook_resid_post"]
    _, cache = bridge.run_with_cache(E, names_filter=lambda name: name.endswith("resid_pre"))
    assert set(cache.keys()) == {"blocks.0.hook_resid_pre", "blocks.1.hook_resid_pre"}
    with pytest.raises(UserError, match="no hooks asked for"):
        bridge.run_with_cache(E, names_filter=lambda name: False)


@pytest.mark.parametrize(
    ("name", "said"), [("blocks.0.hook_inn", "does not exist"), ("blocks.0.hook_mlp_in", "Cannot")]
)
def test_edits_at_hooks_that_do_not_fire_are_errors(plain, name: str, said: str) -> None:
    reasoner, bridge = plain
    E = embeddings(reasoner)
    edit = [(name, lambda tensor, hook: tensor * 0)]
    with pytest.raises((UserError, ValueError), match=f"{said}|no hook is called"):
        bridge.run_with_hooks(E, fwd_hooks=edit)
    with pytest.raises((KeyError, ValueError), match=said), bridge.hooks(fwd_hooks=edit):
        bridge(E)


def test_cached_tensors_are_copies(plain) -> None:
    reasoner, bridge = plain
    E = embeddings(reasoner)
    _, cache = bridge.run_with_cache(E, names_filter=["blocks.0.hook_in"])
    kept = cache["blocks.0.hook_in"].clone()
    E.zero_()
    assert torch.equal(cache["blocks.0.hook_in"], kept)


def test_captured_tensors_are_copies(plain) -> None:
    reasoner, bridge = plain
    thoughts = reasoner.think(PROMPTS[:2], tau=0.7, noise_seeds=[0, 1])
    layout = reasoner.layout(PROMPTS[:2], thoughts.K.tolist())
    u = thoughts.u.clone()
    got = capture(bridge, layout, u, ["projection.hook_in", "flow.hook_out", "blocks.0.hook_in"])
    kept = {name: value.clone() for name, value in got.items()}
    for value in got.values():
        value += 1
    assert torch.equal(u, thoughts.u)
    u.zero_()
    again = capture(bridge, layout, thoughts.u, list(got))
    for name, value in again.items():
        assert torch.equal(value, kept[name])
        assert torch.equal(got[name], kept[name] + 1)


def test_capture_refuses_what_fires_twice(plain, monkeypatch) -> None:
    """As a looped model would: what it kept would be the last loop only."""
    reasoner, bridge = plain
    thoughts = reasoner.think(PROMPTS[:2], tau=0.7, noise_seeds=[0, 1])
    layout = reasoner.layout(PROMPTS[:2], thoughts.K.tolist())
    module = sys.modules[capture.__module__]
    once = module.walk

    def twice(*args, **kwargs) -> None:
        once(*args, **kwargs)
        once(*args, **kwargs)

    monkeypatch.setattr(module, "walk", twice)
    with pytest.raises(UserError, match=r"blocks\.0\.hook_out fired 2 times"):
        capture(bridge, layout, thoughts.u, ["blocks.0.hook_out"])


@pytest.mark.parametrize(
    ("names", "said"),
    [
        ([], "no hooks asked for"),
        (["nothing"], "no hook is called nothing"),
        (["blocks.0.attn.hook_pattern"], r"\[B, 4, T, T\] is not \[B, T, …\]"),
        (["blocks.0.attn.q_norm.hook_out"], r"\[B, 4, T, 8\] is not \[B, T, …\]"),
        (["hook_embed"], "placeholder where a thought stands: read blocks.0.hook_in"),
        (["blocks.0.attn.hook_hidden_states"], "does not fire"),
        (["blocks.0.hook_mlp_in"], "does not fire"),
        (["layers.*.out"], r"no hook that can be read by thought fits layers"),
        (["blocks.*.attn.hook_pattern"], "no hook that can be read by thought fits"),
        (["flow.logdet.hook_out"], "one value per trajectory"),
    ],
)
def test_capture_refuses_what_it_cannot_read_at_thoughts(plain, names, said) -> None:
    reasoner, bridge = plain
    thoughts = reasoner.think(PROMPTS, tau=0.7, noise_seeds=range(5))
    layout = reasoner.layout(PROMPTS, thoughts.K.tolist())
    with pytest.raises(UserError, match=said):
        capture(bridge, layout, thoughts.u, names)


def test_gradients_reach_the_thoughts(plain) -> None:
    reasoner, bridge = plain
    thoughts = reasoner.think(PROMPTS[:1], tau=0.7, noise_seeds=[0])
    layout = reasoner.layout(PROMPTS[:1], thoughts.K.tolist())
    u = thoughts.u.clone().requires_grad_()
    states = bridge.original_model.stream(layout, u).last_hidden_state
    at(states, layout.thought_at).square().sum().backward()
    assert u.grad is not None
    assert u.grad.abs().sum() > 0


@pytest.mark.parametrize(("heads", "kv_heads", "max_thoughts"), [(2, 2, 2), (2, 1, 1)])
def test_heads_are_not_taken_for_thoughts(heads: int, kv_heads: int, max_thoughts: int) -> None:
    size = {"num_attention_heads": heads, "num_key_value_heads": kv_heads}
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(BACKBONES, "qwen3", {**BACKBONES["qwen3"], **size})
        bridge = hooked(tiny_reasoner(max_thoughts=max_thoughts).model)
    table = {site.name: site for site in sites(bridge)}
    for name in ("q_norm.hook_out", "k_norm.hook_out", "hook_pattern", "hook_attn_scores"):
        assert not table[f"blocks.0.attn.{name}"].per_thought, name
    assert table["projection.hook_in"].axes == ("B", "K", "D")
    assert table["blocks.0.hook_out"].per_thought


def test_filters_and_edits_that_touch_nothing_are_errors() -> None:
    bridge = hooked(tiny_reasoner().model)
    E = torch.randn(1, 5, 32)
    for silent in (lambda name: name == "hook_embed", lambda name: name.startswith("nf_head")):
        with pytest.raises(UserError, match="names_filter: none of its"):
            bridge.run_with_cache(E, names_filter=silent)
    with pytest.raises(UserError, match="hook_embed did not fire"):
        bridge.run_with_cache(E, True, False, "hook_embed")

    def zero(tensor, hook):
        return torch.zeros_like(tensor)

    for name in ("hook_embed", "nf_head.eps.hook_out"):
        with pytest.raises(UserError, match="did not fire in this pass, so nothing was changed"):
            bridge.run_with_hooks(E, fwd_hooks=[(name, zero)])
    with pytest.raises(UserError, match="no hooks asked for"):
        bridge.run_with_hooks(E, fwd_hooks=[(lambda name: False, zero)])
    plain = bridge(E)
    same = bridge.run_with_hooks(E)
    torch.testing.assert_close(plain, same)
    changed = bridge.run_with_hooks(E, fwd_hooks=[("blocks.0.hook_out", zero)])
    assert not torch.allclose(plain, changed)
    by_filter = [(lambda name: name == "blocks.0.hook_out", zero)]
    torch.testing.assert_close(bridge.run_with_hooks(E, fwd_hooks=by_filter), changed)


def test_the_entry_point_is_our_adapter() -> None:
    from importlib.metadata import entry_points

    from nfcot_model.hooks.adapter import ARCHITECTURE, nfcot_adapter

    [point] = [
        p for p in entry_points(group="transformer_lens.architectures") if p.name == ARCHITECTURE
    ]
    assert point.load() is nfcot_adapter
    with pytest.raises(ValueError, match=r"hooked by nfcot_model\.hooks\.hooked"):
        nfcot_adapter(object())


def test_capture_refuses_what_does_not_fit_and_leaks_nothing() -> None:
    reasoner = tiny_reasoner()
    bridge = hooked(reasoner.model)
    layout = reasoner.layout([p.prompt for p in digits(2)], [1, 3], side="right")
    u = torch.randn(2, 3, reasoner.D)
    with pytest.raises(UserError, match="names: expected a list"):
        capture(bridge, layout, u, "blocks.0.hook_out")
    with pytest.raises(UserError, match="expected \\[B, K, D\\]"):
        capture(bridge, layout, u[:, :1], ["blocks.0.hook_out"])
    with pytest.raises(UserError, match="are 4 wide"):
        capture(bridge, layout, torch.randn(2, 3, 5), ["blocks.0.hook_out"])
    u[0, 1:] = torch.nan
    assert (
        not capture(bridge, layout, u, ["projection.hook_in"])["projection.hook_in"].isnan().any()
    )


def test_a_star_stands_for_no_second_names() -> None:
    bridge = hooked(tiny_reasoner().model)
    found = [site.name for site in choose_sites(bridge, ["blocks.0.hook_*"])]
    assert "blocks.0.hook_out" in found
    assert "blocks.0.hook_resid_post" not in found
    assert [s.name for s in choose_sites(bridge, ["blocks.0.hook_resid_post"])] == [
        "blocks.0.hook_resid_post"
    ]
