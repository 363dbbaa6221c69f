"""Guards tables of pictures: a row that is lost, a picture's mark that is missing or twice, a line without a name.

And that a table says all that its records did.
"""

import csv
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llava_pl.building.csv_records import read_table, write_table
from llava_pl.building.formats import write_entry
from llava_pl.types import InputError, Record, Turn


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
        records = read_table(tmp_path / "table.csv", tmp_path / "pictures", **options)
        return [write_entry(record, "llava") for record in records]

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


HEAD = "image,question,answer\n"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("image,question,reply\n", "line 1: expected a head with one each of image, question, answer, found image, "),
        ("id,image,question,answer,id\n", "line 1: expected a head"),
        (HEAD, "expected rows below the head, found none"),
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
    ],
)
def test_wrong_lines_are_named(convert, text, message):
    with pytest.raises(InputError) as error:
        convert(text)
    assert "table.csv: " in str(error.value)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


@pytest.fixture
def write(tmp_path):
    """Write records, and return the text of the table."""

    def write(*records, **options):
        assert write_table(tmp_path / "written.csv", records, Path("r.json"), **options) == len(records)
        return (tmp_path / "written.csv").read_bytes().decode()

    return write


def record(name, images, *texts):
    return Record(name, tuple(Turn(("human", "gpt")[n % 2], text) for n, text in enumerate(texts)), images)


def test_a_row_for_each_question(write):
    shown = record("7", ("a.png",), "<image>\nWhat, then?", "red", "Where?", "here")
    words = record("8", (), "Who?", 'the "I"')
    assert write(shown, words, joins_turns=True) == (
        'id,image,question,answer\r\n7,a.png,"What, then?",red\r\n7,a.png,Where?,here\r\n8,,Who?,"the ""I"""\r\n'
    )


def test_a_mark_elsewhere_is_written(write):
    assert write(record("7", ("a.png",), "What?\n<image>", "red")).endswith('7,a.png,"What?\n<image>",red\r\n')


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tables")
    for number in range(4):
        (folder / f"{number}.png").write_bytes(b"")
    return folder


CELLS = st.text(st.characters(exclude_categories=("Cs",)) | st.sampled_from(',;"\r\n\t\0')).filter(
    lambda text: text and text == text.strip() and "<image>" not in text
)
SLOTS = st.sampled_from(["<image>\n{}", "<image>{}", "{}\n<image>", "a <image> {}"])


@st.composite
def tables(draw):
    """Draw records that a table can say, and whether it is one of several questions about a picture."""
    joins_turns = draw(st.booleans())
    images = draw(st.lists(st.sampled_from(["", *"0123"]), min_size=1, max_size=6))
    if joins_turns:
        images = [image for number, image in enumerate(images) if not image or image not in images[:number]]
    records = []
    for image in images:
        pairs = draw(st.lists(st.tuples(CELLS, CELLS), min_size=1, max_size=3 if joins_turns and image else 1))
        texts = [text for pair in pairs for text in pair]
        if image:
            place = 2 * draw(st.integers(0, len(pairs) - 1))
            texts[place] = draw(SLOTS).format(texts[place])
        records.append(record(draw(CELLS), (f"{image}.png",) if image else (), *texts))
    return records, joins_turns


@given(tables(), st.sampled_from(",;\t |"))
def test_what_is_written_is_read_again(folder, table, delimiter):
    records, joins_turns = table
    options = {"delimiter": delimiter, "joins_turns": joins_turns}
    assert write_table(folder / "table.csv", records, Path("r.json"), **options) == len(records)
    assert read_table(folder / "table.csv", folder, **options) == records


A = ("a.png",)
GOOD = record("6", A, "<image>\nWhat?", "red")


@pytest.mark.parametrize(
    ("records", "joins_turns", "message"),
    [
        ([], False, "r.json: expected records, found none"),
        (
            [GOOD, record("7", ("a.png", "b.png"), "<image> <image>", "red")],
            False,
            "r.json: record 1 (id '7'): expected at most one picture in a table, found 2",
        ),
        (
            [record("7", (), "What?")],
            False,
            "r.json: record 0 (id '7'): expected questions and answers by turns in a table, found human",
        ),
        (
            [record("7", A, "<image>", "a", "b", "c")],
            False,
            "r.json: record 0 (id '7'): expected one question, found 2; add --turns",
        ),
        (
            [record("7", (), "?", "a", "b", "c")],
            True,
            "r.json: record 0 (id '7'): expected one question, found 2; only rows of a picture are joined",
        ),
        (
            [GOOD, record("7", A, "<image>", "a")],
            True,
            "r.json: record 1 (id '7'): expected one conversation about a picture with --turns, found its second",
        ),
        ([record("7", (), "?", "")], False, "r.json: record 0 (id '7'): column 'answer': expected text, found nothing"),
        ([record("", (), "?", "a")], False, "r.json: record 0 (id ''): column 'id': expected text, found nothing"),
        (
            [record("7", A, "<image>\n", "a")],
            False,
            "r.json: record 0 (id '7'): column 'question': expected no space around the text, which a reader drops",
        ),
        (
            [record("7", (" a.png",), "<image>", "a")],
            False,
            "r.json: record 0 (id '7'): column 'image': expected no sp",
        ),
        (
            [record("7", (), "?", "x" * 200_000)],
            False,
            "r.json: record 0 (id '7'): column 'answer': expected at most 131,072 characters, found 200,000",
        ),
    ],
)
def test_what_a_table_cannot_say(records, joins_turns, message, tmp_path, monkeypatch):
    monkeypatch.setattr(csv, "field_size_limit", lambda: 131_072)  # others may have raised it
    with pytest.raises(InputError) as error:
        write_table(tmp_path / "table.csv", iter(records), Path("r.json"), joins_turns=joins_turns)
    assert str(error.value).startswith(message)
    assert list(tmp_path.iterdir()) == []
