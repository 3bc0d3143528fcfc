"""Put the small checkpoints into the package, from a finished comparison, and measure them there.

    nfcot compare -o work/compare --seeds 3
    python benchmarks/ship_small.py work/compare

Of every kind in `nfcot_model.checkpoints.SMALL` the model of seed 0, rounded to bfloat16, with one
card for all of them. The card's figures are those of the rounded models, on problems of `--seed`.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from nfcot_model.checkpoints import SHIPPED, SMALL
from nfcot_model.comparison.folder import Questions
from nfcot_model.comparison.measure import Sampling
from nfcot_model.comparison.results import summary
from nfcot_model.comparison.run import Compared, compare, config_of
from nfcot_model.comparison.trainings import trained
from nfcot_model.files import file_hash, read_json_object
from nfcot_model.training.config import TrainConfig

CARD = """---
license: apache-2.0
library_name: transformers
tags: [latent-reasoning]
---

# Small reasoners of other kinds

For looking at beside NF-CoT, and for trying probes and tests on: `small-{kinds}` in every command
that takes a model. They are weak. Each is the seed 0 of

```
nfcot compare -o work/compare --seeds 3
python benchmarks/ship_small.py work/compare
```

so all had the same backbone (3 layers × 96), problems of 2 to 4 steps in the same order and the
same {tokens:.2f} million optimiser tokens; they were rounded to bfloat16 afterwards. What the kinds
are, and which vector is a thought: docs/reasoners.md. How they compare with NF-CoT, over seeds:
docs/comparison.md.

Greedy answers of the rounded models to {n} unseen problems of each world and number of steps (of
seed {seed}); 95 % intervals over problem families. `thoughts`: does the answer follow those of
another problem?

| model | pass@1 | digits {steps} | shuffle {steps} | thoughts | parameters | weights |
|---|---|---|---|---|---|---|
{rows}
"""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("comparison", type=Path)
    parser.add_argument("-n", type=int, default=200)
    parser.add_argument("--seed", type=int, default=11)
    options = parser.parse_args()
    found = read_json_object(options.comparison / "comparison.json")
    config = TrainConfig.model_validate(found["training"])
    tokens = read_json_object(options.comparison / "plans" / "budget.json")["budget"]
    for kind in SMALL:
        folder = options.comparison / "train" / f"{kind}-0"
        model = trained(folder, config_of(config, kind, 0))
        if model is None:
            sys.stderr.write(f"{folder}: not trained to the end\n")
            return 2
        _round(model, SHIPPED[f"small-{kind}"])
    steps = [str(k) for k in range(config.data.steps[0], config.data.steps[1] + 1)]
    asked = Questions(list(config.data.worlds), steps, options.n, Sampling(1, 1, 1.0), options.seed)
    with tempfile.TemporaryDirectory() as out:
        compared = compare(
            config, Path(out), asked, names=SMALL, seeds=1, rounds=1,
            loaded={kind: f"small-{kind}" for kind in SMALL},
        )  # fmt: skip
    card = CARD.format(
        kinds="`, `small-".join(SMALL), tokens=tokens / 1e6, n=options.n, seed=options.seed,
        steps=" / ".join(steps), rows="\n".join(_rows(compared, config, steps)),
    )  # fmt: skip
    (SHIPPED[f"small-{SMALL[0]}"].parent / "README.md").write_text(card)
    return 0


def _round(model: Path, out: Path) -> None:
    """The same checkpoint in bfloat16."""
    shutil.rmtree(out, ignore_errors=True)
    shutil.copytree(model, out, ignore=shutil.ignore_patterns("README.md"))
    weights = out / "model.safetensors"
    with safe_open(weights, "pt") as file:
        metadata = file.metadata()
    tensors = {
        name: t.bfloat16() if t.dtype == torch.float32 else t
        for name, t in load_file(weights).items()
    }
    save_file(tensors, weights, metadata=metadata)


def _rows(compared: Compared, config: TrainConfig, steps: list[str]) -> list[str]:
    lines = []
    for row, contender in zip(summary(compared), compared.contenders, strict=True):
        worlds = [
            " / ".join(f"{_rate(contender.cells[world, k][0].right):.3f}" for k in steps)
            for world in config.data.worlds
        ]
        name = f"small-{contender.reasoner}"
        digest = file_hash(SHIPPED[name] / "model.safetensors")[:16]
        rate = f"{row['pass_at_1']:.3f} ({row['low']:.3f}–{row['high']:.3f})"
        cells = (f"`{name}`", rate, *worlds, row["thoughts"], f"{contender.parameters:,}")
        lines.append("| " + " | ".join((*cells, digest)) + " |")
    return lines


def _rate(right: list[bool]) -> float:
    return sum(right) / len(right)


if __name__ == "__main__":
    sys.exit(main())
