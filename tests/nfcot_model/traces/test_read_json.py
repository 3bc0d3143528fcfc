"""Does every file that is not a usable JSON object end in one clear line?"""

from __future__ import annotations

from pathlib import Path

import pytest

from nfcot_model.errors import UserError
from nfcot_model.files import read_json_object

BAD = {
    "empty": b"",
    "malformed": b'{"a": ',
    "list": b"[]",
    "number": b"1",
    "null": b"null",
    "deep": b"[" * 100_000,
    "deep object": b'{"a":' * 100_000 + b"1" + b"}" * 100_000,
    "surrogate": b'{"a": "\\ud800"}',
    "surrogate key": b'{"\\udfff": 1}',
    "latin-1": b'{"a": "\xe9"}',
    "long number": b'{"a": ' + b"9" * 5000 + b"}",
}


@pytest.mark.parametrize("name", BAD)
def test_what_is_not_a_usable_object_is_one_line_that_names_the_file(
    tmp_path: Path, name: str
) -> None:
    path = tmp_path / "thing.json"
    path.write_bytes(BAD[name])
    with pytest.raises(UserError) as error:
        read_json_object(path)
    assert str(error.value).startswith(str(path))
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 400


def test_a_file_that_is_not_there_or_is_a_folder(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "nowhere.json"):
        with pytest.raises(UserError, match="cannot be read"):
            read_json_object(path)


def test_an_object_comes_back(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text('{"a": [1, "é"]}', encoding="utf-8")
    assert read_json_object(tmp_path / "a.json") == {"a": [1, "é"]}
