"""Guards files that users put in the place of ours: a comment that is taken for a line, an error without its option."""

import pytest

from llava_pl.building.own_files import read_lines, read_yaml
from llava_pl.types import InputError


def test_lines_and_yaml(tmp_path):
    (tmp_path / "a").write_text("\ufeff# how\n\n  What? \nWhy?\n", encoding="utf-8")
    assert read_lines(tmp_path / "a", "--a") == ["What?", "Why?"]
    (tmp_path / "b").write_text("\ufeffa: [b]\n", encoding="utf-8")
    assert read_yaml(tmp_path / "b", "--b") == {"a": ["b"]}


@pytest.mark.parametrize("read", [read_lines, read_yaml])
@pytest.mark.parametrize(("content", "found"), [(None, "No such file or directory"), (b"\xff", "codec can't decode")])
def test_what_cannot_be_read(read, content, found, tmp_path):
    if content is not None:
        (tmp_path / "a").write_bytes(content)
    with pytest.raises(InputError) as caught:
        read(tmp_path / "a", "--a")
    assert str(caught.value).startswith(f"--a: {tmp_path / 'a'}: cannot be read (")
    assert found in str(caught.value)


def test_what_is_no_yaml(tmp_path):
    (tmp_path / "a").write_text("a: [")
    with pytest.raises(InputError, match=r"^--a: .*: invalid YAML: while parsing.* line 1") as caught:
        read_yaml(tmp_path / "a", "--a")
    assert "\n" not in str(caught.value)
