"""Guards tables of pictures: a row that is lost, a picture's mark that is missing or twice, a line without a name."""

import pytest

from llava_pl.data.csv_records import convert_csv
from llava_pl.data.records import parse_record
from llava_pl.types import InputError


@pytest.fixture
def convert(tmp_path):
    """Convert the text of a table beside a folder with `a.png` and `sub/b.png`, which are never opened."""
    (tmp_path / "pictures" / "sub").mkdir(parents=True)
    for name in ("a.png", "sub/b.png"):
        (tmp_path / "pictures" / name).write_bytes(b"")
    (tmp_path / "outside.png").write_bytes(b"")

    def convert(text, **options):
        content = text.encode() if isinstance(text, str) else text
        (tmp_path / "table.csv").write_bytes(content)
        return convert_csv(tmp_path / "table.csv", tmp_path / "pictures", **options)

    return convert


def turns(*texts):
    return [{"from": ("human", "gpt")[n % 2], "value": text} for n, text in enumerate(texts)]


def test_each_row_is_a_record(convert):
    found = convert("image,question,answer\na.png,What?,red\nsub/b.png,And?,blue\n,Who?,you\n")
    assert found == [
        {"id": "table-1", "image": "a.png", "conversations": turns("<image>\nWhat?", "red")},
        {"id": "table-2", "image": "sub/b.png", "conversations": turns("<image>\nAnd?", "blue")},
        {"id": "table-3", "conversations": turns("Who?", "you")},
    ]
    assert [parse_record(entry, where="x").images for entry in found] == [("a.png",), ("sub/b.png",), ()]


def test_columns_in_any_order_with_others_and_a_byte_order_mark(convert):
    (entry,) = convert('\ufeffAnswer, id,size,IMAGE,question\r\n"red, or\nso", 7,9,a.png,What?\r\n')
    assert entry == {"id": "7", "image": "a.png", "conversations": turns("<image>\nWhat?", "red, or\nso")}


def test_rows_of_a_picture_become_turns_on_request(convert):
    text = "image,question,answer\na.png,What?,red\n,Who?,you\nsub/b.png,And?,blue\n\na.png,Where?,here\n"
    assert len(convert(text)) == 4
    assert convert(text, joins_turns=True) == [
        {"id": "table-1", "image": "a.png", "conversations": turns("<image>\nWhat?", "red", "Where?", "here")},
        {"id": "table-2", "conversations": turns("Who?", "you")},
        {"id": "table-3", "image": "sub/b.png", "conversations": turns("<image>\nAnd?", "blue")},
    ]


def test_a_mark_that_is_there_keeps_its_place(convert):
    (entry,) = convert("image,question,answer\na.png,What is <image>?,red\n")
    assert entry["conversations"][0]["value"] == "What is <image>?"


def test_other_delimiters(convert):
    expected = turns("<image>\nWhat, then?", "red")
    (entry,) = convert("image;question;answer\na.png;What, then?;red\n", delimiter=";")
    assert entry["conversations"] == expected
    (entry,) = convert("sep=;\r\nimage;question;answer\r\na.png;What, then?;red\r\n")
    assert entry["conversations"] == expected


@pytest.mark.parametrize("codec", ["utf-8-sig", "utf-16"])
def test_text_as_spreadsheets_write_it(convert, codec):
    (entry,) = convert("image\tquestion\tanswer\na.png\tWas?\tgr\xfcn\n".encode(codec), delimiter="\t")
    assert entry["conversations"] == turns("<image>\nWas?", "gr\xfcn")


HEAD = "image,question,answer\n"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "line 1: expected a head with one each of image, question, answer, found nothing"),
        ("image,question,reply\n", "found image, question, reply"),
        ("image,question,answer,answer\n", "line 1: expected a head"),
        ("image;question;answer\n", "try --delimiter ';'"),
        ("image\tquestion\tanswer\n", "try --delimiter tab"),
        (HEAD, "expected rows below the head, found none"),
        (
            HEAD + '\n"a\n.png",What?,red\na.png,one,two,three\n',
            "line 5: expected 3 cells (image, question, answer), found 4",
        ),
        (HEAD + "a.png,What?\n", "line 2: expected 3 cells"),
        (HEAD + "a.png,What?,red\na.png,,red\n", "line 3: column 'question': expected text, found nothing"),
        (
            HEAD + "a.png,What?, \nc.png,What?,red\n",
            "line 2: column 'answer': expected text, found nothing (1 more rec",
        ),
        (HEAD + "c.png,What?,red\n", "line 2: column 'image': expected a file in "),
        (HEAD + "sub,What?,red\n", "line 2: column 'image': expected a file in "),
        (HEAD + "../outside.png,What?,red\n", "line 2: picture '../outside.png': expected a file inside"),
        (HEAD + "a.png,<image> and <image>?,red\n", "line 2 (id 'table-1'): 2 '<image>' marks for 1 images"),
        (HEAD + "a.png,What?,an <image>\n", "line 2 (id 'table-1'): 2 '<image>' marks for 1 images"),
        (HEAD + 'a.png,What?,"red\n', "line 2: cannot be read as CSV"),
        ("sep=;\nimage,question,answer\n", "line 2: expected a head"),
        ("sep=;\nimage;question;answer\na.png;What?\n", "line 3: expected 3 cells"),
        (HEAD + 'a.png,What?,"red\n' + "x" * 140_000, "line 2: cannot be read as CSV (field larger than"),
        (
            (HEAD + "a.png,What?,red\na.png,What?,gr\xfcn\n").encode("latin-1"),
            "line 3: expected UTF-8 text, found byte 0xfc",
        ),
        (("\ufeff" + HEAD).encode() + b"\xff", "line 2: expected UTF-8 text, found byte 0xff"),
        (HEAD.encode("utf-16") + b"a", "line 2: expected UTF-16 text, found byte 0x61"),
    ],
)
def test_wrong_lines_are_named(convert, text, message):
    with pytest.raises(InputError) as error:
        convert(text)
    assert "table.csv: " in str(error.value)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(InputError, match="cannot be read"):
        convert_csv(tmp_path / "none.csv", tmp_path)
