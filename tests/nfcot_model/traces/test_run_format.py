"""Does a run come back as written, by our reader and by others', and does damage show?"""

from __future__ import annotations

import errno
import json
import shutil
from pathlib import Path

import duckdb
import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nfcot_model.errors import UserError
from nfcot_model.traces import Run, list_runs, read_run, writer
from nfcot_model.traces.schema import is_sealed, sealed_manifest
from tests.synthetic_run import synthetic_run


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return synthetic_run(tmp_path_factory.mktemp("runs") / "one", n=70, D=6, activations=3)


@pytest.fixture
def copy(run: Run, tmp_path: Path) -> Path:
    return Path(shutil.copytree(run.path, tmp_path / "copy"))


def test_thoughts_and_tensors_are_aligned(run: Run) -> None:
    assert len(run.traces) == 70
    assert len(run.thoughts) == run.traces["K"].sum() == len(run.tensor("u"))
    assert run.D == 6
    owners = run.traces["trace_id"].repeat(run.traces["K"]).tolist()
    assert run.thoughts["trace_id"].tolist() == owners
    assert run.thoughts["k"].tolist() == [k for K in run.traces["K"] for k in range(K)]
    eps = (run.tensor("u") - run.tensor("mu")) * np.exp(-run.tensor("log_sigma"))
    np.testing.assert_allclose(eps, run.tensor("eps"), atol=1e-5)
    energy = 0.5 * ((eps / 0.7) ** 2).sum(1)
    np.testing.assert_allclose(run.thoughts["energy"], energy, rtol=1e-4)
    sums = run.thoughts.groupby("trace_id", sort=False)["energy"].sum()
    np.testing.assert_allclose(sums, run.traces["energy"], rtol=1e-5)


def test_one_trace_is_read_alone(run: Run) -> None:
    trace = run.traces.iloc[66]
    rows = run.thoughts["trace_id"] == trace["trace_id"]
    np.testing.assert_array_equal(
        run.trace_tensor("u", trace["trace_id"]), run.tensor("u")[rows.to_numpy()]
    )
    assert run.tensor("h").shape == (len(run.thoughts), 2, 3)


def test_labels_are_columns(run: Run) -> None:
    assert run.label_columns() == ["coefficient", "offset", "operation", "steps", "tampered"]
    steps = run.step_labels()
    assert steps.index.equals(run.thoughts.index)
    assert set(steps["offset"]) == set(range(10))
    assert (run.problem_labels()["steps"] == run.traces["K"]).all()


def test_unknown_names_list_the_known(run: Run) -> None:
    with pytest.raises(UserError, match="no tensor 'z'; it has e, eps, h, log_sigma, mu, u"):
        run.tensor("z")
    with pytest.raises(UserError, match="holds no trace 'nobody'"):
        run.trace_tensor("u", "nobody")


def test_duckdb_pandas_and_datasets_read_the_files(run: Run, tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    query = f"""
        select t.trace_id, count(*) as n, max(len(t.steps)) as steps
        from '{run.path}/traces/*.parquet' t join '{run.path}/thoughts/*.parquet' h using (trace_id)
        group by all
    """
    counts = duckdb.sql(query).df().set_index("trace_id").loc[run.traces["trace_id"]]
    assert (counts["n"].to_numpy() == run.traces["K"].to_numpy()).all()
    assert (counts["steps"].to_numpy() == run.traces["K"].to_numpy()).all()

    files = sorted(map(str, (run.path / "traces").glob("*.parquet")))
    loaded = datasets.load_dataset(
        "parquet", data_files=files, split="train", cache_dir=str(tmp_path)
    )
    assert loaded["trace_id"][:] == run.traces["trace_id"].tolist()
    assert loaded["steps"][3] == run.traces["steps"][3]
    assert len(pd.read_parquet(run.path / "thoughts")) == len(run.thoughts)


def test_parquet_settings_are_explicit(run: Run) -> None:
    group = pq.read_metadata(run.path / "traces" / "000000.parquet").row_group(0)
    columns = {group.column(i).path_in_schema: group.column(i) for i in range(group.num_columns)}
    assert {c.compression for c in columns.values()} == {"ZSTD"}
    coded = {name for name, c in columns.items() if c.has_dictionary_page}
    assert coded == {"world", "split", "verdict", "shard"}


@pytest.mark.parametrize(
    "name", ["traces/000001.parquet", "thoughts/000000.parquet", "tensors/000001.safetensors"]
)
def test_damage_is_named(copy: Path, name: str) -> None:
    whole = (copy / name).read_bytes()
    for damaged in (whole[:-1], whole[: len(whole) // 2], b"", whole + b"\0"):
        (copy / name).write_bytes(damaged)
        with pytest.raises(UserError, match=name):
            read_run(copy)
    (copy / name).write_bytes(whole)
    assert len(read_run(copy).traces) == 70


@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_a_flipped_bit_anywhere_is_named(run: Run, data: st.DataObject) -> None:
    files = sorted(p for p in run.path.rglob("*") if p.is_file())
    file = data.draw(st.sampled_from(files))
    whole = file.read_bytes()
    bit = data.draw(st.integers(0, 8 * len(whole) - 1))
    flipped = bytearray(whole)
    flipped[bit // 8] ^= 1 << bit % 8
    try:
        file.write_bytes(flipped)
        with pytest.raises(UserError, match=file.name):
            read_run(run.path)
    finally:
        file.write_bytes(whole)


def test_the_seal_covers_every_byte(run: Run) -> None:
    whole = (run.path / "traces" / "000001.parquet").read_bytes()
    assert is_sealed(whole)
    for place in range(len(whole)):
        assert not is_sealed(whole[:place] + bytes([whole[place] ^ 4]) + whole[place + 1 :])


def test_missing_file_of_a_committed_shard_is_named(copy: Path) -> None:
    (copy / "tensors" / "000000.safetensors").unlink()
    with pytest.raises(UserError, match=r"tensors/000000\.safetensors"):
        read_run(copy)


def test_what_was_not_committed_is_invisible(copy: Path) -> None:
    (copy / "traces" / "000001.parquet").unlink()
    (copy / "traces" / ".000001.parquet.abcd.tmp").write_bytes(b"half")
    assert len(read_run(copy).traces) == 64


def test_manifest_identity_ignores_time_and_place(run: Run) -> None:
    moved = {**run.manifest, "model_path": "/elsewhere", "created": "2030-01-01T00:00:00+00:00"}
    assert sealed_manifest(moved)["hash"] == run.hash
    assert sealed_manifest(moved)["checksum"] != run.manifest["checksum"]
    assert sealed_manifest({**run.manifest, "checkpoint_hash": "other"})["hash"] != run.hash


def test_not_a_run(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is not a run"):
        read_run(tmp_path)
    with pytest.raises(UserError, match="no such folder"):
        list_runs(tmp_path / "nowhere")
    assert list_runs(tmp_path) == []
    (tmp_path / "run.json").write_text(json.dumps({"format_version": 99}))
    with pytest.raises(UserError, match="format_version is 99"):
        read_run(tmp_path)


@pytest.mark.parametrize(
    "text",
    [
        "[" * 100_000,
        '{"format_version": 1, "a": "\\ud800"}',
        "[]",
        "1",
        "{}",
        '{"format_version": 1}',
    ],
)
def test_a_foreign_manifest_is_one_line(tmp_path: Path, text: str) -> None:
    (tmp_path / "run.json").write_text(text)
    with pytest.raises(UserError, match=r"run\.json") as error:
        read_run(tmp_path)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"decode": {}}, "decode.tau"),
        ({"decode": 3}, "decode"),
        ({"traces": "many"}, "traces"),
        ({"checkpoint_hash": None}, "checkpoint_hash"),
    ],
)
def test_a_manifest_with_other_fields_names_the_first(
    tmp_path: Path, run: Run, changes: dict[str, object], field: str
) -> None:
    (tmp_path / "run.json").write_text(json.dumps(sealed_manifest({**run.manifest, **changes})))
    with pytest.raises(UserError, match=f"field '{field}' is missing or of another type"):
        read_run(tmp_path)


def test_row_shapes_and_comparable_settings(run: Run) -> None:
    assert (run.row_shape("u"), run.row_shape("h")) == ((6,), (2, 3))
    assert run.settings["decode.tau"] == 0.7
    assert set(run.settings) >= {"checkpoint_hash", "decode.dtype", "decode.template"}


def test_two_runs_do_not_share_a_folder(copy: Path) -> None:
    before = {p: p.read_bytes() for p in copy.rglob("*") if p.is_file()}
    with pytest.raises(UserError, match=r"holds another run \(decode.seed is 0 there, 1 here\)"):
        synthetic_run(copy, n=70, D=6, activations=3, seed=1)
    assert {p: p.read_bytes() for p in copy.rglob("*") if p.is_file()} == before


def test_a_foreign_folder_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("precious")
    with pytest.raises(UserError, match=r"is not empty.*thesis.tex"):
        synthetic_run(tmp_path, n=3)
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.tex"]


def test_one_writer_at_a_time(copy: Path) -> None:
    with (
        writer.writing(copy),
        pytest.raises(UserError, match="another process is writing"),
        writer.writing(copy),
    ):
        pass


@pytest.mark.parametrize("failing", [2, 3, 4])
def test_full_disk_leaves_whole_shards_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failing: int
) -> None:
    real, calls = writer.write_bytes, 0

    def filling(path: Path, data: bytes) -> None:
        nonlocal calls
        calls += 1
        if calls == 3 + failing - 1:
            raise OSError(errno.ENOSPC, "No space left on device")
        real(path, data)

    monkeypatch.setattr(writer, "write_bytes", filling)
    with pytest.raises(UserError, match="no space left"):
        synthetic_run(tmp_path / "run", n=200)
    shards = (failing + 1) // 3
    assert len(read_run(tmp_path / "run").traces) == 64 * shards
    files = [p for p in (tmp_path / "run").rglob("*") if p.is_file()]
    assert len(files) == 1 + 3 * shards


def test_full_disk_at_the_start_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(writer, "write_json", full)
    with pytest.raises(UserError, match="no space left"):
        synthetic_run(tmp_path / "run", n=3)
    assert list(tmp_path.iterdir()) == []


def test_a_trace_without_thoughts_and_an_empty_run(tmp_path: Path) -> None:
    run = synthetic_run(tmp_path / "ragged", n=20, steps=(0, 2))
    assert set(run.traces["K"]) == {0, 1, 2}
    nothing = run.traces[run.traces["K"] == 0].iloc[0]
    assert run.trace_tensor("u", nothing["trace_id"]).shape == (0, 8)
    assert nothing["logp_u"] == 0.0

    shutil.rmtree(tmp_path / "ragged" / "traces")
    empty = read_run(tmp_path / "ragged")
    assert (len(empty.traces), len(empty.thoughts), empty.D) == (0, 0, 0)
    assert empty.tensor("u").shape == (0, 0)
    assert empty.label_columns() == []
