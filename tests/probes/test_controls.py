"""Are control states what they say they are, aligned with the run, and never another run's?"""

from __future__ import annotations

import errno
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.feature_extraction.text import CountVectorizer

from nfcot_model.errors import UserError
from nfcot_model.hooks.recording import plan_activations
from nfcot_model.hooks.recording import record as record_hooks
from nfcot_model.reasoners import NFCoTReasoner, load_reasoner
from nfcot_model.traces import Run, collect, read_run
from nfcot_model.traces.activations import write_activations
from nfcot_model.traces.writer import writing
from probes.controls import (
    LENGTHS,
    control_states,
    count_words,
    decoded_texts,
    length_features,
    prompt_texts,
    read_control,
)
from probes.controls import states as states_module
from probes.controls.states import PROMPT, prompt_states
from probes.controls.text import WORD
from probes.controls.untrained import hook_alike, think_alike, untrained
from tests.killed_trace import Unchecked
from tests.synthetic_run import synthetic_run
from tests.tiny import BACKBONES, brief_reasoner, digits, tiny_reasoner

LAYERED = (*PROMPT, "prompt_h")
UNTRAINED = ("untrained_u", "untrained_mu", "untrained_e", "untrained_h")
GLOBAL = {"alignment": "global", "slots": 3, "d_model": 16, "layers": 1, "heads": 2}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    brief_reasoner().save(folder)
    return folder


@pytest.fixture(scope="module")
def reasoner(model: Path) -> NFCoTReasoner:
    return load_reasoner(model)


@pytest.fixture(scope="module")
def traced(model: Path, reasoner: NFCoTReasoner, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two shards, a prompt's samples on both sides of their border."""
    path = tmp_path_factory.mktemp("runs") / "traced"
    record(reasoner, path, model_path=model)
    return path


def record(reasoner: NFCoTReasoner, path: Path, **settings: object) -> Run:
    chosen = {"activations": "all", "samples": 3, "seed": 4} | settings
    collect(reasoner, digits(24), path, sandbox=Unchecked(), **chosen)  # type: ignore[arg-type]
    return read_run(path)


@pytest.fixture
def run(traced: Path, tmp_path: Path) -> Run:
    shutil.copytree(traced, tmp_path / "run")
    return read_run(tmp_path / "run")


def files(run: Run) -> dict[str, bytes]:
    found = sorted((run.path / "derived" / "controls").glob("*/*.safetensors"))
    return {str(file.relative_to(run.path)): file.read_bytes() for file in found}


# --- the untrained model ---


@pytest.mark.parametrize("codec", [{}, {"codec": GLOBAL}], ids=["own K", "fixed K"])
@pytest.mark.parametrize("activations", ["all", "thoughts", "none"])
def test_with_the_trained_weights_in_place_it_is_the_runs_own_computation(
    codec: dict, activations: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reasoner = brief_reasoner(**codec)
    run = record(reasoner, tmp_path / "run", activations=activations)

    def trained(reasoner: NFCoTReasoner) -> NFCoTReasoner:
        fresh = untrained(reasoner)
        fresh.model.load_state_dict(reasoner.model.state_dict())
        return fresh

    monkeypatch.setattr(states_module, "untrained", trained)
    found = control_states(run, reasoner)
    prompt, names = (LAYERED, UNTRAINED) if activations != "none" else (PROMPT, UNTRAINED[:3])
    assert found.available == (*prompt, *names)
    for name in ("u", "mu", "e"):
        again = read_control(run, f"untrained_{name}")
        np.testing.assert_allclose(again, run.tensor(name), atol=1e-4, rtol=1e-4)
    if activations == "none":
        assert "--activations all" in found.unavailable["untrained_h"]
        with pytest.raises(UserError, match="has none of it"):
            read_control(run, "untrained_h", 0)
        return
    h = run.tensor("h")
    layers = range(h.shape[1]) if activations == "all" else [-1]
    for i, layer in enumerate(layers):
        again = read_control(run, "untrained_h", layer)
        np.testing.assert_allclose(again, h[:, i], atol=1e-4, rtol=1e-4)
    np.testing.assert_array_equal(again, read_control(run, "untrained_h", -1))


def test_a_fresh_model_has_the_noise_for_thoughts_and_states_of_its_own(
    run: Run, reasoner: NFCoTReasoner
) -> None:
    control_states(run, reasoner)
    eps = run.tensor("eps")
    assert not read_control(run, "untrained_mu").any()
    np.testing.assert_array_equal(read_control(run, "untrained_u"), eps)
    np.testing.assert_allclose(read_control(run, "untrained_e"), eps, atol=1e-6)
    states, h = read_control(run, "untrained_h", -1), run.tensor("h")[:, -1]
    assert abs(np.corrcoef(states.ravel(), h.ravel())[0, 1]) < 0.2
    assert np.isfinite(states).all()
    assert states.std(0).min() > 0, "they depend on prompt and noise"
    fresh = untrained(reasoner)
    seeds = run.traces["seed"].tolist()
    own = fresh.think(run.traces["prompt"].tolist(), tau=0.7, noise_seeds=seeds, max_thoughts=5)
    assert own.K.tolist() != run.traces["K"].tolist(), "the run's K is imposed"


def test_a_hook_of_the_untrained_model_is_its_own(run: Run, reasoner: NFCoTReasoner) -> None:
    """The state after the first block, by hook and as `h`; and of the run's own model, its own."""
    hook = "blocks.0.hook_out"
    record_hooks(plan_activations(run, reasoner, [hook]))
    run = read_run(run.path)
    found = control_states(run, reasoner, hooks=[hook])
    assert found.available[-1] == f"untrained_{hook}"
    told = read_control(run, f"untrained_{hook}")
    np.testing.assert_allclose(told, read_control(run, "untrained_h", 1), atol=1e-5)
    assert np.abs(told - run.activation(hook)).max() > 0.1
    for shard, part in run.traces.groupby("shard", sort=False):
        own = hook_alike(reasoner, hook, run, str(shard), part)[hook]
        rows = run.thoughts["trace_id"].isin(part["trace_id"]).to_numpy()
        np.testing.assert_allclose(own, run.activation(hook)[rows], atol=1e-4)
    with pytest.raises(UserError, match="has none of it"):
        read_control(run, "untrained_blocks.1.hook_out")
    assert control_states(run, hooks=[hook]).made == 0


def test_fresh_weights_follow_from_the_seed_and_leave_the_random_state_alone(
    reasoner: NFCoTReasoner,
) -> None:
    before = torch.get_rng_state()
    first, again, other = (untrained(reasoner, seed).model for seed in (0, 0, 1))
    assert torch.equal(before, torch.get_rng_state())
    weights = [torch.cat([p.flatten() for p in m.parameters()]) for m in (first, again, other)]
    trained = torch.cat([p.flatten() for p in reasoner.model.parameters()])
    assert torch.equal(weights[0], weights[1])
    for different in (weights[2], trained):
        assert (weights[0] != different).float().mean() > 0.5
    assert not first.codec.latent_mean.any()
    assert (first.codec.latent_std == 1).all()


def test_the_backbone_keeps_its_precision(model: Path, tmp_path: Path) -> None:
    half = load_reasoner(model, dtype="bfloat16")
    run = record(half, tmp_path / "half", model_path=model)
    assert untrained(half).config == half.config
    assert len(control_states(run).available) == 7
    prompts, K = (run.traces[name].tolist() for name in ("prompt", "K"))
    own = think_alike(half, prompts, K, run.tensor("eps"), 3)
    for name, stored in (("u", run.tensor("u")), ("h.1", run.tensor("h")[:, 1])):
        assert np.corrcoef(own[name].ravel(), stored.ravel())[0, 1] > 0.99, "to eight bits"


def test_traces_without_thoughts_have_no_rows(reasoner: NFCoTReasoner) -> None:
    prompts = [problem.prompt for problem in digits(3)]
    eps = np.ones((2, reasoner.D), dtype=np.float32)
    found = think_alike(reasoner, prompts, [0, 2, 0], eps, 3)
    alone = think_alike(reasoner, prompts[1:2], [2], eps, 3)
    for name, value in found.items():
        np.testing.assert_allclose(value, alone[name], atol=1e-4)
    nothing = think_alike(reasoner, prompts, [0, 0, 0], eps[:0], 3)
    assert {name: value.shape for name, value in nothing.items()} == {
        **dict.fromkeys(("u", "mu", "e"), (0, reasoner.D)),
        **dict.fromkeys(("h.0", "h.1", "h.2"), (0, 32)),
    }


# --- the prompt ---


@pytest.mark.parametrize("backbone", list(BACKBONES))
def test_prompt_states_are_those_of_an_independent_pass(backbone: str) -> None:
    reasoner = tiny_reasoner(backbone)
    prompts = [problem.prompt for problem in digits(5)]
    prompts = [*prompts, prompts[0]]
    found = prompt_states(reasoner, prompts, layers=2)
    embed = reasoner.model.backbone.get_input_embeddings()
    for i, prompt in enumerate(prompts):
        ids = reasoner.tokenizer(prompt)["input_ids"]
        with torch.no_grad():
            out = reasoner.model.backbone(
                torch.tensor([[*ids, reasoner.model.ids.think]]), output_hidden_states=True
            )
        for name, wanted in (
            ("prompt_state", out.hidden_states[-1][0, -1]),
            ("prompt_embedding", embed(torch.tensor(ids)).mean(0)),
            ("prompt_h.0", out.hidden_states[-2][0, -1]),
            ("prompt_h.1", out.hidden_states[-1][0, -1]),
        ):
            np.testing.assert_allclose(
                found[name][i], wanted.detach().numpy(), atol=1e-4, rtol=1e-4
            )


def test_the_first_mean_is_read_from_the_prompts_state(run: Run, reasoner: NFCoTReasoner) -> None:
    control_states(run, reasoner)
    state = read_control(run, "prompt_state")
    assert state.shape == read_control(run, "prompt_embedding").shape == (len(run.traces), 32)
    with torch.no_grad():
        mu, _ = reasoner.model.nf_head(torch.from_numpy(state))
    first = np.flatnonzero(run.thoughts["k"] == 0)
    np.testing.assert_allclose(mu, run.tensor("mu")[first], atol=1e-4, rtol=1e-4)


# --- kept beside the run ---


def test_computed_once_and_then_read_without_the_model(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[int] = []
    first = control_states(run, progress=seen.append)
    assert (first.shards, first.made, sum(seen)) == (4, 4, 2 * len(run.traces))
    assert first.available == (*LAYERED, *UNTRAINED)
    assert list(first.unavailable) == ["untrained_eps"]
    whole = files(run)
    monkeypatch.setattr(states_module, "model_of", None)
    seen.clear()
    again = control_states(run, progress=seen.append)
    assert again == replace(first, made=0)
    assert sum(seen) == 2 * len(run.traces)
    assert files(run) == whole


def flipped(data: bytes, at: int) -> bytes:
    changed = bytearray(data)
    changed[at] ^= 1
    return bytes(changed)


def test_damage_is_refused_and_made_again(run: Run, reasoner: NFCoTReasoner) -> None:
    control_states(run, reasoner)
    whole = files(run)
    for first, second in zip(list(whole)[::2], list(whole)[1::2], strict=True):
        path = run.path / first
        for spoiled in (None, b"", whole[first][:-5], flipped(whole[first], -7), whole[second]):
            path.unlink()
            if spoiled is not None:
                path.write_bytes(spoiled)
            with pytest.raises(UserError, match=rf"cannot be read: .*{path.name}"):
                [read_control(run, n, 2 if n.endswith("_h") else None) for n in all_names(run)]
            assert control_states(run, reasoner).made == 1
            assert files(run) == whole


def all_names(run: Run) -> tuple[str, ...]:
    return (*LAYERED, *UNTRAINED)


def test_states_of_another_checkpoint_or_run_are_never_read(
    run: Run, reasoner: NFCoTReasoner, tmp_path: Path
) -> None:
    """Their files, under the names that this run's would have."""
    control_states(run, reasoner)
    whole = files(run)
    other_model = Run(
        run.path, run.manifest | {"checkpoint_hash": "another"}, run.traces, run.thoughts
    )
    elsewhere = Run(run.path, run.manifest | {"hash": "another"}, run.traces, run.thoughts)
    prompts = run.traces.copy()
    prompts.loc[3, "prompt"] += " now"
    edited = Run(run.path, run.manifest, prompts, run.thoughts)
    for other in (other_model, elsewhere, edited):
        for one in states_module._stored(other):
            mine = next(s for s in states_module._stored(run) if s.names == one.names)
            if one.target.folder != mine.target.folder:
                shutil.copytree(mine.target.folder, one.target.folder)
        for name in PROMPT:
            with pytest.raises(UserError, match="cannot be read"):
                read_control(other, name)
    assert control_states(other_model).made == 0, "its model cannot be found"
    assert control_states(edited, reasoner).made == 2
    assert control_states(run, reasoner).made == 2
    assert {name: files(run)[name] for name in whole} == whole


def test_noise_that_was_exchanged_is_thought_about_again(
    run: Run, reasoner: NFCoTReasoner, monkeypatch: pytest.MonkeyPatch
) -> None:
    control_states(run, reasoner)
    eps = run.shard_tensor("eps", "000000") + np.float32(0.5)
    read = Run.shard_tensor
    monkeypatch.setattr(
        Run,
        "shard_tensor",
        lambda run, name, shard: eps if shard == "000000" else read(run, name, shard),
    )
    with pytest.raises(UserError, match=r"000000\.safetensors"):
        read_control(run, "untrained_u")
    control_states(run, reasoner)
    np.testing.assert_array_equal(read_control(run, "untrained_u")[: len(eps)], eps)


def test_killed_half_way_it_goes_on(
    run: Run, reasoner: NFCoTReasoner, monkeypatch: pytest.MonkeyPatch
) -> None:
    control_states(run, reasoner)
    whole = files(run)
    for stop in range(4):
        shutil.rmtree(run.path / "derived")
        written: list[Path] = []

        def killed(file: Path, *rest: object, stop: int = stop, written: list = written) -> None:
            if len(written) == stop:
                (file.parent / f".{file.name}.0123abcd.tmp").write_bytes(b"half")
                raise KeyboardInterrupt
            write_activations(file, *rest)  # type: ignore[arg-type]
            written.append(file)

        with monkeypatch.context() as patched:
            patched.setattr("probes.controls.cache.write_activations", killed)
            with pytest.raises(KeyboardInterrupt):
                control_states(run, reasoner)
        assert list(files(run).values()) == list(
            {k: v for k, v in whole.items() if run.path / k in written}.values()
        )
        with pytest.raises(UserError, match="cannot be read"):
            read_control(run, "untrained_u")
        assert control_states(run, reasoner).made == 4 - stop
        assert files(run) == whole
        assert not list((run.path / "derived").rglob(".*.tmp"))


# --- unavailable ---


def test_without_its_model_only_these_controls_are_missing(
    run: Run, model: Path, tmp_path: Path
) -> None:
    other = tmp_path / "other"
    brief_reasoner(seed=5).save(other)
    for path, said in ((tmp_path / "gone", "cannot be loaded"), (other, "is checkpoint")):
        lost = Run(run.path, run.manifest | {"model_path": str(path)}, run.traces, run.thoughts)
        found = control_states(lost)
        assert found.available == ()
        assert set(found.unavailable) == {*LAYERED, *UNTRAINED, "untrained_eps"}
        assert said in found.unavailable["prompt_state"]
        assert not (run.path / "derived").exists()
    control_states(run)
    lost = Run(run.path, run.manifest | {"model_path": "gone"}, run.traces, run.thoughts)
    assert control_states(lost).available == (*LAYERED, *UNTRAINED)


def test_a_run_of_another_kind_of_reasoner_has_none(tmp_path: Path) -> None:
    run = synthetic_run(tmp_path / "run", n=5, manifest={"reasoner": "loops"})
    found = control_states(run)
    assert found.available == ()
    assert "'loops'" in found.unavailable["prompt_state"]


def test_another_model_is_refused(run: Run, model: Path) -> None:
    for other, said in (
        (brief_reasoner(seed=5), "checkpoint_hash is"),
        (load_reasoner(model, dtype="bfloat16"), "dtype is"),
    ):
        with pytest.raises(UserError, match=said):
            control_states(run, other)
    assert not (run.path / "derived").exists()


def test_a_full_disk_or_another_process_leaves_the_control_out(
    run: Run, reasoner: NFCoTReasoner, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr("probes.controls.cache.write_activations", full)
        found = control_states(run, reasoner)
    assert found.available == ()
    assert "No space left" in found.unavailable["untrained_h"]
    busy = states_module._stored(run)[1].target.folder
    with writing(busy):
        found = control_states(run, reasoner)
    assert found.available == LAYERED
    assert "another process" in found.unavailable["untrained_u"]


@pytest.mark.parametrize(
    ("name", "layer", "said"),
    [
        ("untrained_h", None, "layer None is not one of 0, 1, 2"),
        ("untrained_h", 3, "layer 3 is not one of"),
        ("untrained_h", -4, "layer -4 is not one of"),
        ("prompt_state", 1, "has no layers"),
        ("untrained_eps", None, "has none of it; it has prompt_state"),
    ],
)
def test_what_there_is_not_is_said(run: Run, name: str, layer: int | None, said: str) -> None:
    with pytest.raises(UserError, match=said):
        read_control(run, name, layer)


# --- words and lengths ---

TEXTS = st.lists(
    st.sampled_from(["add 3", "Add #3", "(4*x-7) % 10", "", "x", "add 3 add"]), min_size=2
)


@settings(deadline=None, max_examples=60)
@given(TEXTS, st.data())
def test_words_are_counted_as_scikit_learn_counts_them(
    texts: list[str], data: st.DataObject
) -> None:
    rows = data.draw(st.lists(st.integers(0, len(texts) - 1), min_size=1, unique=True))
    found = count_words(texts).features(rows)
    assert found.dtype == np.float32
    reference = CountVectorizer(lowercase=False, token_pattern=WORD, ngram_range=(1, 3))
    try:
        reference.fit([texts[row] for row in rows])
    except ValueError:
        np.testing.assert_array_equal(found, np.zeros((len(texts), 1)))
        return
    np.testing.assert_array_equal(found, reference.transform(texts).toarray())
    mask = np.isin(np.arange(len(texts)), rows)
    np.testing.assert_array_equal(count_words(texts).features(mask), found)


def test_words_of_other_rows_are_not_known() -> None:
    texts = ["a b", "a c", "a secret word"]
    counts = count_words(texts)
    np.testing.assert_array_equal(counts.features([0, 1])[2], [1, 0, 0, 0, 0])
    assert counts.features([0, 1, 2]).shape == (3, 10)
    np.testing.assert_array_equal(counts.features([0, 1], max_features=1), [[1], [1], [1]])


@pytest.mark.parametrize(
    ("one", "other"), [("take #3", "take 3"), ("-5", "5"), ("Add", "add"), ("x*2", "x+2")]
)
def test_numbers_signs_and_case_are_kept(one: str, other: str) -> None:
    features = count_words([one, other]).features([0, 1])
    assert not np.array_equal(*features)


def test_decoded_text_ends_at_the_place(tmp_path: Path) -> None:
    run = synthetic_run(tmp_path / "run", n=6, steps=(2, 4))
    rows = np.arange(len(run.thoughts))
    texts = decoded_texts(run, rows)
    for row, (trace_id, k) in enumerate(
        zip(run.thoughts["trace_id"], run.thoughts["k"], strict=True)
    ):
        own = run.thoughts[run.thoughts["trace_id"] == trace_id]
        assert texts[row] == "".join(f"{text}\n" for text in own["text"].iloc[: k + 1])
    assert decoded_texts(run, rows[::-2]) == texts[::-2]
    thoughts = run.thoughts.assign(step=run.thoughts["k"] // 2)
    pairs = decoded_texts(Run(run.path, run.manifest, run.traces, thoughts), rows[:2])
    assert pairs == [texts[0], texts[0]], "a step's text is there once"


def test_lengths_count_what_is_there_and_never_the_answer(tmp_path: Path) -> None:
    run = synthetic_run(tmp_path / "run", n=8, steps=(2, 5))
    K = run.traces["K"].to_numpy()
    trace = np.array([5, 2, 7])
    k = np.array([0, 1, K[7] - 1])
    row = (np.cumsum(K) - K)[trace] + k
    found = length_features(run, trace, row)
    prompts, texts = prompt_texts(run, trace), decoded_texts(run, row)
    for i, t in enumerate(trace):
        wanted = [K[t], k[i], k[i] / K[t], len(prompts[i]), len(prompts[i].split()), len(texts[i])]
        np.testing.assert_allclose(found[i], wanted, rtol=1e-6)
    assert found.shape == (3, len(LENGTHS))
    mute = Run(run.path, run.manifest, run.traces.assign(answer="", correct=False), run.thoughts)
    np.testing.assert_array_equal(length_features(mute, trace, row), found)
