"""Guards files that a kill or a full disk has cut off, and that are then read as whole ones."""

import pytest

from llava_pl.whole_file import whole_file


def test_name_comes_last(tmp_path):
    path = tmp_path / "answers.jsonl"
    with whole_file(path) as part:
        part.write_text("whole")
        assert not path.exists()
    assert [found.name for found in path.parent.iterdir()] == ["answers.jsonl"]
    assert path.read_text() == "whole"


def test_what_fails_leaves_the_old_file(tmp_path):
    path = tmp_path / "answers.jsonl"
    path.write_text("old")

    def fail() -> None:
        with whole_file(path) as part:
            part.write_text("ha")
            raise OSError("disk")

    with pytest.raises(OSError, match="disk"):
        fail()
    assert [found.name for found in tmp_path.iterdir()] == ["answers.jsonl"]
    assert path.read_text() == "old"
