"""How fast is a stored run scored, and does memory stay bounded?

    python benchmarks/audit_scoring.py [--traces 2000 20000 200000] [--folder FOLDER]

One line of JSON for each size, from about 10^4 to 10^6 thoughts at D = 16, K = 2 to 8: thoughts per
second, per second of processor time (what a busy machine still tells), and peak memory of a process
of its own, of `score_run`, which reads the run from disk, checks every byte, computes the full
battery without kNN, ranks, and writes the tables. Before them, side by side in one process: the
battery on arrays in memory, and the straightforward loop, one trajectory at a time over the same
formulas. Runs are made once in --folder.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from scipy import special, stats

from analyses.battery import Noise, fit_battery
from analyses.calibrate import Rule
from analyses.clean import clean_set
from analyses.scoring import score_run
from nfcot_model.traces import read_run

D = 16
LOOPED = 500


def loop(x: np.ndarray, K: np.ndarray, logvol: np.ndarray, mean: float, sd: float) -> np.ndarray:
    """The straightforward form: one trajectory after another, [n, statistics]."""
    rows, start = [], 0
    for count in K:
        own = x[start : start + count]
        energy = 0.5 * (own**2).sum(axis=1)
        z = (energy - mean) / sd
        windows = [z[i : i + 4].sum() / 2 for i in range(count - 3)]
        values = np.sort(own.ravel())
        n = values.size
        logs = special.log_ndtr(values) + special.log_ndtr(-values[::-1])
        spectrum = (np.abs(np.fft.rfft(own, axis=0)[1:]) ** 2).sum(axis=1)
        covariance = own.T @ own / count
        away = covariance - np.eye(own.shape[1])
        lags = [(own[:-lag] * own[lag:]).sum() for lag in range(1, min(8, count - 1) + 1)]
        nll = energy - logvol[start : start + count]
        rows.append(
            [
                abs(z.sum()) / np.sqrt(count),
                np.abs(z).max(),
                max(map(abs, windows), default=0.0),
                -n - ((2 * np.arange(1, n + 1) - 1) * logs).sum() / n,
                abs(lags[0]) / np.sqrt((count - 1) * own.shape[1]),
                sum(lag**2 for lag in lags),
                spectrum.std() / spectrum.mean(),
                count * (own.mean(axis=0) ** 2).sum(),
                (away**2).sum(),
                nll.sum(),
                stats.norm.sf(abs(nll.mean() - mean)),
                abs(logvol[start : start + count].mean()),
            ]
        )
        start += count
    return np.array(rows)


def on_disk(folder: Path, traces: int) -> dict[str, Any]:
    """In a process of its own, so that the peak is this size's."""
    code = (
        "import sys, json\n"
        "from pathlib import Path\n"
        "from benchmarks.audit_scoring import timed\n"
        "found = timed(Path(sys.argv[1]), int(sys.argv[2]))\n"
        "peak = Path('/proc/self/status').read_text().split('VmHWM:')[1].split()[0]\n"
        "found['peak_gib'] = int(peak) / 2**20\n"
        "print(json.dumps(found))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(folder), str(traces)],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    return dict(json.loads(done.stdout))


def timed(folder: Path, traces: int) -> dict[str, Any]:
    """Score one run from disk into a new folder."""
    clean = clean_set(read_run(folder / "clean"), Rule(0.01))
    with tempfile.TemporaryDirectory() as out:
        used = time.process_time()
        found = score_run(folder / f"run{traces}", clean, Path(out) / "scores", Rule(0.01))
        used = time.process_time() - used
    return {
        "thoughts": found.thoughts,
        "per_second": found.thoughts_per_second,
        "per_cpu_second": found.thoughts / used,
    }


def side_by_side(seed: int) -> dict[str, float]:
    """The battery on arrays against the loop, in one process."""
    rng = np.random.default_rng(seed)
    K = rng.integers(2, 9, size=20_000)
    x, logvol = rng.normal(size=(K.sum(), D)), rng.normal(size=K.sum())
    battery = fit_battery(Noise.of(rng.normal(size=(8000, D)), np.full(2000, 4)))
    start = time.perf_counter()
    battery.score(Noise.of(x, K, logvol=logvol))
    ours = K.sum() / (time.perf_counter() - start)
    few = K[:LOOPED]
    start = time.perf_counter()
    loop(x[: few.sum()], few, logvol, D / 2, np.sqrt(D / 2))
    looped = few.sum() / (time.perf_counter() - start)
    return {"battery_per_second": ours, "loop_per_second": looped, "ratio": ours / looped}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--traces", type=int, nargs="+", default=[2000, 20_000, 200_000])
    parser.add_argument(
        "--folder", type=Path, default=Path(tempfile.gettempdir()) / "nfcot-scoring"
    )
    asked = parser.parse_args()
    sys.path.insert(0, str(Path(__file__).parents[1]))  # where `tests` is, however this was started
    from tests.synthetic_run import synthetic_run

    made = {"D": D, "steps": (2, 8), "signal": False}
    if not (asked.folder / "clean" / "run.json").exists():
        synthetic_run(asked.folder / "clean", n=2000, seed=1, **made)
    sys.stdout.write(json.dumps(side_by_side(0)) + "\n")
    for traces in asked.traces:
        if not (asked.folder / f"run{traces}" / "run.json").exists():
            synthetic_run(asked.folder / f"run{traces}", n=traces, seed=2, **made)
        row = {"traces": traces} | on_disk(asked.folder, traces)
        sys.stdout.write(json.dumps(row) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
