"""Guards against a file that cannot be read and does not say where: in a gigabyte of JSON only line and column help."""

import resource
import signal

import pytest

from llava_pl.data.json_files import append_line, cut_torn_line, read_json, read_json_lines, read_json_object
from llava_pl.types import InputError


def file_message(path):
    with pytest.raises(InputError) as caught:
        read_json(path)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_content(tmp_path):
    path = tmp_path / "records.json"
    path.write_text('[1, {"a": "caf\u00e9"}]', encoding="utf-8")
    assert read_json(path) == [1, {"a": "caf\u00e9"}]


def test_missing_file(tmp_path):
    path = tmp_path / "none.json"
    assert file_message(path) == f"{path}: cannot be read (No such file or directory); check the path"


def test_folder_in_place_of_a_file(tmp_path):
    assert file_message(tmp_path) == f"{tmp_path}: cannot be read (Is a directory); check the path"


def test_file_is_not_utf8(tmp_path):
    path = tmp_path / "records.json"
    path.write_bytes(b'[{"id": "caf\xe9"}]')
    assert file_message(path) == f"{path}: expected UTF-8 text, found byte 0xe9 at offset 12"


def test_byte_order_mark(tmp_path):
    path = tmp_path / "records.json"
    path.write_text("[1]", encoding="utf-8-sig")
    assert read_json(path) == [1]
    path.write_bytes(b'\xef\xbb\xbf["\xe9"]')
    assert file_message(path) == f"{path}: expected UTF-8 text, found byte 0xe9 at offset 5"


@pytest.mark.parametrize(
    ("text", "place", "reason"),
    [
        ('[\n  {"id" 1}\n]', "line 2, column 9", "Expecting ':' delimiter"),
        ('[{"id": 1}', "line 1, column 11", "Expecting ',' delimiter"),
        ("", "line 1, column 1", "Expecting value"),
        ('{"id": 1}\n{"id": 2}\n', "line 2, column 1", "Extra data"),
    ],
    ids=["colon", "cut_off", "empty", "json_lines"],
)
def test_invalid_json_names_line_and_column(tmp_path, text, place, reason):
    path = tmp_path / "records.json"
    path.write_text(text)
    assert file_message(path) == f"{path}: invalid JSON at {place}: {reason}"


@pytest.mark.parametrize("text", ["[" * 100_000, '[{"id": ' + "1" * 5000 + "}]"], ids=["nested", "long_number"])
def test_json_that_the_parser_gives_up_on(tmp_path, text):
    """These raise RecursionError and a plain ValueError in `json`, which is still the user's file being wrong."""
    path = tmp_path / "records.json"
    path.write_text(text)
    assert file_message(path).startswith(f"{path}: ")


def test_object(tmp_path):
    path = tmp_path / "config.json"
    path.write_text('{"a": 1}')
    assert read_json_object(path) == {"a": 1}
    path.write_text("[]")
    with pytest.raises(InputError, match=r"config\.json: expected a JSON object, found list"):
        read_json_object(path)


def test_a_full_disk_leaves_no_half_line(tmp_path):
    path = tmp_path / "lines.jsonl"
    append_line(path, '{"caf\u00e9": 1}')
    before = path.read_bytes()
    limits, handler = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) + 50, limits[1]))
    try:
        with pytest.raises(OSError, match="too large"):
            append_line(path, "x" * 100)
        assert path.read_bytes() == before
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
    append_line(path, "y")
    assert path.read_bytes() == before + b"y\n"


def test_lines(tmp_path):
    path = tmp_path / "lines.jsonl"
    path.write_bytes(b'\xef\xbb\xbf{"a": 1}\r\n\n{"caf\xc3\xa9": 2}')
    rows = list(read_json_lines(path))
    assert rows == [(f"{path}: line 1", {"a": 1}), (f"{path}: line 3", {"caf\u00e9": 2})]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b'{"a" 1}', "line 2 column 6: not valid JSON: Expecting ':' delimiter; expected one object a line"),
        (b'{"a": 1', "line 2 column 8: not valid JSON: Expecting ',' delimiter; expected one object a line"),
        (b"[1]", "line 2: expected an object, found list"),
        (b'{"\xe9": 1}', "line 2: cannot be read ('utf-8' codec can't decode byte 0xe9 in position 2"),
        (b"[" * 100_000, "line 2: not valid JSON: "),
    ],
)
def test_a_line_that_is_no_object(line, message, tmp_path):
    path = tmp_path / "lines.jsonl"
    path.write_bytes(b"{}\n" + line + b"\n")
    with pytest.raises(InputError) as caught:
        list(read_json_lines(path, b"{"))
    assert str(caught.value).startswith(f"{path}: {message}")


def test_lines_that_are_not_there(tmp_path):
    with pytest.raises(InputError, match=r"none: cannot be read \(No such file or directory\)"):
        list(read_json_lines(tmp_path / "none"))


@pytest.mark.parametrize("before", [b"", b'{"a": 1}\n'])
@pytest.mark.parametrize(
    ("last", "rest", "num_rows"),
    [
        (b"", b"", 0),
        (b'{"', b"", 0),
        (b'{"a": "' + b"x" * 200_000, b"", 0),  # longer than what is read at once
        (b'{"a": "\xc3', b"", 0),  # in the middle of a character
        (b'{"a": 2}', b'{"a": 2}\n', 1),
        (b"of others", b"of others", None),
    ],
)
def test_a_torn_line(before, last, rest, num_rows, tmp_path):
    path = tmp_path / "lines.jsonl"
    path.write_bytes(before + last)
    if num_rows is not None:
        assert len(list(read_json_lines(path, b'{"a": '))) == before.count(b"\n") + num_rows
    cut_torn_line(path, b'{"a": ')
    assert path.read_bytes() == before + rest
