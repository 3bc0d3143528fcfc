"""A small run with known statistics, written through the real writer, without a model.

Thoughts are drawn from exactly the density that the run claims: u = mu + sigma * eps with
eps ~ N(0, tau² I), so energies, volumes and log-likelihoods are what a perfect scorer would give.
"""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from safetensors.numpy import load_file, save

from nfcot_model.traces.reader import Run, read_run
from nfcot_model.traces.schema import (
    SHARD_SIZE,
    THOUGHTS_SCHEMA,
    TRACES_SCHEMA,
    parquet_bytes,
    seal,
    shard_name,
    shard_paths,
    trace_id,
)
from nfcot_model.traces.writer import commit_shard, open_run, row_hash, trace_totals, writing

OPERATIONS = ("add", "times", "minus")
LOG_SIGMA = -1.0
TAMPERS = ("swap", "noise", "temperature")


def synthetic_run(
    path: Path,
    *,
    n: int = 200,
    D: int = 8,
    steps: tuple[int, int] = (2, 6),
    seed: int = 0,
    tau: float = 0.7,
    tamper: str | None = None,
    tamper_every: int = 1,
    samples: int = 1,
    checkpoint_hash: str = "synthetic",
    signal: bool = True,
    activations: int = 0,
    world: str = "digits",
    labels: dict[str, Any] | None = None,
    wobble: float = 0.0,
    manifest: dict[str, Any] | None = None,
) -> Run:
    """A run of n problems × samples traces, with K drawn from `steps` (both ends included).

    Step labels: coefficient and offset (0-9), operation; with `signal` the mean of a thought
    encodes them linearly, without it thoughts know nothing of them. `tamper` changes every
    `tamper_every`-th trace after the draw, while the recorded eps stays what was drawn: "swap"
    puts another thought of the shard in the place of one (as likely as the own without `signal`),
    "noise" adds 3 sigma to one, "temperature" draws all of them at twice tau. The problem label
    `tampered` says which traces.
    activations: width of an optional tensor h [rows, 2, activations], which encodes the labels;
    one layer of it where `manifest` says "activations": "thoughts". labels: more problem labels.
    wobble: sd of what rounding does to eps between thinking and scoring, as in bfloat16.
    manifest: fields that differ; those under "decode" are merged.
    """
    if tamper is not None and tamper not in TAMPERS:
        raise ValueError(f"tamper is one of {TAMPERS}, not {tamper!r}")
    fields = _manifest(n, seed, tau, samples, checkpoint_hash, activations)
    changes = dict(manifest or {})
    decode = fields["decode"] | changes.pop("decode", {})
    opened = open_run(Path(path), fields | changes | {"decode": decode})
    style = _Style(D, tau, signal, activations, world, labels or {}, wobble)
    problems = [_problem(seed, index, steps) for index in range(n)]
    pairs = [(p, sample) for p in problems for sample in range(samples)]
    with writing(Path(path)):
        for start in range(0, len(pairs), SHARD_SIZE):
            block = pairs[start : start + SHARD_SIZE]
            tampered = [
                tamper is not None and (start + i) % tamper_every == 0 for i in range(len(block))
            ]
            rng = np.random.default_rng([seed, start])
            shard = _shard(block, tampered, tamper, rng, opened, style)
            commit_shard(Path(path), shard_name(start // SHARD_SIZE), *shard)
    return read_run(path)


@dataclass(frozen=True)
class _Style:
    D: int
    tau: float
    signal: bool
    activations: int
    world: str
    labels: dict[str, Any]
    wobble: float


def _manifest(
    n: int, seed: int, tau: float, samples: int, checkpoint_hash: str, activations: int
) -> dict[str, Any]:
    return {
        "reasoner": "nfcot",
        "checkpoint_hash": checkpoint_hash,
        "model_path": "synthetic",
        "config": {"codec": {"alignment": "step"}, "flow": {}},
        "decode": {
            "tau": tau,
            "temperature": 0.0,
            "samples": samples,
            "seed": seed,
            "max_thoughts": None,
            "dtype": "float32",
            "template": "{prompt}",
            "k_policy": "model",
        },
        "problem_set_hash": f"synthetic-{seed}-{n}",
        "traces": n * samples,
        "activations": "all" if activations else "none",
        "versions": {},
        "created": "2026-01-01T00:00:00+00:00",
    }


def _problem(seed: int, index: int, steps: tuple[int, int]) -> dict[str, Any]:
    rng = np.random.default_rng([seed, index, 1])
    count = int(rng.integers(steps[0], steps[1] + 1))
    labels = [
        {
            "coefficient": int(rng.integers(10)),
            "offset": int(rng.integers(10)),
            "operation": str(rng.choice(OPERATIONS)),
        }
        for _ in range(count)
    ]
    return {"id": f"s{seed}-{index:05d}", "labels": labels}


def _mean(labels: dict[str, Any], D: int, signal: bool) -> np.ndarray:
    if not signal:
        return np.zeros(D)
    code = np.random.default_rng(20_260_101).normal(size=(23, D)) * 1.5
    return (
        code[labels["coefficient"]]
        + code[10 + labels["offset"]]
        + code[20 + OPERATIONS.index(labels["operation"])]
    )


def _text(labels: dict[str, Any]) -> str:
    return f"({labels['coefficient']}*x+{labels['offset']}) % 10"


def _shard(
    block: list[tuple[dict[str, Any], int]],
    tampered: list[bool],
    tamper: str | None,
    rng: np.random.Generator,
    manifest: dict[str, Any],
    style: _Style,
) -> tuple[dict[str, Any], dict[str, Any], dict[str, np.ndarray]]:
    D, tau = style.D, style.tau
    K = np.array([len(problem["labels"]) for problem, _ in block])
    step_labels = [labels for problem, _ in block for labels in problem["labels"]]
    rows, first = int(K.sum()), np.cumsum(K) - K
    mu = np.array([_mean(labels, D, style.signal) for labels in step_labels]).reshape(rows, D)
    drawn = rng.normal(size=(rows, D)) * tau
    scored = drawn.copy()
    for i in np.flatnonzero(tampered):
        mine = slice(first[i], first[i] + K[i])
        k = int(rng.integers(K[i]))
        if tamper == "temperature":
            scored[mine] *= 2
        elif tamper == "noise":
            scored[first[i] + k] += 3 * rng.normal(size=D)
        else:
            donor = int(rng.choice(np.flatnonzero(np.arange(rows) != first[i] + k)))
            away = mu[donor] - mu[first[i] + k]
            scored[first[i] + k] = drawn[donor] + away / math.exp(LOG_SIGMA)
    if style.wobble:
        scored += style.wobble * rng.normal(size=scored.shape)
    u = mu + math.exp(LOG_SIGMA) * scored
    scale = tau if tau > 0 else 1.0
    thoughts: dict[str, Any] = {
        "step": np.concatenate([np.arange(count) for count in K]),
        "logp": -0.5 * (scored**2).sum(1) - D * (0.5 * math.log(2 * math.pi) + LOG_SIGMA),
        "energy": 0.5 * ((scored / scale) ** 2).sum(1),
        "logvol": np.full(rows, -D * LOG_SIGMA),
        "stop_logp": np.full(rows, math.log(0.9)),
        "text": [_text(labels) for labels in step_labels],
        "reference": [_text(labels) for labels in step_labels],
        "match": [True] * rows,
        "labels": [json.dumps(labels) for labels in step_labels],
    }
    error = np.zeros(len(block))
    np.maximum.at(error, np.repeat(np.arange(len(block)), K), np.abs(scored - drawn).max(1))
    traces = _trace_columns(block, tampered, manifest, style) | {
        "K": K,
        "replay_error": error,
        **trace_totals(K, thoughts, -K * D * math.log(2.0)),
    }
    tensors = {
        "u": u,
        "eps": drawn,
        "mu": mu,
        "log_sigma": np.full((rows, D), LOG_SIGMA),
        "e": 2.0 * u,
    }
    if style.activations:
        lift = np.random.default_rng(7).normal(size=(2, D, style.activations))
        layers = slice(None) if manifest["activations"] == "all" else slice(-1, None)
        tensors["h"] = np.einsum("rd,ldw->rlw", u, lift)[:, layers]
    return traces, thoughts, {k: v.astype(np.float32) for k, v in tensors.items()}


def _trace_columns(
    block: list[tuple[dict[str, Any], int]],
    tampered: list[bool],
    manifest: dict[str, Any],
    style: _Style,
) -> dict[str, Any]:
    ids = [problem["id"] for problem, _ in block]
    samples = [sample for _, sample in block]
    seeds = [
        int.from_bytes(hashlib.sha256(f"{i}:{s}".encode()).digest()[:8], "big") >> 1
        for i, s in zip(ids, samples, strict=True)
    ]
    answers = [
        "lambda x: " + (_text(problem["labels"][-1]) if problem["labels"] else "x")
        for problem, _ in block
    ]
    n = len(block)
    return {
        "trace_id": [
            trace_id(i, s, x, manifest["hash"]) for i, s, x in zip(ids, samples, seeds, strict=True)
        ],
        "problem_id": ids,
        "group": ids,
        "world": [style.world] * n,
        "split": ["test"] * n,
        "sample": samples,
        "seed": seeds,
        "prompt": [
            f"compile pipeline {i} of {len(p['labels'])} steps"
            for i, (p, _) in zip(ids, block, strict=True)
        ],
        "answer": answers,
        "reference_answer": answers,
        "verdict": ["passed"] * n,
        "verdict_detail": [""] * n,
        "correct": [True] * n,
        "stopped": [True] * n,
        "tau": [style.tau] * n,
        "decode_match": [1.0] * n,
        "steps": [[_text(labels) for labels in p["labels"]] for p, _ in block],
        "labels": [
            json.dumps({"steps": len(p["labels"]), "tampered": bool(t), **style.labels})
            for (p, _), t in zip(block, tampered, strict=True)
        ],
    }


def edit_thought(run: Path, change: str) -> str:
    """Change one thought of a written run and make every hash and seal fit; which trace's?

    change: "u" moves it; "nan" makes it no number; "all tensors" moves its mean too, so that it
    still replays; "energy" writes 3 as its energy. No column says that anything happened.
    """
    tensors_path, thoughts_path, traces_path = shard_paths(run, "000000")
    traces, thoughts = pq.read_table(traces_path), pq.read_table(thoughts_path)
    metadata = {k.decode(): v.decode() for k, v in traces.schema.metadata.items() if k != b"seal"}
    tensors = load_file(tensors_path)
    row, K = traces["row"][5].as_py(), traces["K"][5].as_py()
    traces = traces.cast(TRACES_SCHEMA)
    if change in ("u", "nan", "all tensors"):
        tensors["u"][row] += np.nan if change == "nan" else 0.5
        at = traces.schema.get_field_index("u_sha256")
        hashes = traces["u_sha256"].to_pylist()
        hashes[5] = row_hash(tensors["u"][row : row + K])
        traces = traces.set_column(at, TRACES_SCHEMA.field(at), [hashes])
    if change == "all tensors":
        tensors["mu"][row] += 0.5
    if change == "energy":
        at = THOUGHTS_SCHEMA.get_field_index("energy")
        energy = thoughts["energy"].to_pylist()
        energy[row] = 3.0
        thoughts = thoughts.set_column(at, THOUGHTS_SCHEMA.field(at), [pa.array(energy, "f4")])
    data = (save(tensors), parquet_bytes(thoughts, "thoughts", {}))
    for path, content, name in zip(
        (tensors_path, thoughts_path), data, ("tensors", "thoughts"), strict=True
    ):
        path.write_bytes(content)
        metadata[f"{name}_sha256"] = hashlib.sha256(content).hexdigest()
    traces_path.write_bytes(seal(traces, "traces", metadata))
    return str(traces["trace_id"][5])
