"""Are the checkpoints that come with the package whole, small, and what their names say?"""

from __future__ import annotations

from pathlib import Path

import pytest

import analyses
import nfcot_model
from nfcot_model.checkpoints import SHIPPED, SMALL
from nfcot_model.reasoners import load_reasoner
from nfcot_model.worlds import make_world


@pytest.mark.parametrize("kind", SMALL)
def test_a_small_reasoner_thinks_and_answers(kind: str) -> None:
    reasoner = load_reasoner(f"small-{kind}", kinds=(kind,))
    problems = make_world("digits", "test", 5, 3, (2, 4))
    prompts = [problem.prompt for problem in problems]
    thoughts = reasoner.think(prompts, tau=0.0, noise_seeds=[0, 1, 2])
    assert 1 <= thoughts.K.max() <= reasoner.max_thoughts
    answers = reasoner.answer(prompts, thoughts)
    assert all(answer.startswith("lambda") for answer in answers)


def test_all_shipped_weights_together_stay_small() -> None:
    packages = [Path(str(package.__file__)).parent for package in (nfcot_model, analyses)]
    weights = [file for folder in packages for file in folder.rglob("*.safetensors")]
    assert {folder / "model.safetensors" for folder in SHIPPED.values()} < set(weights)
    assert sum(file.stat().st_size for file in weights) < 30e6
