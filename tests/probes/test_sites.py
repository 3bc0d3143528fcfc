"""Sites and labels: the right rows, and what is there when the asked one is not."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from nfcot_model.errors import UserError
from nfcot_model.files import content_hash, write_json
from nfcot_model.traces import Run
from nfcot_model.traces.activations import set_folder, thoughts_hash, write_activations
from probes.apply import apply_probe
from probes.artifact import read_probe
from probes.fit import ProbeResult, fit_probe, save_probe
from probes.labels import read_labels
from probes.sites import Site, available_sites, parse_site, read_site, real_site, site_rows
from tests.synthetic_run import synthetic_run


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return synthetic_run(tmp_path_factory.mktemp("runs") / "run", n=80, steps=(2, 5), activations=3)


@pytest.mark.parametrize(
    ("text", "site"),
    [
        ("u@3", Site("u", 3)),
        ("eps@0", Site("eps", 0)),
        ("e@-1", Site("e", -1)),
        ("h@2@-1", Site("h", -1, 2)),
        ("h@-1@0", Site("h", 0, -1)),
        ("blocks.1.hook_out@-1", Site("blocks.1.hook_out", -1)),
    ],
)
def test_sites_parse_and_print_the_same(text: str, site: Site) -> None:
    assert parse_site(text) == site
    assert str(site) == text


HUGE = "u@-99999999999999999999"


@pytest.mark.parametrize(
    "text",
    ["u", "u@", "v@1", "h@1", "u@1@2", "u@x", "", "u@1.5", "u@٣", HUGE, "a.b@", "a..b@1", "é.b@1"],
)
def test_other_texts_are_refused_with_the_accepted_forms(text: str) -> None:
    with pytest.raises(UserError, match=r"--site .*expected SPACE@K .*u, e, eps, mu"):
        parse_site(text)


@pytest.mark.parametrize("k", [0, 3, -1, -3])
def test_rows_are_the_asked_thought_of_each_trace(run: Run, k: int) -> None:
    rows = site_rows(run, Site("u", k))
    x = read_site(run, Site("u", k), rows)
    count = 0
    for i, trace in run.traces.iterrows():
        own = run.trace_tensor("u", trace["trace_id"])
        if -len(own) <= k < len(own):
            assert rows.trace[count] == i
            np.testing.assert_array_equal(x[count], own[k])
            count += 1
    assert count == len(rows.row)
    assert rows.out == len(run.traces) - count
    if k in (3, -3):
        assert 0 < rows.out < len(run.traces)


def test_hidden_states_are_read_at_their_layer(run: Run) -> None:
    rows = site_rows(run, Site("h", 1, -1))
    np.testing.assert_array_equal(
        read_site(run, Site("h", 1, -1), rows), run.tensor("h")[rows.row, 1]
    )


@pytest.mark.parametrize("site", [Site("u", 5), Site("u", -6), Site("h", 0, 2), Site("h", 0, -3)])
def test_a_missing_site_names_those_there_are(run: Run, site: Site) -> None:
    with pytest.raises(UserError, match=r"existing sites: u@K.*h@0@K, h@1@K with K in 0\.\.4"):
        site_rows(run, site)


def test_a_run_of_the_last_layer_offers_that_one_only(tmp_path: Path) -> None:
    last = synthetic_run(
        tmp_path / "last", n=20, activations=3, manifest={"activations": "thoughts"}
    )
    rows = site_rows(last, Site("h", 0, -1))
    np.testing.assert_array_equal(
        read_site(last, Site("h", 0, -1), rows), last.tensor("h")[rows.row, 0]
    )
    for layer in (0, 1, -2):
        with pytest.raises(UserError, match=r"existing sites: .*mu@K, h@-1@K with K"):
            site_rows(last, Site("h", 0, layer))


def test_layers_have_their_numbers_in_the_model(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """Known without reading the states."""
    monkeypatch.setattr(Run, "tensor", lambda *_: pytest.fail("the whole tensor was read"))
    assert real_site(run, Site("h", 2, -1)) == Site("h", 2, 1)
    assert real_site(run, Site("h", 2, 0)) == Site("h", 2, 0)
    assert real_site(run, Site("u", -1)) == Site("u", -1)
    assert "h@0@K, h@1@K" in available_sites(run)


def test_without_activations_the_message_says_how_to_get_them(tmp_path: Path) -> None:
    plain = synthetic_run(tmp_path / "plain", n=20)
    with pytest.raises(UserError, match="--activations all"):
        site_rows(plain, Site("h", 0, 0))


@pytest.fixture
def hooked_run(tmp_path: Path) -> Run:
    """A run whose tensor `e` stands as activations of two hooks beside it, one with two axes."""
    run = synthetic_run(tmp_path / "hooked", n=160, steps=(2, 4))
    shapes = {"blocks.1.hook_out": (8,), "blocks.1.attn.hook_z": (2, 4)}
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
        e = run.shard_tensor("e", str(shard))
        arrays = {name: e.reshape(len(e), *shape) for name, shape in shapes.items()}
        write_activations(folder / f"{shard}.safetensors", arrays, thoughts_hash(part))
    return run


def test_captured_hooks_are_sites(hooked_run: Run, tmp_path: Path) -> None:
    """They are read row by row, and a probe on one survives the disk and reads another run."""
    rows = site_rows(hooked_run, parse_site("e@-1"))
    e = read_site(hooked_run, parse_site("e@-1"), rows)
    for name in ("blocks.1.hook_out", "blocks.1.attn.hook_z"):
        site = parse_site(f"{name}@-1")
        assert str(site) == f"{name}@-1"
        np.testing.assert_array_equal(read_site(hooked_run, site, site_rows(hooked_run, site)), e)
    assert "blocks.1.hook_out@K" in available_sites(hooked_run)
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


def test_step_labels_belong_to_the_thought_and_problem_labels_to_the_trace(run: Run) -> None:
    rows = site_rows(run, Site("u", 2))
    offsets = read_labels(run, "offset", rows)
    assert offsets.level == "step"
    assert offsets.known.all()
    texts = run.thoughts["text"].to_numpy()[rows.row]
    assert [f"+{v})" in t for v, t in zip(offsets.values, texts, strict=True)] == [True] * len(
        texts
    )
    steps = read_labels(run, "steps", rows)
    assert steps.level == "problem"
    assert steps.values.tolist() == run.traces["K"].to_numpy()[rows.trace].tolist()


def test_a_missing_label_names_those_there_are(run: Run) -> None:
    with pytest.raises(UserError, match=r"existing labels: step: coefficient, offset.*problem:"):
        read_labels(run, "colour", site_rows(run, Site("u", 0)))


def test_lists_are_no_classes(run: Run) -> None:
    rows = site_rows(run, Site("u", 0))
    nested = replace(run, traces=run.traces.assign(labels='{"kind": [1, 2]}'))
    with pytest.raises(UserError, match="--label 'kind': holds lists"):
        read_labels(nested, "kind", rows)
