"""Sites: the right rows, pooled as a plain loop would, and what there is when one is missing."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from nfcot_model.errors import UserError
from nfcot_model.files import content_hash, write_json
from nfcot_model.traces import Run, read_run
from nfcot_model.traces.activations import set_folder, thoughts_hash, write_activations
from probes.apply import apply_probe
from probes.artifact import read_probe, save_probe
from probes.features import gather, read_site, read_space
from probes.fit import ProbeResult, fit_probe
from probes.sites import (
    Place,
    Site,
    available_sites,
    parse_site,
    real_site,
    site_rows,
    step_rows,
    sweep_sites,
)
from tests.synthetic_run import synthetic_run


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return synthetic_run(tmp_path_factory.mktemp("runs") / "run", n=80, steps=(2, 5), activations=3)


@pytest.mark.parametrize(
    ("text", "site"),
    [
        ("u@3", Site("u", Place("k", 3))),
        ("eps@0", Site("eps", Place("k", 0))),
        ("e@-1", Site("e", Place("k", -1))),
        ("h@2@-1", Site("h", Place("k", -1), 2)),
        ("h@-1@mean", Site("h", Place("mean"), -1)),
        ("blocks.1.hook_out@max", Site("blocks.1.hook_out", Place("max"))),
        ("mu@step2", Site("mu", Place("step", 2))),
        ("u@step-1", Site("u", Place("step", -1))),
        ("u@rollmax", Site("u", Place("rollmax"))),
        ("u@concat", Site("u", Place("concat"))),
        ("u@concat4", Site("u", Place("concat", 4))),
        ("h@0@concat-2", Site("h", Place("concat", -2), 0)),
        ("u@all", Site("u", Place("all"))),
    ],
)
def test_sites_parse_and_print_the_same(text: str, site: Site) -> None:
    assert parse_site(text) == site
    assert str(site) == text


def test_the_last_thought_has_one_spelling() -> None:
    assert str(parse_site("u@last")) == "u@-1"


REFUSED = (
    "u u@ v@1 h@1 u@1@2 u@x u@1.5 u@٣ a.b@ a..b@1 é.b@1 h@mean u@median u@step u@mean2 u@concat0"
    " u@concat-0 u@stepx u@concat_2 u@-99999999999999999999"
)


@pytest.mark.parametrize("text", ["", "u@ 1", *REFUSED.split()])
def test_other_texts_are_refused_with_the_accepted_forms(text: str) -> None:
    with pytest.raises(UserError, match=r"--site .*expected SPACE@PLACE .*u, e, eps, mu.*rollmax"):
        parse_site(text)


@pytest.mark.parametrize("k", [0, 3, -1, -3])
def test_rows_are_the_asked_thought_of_each_trace(run: Run, k: int) -> None:
    site = parse_site(f"u@{k}")
    rows = site_rows(run, site)
    x = read_site(run, site, rows)
    count = 0
    for i, trace in run.traces.iterrows():
        own = run.trace_tensor("u", trace["trace_id"])
        if -len(own) <= k < len(own):
            assert rows.trace[count] == i
            np.testing.assert_array_equal(x[count], own[k])
            count += 1
    assert count == len(rows.last)
    assert rows.out == len(run.traces) - count
    if k in (3, -3):
        assert 0 < rows.out < len(run.traces)


def pairs(own: np.ndarray) -> np.ndarray:
    return (own[:-1] + own[1:]) / 2 if len(own) > 1 else own


POOLS = {
    "mean": lambda own: own.mean(axis=0),
    "max": lambda own: own.max(axis=0),
    "rollmax": lambda own: pairs(own).max(axis=0),
    "concat3": lambda own: own[:3].ravel() if len(own) >= 3 else None,
    "concat-2": lambda own: own[-2:].ravel() if len(own) >= 2 else None,
    "all": lambda own: own,
}


@pytest.fixture(scope="module")
def ragged(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Traces of no thought to four."""
    return synthetic_run(tmp_path_factory.mktemp("ragged") / "run", n=90, steps=(0, 4))


@pytest.mark.parametrize("place", POOLS)
def test_pooled_places_are_what_a_loop_over_traces_finds(ragged: Run, place: str) -> None:
    site = parse_site(f"u@{place}")
    rows = site_rows(ragged, site)
    own = [ragged.trace_tensor("u", t) for t in ragged.traces["trace_id"]]
    expected = {i: POOLS[place](u) for i, u in enumerate(own) if len(u)}
    expected = {i: value for i, value in expected.items() if value is not None}
    assert rows.trace.tolist() == list(expected)
    assert rows.out == len(own) - len(expected) > 0
    x = gather(read_space(ragged, site), site, rows)
    for found, wanted in zip(x, expected.values(), strict=True):
        np.testing.assert_allclose(found, wanted, rtol=1e-6)
    K = ragged.traces["K"].to_numpy()
    last = ragged.thoughts["k"].to_numpy()[rows.last]
    assert (last == (2 if place == "concat3" else K[rows.trace] - 1)).all()


def test_a_shard_without_a_thought_has_no_rows(tmp_path: Path) -> None:
    some = synthetic_run(tmp_path / "run", n=100, steps=(0, 1), activations=3)
    K = some.traces["K"].to_numpy()
    assert len(read_space(some, parse_site("h@1@0"))) == K.sum()
    none = synthetic_run(tmp_path / "none", n=10, steps=(0, 0), activations=3)
    assert none.shard_tensor("h", "000000", 1).shape == (0, 3)
    with pytest.raises(UserError, match="no trace of the run has a thought"):
        site_rows(none, parse_site("u@mean"))
    with pytest.raises(UserError, match="nothing to sweep"):
        sweep_sites(none)


def test_thoughts_of_other_traces_never_enter(ragged: Run) -> None:
    site = parse_site("u@mean")
    rows = site_rows(ragged, site)
    values = read_space(ragged, site)
    others = np.ones(len(values), dtype=bool)
    others[rows.first[0] : rows.first[0] + rows.count[0]] = False
    changed = np.where(others[:, None], 1e6, values)
    for place in ("mean", "max", "rollmax"):
        pooled = parse_site(f"u@{place}")
        np.testing.assert_array_equal(
            gather(values, pooled, rows)[0], gather(changed, pooled, rows)[0]
        )


def test_all_thoughts_side_by_side_need_one_number_of_them(run: Run, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"2 to 5 thoughts.*u@concat2 .*u@concat-2"):
        site_rows(run, parse_site("u@concat"))
    even = synthetic_run(tmp_path / "even", n=20, steps=(3, 3))
    site = parse_site("u@concat")
    np.testing.assert_array_equal(
        read_site(even, site, site_rows(even, site)), even.tensor("u").reshape(20, -1)
    )


def in_pairs(run: Run) -> Run:
    """The same run with two thoughts a step; an odd K leaves the last step with one."""
    return replace(run, thoughts=run.thoughts.assign(step=run.thoughts["k"] // 2))


@pytest.mark.parametrize("step", [0, 1, 2, -1, -2])
def test_a_step_is_read_at_its_last_thought(run: Run, step: int) -> None:
    paired = in_pairs(run)
    rows = site_rows(paired, parse_site(f"u@step{step}"))
    for i, (_, own) in enumerate(paired.thoughts.groupby("trace_id", sort=False)):
        steps = own["step"].to_numpy()
        wanted = step if step >= 0 else steps.max() + 1 + step
        found = rows.last[rows.trace == i]
        assert found.tolist() == own.index[steps == wanted].tolist()[-1:]
    assert rows.out == len(run.traces) - len(rows.trace)


def test_steps_may_differ_from_trace_to_trace(run: Run) -> None:
    paired = in_pairs(run)
    wanted = np.resize([0, 1, -1], len(run.traces))
    rows = step_rows(paired, wanted)
    assert (rows[wanted == -1] == -1).all()
    assert (paired.thoughts["step"].to_numpy()[rows[wanted == 0]] == 0).all()


def test_hidden_states_are_read_at_their_layer(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """That layer only: never the whole tensor."""
    site = parse_site("h@1@-1")
    rows = site_rows(run, site)
    expected = run.tensor("h")[rows.last, 1]
    monkeypatch.setattr(Run, "tensor", lambda *_: pytest.fail("the whole tensor was read"))
    np.testing.assert_array_equal(read_site(run, site, rows), expected)


@pytest.mark.parametrize("text", ["u@5", "u@-6", "h@2@0", "h@-3@0", "u@step5", "u@concat6"])
def test_a_missing_site_names_those_there_are(run: Run, text: str) -> None:
    with pytest.raises(UserError, match=r"existing sites: u@K.*h@0@K, h@1@K with K in 0\.\.4"):
        site_rows(run, parse_site(text))


def damaged_values(run: Run, name: str, value: float, rows: list[int]) -> Run:
    """The same run with a value in some thoughts' rows that is no number, in its file too."""
    shard = run.path / "tensors" / "000000.safetensors"
    arrays = load_file(shard)
    arrays[name][rows, ..., 2] = value
    save_file(arrays, shard)
    return read_run(run.path, verify=False)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_values_that_are_no_numbers_name_their_trace(tmp_path: Path, value: float) -> None:
    fresh = synthetic_run(tmp_path / "run", n=20, steps=(2, 5), activations=3)
    bad = damaged_values(fresh, "h", value, [7, 9])
    thought = fresh.thoughts.iloc[7]
    where = f"h@1 .*at thought {thought['k']} of trace {thought['trace_id']} .and at 1 other"
    for read in (
        lambda: read_space(bad, parse_site("h@1@0")),
        lambda: fit_probe(bad, "offset@0", "h@1@mean"),
    ):
        with pytest.raises(UserError, match=where):
            read()
    read_space(bad, parse_site("u@0"))


def test_a_sweep_goes_over_spaces_then_places(run: Run) -> None:
    sites = [str(site) for site in sweep_sites(run)]
    spaces = ["u", "e", "eps", "mu", "h@0", "h@1"]
    assert sites == [f"{space}@{k}" for space in spaces for k in range(5)]
    chosen = sweep_sites(run, ["eps", "h", "h@-1"], ["-1", "last", "step0", "mean"])
    assert [str(site) for site in chosen] == [
        f"{space}@{place}" for space in ("eps", "h@0", "h@1") for place in ("-1", "step0", "mean")
    ]
    assert sweep_sites(run, ["h@-1"], ["0"])[0].source == "h@1"


@pytest.mark.parametrize(
    ("spaces", "places"),
    [(["v"], None), (["h@7"], None), (["a.hook"], None), (["u"], ["9"]), (["u"], ["median"])],
)
def test_a_sweep_refuses_what_is_not_there(
    run: Run, spaces: list[str], places: list[str] | None
) -> None:
    with pytest.raises(UserError, match="--site"):
        sweep_sites(run, spaces, places)
    with pytest.raises(UserError, match="nothing to sweep"):
        sweep_sites(run, [])


def test_a_run_of_the_last_layer_offers_that_one_only(tmp_path: Path) -> None:
    last = synthetic_run(
        tmp_path / "last", n=20, activations=3, manifest={"activations": "thoughts"}
    )
    site = parse_site("h@-1@0")
    rows = site_rows(last, site)
    np.testing.assert_array_equal(read_site(last, site, rows), last.tensor("h")[rows.last, 0])
    assert [str(s) for s in sweep_sites(last, ["h"], ["0"])] == ["h@-1@0"]
    for layer in (0, 1, -2):
        with pytest.raises(UserError, match=r"existing sites: .*mu@K, h@-1@K with K"):
            site_rows(last, parse_site(f"h@{layer}@0"))


def test_layers_have_their_numbers_in_the_model(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """Known without reading the states."""
    monkeypatch.setattr(Run, "tensor", lambda *_: pytest.fail("the whole tensor was read"))
    for text, real in (("h@-1@2", "h@1@2"), ("h@0@2", "h@0@2"), ("u@-1", "u@-1")):
        assert str(real_site(run, parse_site(text))) == real
    assert "h@0@K, h@1@K" in available_sites(run)


def test_without_activations_the_message_says_how_to_get_them(tmp_path: Path) -> None:
    plain = synthetic_run(tmp_path / "plain", n=20)
    with pytest.raises(UserError, match="--activations all"):
        site_rows(plain, parse_site("h@0@0"))
    with pytest.raises(UserError, match="--activations all"):
        sweep_sites(plain, ["h"])


@pytest.fixture
def hooked_run(tmp_path: Path) -> Run:
    """A run whose tensor `e` stands as activations of two hooks beside it, one with two axes."""
    run = synthetic_run(tmp_path / "hooked", n=160, steps=(2, 4))
    return with_hooks(run, {"blocks.1.hook_out": (8,), "blocks.1.attn.hook_z": (2, 4)})


def with_hooks(run: Run, shapes: dict[str, tuple[int, ...]], bad_row: int | None = None) -> Run:
    """The run with `e` as activations of hooks; in `bad_row` of each shard they are no numbers."""
    manifest = {
        "format_version": 1,
        "run_hash": run.hash,
        "sites": [{"name": name, "row": list(shape)} for name, shape in shapes.items()],
        "created": "2026-01-01T00:00:00+00:00",
    }
    folder = set_folder(run.path, manifest)
    folder.mkdir(parents=True)
    write_json(folder / "manifest.json", manifest | {"checksum": content_hash(manifest)})
    for shard, part in run.traces.groupby("shard"):
        e = run.shard_tensor("e", str(shard)).copy()
        if bad_row is not None:
            e[bad_row, -1] = np.nan
        arrays = {name: e.reshape(len(e), *shape) for name, shape in shapes.items()}
        write_activations(folder / f"{shard}.safetensors", arrays, thoughts_hash(part))
    return run


def test_a_hook_that_holds_no_numbers_names_the_trace(tmp_path: Path) -> None:
    run = synthetic_run(tmp_path / "run", n=20, steps=(2, 4))
    bad = with_hooks(run, {"blocks.1.attn.hook_z": (2, 4)}, bad_row=5)
    thought = run.thoughts.iloc[5]
    where = rf"blocks\.1\.attn\.hook_z .*thought {thought['k']} of trace {thought['trace_id']} .and"
    with pytest.raises(UserError, match=where):
        fit_probe(bad, "offset", "blocks.1.attn.hook_z@0")


def test_captured_hooks_are_sites(hooked_run: Run, tmp_path: Path) -> None:
    """They are read row by row, and a probe on one survives the disk and reads another run."""
    rows = site_rows(hooked_run, parse_site("e@-1"))
    e = read_site(hooked_run, parse_site("e@-1"), rows)
    for name in ("blocks.1.hook_out", "blocks.1.attn.hook_z"):
        site = parse_site(f"{name}@-1")
        assert str(site) == f"{name}@-1"
        np.testing.assert_array_equal(read_site(hooked_run, site, site_rows(hooked_run, site)), e)
    assert "blocks.1.hook_out@K" in available_sites(hooked_run)
    swept = [str(s) for s in sweep_sites(hooked_run, ["blocks.1.hook_out"], ["0", "mean"])]
    assert swept == ["blocks.1.hook_out@0", "blocks.1.hook_out@mean"]
    result = fit_probe(hooked_run, "offset", "blocks.1.hook_out@-1")
    accuracy = result.metrics["accuracy"]
    assert accuracy == fit_probe(hooked_run, "offset", "e@-1").metrics["accuracy"]
    assert accuracy.low > result.controls[0].metrics["accuracy"].high
    probe = read_probe(save_folder(result, tmp_path / "probe"))
    assert str(probe.site) == "blocks.1.hook_out@-1"
    scores = apply_probe(probe, hooked_run)
    assert scores.n == len(hooked_run.traces)


def save_folder(result: ProbeResult, folder: Path) -> Path:
    save_probe(result, folder)
    return folder


def test_a_hook_that_was_not_captured_says_how_to(run: Run) -> None:
    with pytest.raises(UserError, match=r"nfcot activations .*--sites blocks\.1\.hook_out"):
        site_rows(run, parse_site("blocks.1.hook_out@0"))
