"""Guards `llava-pl data captions`: records that training refuses, work lost by a kill, another source's work taken."""

import io
import json
import tarfile

import pytest
from PIL import Image

from llava_pl.cli import main
from llava_pl.data.records import read_records


def png(shade):
    file = io.BytesIO()
    Image.new("RGB", (40, 40), (shade % 256, shade // 256, 0)).save(file, "PNG")
    return file.getvalue()


@pytest.fixture
def words(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "p").mkdir()
    for shade in range(6):
        (tmp_path / "p" / f"{shade}.png").write_bytes(png(shade))
    (tmp_path / "p" / "5.png").write_bytes(png(0))
    lines = [f"a picture of shade {shade}\t{shade}.png\n" for shade in range(7)]
    (tmp_path / "c.tsv").write_text("".join(lines))
    return ["data", "captions", "c.tsv", "out", "--image_folder", "p", "--workers", "1"]


def contents(folder):
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_it_writes_records_and_says_what_it_left_out(words, tmp_path, capsys):
    assert main(words) == 0
    assert capsys.readouterr().out == (
        "           7  captions\n           5  records\n           1  left out: picture_missing\n"
        "           1  left out: picture_repeated\n"
        "wrote out/records.json; look at out/report.html\n"
    )
    records = read_records("out/records.json")
    assert [(record.id, record.images, record.turns[1].text) for record in records] == [
        (str(shade), (f"{shade}.png",), f"a picture of shade {shade}") for shade in range(5)
    ]
    (wrong,) = map(json.loads, (tmp_path / "out/left_out.jsonl").read_text().splitlines())
    assert (wrong["image"], wrong["reason"]) == ("6.png", "picture_missing")
    page = (tmp_path / "out/report.html").read_text()
    assert page.count("<img ") == 5
    assert "http" not in page.replace("http://www.w3.org", "")


def test_the_same_once_more_is_the_same_bytes(words, tmp_path):
    main(words)
    before = contents(tmp_path / "out")
    assert main(words) == 0
    assert contents(tmp_path / "out") == before
    words[3] = "other"
    assert main(words) == 0
    again, first = contents(tmp_path / "other"), before
    assert again == first


def test_pictures_of_shards_are_copied_out(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with tarfile.open("s.tar", "w") as archive:
        for name, content in {"0.png": png(0), "0.txt": b"zero", "1.png": b"broken", "1.txt": b"one"}.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    assert main(["data", "captions", "s.tar", "out", "--workers", "1"]) == 0
    (record,) = read_records("out/records.json")
    assert (record.id, record.images) == ("s/0", ("s/0.png",))
    assert {path.as_posix(): content for path, content in contents(tmp_path / "out/images").items()} == {
        "s/0.png": png(0)
    }


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (["none.tsv", "out"], "none.tsv: cannot be read (No such file or directory)"),
        (["p", "out"], "p: expected pictures, each beside a file NAME.txt, or shards NAME.tar; found neither"),
        (["empty.tsv", "out"], "empty.tsv: expected captions, found none"),
        (["c.tsv", "p"], "p: expected a new folder or one that was begun here, found other files in it"),
        (["c.tsv", "c.tsv"], "c.tsv: expected a folder, found a file"),
        (["c.tsv", "out", "--wording", "none.txt"], "--wording: none.txt: cannot be read"),
        (["c.tsv", "out", "--min_pixels", "0"], "--min_pixels: expected at least 1, found 0"),
        (["c.tsv", "out", "--workers", "0"], "--workers: expected at least 1, found 0"),
        (["c.tsv", "out", "--max_captions", "0"], "--max_captions: expected at least 1, found 0"),
    ],
)
def test_wrong_input_is_one_line_and_leaves_all_as_it_was(words, change, message, tmp_path, capsys):
    (tmp_path / "empty.tsv").write_text("")
    before = contents(tmp_path)
    assert main([*words[:2], *change[:2], *words[4:], *change[2:]]) == 2
    assert capsys.readouterr().err.startswith(f"llava-pl: error: {message}")
    assert contents(tmp_path) == before


def test_a_folder_of_another_source_or_of_other_settings(words, tmp_path, capsys):
    main(words)
    before = contents(tmp_path / "out")
    assert main([*words, "--min_pixels", "10"]) == 2
    assert "found one of other min_pixels; choose another name" in capsys.readouterr().err
    (tmp_path / "c.tsv").write_text("a picture\t0.png\n")
    assert main(words) == 2
    assert "found one of other captions; choose another name" in capsys.readouterr().err
    assert contents(tmp_path / "out") == before
