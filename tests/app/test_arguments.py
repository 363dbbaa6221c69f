"""Guards wrong options of commands: one line and status 2, never a page of usage."""

import argparse

import pytest

from llava_pl.app.arguments import RECORD_FORMS, OneLineArguments, check_place, parse_delimiter
from llava_pl.building.formats import FORMS
from llava_pl.types import InputError


def test_a_wrong_option_is_one_line(capsys):
    parser = OneLineArguments(prog="llava-pl x", allow_abbrev=False)
    parser.add_argument("--number", type=int)
    with pytest.raises(SystemExit) as stop:
        parser.parse_args(["--place", "1"])
    error = capsys.readouterr().err
    assert stop.value.code == 2
    assert error.startswith("llava-pl: error: ")
    assert "--place" in error
    assert error.count("\n") == 1


def test_places_of_files(tmp_path):
    check_place(None, "--html")
    check_place(tmp_path / "new.html", "--html")
    with pytest.raises(InputError, match=r"--html: .* found a folder"):
        check_place(tmp_path, "--html")
    with pytest.raises(InputError, match="found no folder"):
        check_place(tmp_path / "none" / "new.html", "--html")


def test_delimiters():
    assert [parse_delimiter(text) for text in (";", "tab", "|")] == [";", "\t", "|"]
    for text in ("", ",,", '"', "\n"):
        with pytest.raises(argparse.ArgumentTypeError, match="expected one character or the word tab"):
            parse_delimiter(text)


def test_forms_have_one_list():
    assert RECORD_FORMS == FORMS
