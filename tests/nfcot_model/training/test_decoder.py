"""Another decoder for a finished model: it learns to read, and nothing else changes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from analyses.reference import refuse_other_codec
from nfcot_model.cli import main
from nfcot_model.config import CodecConfig
from nfcot_model.errors import UserError
from nfcot_model.reasoners import NFCoTReasoner, load_nfcot
from nfcot_model.training.config import TrainConfig, load_config
from nfcot_model.training.decoder import train_decoder
from nfcot_model.training.fresh import fresh_reasoner
from nfcot_model.training.loop import Progress
from nfcot_model.training.stages import publish
from nfcot_model.worlds import make_world, write_problems
from tests.tiny import tiny_baseline, tiny_reasoner

PROMPTS = [p.prompt for p in make_world("digits", "calibration", 3, 6)]


GLOBAL = {"alignment": "global", "slots": 4, "d_model": 16, "heads": 2, "max_text_tokens": 40}
STAGES = "codec: {steps: 1}\nwarmup: {steps: 1}\njoint: {steps: 1}\n"


def fresh(config: TrainConfig) -> NFCoTReasoner:
    made = fresh_reasoner(config)
    assert isinstance(made, NFCoTReasoner)
    return made


def config(steps: int = 6, **more: object) -> TrainConfig:
    tiny = load_config("tiny", None)
    stage = tiny.codec.model_copy(update={"steps": steps, "validate_every": 100})
    return tiny.model_copy(update={"codec": stage, "save_minutes": 0.0, **more})


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("start") / "model"
    publish(tiny_reasoner(codec={"d_model": 32, "layers": 2, "heads": 2}), folder)
    return folder


def curve(out: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (out / "decoder/metrics.jsonl").read_text().splitlines()]


def test_only_what_reads_thoughts_back_is_new(start: Path, tmp_path: Path) -> None:
    figures = train_decoder(start, config(), tmp_path / "t", layers=1)
    assert figures.keys() == {"exact", "exact_noisy"}
    old, new = load_nfcot(start), load_nfcot(tmp_path / "t" / "decoder" / "model")
    assert [len(r.model.codec.decoder.blocks) for r in (old, new)] == [2, 1]
    assert new.model.config.codec_config.layers == len(new.model.codec.encoder.blocks) == 2
    before, after = old.model.state_dict(), new.model.state_dict()
    changed = {n for n in after if not torch.equal(after[n], before.get(n, torch.zeros(0)))}
    assert {".".join(name.split(".")[:2]) for name in changed} == {
        "codec.from_latent",
        "codec.decoder",
        "codec.to_vocab",
    }

    def seen(reasoner: NFCoTReasoner) -> list[object]:
        thoughts = reasoner.think(PROMPTS, tau=0.7, noise_seeds=range(len(PROMPTS)))
        scores = reasoner.score(PROMPTS, thoughts, tau=0.7)
        e, _ = reasoner.latents([["#1 add 4 3"], ["#2 times 3 9"]])
        return [thoughts.u, scores.logp, e, reasoner.answer(PROMPTS, thoughts)]

    for one, other in zip(seen(old), seen(new), strict=True):
        same = torch.equal(one, other) if isinstance(one, torch.Tensor) else one == other
        assert same
    refuse_other_codec(old, new)


@pytest.mark.parametrize("more", [{"reasoner": "dual"}, {"codec": GLOBAL}], ids=["dual", "global"])
def test_other_models_with_a_codec_get_a_deeper_decoder(
    more: dict[str, Any], tmp_path: Path
) -> None:
    publish(tiny_reasoner(**more), tmp_path / "start")
    data = config().data.model_copy(update={"steps": (2, 3)})
    train_decoder(tmp_path / "start", config(2, data=data), tmp_path / "t", layers=3)
    old, new = load_nfcot(tmp_path / "start"), load_nfcot(tmp_path / "t" / "decoder" / "model")
    assert (new.name, len(new.model.codec.decoder.blocks)) == (old.name, 3)
    thoughts = [r.think(PROMPTS, tau=0.7, noise_seeds=range(len(PROMPTS))) for r in (old, new)]
    assert torch.equal(thoughts[0].u, thoughts[1].u)
    assert new.decode(thoughts[1]).texts


def test_the_card_says_what_was_exchanged_and_keeps_every_warning(
    start: Path, tmp_path: Path
) -> None:
    publish(load_nfcot(start), tmp_path / "start", "---\nlicense: x\n---\n\n> **Warning: mind.**\n")
    train_decoder(tmp_path / "start", config(1), tmp_path / "t")
    card = (tmp_path / "t" / "decoder" / "model" / "README.md").read_text()
    assert load_nfcot(tmp_path / "start").checkpoint_hash in card
    assert "> **Warning: mind.**" in card
    assert card.count("license:") == 1


@pytest.mark.parametrize(("said", "fault"), [("0", "at least 1"), ("x", "whole number")])
def test_a_wrong_number_of_layers_in_a_file_is_one_line(
    said: str, fault: str, tmp_path: Path
) -> None:
    path = tmp_path / "c.yaml"
    path.write_text(f"model: {{backbone: x, codec: {{decoder_layers: {said}}}}}\n" + STAGES)
    with pytest.raises(UserError, match=rf"model\.codec.*{fault}"):
        load_config(None, path)


def test_a_training_may_start_with_a_lighter_decoder_and_others_do_not_speak_of_it() -> None:
    tiny = load_config("tiny", None)
    assert "decoder_layers" not in fresh(tiny).model.config.codec
    codec = CodecConfig(d_model=32, layers=2, heads=2, decoder_layers=1)
    light = fresh(tiny.model_copy(update={"model": tiny.model.model_copy(update={"codec": codec})}))
    assert light.model.config.codec["decoder_layers"] == 1
    blocks = (light.model.codec.encoder.blocks, light.model.codec.decoder.blocks)
    assert list(map(len, blocks)) == [2, 1]


def test_it_learns_to_read(start: Path, tmp_path: Path) -> None:
    train_decoder(start, config(150), tmp_path / "t", layers=1)
    losses = [row["reconstruction"] for row in curve(tmp_path / "t")]
    assert losses[-1] < 0.7 * losses[0]
    assert all(row["loss"] == row["reconstruction"] for row in curve(tmp_path / "t"))


def test_a_stopped_training_resumes_with_the_same_curve(start: Path, tmp_path: Path) -> None:
    class KilledError(Exception): ...

    def stop(progress: Progress) -> None:
        if progress.step > 10:
            raise KilledError

    whole = train_decoder(start, config(24), tmp_path / "whole", layers=1)
    with pytest.raises(KilledError):
        train_decoder(start, config(24), tmp_path / "cut", layers=1, report=stop)
    assert not (tmp_path / "cut" / "decoder" / "model").exists()
    assert train_decoder(start, config(24), tmp_path / "cut", layers=1) == whole
    assert curve(tmp_path / "cut") == curve(tmp_path / "whole")
    weights = [tmp_path / name / "decoder/model/model.safetensors" for name in ("whole", "cut")]
    assert weights[0].read_bytes() == weights[1].read_bytes()


def test_the_command_trains_tells_and_repeats_itself(
    start: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "t"
    told = []
    for _ in range(2):
        asked = ["train", "decoder", str(start), "--preset", "tiny", "--steps", "3", "--json"]
        with pytest.raises(SystemExit) as ended:
            main([*asked, "-o", str(out)])
        assert not ended.value.code
        told.append(json.loads(capsys.readouterr().out))
    assert told[0] == told[1]
    assert told[0]["model"] == str(out / "decoder" / "model")
    assert curve(out)[-1]["step"] == 2


def test_bad_input_is_refused_before_anything_is_written(start: Path, tmp_path: Path) -> None:
    publish(tiny_baseline("pause"), tmp_path / "pause")
    with pytest.raises(UserError, match="pause"):
        train_decoder(tmp_path / "pause", config(), tmp_path / "t", layers=1)
    with pytest.raises(UserError, match="--layers 0"):
        train_decoder(start, config(), tmp_path / "t", layers=0)
    with pytest.raises(UserError, match="0 steps: expected at least 1"):
        train_decoder(start, config(0), tmp_path / "t", layers=1)
    brief = make_world("digits", "train", 0, 4)
    wordy = {"steps": ["so many words " * 9], "step_labels": []}
    write_problems(tmp_path / "long.jsonl", [*brief[1:], brief[0].model_copy(update=wordy)])
    data = config().data.model_copy(update={"problems": str(tmp_path / "long.jsonl")})
    with pytest.raises(UserError, match="the codec reads 16"):
        train_decoder(start, config(data=data), tmp_path / "t", layers=1)
    alike = [brief[0].model_copy(update={"group": "g", "id": f"p{i}"}) for i in range(3)]
    write_problems(tmp_path / "alike.jsonl", alike)
    data = config().data.model_copy(update={"problems": str(tmp_path / "alike.jsonl")})
    with pytest.raises(UserError, match="all problems are of one group"):
        train_decoder(start, config(data=data), tmp_path / "t", layers=1)
    assert not (tmp_path / "t").exists()
    train_decoder(start, config(1), tmp_path / "t", layers=1)
    with pytest.raises(UserError, match=r"holds another training \(decoder\.json"):
        train_decoder(start, config(1), tmp_path / "t", layers=2)
    with pytest.raises(UserError, match=r"not empty, and no decoder\.json"):
        train_decoder(start, config(1), tmp_path / "pause", layers=1)
