"""The martingale keeps Ville's bound, sees a change, and gives one path for one stream."""

from __future__ import annotations

import numpy as np
import pytest

from analyses.drift import Drift, alarm_level


def highest(bag: np.ndarray, stream: np.ndarray, tag: str) -> float:
    drift = Drift.start({"all": bag})
    drift.follow(stream, ["all"] * stream.size, [f"{tag}-{i}" for i in range(stream.size)])
    return drift.highest


def test_an_unchanged_stream_rarely_reaches_its_level() -> None:
    rng = np.random.default_rng(0)
    alpha, streams = 0.1, 200
    alarms = sum(
        highest(rng.normal(size=60), rng.normal(size=250), str(i)) >= alarm_level(alpha)
        for i in range(streams)
    )
    assert alarms <= 0.1 * streams + 3 * np.sqrt(0.09 * streams)


@pytest.mark.parametrize("shift", [-1.0, 1.0])
def test_a_changed_stream_reaches_it_soon(shift: float) -> None:
    rng = np.random.default_rng(1)
    stream = np.concatenate([rng.normal(size=100), rng.normal(size=200) + shift])
    drift = Drift.start({"all": rng.normal(size=1000)})
    path = drift.follow(stream, ["all"] * 300, [str(i) for i in range(300)])
    reached = np.flatnonzero(np.array(path) >= alarm_level(0.01))
    assert 100 < reached[0] < 250


def test_the_bag_grows_and_infinite_scores_are_ranked_above_all() -> None:
    drift = Drift.start({"all": np.array([1.0, 2.0, 2.0])})
    drift.follow([2.0, np.inf, np.inf], ["all"] * 3, ["a", "b", "c"])
    assert drift.bags["all"] == [1.0, 2.0, 2.0, 2.0, np.inf, np.inf]
    assert np.isfinite(drift.log10)


def test_a_stream_has_one_path_whatever_the_pieces_it_came_in() -> None:
    rng = np.random.default_rng(2)
    bag, stream = rng.normal(size=50).round(1), rng.normal(size=80).round(1)
    ids = [str(i) for i in range(80)]
    whole = Drift.start({"a": bag, "b": bag})
    cells = ["a" if i % 3 else "b" for i in range(80)]
    path = whole.follow(stream, cells, ids)
    pieces = Drift.start({"a": bag, "b": bag})
    parts = [
        pieces.follow(stream[i : i + 7], cells[i : i + 7], ids[i : i + 7]) for i in range(0, 80, 7)
    ]
    assert [value for part in parts for value in part] == path


def test_tied_scores_give_uniform_p_values() -> None:
    """A stream of equal values is exchangeable: it must not look like a change."""
    rng = np.random.default_rng(3)
    tops = [highest(np.zeros(50), np.zeros(300), f"{rng.integers(10**9)}") for _ in range(60)]
    assert np.mean(np.array(tops) >= alarm_level(0.1)) < 0.25
