"""The same thoughts under another checkpoint: exact across flows, refused across codecs."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from analyses.density import densities, latents_of
from analyses.reference import codec_hash, refuse_other_codec, score_under
from analyses.stored import stored_thoughts
from nfcot_model.cli import main
from nfcot_model.errors import UserError
from nfcot_model.reasoners import NFCoTReasoner
from nfcot_model.traces import Run
from tests.analyses.runs import brief_run, nan_thought
from tests.tiny import brief_reasoner


@pytest.fixture(scope="module")
def brief(tmp_path_factory: pytest.TempPathFactory) -> tuple[Run, NFCoTReasoner]:
    return brief_run(tmp_path_factory.mktemp("reference"))


def drifted(reasoner: NFCoTReasoner, part: str, size: float) -> NFCoTReasoner:
    """The same model after its `part` was pushed in a random direction."""
    model = copy.deepcopy(reasoner.model)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for weights in model.get_submodule(part).parameters():
            weights.add_(torch.randn(weights.shape, generator=generator) * size)
    return NFCoTReasoner(model, reasoner.tokenizer, f"{part}-{size}")


def test_its_own_model_finds_thoughts_as_likely(brief: tuple[Run, NFCoTReasoner]) -> None:
    run, reasoner = brief
    found = score_under(run, reasoner, reasoner)
    assert (found.thoughts["log_ratio"] == 0).all()
    assert found.summary["same_flow"]
    assert found.summary["same_checkpoint"]
    totals = found.thoughts.groupby("trace_id", sort=False)[["own_logp_e", "own_stop"]].sum()
    np.testing.assert_allclose(totals["own_logp_e"], run.traces["logp_e"], atol=1e-3)
    stops = run.traces["logp_u_K"] - run.traces["logp_u"]
    np.testing.assert_allclose(totals["own_stop"], stops, atol=1e-4)


def test_another_decoder_changes_nothing(brief: tuple[Run, NFCoTReasoner]) -> None:
    run, reasoner = brief
    other = drifted(reasoner, "codec.from_latent", 0.0)
    other.model.exchange_decoder(3)
    assert len(other.model.codec.decoder.blocks) == 3
    found = score_under(run, reasoner, other)
    assert (found.thoughts["log_ratio"] == 0).all()
    assert (found.thoughts["own_stop"] == found.thoughts["reference_stop"]).all()


def test_another_backbone_is_scored_on_the_very_thoughts(
    brief: tuple[Run, NFCoTReasoner],
) -> None:
    run, reasoner = brief
    other = drifted(reasoner, "backbone", 0.1)
    found = score_under(run, reasoner, other)
    assert found.summary["same_flow"]
    assert not found.summary["same_checkpoint"]
    prompts = run.traces["prompt"].tolist()
    wanted = other.score(prompts, stored_thoughts(run), tau=0.7)
    np.testing.assert_allclose(
        found.thoughts["reference_logp_u"], wanted.logp[wanted.mask].numpy(), atol=1e-3
    )
    # Thoughts a model drew itself are likelier to it, on average: the difference is a KL.
    assert found.summary["per_trace"]["log_ratio"]["low"] > 0


@pytest.mark.parametrize("order", ["causal", "alternating"])
def test_another_flow_is_compared_in_the_codecs_own_space(order: str, tmp_path: Path) -> None:
    flow = {"d_model": 16, "heads": 2, "order": order}
    own = brief_reasoner(flow=flow)
    other = drifted(own, "flow", 0.05)
    prompts = ["Take a digit x: #1 add 4.", "Digit x: #1 times 3; #2 add 1."]
    thoughts = own.think(prompts, tau=0.8, noise_seeds=(1, 2))
    e = latents_of(own, thoughts)
    found = densities(other, prompts, other.from_latents(e, thoughts.mask), e, 0.8)
    u, logdet = other.model.flow(e, thoughts.mask)
    logp = other.score(prompts, other.from_latents(e, thoughts.mask), tau=0.8).logp.sum(-1)
    torch.testing.assert_close(found.logp_e.sum(-1), logp + logdet, atol=1e-4, rtol=1e-4)
    assert (u - thoughts.u).abs().max() > 1e-3
    # The density of e is the model's own, whichever way its thoughts are told.
    decoded = own.decode(thoughts)
    mine = densities(own, prompts, thoughts, e, 0.8)
    wanted = own.score(prompts, thoughts, tau=0.8).logp.sum(-1) + decoded.logdet
    torch.testing.assert_close(mine.logp_e.sum(-1), wanted, atol=1e-4, rtol=1e-4)


def test_another_codec_is_refused(brief: tuple[Run, NFCoTReasoner]) -> None:
    run, reasoner = brief
    for same in ("backbone", "codec.decoder", "codec.from_latent", "codec.to_vocab"):
        assert codec_hash(reasoner) == codec_hash(drifted(reasoner, same, 0.1))
    for other in ("codec.embed", "codec.encoder", "codec.to_posterior"):
        assert codec_hash(reasoner) != codec_hash(drifted(reasoner, other, 1e-4))
    with pytest.raises(UserError, match=r"its codec is .* \(weights of its encoder or"):
        score_under(run, reasoner, drifted(reasoner, "codec", 1e-4))
    with pytest.raises(UserError, match="its D is 8, that of the run's model is 4"):
        refuse_other_codec(reasoner, brief_reasoner(D=8))
    wider = brief_reasoner(codec={"d_model": 16, "layers": 1, "heads": 2, "max_text_tokens": 7})
    with pytest.raises(UserError, match=r"its codec is .*'max_text_tokens': 7"):
        refuse_other_codec(reasoner, wider)


def test_thoughts_that_are_no_numbers_stay_as_invalid(brief: tuple[Run, NFCoTReasoner]) -> None:
    run, reasoner = brief
    found = score_under(nan_thought(run), reasoner, drifted(reasoner, "backbone", 0.1))
    assert len(found.thoughts) == len(run.thoughts)
    first = found.thoughts["trace_id"] == run.traces["trace_id"][0]
    assert (found.thoughts["invalid"] == first).all()
    assert found.summary["population"]["invalid"] == 1
    assert found.summary["per_trace"]["log_ratio"]["value"] is not None


def test_a_reference_that_has_no_place_for_the_thoughts_is_refused(
    brief: tuple[Run, NFCoTReasoner],
) -> None:
    run, reasoner = brief
    short = copy.copy(reasoner)
    short.max_thoughts = int(run.traces["K"].max()) - 1
    with pytest.raises(UserError, match=r"thinks at most \d thoughts, run has a trace of \d"):
        score_under(run, reasoner, short)
    with pytest.raises(UserError, match="was traced with another checkpoint"):
        score_under(run, drifted(reasoner, "backbone", 0.1), reasoner)


def test_the_command(
    brief: tuple[Run, NFCoTReasoner], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, reasoner = brief
    drifted(reasoner, "backbone", 0.1).save(tmp_path / "other")

    def audit(*arguments: object) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as stopped:
            main(["audit", "reference", *map(str, arguments)])
        captured = capsys.readouterr()
        return int(stopped.value.code or 0), captured.out, captured.err

    asked = (run.path, "--reference", tmp_path / "other", "-o", tmp_path / "out")
    code, out, _ = audit(*asked, "--json")
    assert code == 0
    summary = json.loads(out)
    assert [s["scorer"] for s in summary["scored"]] == ["self", "reference-model"]
    rows = pd.read_parquet(tmp_path / "out" / "thoughts.parquet")
    assert len(rows) == len(run.thoughts)
    code, out, _ = audit(*asked)  # from the blocks of before
    assert code == 0
    assert "own minus reference" in out
    for arguments, message in (
        ((run.path, "--reference", "demo"), "--reference: its D is 16"),
        ((run.path, "--reference", tmp_path / "no"), "no such model folder"),
        ((run.path, "--reference", run.path.parent / "model", *asked[3:]), "holds another scoring"),
    ):
        code, out, err = audit(*arguments)
        assert (code, out) == (2, "")
        assert err.count("\n") == 1
        assert message in err
