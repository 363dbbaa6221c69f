"""Guards sources of captions: a picture beside another one's caption, or a line that is lost."""

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from llava_pl.building.captions import read_captions
from llava_pl.types import InputError


def read(path, folder=None):
    return [(caption.image, caption.text) for caption in read_captions(path, folder)]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("c.tsv", 'a "red"  dog\tsub/a.png\r\n\tb.png\n'),
        ("c.csv", 'url,IMAGE,Caption\nx,sub/a.png,"a ""red"" dog"\ny,b.png,\n'),
        ("c.json", json.dumps([{"image": "sub/a.png", "caption": 'a "red"\ndog'}, {"image": "b.png"}])),
        ("c.jsonl", '{"image": "sub/a.png", "text": "a \\"red\\" dog"}\n{"image": "b.png", "text": null}\n'),
        (
            "c.json",
            json.dumps([{"image": "sub/a.png", "caption": " ", "blip_caption": 'a "red" dog'}, {"image": "b.png"}]),
        ),
    ],
)
def test_tables_and_json(name, content, tmp_path):
    (tmp_path / name).write_text(content, newline="")
    (tmp_path / "p").mkdir()
    assert read(tmp_path / name, tmp_path / "p") == [("sub/a.png", 'a "red" dog'), ("b.png", "")]
    first = next(read_captions(tmp_path / name, tmp_path / "p"))
    assert first.file == tmp_path / "p" / "sub/a.png"
    assert first.where.startswith(f"{tmp_path / name}: ")


def test_parquet(tmp_path):
    rows = {"image": ["sub/a.png", "b.png"], "caption": ["a dog", None], "pixels": [b"x", b"y"], "id": ["7", None]}
    pq.write_table(pa.table(rows), tmp_path / "c.parquet")
    assert read(tmp_path / "c.parquet", tmp_path) == [("sub/a.png", "a dog"), ("b.png", "")]
    assert [each.id for each in read_captions(tmp_path / "c.parquet", tmp_path)] == ["7", ""]


def test_a_table_with_another_delimiter(tmp_path):
    (tmp_path / "c.CSV").write_text("image;caption\na.png;a, b\n")
    assert [each.text for each in read_captions(tmp_path / "c.CSV", tmp_path, delimiter=";")] == ["a, b"]


def test_a_folder_of_pictures_beside_texts(tmp_path):
    (tmp_path / "sub").mkdir()
    for name, content in {
        "b.PNG": b"2",
        "sub/a.jpg": b"1",
        "c.png": b"3",
        "notes.md": b"",
        "sub/lone.txt": b"x",
    }.items():
        (tmp_path / name).write_bytes(content)
    (tmp_path / "b.txt").write_text("a\ncat ")
    (tmp_path / "sub/a.txt").write_text("\ufeffa d\u00f6g", encoding="utf-8")
    captions = list(read_captions(tmp_path))
    assert [(each.image, each.text) for each in captions] == [
        ("b.PNG", "a cat"),
        ("c.png", ""),
        ("sub/a.jpg", "a d\u00f6g"),
        ("sub/lone.txt", ""),
    ]
    assert captions[-1].reason == "picture_missing"
    assert captions[-1].message == f"{tmp_path / 'sub/lone.txt'}: expected a picture beside it, found none"
    assert [each.read_picture() for each in captions[:3]] == [b"2", b"3", b"1"]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("c.tsv", b"a\thttp://x/b.png\n", "line 1: field 'image': expected a file in "),
        ("c.tsv", b"\xff\tb.png\n", "cannot be read ('utf-8' codec can't decode"),
        ("c.csv", b"caption\na\n", "line 1: expected a head with one each of image, found caption"),
        ("c.json", b"{}", "expected a JSON list of records"),
        ("none.csv", None, "No such file"),
    ],
)
def test_what_is_no_source(name, content, message, tmp_path):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError) as caught:
        list(read_captions(tmp_path / name, tmp_path))
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("name", "content", "reason", "message"),
    [
        ("c.tsv", b"a\tb.png\n\nc\n", "invalid",
         "line 3: expected a caption and 'image', the name of a picture, found ['c']"),
        ("c.tsv", b"a\t../b.png\n", "path_outside", "line 1: picture '../b.png': expected a file inside the image"),
        ("c.json", b'[{"image": 3}]', "invalid", "record 0: expected a caption and 'image', the name of a picture"),
        ("c.json", b"[7]", "invalid", "record 0: expected a caption and 'image', the name of a picture, found 7"),
        ("c.jsonl", b'{"image": "a.png", "caption": ["a", "b"]}', "invalid",
         "field 'caption': expected a text, found list"),
        ("c.json", b'[{"image": "a.png", "conversations": []}]', "invalid",
         "expected one of caption, text, blip_caption, found image, conversations"),
    ],
)  # fmt: skip
def test_one_that_is_wrong_says_so(name, content, reason, message, tmp_path):
    (tmp_path / name).write_bytes(content)
    wrong = list(read_captions(tmp_path / name, tmp_path))[-1]
    assert wrong.reason == reason
    assert wrong.message.startswith(f"{tmp_path / name}: ")
    assert message in wrong.message


def test_pictures_and_texts_of_a_folder_that_are_wrong(tmp_path):
    folder = tmp_path / "p"
    (folder / "folder.png").mkdir(parents=True)
    for name in ("latin.png", "none.png", "upper.JPG"):
        (folder / name).touch()
    (tmp_path / "outside.png").touch()
    (folder / "link.png").symlink_to(tmp_path / "outside.png")
    (folder / "latin.txt").write_bytes(b"caf\xe9")
    (folder / "upper.TXT").write_text("a dog")
    found = {each.image: (each.text, each.reason) for each in read_captions(folder)}
    assert found == {
        "latin.png": ("", "invalid"),
        "link.png": ("", "path_outside"),
        "none.png": ("", ""),
        "upper.JPG": ("a dog", ""),
    }


def test_ids_are_kept(tmp_path):
    rows = [{"id": each, "image": "a.png", "text": "x"} for each in ("7", 8, None)]
    (tmp_path / "c.json").write_text(json.dumps(rows))
    assert [each.id for each in read_captions(tmp_path / "c.json", tmp_path)] == ["7", "8", ""]


def test_a_folder_of_pictures_that_is_not_there(tmp_path):
    (tmp_path / "c.tsv").write_text("a\tb.png\n")
    with pytest.raises(InputError, match=r"--image_folder: .*none: expected a folder, found nothing"):
        list(read_captions(tmp_path / "c.tsv", tmp_path / "none"))


def test_names_need_a_folder_that_they_start_from(tmp_path):
    (tmp_path / "c.tsv").write_text("a\tb.png\n")
    with pytest.raises(InputError, match=r"c\.tsv: expected --image_folder with it"):
        list(read_captions(tmp_path / "c.tsv"))


def test_an_empty_folder(tmp_path):
    with pytest.raises(InputError, match=r"expected pictures, each beside a file NAME\.txt, or shards"):
        list(read_captions(tmp_path))
