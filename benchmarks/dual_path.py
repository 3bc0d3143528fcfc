"""What does Dual-Path cost beside Unified? Parameters, positions, cache and time, in one run.

    python benchmarks/dual_path.py [MODEL] [--problems 32] [--repeats 5]

MODEL is a Unified checkpoint (default: the demo). Dual-Path is made of the same weights, its own
projection a copy of the other one, so both think the same thoughts; its answers, which it was not
trained for, play no part. Measured: from the prompts to the state from which the first answer
token is read. Positions are those that the backbone is fed, counted at its door, padding included;
cache is what stands there at the end. The two alternate; times are medians.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from copy import deepcopy
from pathlib import Path
from time import perf_counter
from typing import Any

import torch

from nfcot_model.checkpoints import demo_path
from nfcot_model.model import NFCoTModel
from nfcot_model.reasoners import NFCoTReasoner, load_nfcot
from nfcot_model.sampling import Stream, draw_noise
from nfcot_model.worlds import make_world


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", nargs="?", type=Path, default=demo_path())
    parser.add_argument("--problems", type=int, default=32)
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    one = load_nfcot(options.model)
    two = with_two_paths(one)
    prompts = [p.prompt for p in make_world("digits", "test", 7, options.problems)]
    counted = {name: counts(r, prompts) for name, r in (("unified", one), ("dual", two))}
    seconds: dict[str, list[float]] = {"unified": [], "dual": []}
    for _ in range(options.repeats):
        for name, reasoner in (("unified", one), ("dual", two)):
            started = perf_counter()
            ready(reasoner, prompts)
            seconds[name].append(perf_counter() - started)
    for name, times in seconds.items():
        counted[name]["milliseconds"] = 1000 * statistics.median(times) / len(prompts)
    ratio = {key: counted["dual"][key] / value for key, value in counted["unified"].items()}
    sys.stdout.write(json.dumps(counted | {"ratio": ratio}, indent=2) + "\n")
    return 0


def with_two_paths(one: NFCoTReasoner) -> NFCoTReasoner:
    """Dual-Path with the same weights."""
    config = deepcopy(one.model.config)
    config.reasoner = "dual"
    model = NFCoTModel(config)
    weights = dict(one.model.state_dict())
    for part in ("weight", "bias"):
        weights[f"answer_projection.{part}"] = weights[f"projection.{part}"]
    model.load_state_dict(weights)
    return NFCoTReasoner(model, one.tokenizer)


def ready(reasoner: NFCoTReasoner, prompts: list[str]) -> tuple[Stream, int]:
    """Think about the prompts, and stand where the answers begin; how many thoughts were had?"""
    noise = draw_noise(range(len(prompts)), reasoner.max_thoughts, reasoner.D, 0.7)
    stream = reasoner.open_prompts(prompts)
    none = torch.zeros(len(prompts), dtype=torch.long)
    thoughts = reasoner.think_on(stream, noise, noise[:, :0], none)
    stream.turn()
    stream.close()
    return stream, int(thoughts.K.sum())


def counts(reasoner: NFCoTReasoner, prompts: list[str]) -> dict[str, float]:
    """Parameters; passes, positions and cache of one prompt, on average."""
    model = reasoner.model
    fed: list[int] = []

    def door(module: torch.nn.Module, args: Any, kwargs: dict[str, Any]) -> None:
        fed.append(int(kwargs["inputs_embeds"].shape[1]))

    watched = model.backbone.base_model.register_forward_pre_hook(door, with_kwargs=True)
    stream, thoughts = ready(reasoner, prompts)
    watched.remove()
    return {
        "parameters": sum(p.numel() for p in model.parameters()),
        "thoughts per prompt": thoughts / len(prompts),
        "passes (serial)": len(fed),
        "positions per prompt": sum(fed),
        "positions behind the prompt": sum(fed[1:]),
        "cache positions": stream.cache.get_seq_length(),
    }


if __name__ == "__main__":
    raise SystemExit(main())
