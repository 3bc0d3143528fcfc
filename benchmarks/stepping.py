"""Do steps on a fixed cache, compiled or not, give the thoughts of the growing one on this device?

    python benchmarks/stepping.py [MODEL] [--device cuda] [--dtype float32] [--batch 1 8]

Lines of JSON, one per batch size and way of stepping: the largest difference of u, mu and log sigma
from the growing cache's (and the largest |u| there), whether K and the greedy answers are the same,
and the seconds it took, compiling included. In bfloat16 ways of rounding differ; how much, is the
question. Exits 1 where K or an answer differs, or in float32 a number by more than 1e-4.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from time import perf_counter

import torch

from nfcot_model.checkpoints import demo_path
from nfcot_model.reasoners import load_reasoner
from nfcot_model.sampling import noise_seed
from nfcot_model.stepping import STEPPING
from nfcot_model.worlds import make_world

NUMBERS = ("u", "mu", "log_sigma")
LIMIT = 1e-4


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", nargs="?", type=Path, default=demo_path())
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 8])
    parser.add_argument("--stepping", choices=STEPPING, nargs="+", default=STEPPING[1:])
    options = parser.parse_args()
    reasoner = load_reasoner(options.model, dtype=options.dtype, device=options.device)
    failed = False
    for batch in options.batch:
        problems = make_world("digits", "test", 1, batch)
        asked = [problem.prompt for problem in problems]
        seeds = [noise_seed(0, problem.id, 0) for problem in problems]
        reasoner.stepping = "growing"
        grown = reasoner.think(asked, tau=0.7, noise_seeds=seeds)
        answers = reasoner.answer(asked, grown)
        for way in options.stepping:
            reasoner.stepping = way
            began = perf_counter()
            fixed = reasoner.think(asked, tau=0.7, noise_seeds=seeds)
            said = reasoner.answer(asked, grown)
            took = perf_counter() - began
            same = fixed.K.tolist() == grown.K.tolist()
            differs = {
                name: (getattr(fixed, name) - getattr(grown, name)).abs().max().item()
                for name in NUMBERS
                if same
            }
            wide = options.dtype == "float32" and max(differs.values(), default=1) > LIMIT
            failed |= not same or said != answers or wide
            row = {
                "batch": batch,
                "stepping": way,
                "same_K": same,
                "same_answers": sum(a == b for a, b in zip(said, answers, strict=True)),
                "differs": differs,
                "largest_u": grown.u.abs().max().item(),
                "thoughts": int(grown.K.sum()),
                "seconds": round(took, 1),
                "dtype": options.dtype,
                "device": options.device,
            }
            sys.stdout.write(json.dumps(row) + "\n")
            sys.stdout.flush()
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
