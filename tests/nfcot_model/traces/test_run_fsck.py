"""Does fsck name what is wrong with a run, and is a repaired run whole again?"""

from __future__ import annotations

import shutil
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from nfcot_model.errors import UserError
from nfcot_model.traces import check_run, read_run
from nfcot_model.traces.schema import TRACES_SCHEMA, seal
from nfcot_model.worlds import problem_set_hash, write_problems
from tests.synthetic_run import edit_thought, synthetic_run
from tests.tiny import digits


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return synthetic_run(tmp_path / "run", n=150).path


def test_a_whole_run(run: Path) -> None:
    health = check_run(run)
    assert health.whole
    assert (health.shards, health.traces, health.missing) == (3, 150, 0)


def test_leftovers_of_a_killed_writer(run: Path) -> None:
    (run / "traces" / "000002.parquet").unlink()
    (run / "tensors" / ".000003.safetensors.12ab.tmp").write_bytes(b"half")
    health = check_run(run)
    assert not health.whole
    assert health.leftovers == [
        "tensors/.000003.safetensors.12ab.tmp",
        "tensors/000002.safetensors",
        "thoughts/000002.parquet",
    ]
    assert health.missing == 22
    repaired = check_run(run, repair=True)
    assert repaired.whole
    assert repaired.repaired == health.leftovers
    assert len(read_run(run).traces) == 128


@pytest.mark.parametrize(
    "name", ["tensors/000001.safetensors", "thoughts/000001.parquet", "traces/000001.parquet"]
)
def test_damage_is_named_and_repaired(run: Path, name: str) -> None:
    whole = {p: p.read_bytes() for p in run.rglob("*") if p.is_file()}
    data = bytearray((run / name).read_bytes())
    data[len(data) // 3] ^= 16
    (run / name).write_bytes(data)
    health = check_run(run)
    assert list(health.damaged) == ["000001"]
    assert name in health.damaged["000001"]
    assert (health.traces, health.missing) == (86, 64)
    repaired = check_run(run, repair=True)
    assert repaired.whole
    assert (repaired.traces, repaired.missing) == (86, 64)
    assert len(read_run(run).traces) == 86
    synthetic_run(run, n=150)
    assert {p: p.read_bytes() for p in run.rglob("*") if p.is_file()} == whole


def test_the_problems_of_a_run_are_checked(tmp_path: Path) -> None:
    asked = digits(3)
    run = synthetic_run(
        tmp_path / "run", n=20, manifest={"problem_set_hash": problem_set_hash(asked)}
    ).path
    health = check_run(run)
    assert (health.whole, health.carries_problems) == (True, False), "none in earlier versions"
    write_problems(run / "problems.jsonl", asked)
    assert check_run(run).carries_problems
    write_problems(run / "problems.jsonl", asked[1:])
    health = check_run(run)
    assert not health.whole
    assert list(health.damaged) == ["problems.jsonl"]
    assert "repeat the trace command" in health.damaged["problems.jsonl"]
    assert (health.shards, health.traces) == (1, 20)
    repaired = check_run(run, repair=True)
    assert repaired.whole
    assert repaired.repaired == ["problems.jsonl"]
    assert len(read_run(run).traces) == 20


def test_doubled_traces_are_found(run: Path) -> None:
    for folder in ("tensors", "thoughts", "traces"):
        (source,) = (run / folder).glob("000000.*")
        shutil.copy(source, source.with_stem("000009"))
    health = check_run(run)
    assert list(health.damaged) == ["000009"]
    assert "repeats traces" in health.damaged["000009"]
    assert health.traces == 150


def test_a_resealed_lie_about_u_is_found(run: Path) -> None:
    """Consistent file hashes do not help when the thoughts are not those of the trace."""
    file = run / "traces" / "000000.parquet"
    table = pq.read_table(file)
    metadata = {k.decode(): v.decode() for k, v in table.schema.metadata.items() if k != b"seal"}
    hashes = table["u_sha256"].to_pylist()
    hashes[5], hashes[6] = hashes[6], hashes[5]
    at = table.schema.get_field_index("u_sha256")
    lying = table.set_column(at, TRACES_SCHEMA.field(at), [hashes])
    file.write_bytes(seal(lying, "traces", metadata))
    assert len(read_run(run).traces) == 150
    health = check_run(run)
    assert table["trace_id"][5].as_py() in health.damaged["000000"]


@pytest.mark.parametrize(
    ("change", "words"), [("u", "replay error is"), ("energy", "on record is 3")]
)
def test_edits_with_every_hash_made_to_fit_are_found(run: Path, change: str, words: str) -> None:
    trace = edit_thought(run, change)
    assert len(read_run(run).traces) == 150
    health = check_run(run)
    assert list(health.damaged) == ["000000"]
    assert trace in health.damaged["000000"]
    assert words in health.damaged["000000"]


def test_what_fits_itself_is_not_seen(run: Path) -> None:
    edit_thought(run, "all tensors")
    assert check_run(run).whole


def test_the_replay_error_is_recomputed_and_edits_on_record_are_no_damage(
    run: Path, tmp_path: Path
) -> None:
    clean = check_run(run)
    assert clean.replay_error_max < 1e-5
    health = check_run(synthetic_run(tmp_path / "noisy", n=80, tamper="noise").path)
    assert health.whole
    assert health.replay_error_max > 1
    assert health.replay_error_max == pytest.approx(health.replay_error_stored_max, rel=1e-5)


def test_not_a_run(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is not a run"):
        check_run(tmp_path)
