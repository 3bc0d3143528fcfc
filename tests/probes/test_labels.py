"""Labels: the right value at each row, its kind, and one clear line when there is none."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from nfcot_model.errors import UserError
from nfcot_model.traces import Run
from probes.labels import Labels, available_labels, has_label, read_labels
from probes.sites import parse_site, site_rows
from probes.tables import read_label_table
from tests.synthetic_run import synthetic_run


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return synthetic_run(tmp_path_factory.mktemp("runs") / "run", n=80, steps=(2, 5))


def labels_at(run: Run, label: str, site: str = "u@1", **options: Any) -> Labels:
    place = parse_site(site)
    return read_labels(run, label, place, site_rows(run, place), **options)


def steps_of(run: Run) -> list[list[dict[str, Any]]]:
    """The step labels of each trace, one mapping per thought."""
    return [
        [json.loads(text) for text in own["labels"]]
        for _, own in run.thoughts.groupby("trace_id", sort=False)
    ]


def with_labels(run: Run, values: list[Any]) -> Run:
    """The same run with the problem label `kind` of these values, in turn."""
    texts = [json.dumps({"kind": values[i % len(values)]}) for i in range(len(run.traces))]
    return replace(run, traces=run.traces.assign(labels=texts))


def test_step_labels_belong_to_the_thought_and_problem_labels_to_the_trace(run: Run) -> None:
    rows = site_rows(run, parse_site("u@2"))
    offsets = labels_at(run, "offset", "u@2")
    assert (offsets.level, offsets.kind, offsets.classes) == ("step", "multiclass", [*range(10)])
    assert offsets.known.all()
    texts = run.thoughts["text"].to_numpy()[rows.last]
    assert all(f"+{v})" in t for v, t in zip(offsets.values, texts, strict=True))
    steps = labels_at(run, "steps", "u@2")
    assert steps.level == "problem"
    assert steps.values.tolist() == run.traces["K"].to_numpy()[rows.trace].tolist()


@pytest.mark.parametrize("step", [0, 3, -1, -3])
@pytest.mark.parametrize("site", ["u@1", "u@mean", "u@all"])
def test_a_named_step_is_read_whatever_the_place(run: Run, step: int, site: str) -> None:
    found = labels_at(run, f"offset@{step}", site)
    expected = [
        own[step]["offset"] if -len(own) <= step < len(own) else None for own in steps_of(run)
    ]
    assert found.values.tolist() == expected
    assert found.known.tolist() == [v is not None for v in expected]
    assert found.level == "step"
    if step in (3, -3):
        assert not found.known.all()


@pytest.mark.parametrize(("label", "shift"), [("offset@next", 1), ("offset@previous", -1)])
@pytest.mark.parametrize("site", ["u@1", "u@-1", "u@0"])
def test_the_step_beside_is_read_from_the_own_one(
    run: Run, label: str, shift: int, site: str
) -> None:
    k = int(site.partition("@")[2])
    found = labels_at(run, label, site)
    for own, value in zip(steps_of(run), found.values, strict=True):
        at = k % len(own) + shift
        assert value == (own[at]["offset"] if 0 <= at < len(own) else None)


def test_steps_of_two_thoughts_are_one_step_apart(run: Run) -> None:
    """The next step is not the next thought."""
    paired = replace(run, thoughts=run.thoughts.assign(step=run.thoughts["k"] // 2))
    found = labels_at(paired, "k@next", "u@0")
    K = run.traces["K"].to_numpy()
    assert found.values.tolist() == [None if k < 3 else min(k, 4) - 1 for k in K]
    assert labels_at(paired, "k@0", "u@mean").values.tolist() == [1] * len(K)


def test_a_place_of_several_thoughts_needs_the_step(run: Run) -> None:
    for label in ("offset", "match", "offset@next"):
        with pytest.raises(UserError, match=r"u@mean reads several; name the step.*@-1"):
            labels_at(run, label, "u@mean")
    assert labels_at(run, "correct", "u@mean").level == "trace"


def test_labels_of_traces_have_no_steps(run: Run) -> None:
    for label in ("tampered@0", "verdict@-1", "K@next"):
        with pytest.raises(UserError, match="one value per trace, none per step"):
            labels_at(run, label)


@pytest.mark.parametrize(
    ("label", "level", "kind"),
    [
        ("verdict", "trace", "binary"),
        ("correct", "trace", "binary"),
        ("K", "trace", "multiclass"),
        ("logp_u", "trace", "number"),
        ("trace:energy", "trace", "number"),
        ("thought:energy", "thought", "number"),
        ("match", "thought", "binary"),
        ("text", "thought", "multiclass"),
        ("logp", "thought", "number"),
        ("step:operation", "step", "multiclass"),
        ("problem:tampered", "problem", "binary"),
    ],
)
def test_columns_of_the_tables_are_labels(run: Run, label: str, level: str, kind: str) -> None:
    rows = site_rows(run, parse_site("u@1"))
    found = labels_at(run, label)
    assert (found.level, found.kind) == (level, kind)
    assert found.known.all()
    name = label.rpartition(":")[2]
    if level in ("trace", "thought"):
        frame, at = (run.traces, rows.trace) if level == "trace" else (run.thoughts, rows.last)
        assert found.values.tolist() == frame[name].iloc[at].tolist()


def test_a_name_in_two_places_is_qualified(run: Run) -> None:
    with pytest.raises(UserError, match="write trace:energy or thought:energy"):
        labels_at(run, "energy")
    with pytest.raises(UserError, match="write trace:energy@0 or thought:energy@0"):
        labels_at(run, "energy@0")
    both = replace(
        run,
        traces=run.traces.assign(labels='{"offset": 7, "verdict": "mine"}'),
    )
    assert labels_at(both, "offset").level == "step"
    assert set(labels_at(both, "problem:offset").values) == {7}
    with pytest.raises(UserError, match="write problem:verdict or trace:verdict"):
        labels_at(both, "verdict")
    assert set(labels_at(both, "problem:verdict").values) == {"mine"}


def test_names_that_look_like_forms_are_taken_as_they_stand(run: Run) -> None:
    odd = replace(run, traces=run.traces.assign(labels='{"a@1": 1, "step:x": 2, "p:q": 3}'))
    for label, value in (("a@1", 1), ("problem:a@1", 1), ("step:x", 2), ("p:q", 3)):
        assert set(labels_at(odd, label).values) == {value}


@pytest.mark.parametrize("label", ["colour", "problem:offset", "step:tampered", "csv:x", "@1", ""])
def test_a_missing_label_names_those_there_are(run: Run, label: str) -> None:
    with pytest.raises(UserError, match=r"existing labels: step: coefficient, offset.*problem:"):
        labels_at(run, label)
    assert not has_label(run, label)
    assert has_label(run, "offset@-1")
    assert "thought: k, step, logp" in available_labels(run)


def test_lists_are_no_classes(run: Run) -> None:
    with pytest.raises(UserError, match="--label 'kind': holds lists"):
        labels_at(with_labels(run, [[1, 2]]), "kind")


@pytest.mark.parametrize(
    ("values", "kind", "classes"),
    [
        ([True, False], "binary", [False, True]),
        (["b", "a"], "binary", ["a", "b"]),
        ([3, 3.0, 2], "binary", [2, 3]),
        ([True, 1, "1", 1.0], "multiclass", [True, 1, "1"]),
        ([*range(20)], "multiclass", [*range(20)]),
        ([*range(21)], "number", None),
        ([0.5, 1, 2], "number", None),
        ([0.5, "x", 1], "multiclass", [0.5, 1, "x"]),
        (["only"], "binary", ["only"]),
    ],
)
def test_the_kind_follows_from_the_values(
    run: Run, values: list[Any], kind: str, classes: list[Any] | None
) -> None:
    found = labels_at(with_labels(run, values), "kind")
    assert (found.kind, found.classes) == (kind, classes)
    if classes is not None:
        assert [type(c) for c in found.classes or []] == [type(c) for c in classes]


def test_the_kind_is_that_of_the_run_at_every_site(run: Run) -> None:
    """Whole numbers of 80 values are no classes where only few traces have the place."""
    many = with_labels(run, [*range(80)])
    few = site_rows(many, parse_site("u@4")).trace.size
    assert few < 30
    assert {labels_at(many, "kind", site).kind for site in ("u@0", "u@4")} == {"number"}
    longest = run.traces["K"].to_numpy() == 5
    texts = [f'{{"kind": "{"ab"[i % 2] if at else "c"}"}}' for i, at in enumerate(longest)]
    three = replace(run, traces=run.traces.assign(labels=texts))
    assert labels_at(three, "kind", "u@0").classes == ["a", "b", "c"]
    found = labels_at(three, "kind", "u@4")
    assert (found.classes, found.kind) == (["a", "b"], "multiclass")


def test_a_kind_may_be_asked_for(run: Run) -> None:
    assert labels_at(run, "offset", kind="number").kind == "number"
    assert labels_at(run, "correct", kind="number").classes is None
    assert labels_at(run, "thought:energy", kind="multiclass").kind == "multiclass"
    assert labels_at(run, "correct", kind="multiclass").kind == "multiclass"
    with pytest.raises(UserError, match=r"has 10 classes .*--positive VALUE .one of 0, 1"):
        labels_at(run, "offset", kind="binary")
    with pytest.raises(UserError, match=r"--label 'operation': run holds '\w+' there, which is no"):
        labels_at(run, "operation", kind="number")
    with pytest.raises(UserError, match="--kind 'colour': expected one of auto, binary"):
        labels_at(run, "offset", kind="colour")


@pytest.mark.parametrize(
    ("values", "positive", "chosen"),
    [
        ([1, 2, 3], "3", 3),
        ([1, 2, 3], 3, 3),
        (["1", "2", "3"], "3", "3"),
        (["add", "times"], "add", "add"),
        (["add", "times"], '"add"', "add"),
        ([True, False], "true", True),
        ([True, False], False, False),
        ([True, 1], "1", 1),
    ],
)
def test_one_value_against_the_rest(
    run: Run, values: list[Any], positive: object, chosen: object
) -> None:
    found = labels_at(with_labels(run, values), "kind", "u@0", positive=positive)
    assert (found.kind, found.classes) == ("binary", [f"not {chosen}", chosen])
    expected = [values[i % len(values)] for i in range(len(run.traces))]
    mine = [type(v) is type(chosen) and v == chosen for v in expected]
    assert [v == chosen for v in found.values] == mine


def test_one_value_against_the_rest_is_no_number(run: Run) -> None:
    with pytest.raises(UserError, match="--kind 'number': with --positive a label has two"):
        labels_at(run, "offset", positive="7", kind="number")


def test_a_positive_value_that_is_not_there_leaves_the_rest(run: Run) -> None:
    """As in a control set without a positive."""
    found = labels_at(run, "offset", positive="77")
    assert found.classes == ["not 77", 77]
    assert set(found.values) == {"not 77"}


def test_gaps_are_unknown_not_a_class(run: Run) -> None:
    gaps = with_labels(run, [1, None, 2])
    found = labels_at(gaps, "kind", "u@0")
    assert found.known.tolist() == [i % 3 != 1 for i in range(80)]
    assert found.classes == [1, 2]
    some = replace(run, traces=run.traces.assign(decode_match=[0.5, np.nan] * 40))
    assert labels_at(some, "decode_match", "u@0").known.tolist() == [True, False] * 40
    unsure = pd.array([True, None] * (len(run.thoughts) // 2 + 1), dtype="boolean")
    guess = replace(run, thoughts=run.thoughts.assign(match=unsure[: len(run.thoughts)]))
    assert labels_at(guess, "match", "u@0").values.tolist()[0] in (True, None)
    assert labels_at(guess, "match", "u@0").classes == [True]


def csv(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


def test_a_csv_by_trace_is_joined_by_id(run: Run, tmp_path: Path) -> None:
    ids = run.traces["trace_id"].tolist()
    lines = [f"{t},{i},{i / 3},{'yes' if i % 2 else 'no'},true," for i, t in enumerate(ids)][::-1]
    file = csv(
        tmp_path / "mine.csv", "\n".join(["\ufefftrace_id,n,x,word,flag,empty", *lines[:60]]) + "\n"
    )
    table = read_label_table(file, [run])
    assert (table.names, table.by_thought) == (["n", "x", "word", "flag", "empty"], False)
    for site in ("u@0", "u@mean"):
        n = labels_at(run, "n", site, table=table)
        assert (n.level, n.kind) == ("csv", "number")
        assert n.values.tolist() == [None] * 20 + [*range(20, 80)]
    assert labels_at(run, "csv:word", table=table).classes == ["no", "yes"]
    assert labels_at(run, "flag", table=table).classes == [True]
    assert labels_at(run, "x", table=table).kind == "number"
    assert not labels_at(run, "empty", table=table).known.any()
    assert "csv: n, x, word, flag, empty" in available_labels(run, table)
    with pytest.raises(UserError, match="one value per trace"):
        labels_at(run, "n@0", table=table)


def test_a_csv_by_thought_is_read_at_the_thought(run: Run, tmp_path: Path) -> None:
    thoughts = run.thoughts[["trace_id", "k"]].assign(value=np.arange(len(run.thoughts)))
    thoughts.iloc[::-1].to_csv(tmp_path / "mine.csv", index=False)
    table = read_label_table(tmp_path / "mine.csv", [run])
    rows = site_rows(run, parse_site("u@1"))
    found = labels_at(run, "value", table=table)
    assert found.values.tolist() == rows.last.tolist()
    last = site_rows(run, parse_site("u@-1")).last
    assert labels_at(run, "value@-1", "u@mean", table=table).values.tolist() == last.tolist()
    with pytest.raises(UserError, match="reads several; name the step"):
        labels_at(run, "value", "u@mean", table=table)


def test_a_row_that_ends_early_has_no_value(run: Run, tmp_path: Path) -> None:
    first, second = run.traces["trace_id"].iloc[:2]
    file = csv(tmp_path / "mine.csv", f"trace_id,value,other\n{first},1,2\n{second},3\n")
    table = read_label_table(file, [run])
    assert labels_at(run, "value", "u@0", table=table).known.tolist() == [True] * 2 + [False] * 78
    assert labels_at(run, "other", "u@0", table=table).known.tolist() == [True] + [False] * 79


def test_blank_lines_and_blanks_around_words_are_neither_rows_nor_classes(
    run: Run, tmp_path: Path
) -> None:
    a, b, c = run.traces["trace_id"][:3]
    text = f"trace_id,word\n{a}, cat\n\n{b},cat \n{c},dog\n"
    table = read_label_table(csv(tmp_path / "mine.csv", text), [run])
    assert labels_at(run, "word", "u@0", table=table).classes == ["cat", "dog"]
    with pytest.raises(UserError, match="row 4, column 'trace_id': no trace 'nobody'"):
        read_label_table(csv(tmp_path / "other.csv", text.replace(c, "nobody")), [run])


def test_whole_numbers_of_any_size_are_numbers(run: Run, tmp_path: Path) -> None:
    ids = run.traces["trace_id"]
    values = [10**20 + 10**18 * i for i in range(len(ids))]
    text = "\n".join(["trace_id,n", *(f"{t},{v}" for t, v in zip(ids, values, strict=True))])
    table = read_label_table(csv(tmp_path / "mine.csv", text + "\n"), [run])
    found = labels_at(run, "n", "u@0", table=table)
    assert found.kind == "number"
    assert [float(v) for v in found.values] == [float(v) for v in values]


def test_a_csv_may_cover_several_runs(run: Run, tmp_path: Path) -> None:
    other = synthetic_run(tmp_path / "other", n=20, seed=4)
    both = pd.concat([run.traces, other.traces])[["trace_id"]].assign(value=range(100))
    both.to_csv(tmp_path / "mine.csv", index=False)
    table = read_label_table(tmp_path / "mine.csv", [run, other])
    assert labels_at(other, "value", "u@0", table=table).values.tolist() == [*range(80, 100)]
    with pytest.raises(UserError, match=r"row 81, column 'trace_id': no trace .* in run .20 such"):
        read_label_table(tmp_path / "mine.csv", [run])


def test_a_csv_column_of_a_name_that_the_run_has_is_qualified(run: Run, tmp_path: Path) -> None:
    ids = run.traces["trace_id"]
    text = "trace_id,correct,offset\n" + "".join(f"{t},no,1\n" for t in ids)
    table = read_label_table(csv(tmp_path / "mine.csv", text), [run])
    with pytest.raises(UserError, match="write trace:correct or csv:correct"):
        labels_at(run, "correct", table=table)
    with pytest.raises(UserError, match="write step:offset or csv:offset"):
        labels_at(run, "offset", table=table)
    assert labels_at(run, "csv:correct", table=table).classes == ["no"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("id,value\nA,1\n", r"no column trace_id; it has id, value"),
        ("trace_id\nA\n", "no column of values beside trace_id"),
        ("trace_id,k\nA,0\n", "no column of values beside trace_id"),
        ("trace_id,value\nA,1\nghost,2\n", r"row 2, column 'trace_id': no trace 'ghost' in run"),
        ("trace_id,value\nA,1\n,2\n", r"row 2, column 'trace_id': no trace ''"),
        ("trace_id,value\nA,1\nB,3\nA,2\n", r"row 3, column 'trace_id': .* an earlier row"),
        ("trace_id,k,value\nA,0,1\nA,1,3\nA,0,2\n", r"row 3, column 'k': trace_id .* and k 0"),
        ("trace_id,k,value\nA,0,1\nA,9,3\n", r"row 2, column 'k': '9' is no thought of trace"),
        ("trace_id,k,value\nA,0.0,1\n", r"row 1, column 'k': '0.0' is no thought"),
        ("trace_id,k,value\nA,-1,1\n", r"row 1, column 'k': '-1' is no thought"),
        ("trace_id,value\nA,1\nB,1,2\n", "cannot be read as CSV"),
        ("trace_id,value,value\nA,1,2\n", "two columns are named 'value'"),
        ("", "cannot be read as CSV"),
        ('trace_id,value\n"A,1\n', "cannot be read as CSV"),
    ],
)
def test_a_csv_that_is_wrong_is_one_line(run: Run, tmp_path: Path, text: str, message: str) -> None:
    first, second = run.traces["trace_id"].iloc[:2]
    file = csv(tmp_path / "mine.csv", text.replace("A,", f"{first},").replace("B,", f"{second},"))
    with pytest.raises(UserError, match=message) as error:
        read_label_table(file, [run])
    assert str(error.value).startswith(f"{file}")
    assert "\n" not in str(error.value)


def test_a_file_that_is_no_text_or_is_not_there_is_one_line(run: Run, tmp_path: Path) -> None:
    (tmp_path / "bytes.csv").write_bytes(b"trace_id,value\n\xff\xfe,1\n")
    for name in ("bytes.csv", "nowhere.csv", "."):
        with pytest.raises(UserError, match="cannot be read") as error:
            read_label_table(tmp_path / name, [run])
        assert "\n" not in str(error.value)


@pytest.mark.parametrize("cell", ["", "nan", "NaN", "NA", "N/A", "null"])
def test_cells_that_say_nothing_are_no_values(run: Run, tmp_path: Path, cell: str) -> None:
    cells = ["0", "1", cell, "1"] + ["0"] * 76
    frame = run.traces[["trace_id"]].assign(flag=cells)
    frame.to_csv(tmp_path / "mine.csv", index=False, na_rep=cell)
    table = read_label_table(tmp_path / "mine.csv", [run])
    found = labels_at(run, "flag", "u@0", table=table)
    assert (found.kind, found.classes) == ("binary", [0, 1])
    assert (~found.known).sum() == 1


@pytest.mark.parametrize("cell", ["abc", "inf", "1,5"])
def test_a_cell_that_is_no_number_is_named(run: Run, tmp_path: Path, cell: str) -> None:
    cells = ["1.5", "2", cell, "x"] + ["3"] * 76
    frame = run.traces[["trace_id"]].assign(score=cells)
    frame.to_csv(tmp_path / "mine.csv", index=False)
    table = read_label_table(tmp_path / "mine.csv", [run])
    with pytest.raises(
        UserError, match=rf"mine.csv, row 3, column 'score': '{cell}' is no finite number .2 such"
    ):
        labels_at(run, "score", table=table, kind="number")


def test_ids_of_digits_stay_texts(run: Run, tmp_path: Path) -> None:
    """An id such as 12e4567890123456 is no number, and no zero in front of one is lost."""
    ids = [f"{i:016d}" for i in range(79)] + ["12e4567890123456"]
    odd = replace(
        run,
        traces=run.traces.assign(trace_id=ids),
        thoughts=run.thoughts.assign(trace_id=np.repeat(ids, run.traces["K"])),
    )
    pd.DataFrame({"trace_id": ids, "value": range(80)}).to_csv(tmp_path / "mine.csv", index=False)
    table = read_label_table(tmp_path / "mine.csv", [odd])
    assert labels_at(odd, "value", "u@0", table=table).values.tolist() == [*range(80)]
