"""Guards tables as spreadsheets write them: cells in a wrong column, letters lost, a line that is not named."""

import pytest

from llava_pl.building.csv_cells import read_cells
from llava_pl.types import InputError

HEAD = "image,question\n"


@pytest.fixture
def read(tmp_path):
    def read(text, *options):
        (tmp_path / "table.csv").write_bytes(text.encode() if isinstance(text, str) else text)
        return list(read_cells(tmp_path / "table.csv", ("image", "question"), *options))

    return read


def test_each_line_has_its_place(read, tmp_path):
    where, cells = zip(*read('Question , IMAGE,size\n"What,\nthen?", a.png ,7\n\n,,\nAnd?,b.png,\n'), strict=True)
    assert where == (f"{tmp_path / 'table.csv'}: line 2", f"{tmp_path / 'table.csv'}: line 6")
    assert cells == (
        {"question": "What,\nthen?", "image": "a.png", "size": "7"},
        {"question": "And?", "image": "b.png", "size": ""},
    )


def test_other_delimiters(read):
    expected = {"image": "a.png", "question": "What, then?"}
    assert read("image;question\na.png;What, then?\n", ";")[0][1] == expected
    assert read("sep=;\r\nimage;question\r\na.png;What, then?\r\n")[0][1] == expected


@pytest.mark.parametrize("codec", ["utf-8-sig", "utf-16"])
def test_text_as_spreadsheets_write_it(read, codec):
    ((_, cells),) = read("image\tquestion\na.png\tgr\xfcn\n".encode(codec), "\t")
    assert cells == {"image": "a.png", "question": "gr\xfcn"}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "line 1: expected a head with one each of image, question, found nothing"),
        ("image,reply\n", "found image, reply"),
        ("image,question,question\n", "line 1: expected a head"),
        ("image,question,id,id\n", "line 1: expected a head"),
        ("image;question\n", "try --delimiter ';'"),
        ("image\tquestion\n", "try --delimiter tab"),
        (HEAD + '\n"a\n.png",What?\na.png,one,two\n', "line 5: expected 2 cells (image, question), found 3"),
        (HEAD + "a.png\n", "line 2: expected 2 cells"),
        (HEAD + 'a.png,"What?\n', "line 2: cannot be read as CSV"),
        ("sep=;\nimage,question\n", "line 2: expected a head"),
        ("sep=;\nimage;question\na.png\n", "line 3: expected 2 cells"),
        (HEAD + 'a.png,"red\n' + "x" * 140_000, "line 2: cannot be read as CSV (field larger than"),
        ((HEAD + "a.png,What?\na.png,gr\xfcn\n").encode("latin-1"), "line 3: expected UTF-8 text, found byte 0xfc"),
        (("\ufeff" + HEAD).encode() + b"\xff", "line 2: expected UTF-8 text, found byte 0xff"),
        (HEAD.encode("utf-16-le"), "line 1: expected UTF-8 text, or UTF-16 that begins with a byte order mark, found"),
        (HEAD.encode("utf-16-be"), "line 1: expected UTF-8 text, or UTF-16 that"),
        (HEAD.encode("utf-32"), "line 1: expected UTF-8 text, or UTF-16 that"),
        (HEAD.encode("utf-16") + b"a", "line 2: expected UTF-16 text, found byte 0x61"),
    ],
)
def test_wrong_lines_are_named(read, text, message):
    with pytest.raises(InputError) as error:
        read(text)
    assert "table.csv: " in str(error.value)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(InputError, match="cannot be read"):
        list(read_cells(tmp_path / "none.csv", ()))
