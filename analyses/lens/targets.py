"""What should a lens find at a thought, and what should it not? True texts and foreign ones."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Hashable, Mapping, Sequence

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from nfcot_model.traces import Run

__all__ = ["FOREIGN", "TARGETS", "common_tokens", "foreign_traces", "place_of", "thoughts_of"]

TARGETS = ("step", "last_step", "answer")
FOREIGN = {target: f"foreign_{target}" for target in TARGETS}


def foreign_traces(traces: pd.DataFrame, chosen: NDArray[np.int64], seed: int) -> NDArray[np.int64]:
    """Against which other trace is each chosen one's floor taken? Positions, -1 where none is.

    A trace of the same world and of another group, with as many reference steps if there is one,
    drawn with `seed`.
    """
    rng = np.random.default_rng(seed)
    worlds, groups = (traces[name].to_numpy(dtype=object) for name in ("world", "group"))
    counts = traces["steps"].map(len).to_numpy()
    found = np.full(len(chosen), -1)
    for place, i in enumerate(chosen):
        other = (worlds == worlds[i]) & (groups != groups[i])
        alike = other & (counts == counts[i])
        pool = np.flatnonzero(alike if alike.any() else other)
        if pool.size:
            found[place] = rng.choice(pool)
    return found


def thoughts_of(run: Run, chosen: NDArray[np.int64], seed: int, by_step: bool) -> pd.DataFrame:
    """What is true at each thought of the chosen traces? One row per thought, sorted like them.

    Columns: `trace` (position in run.traces), `row` (in run.thoughts and the tensors), `trace_id`,
    `group`, `world`, `k`, `back` (k - K, so -1 is the last thought), `step_index`, `steps` (how
    many), the texts `step` (the reference step at this thought), `last_step` (the last reference
    step) and `answer` (the trace's own), and the same of a trace of another group under
    `foreign_…`. A text that does not exist is None. `by_step`: does a thought belong to one step?
    """
    traces = run.traces
    K = traces["K"].to_numpy(dtype=np.int64)
    first = np.cumsum(K) - K
    step_index = run.thoughts["step"].to_numpy()
    steps, answers = traces["steps"].tolist(), traces["answer"].tolist()
    records = []
    for i, donor in zip(chosen, foreign_traces(traces, chosen, seed), strict=True):
        names = {name: traces[name].iat[i] for name in ("trace_id", "group", "world")}
        there = steps[donor] if donor >= 0 else []
        for k in range(K[i]):
            row = first[i] + k
            s = int(step_index[row])
            records.append(
                {
                    "trace": int(i),
                    "row": int(row),
                    **names,
                    "k": k,
                    "back": int(k - K[i]),
                    "step_index": s,
                    "steps": len(steps[i]),
                    "step": _at(steps[i], s) if by_step else None,
                    "last_step": _at(steps[i], -1),
                    "answer": answers[i],
                    "foreign_step": _at(there, s) if by_step else None,
                    "foreign_last_step": _at(there, -1),
                    "foreign_answer": answers[donor] if donor >= 0 else None,
                }
            )
    frame = pd.DataFrame(records)
    texts = (*TARGETS, *FOREIGN.values())
    objects = {name: pd.Series([r[name] for r in records], dtype=object) for name in texts}
    return frame.assign(**objects)


def _at(texts: Sequence[str], index: int) -> str | None:
    return texts[index] if -len(texts) <= index < len(texts) else None


def common_tokens(
    run: Run, tokens: Mapping[str, Sequence[int]]
) -> dict[tuple[Hashable, ...], frozenset[int]]:
    """Which tokens say nothing, because most texts in the same place have them?

    Those in more than half of the texts of the run's problems: for steps among those of the same
    world and index, for last steps of the same world and number of steps, for answers of the same
    world. Keys as `place_of`; `tokens` maps every such text to its token ids.
    """
    seen: dict[tuple[Hashable, ...], list[set[int]]] = defaultdict(list)
    problems = run.traces.drop_duplicates("problem_id")
    for world, steps, answer in zip(
        problems["world"], problems["steps"], problems["answer"], strict=True
    ):
        for s, text in enumerate(steps):
            seen[place_of("step", world, s, len(steps))].append(set(tokens[text]))
        if steps:
            last = place_of("last_step", world, len(steps) - 1, len(steps))
            seen[last].append(set(tokens[steps[-1]]))
        seen[place_of("answer", world, 0, 0)].append(set(tokens[answer]))
    return {key: _in_most(texts) for key, texts in seen.items()}


def place_of(target: str, world: str, step_index: int, steps: int) -> tuple[Hashable, ...]:
    """Among which texts is one distinctive? Those of the same key."""
    return target, world, {"step": step_index, "last_step": steps, "answer": None}[target]


def _in_most(texts: Sequence[set[int]]) -> frozenset[int]:
    count = Counter(token for text in texts for token in text)
    return frozenset(token for token, n in count.items() if 2 * n > len(texts))
