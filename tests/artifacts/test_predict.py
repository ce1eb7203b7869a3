"""Inputs of a prediction, read from files."""

import pytest

from finetune.artifacts.predict import read_inputs
from finetune.errors import UserError


def test_a_row_may_hold_every_character(tmp_path):
    (tmp_path / "rows.jsonl").write_text('{"text": "one\u2028two"}\n', encoding="utf-8")
    assert read_inputs(tmp_path / "rows.jsonl") == [{"text": "one\u2028two"}]
    (tmp_path / "rows.csv").write_text('text\n"one\ntwo"\n', encoding="utf-8")
    assert read_inputs(tmp_path / "rows.csv") == [{"text": "one\ntwo"}]


def test_texts_are_the_lines_that_say_something(tmp_path):
    (tmp_path / "texts.txt").write_text("one\n\ntwo\r\n", encoding="utf-8")
    assert read_inputs(tmp_path / "texts.txt") == ["one", "two"]


@pytest.mark.parametrize("name", ["rows.json", "rows.parquet"])
def test_a_file_of_another_kind_is_not_answered_line_by_line(tmp_path, name):
    (tmp_path / name).write_text("[]", encoding="utf-8")
    with pytest.raises(UserError, match=r"\.jsonl and \.csv"):
        read_inputs(tmp_path / name)


def test_a_line_that_is_not_json_is_named(tmp_path):
    (tmp_path / "rows.jsonl").write_text('{"text": "one"}\n{"text": \n', encoding="utf-8")
    with pytest.raises(UserError, match=r"rows\.jsonl:2 is not JSON"):
        read_inputs(tmp_path / "rows.jsonl")
