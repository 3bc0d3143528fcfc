"""What would an audit see if thoughts were tampered with? Plants with known place and kind.

    swap   one thought becomes another trace's thought of the same k
    noise  Gaussian noise of the thought's own norm (times `severity`) is added to one thought
    hot    the whole trajectory is drawn again at twice the run's tau

Every trace is scored again by one causal pass over its thoughts as they now stand, at the run's
tau. After swap and noise the recorded `eps` is still the one once drawn, so the replay error is
large; hot is honestly recorded, and only its likelihood can give it away.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from analyses.stored import refuse_unscored
from nfcot_model.errors import UserError
from nfcot_model.reasoners import Reasoner
from nfcot_model.sampling import noise_seed
from nfcot_model.sandbox import Sandbox, Verdict
from nfcot_model.thoughts import Thoughts
from nfcot_model.traces import Run, read_run
from nfcot_model.traces.records import Batch, Draw, shard_columns
from nfcot_model.traces.writer import commit_shard, discard_empty, open_run, writing
from nfcot_model.worlds.problem import Problem

__all__ = ["KINDS", "Plant", "choose_plants", "plant_run"]

KINDS = ("swap", "noise", "hot")
PLANT_LABELS = ("planted", "planted_k")


@dataclass(frozen=True)
class Plant:
    """What happens to one trace? `k`: the changed thought, None for the whole trajectory.

    `donor_row`: the row in run.thoughts that a swap takes its thought from.
    """

    kind: str
    k: int | None
    donor_row: int | None = None


def choose_plants(
    K: NDArray[np.int64],
    groups: NDArray[np.object_],
    kinds: Sequence[str],
    share: float,
    seed: int,
    worlds: NDArray[np.object_] | None = None,
) -> dict[int, Plant]:
    """Which traces get which plant? Trace index -> plant; kinds take turns. K, groups: [n].

    A swap needs a donor of the same world (`worlds` [n]; all one without it; another world's
    thought would be found too easily) and another group with a thought at the same k. A trace that
    has none gets the next kind. Traces without thoughts, or for which no kind is possible, are
    passed over, so there may be fewer plants than asked for.
    """
    rng = np.random.default_rng(seed)
    first = np.cumsum(K) - K
    made = dict.fromkeys(kinds, 0)
    plants: dict[int, Plant] = {}
    wanted = _wanted(share, K.size)
    for i in rng.permutation(np.flatnonzero(K > 0)):
        if len(plants) == wanted:
            break
        k = int(rng.integers(K[i]))
        same = np.ones(K.size, dtype=bool) if worlds is None else worlds == worlds[i]
        donors = np.flatnonzero(same & (k < K) & (groups != groups[i]))
        possible = [kind for kind in kinds if kind != "swap" or donors.size]
        if not possible:
            continue
        kind = min(possible, key=made.__getitem__)
        made[kind] += 1
        if kind == "swap":
            plants[int(i)] = Plant(kind, k, int(first[rng.choice(donors)]) + k)
        else:
            plants[int(i)] = Plant(kind, k if kind == "noise" else None)
    return plants


def _wanted(share: float, n: int) -> int:
    return round(share * n)


def plant_run(
    run: Run,
    problems: Sequence[Problem],
    reasoner: Reasoner,
    out: Path,
    *,
    kinds: Sequence[str] = KINDS,
    share: float = 0.3,
    severity: float = 1.0,
    seed: int = 0,
    sandbox: Sandbox | None = None,
) -> Run:
    """The run with plants in a share of its traces, written to `out` like any other run.

    `problems`: those the run was traced on. Problem labels `planted` (a kind, or `none`) and
    `planted_k` say what was done where, the manifest's `planted` how many plants were `wanted` and
    `made`, by kind: fewer where swaps had no donor. Planted traces are answered and checked again.
    Raises UserError for a run without a density of its own model, another checkpoint, problems
    that lack one of the run's, tau = 0, or an `out` that holds something else; a folder with the
    same plants is written again, alike.
    """
    decode = run.manifest["decode"]
    known = {problem.id: problem for problem in problems}
    _check(run, known, reasoner, kinds, share)
    K = run.traces["K"].to_numpy(dtype=np.int64)
    groups = run.traces["group"].to_numpy(dtype=object)
    worlds = run.traces["world"].to_numpy(dtype=object)
    plants = choose_plants(K, groups, kinds, share, seed, worlds)
    made = Counter(plant.kind for plant in plants.values())
    recipe = {
        "kinds": list(kinds),
        "share": share,
        "severity": severity,
        "seed": seed,
        "wanted": _wanted(share, K.size),
        "made": {kind: made[kind] for kind in kinds},
    }
    fields = {k: v for k, v in run.manifest.items() if k not in ("hash", "checksum")}
    manifest = open_run(out, fields | {"planted": {"source": run.hash, **recipe}})
    rng = np.random.default_rng([seed, 1])
    tensors = {name: run.tensor(name) for name in ("u", "eps", "mu", "log_sigma")}
    with ExitStack() as stack:
        stack.enter_context(writing(out))
        stack.callback(discard_empty, out)
        checker = sandbox or stack.enter_context(Sandbox())
        for shard, indices in run.traces.groupby("shard", sort=False).indices.items():
            rows = [run.traces.iloc[int(i)] for i in indices]
            draws = [
                Draw(
                    _labelled(known[r.problem_id], plants.get(int(i))),
                    int(r["sample"]),
                    int(r["seed"]),
                )
                for i, r in zip(indices, rows, strict=True)
            ]
            mine = {b: plants[int(i)] for b, i in enumerate(indices) if int(i) in plants}
            thoughts = _stored(tensors, K, run.traces["stopped"].to_numpy(dtype=bool), indices)
            thoughts = _edited(thoughts, tensors["u"], mine, severity, rng)
            thoughts = _redrawn(thoughts, mine, draws, reasoner, decode, seed)
            answers = [str(row["answer"]) for row in rows]
            verdicts = [Verdict(row["verdict"], row["verdict_detail"], 0.0) for row in rows]
            _answer_again(mine, draws, thoughts, answers, verdicts, reasoner, decode, checker)
            prompts = [draw.problem.prompt for draw in draws]
            hidden = manifest["activations"] != "none"
            scores = reasoner.score(prompts, thoughts, tau=decode["tau"], hidden=hidden)
            slots = reasoner.config["codec"]["slots"] if reasoner.variable_k else None
            batch = Batch(draws, thoughts, answers, scores)
            decoded = reasoner.decode(thoughts)
            columns = shard_columns(batch, decoded, slots, verdicts, manifest)
            commit_shard(out, str(shard), *columns)
    return read_run(out)


def _check(
    run: Run, known: dict[str, Problem], reasoner: Reasoner, kinds: Sequence[str], share: float
) -> None:
    refuse_unscored(run)
    if reasoner.checkpoint_hash != run.manifest["checkpoint_hash"]:
        raise UserError(
            f"{run.name}: checkpoint_hash is {run.manifest['checkpoint_hash']}, the model's is"
            f" {reasoner.checkpoint_hash}; plant with the model that made the run"
        )
    if run.manifest["decode"]["tau"] <= 0:
        raise UserError(f"{run.name}: traced at tau 0, there is no noise to plant against")
    if not kinds or not set(kinds) <= set(KINDS):
        raise UserError(f"kinds {list(kinds)}: choose from {', '.join(KINDS)}")
    if not 0 < share <= 1:
        raise UserError(f"share {share:g}: expected a number above 0 and at most 1")
    missing = set(run.traces["problem_id"]) - known.keys()
    if missing:
        raise UserError(
            f"{run.name}: {len(missing)} of its problems were not given ({min(missing)}); give the"
            " problems that the run was traced on"
        )


def _labelled(problem: Problem, plant: Plant | None) -> Problem:
    labels: dict[str, Any] = {"planted": plant.kind if plant else "none"}
    if plant and plant.k is not None:
        labels["planted_k"] = plant.k
    own = {name: value for name, value in problem.labels.items() if name not in PLANT_LABELS}
    return problem.model_copy(update={"labels": own | labels})


def _stored(
    tensors: dict[str, NDArray[np.float32]],
    K: NDArray[np.int64],
    stopped: NDArray[np.bool_],
    indices: NDArray[np.int64],
) -> Thoughts:
    """The thoughts of these traces as recorded, [B, Kmax, D]."""
    own, first = K[indices], (np.cumsum(K) - K)[indices]
    mask = np.arange(max(int(own.max()), 1)) < own[:, None]
    rows = np.concatenate([np.arange(a, a + n) for a, n in zip(first, own, strict=True)])

    def padded(name: str) -> torch.Tensor:
        values = tensors[name]
        filled = np.zeros((*mask.shape, values.shape[1]), dtype=np.float32)
        filled[mask] = values[rows]
        return torch.from_numpy(filled)

    return Thoughts(
        u=padded("u"),
        eps=padded("eps"),
        mu=padded("mu"),
        log_sigma=padded("log_sigma"),
        mask=torch.from_numpy(mask),
        stopped=torch.from_numpy(stopped[indices]),
    )


def _edited(
    thoughts: Thoughts,
    donors: NDArray[np.float32],
    plants: dict[int, Plant],
    severity: float,
    rng: np.random.Generator,
) -> Thoughts:
    """Swapped and noised thoughts in their places; everything else, eps too, as recorded."""
    u = thoughts.u.clone()
    for b, plant in plants.items():
        if plant.k is None:
            continue
        if plant.donor_row is not None:
            u[b, plant.k] = torch.from_numpy(donors[plant.donor_row])
        else:
            direction = torch.from_numpy(rng.normal(size=u.shape[-1])).to(u)
            u[b, plant.k] += severity * u[b, plant.k].norm() * direction / direction.norm()
    return replace(thoughts, u=u)


def _redrawn(
    thoughts: Thoughts,
    plants: dict[int, Plant],
    draws: Sequence[Draw],
    reasoner: Reasoner,
    decode: dict[str, Any],
    seed: int,
) -> Thoughts:
    """Hot trajectories drawn again at twice tau, with their own K; the others unchanged."""
    hot = [b for b, plant in plants.items() if plant.kind == "hot"]
    if not hot:
        return thoughts
    drawn = reasoner.think(
        [draws[b].problem.prompt for b in hot],
        tau=2 * decode["tau"],
        noise_seeds=[noise_seed(seed, draws[b].seed, "hot") for b in hot],
        max_thoughts=decode["max_thoughts"],
    )
    longest = max(thoughts.mask.shape[1], drawn.mask.shape[1])

    def merged(name: str) -> torch.Tensor:
        old, new = getattr(thoughts, name), getattr(drawn, name)
        if old.dim() == 1:
            result = old.clone()
            result[hot] = new
            return result
        result = old.new_zeros(old.shape[0], longest, *old.shape[2:])
        result[:, : old.shape[1]] = old
        result[hot] = 0
        result[hot, : new.shape[1]] = new
        return result

    names = ("u", "eps", "mu", "log_sigma", "mask", "stopped")
    return Thoughts(*(merged(name) for name in names)).rows(slice(None))


def _answer_again(
    plants: dict[int, Plant],
    draws: Sequence[Draw],
    thoughts: Thoughts,
    answers: list[str],
    verdicts: list[Verdict],
    reasoner: Reasoner,
    decode: dict[str, Any],
    sandbox: Sandbox,
) -> None:
    """Put the answers that follow from the planted thoughts, and their verdicts, in place."""
    if not plants:
        return
    where = list(plants)
    chosen = [draws[b] for b in where]
    written = reasoner.answer(
        [draw.problem.prompt for draw in chosen],
        thoughts.rows(torch.tensor(where)),
        temperature=decode["temperature"],
        noise_seeds=[noise_seed(d.seed, "answer") for d in chosen],
    )
    checked = sandbox.check_many(
        [(a, d.problem.check) for a, d in zip(written, chosen, strict=True)]
    )
    for b, answer, verdict in zip(where, written, checked, strict=True):
        answers[b], verdicts[b] = answer, verdict
