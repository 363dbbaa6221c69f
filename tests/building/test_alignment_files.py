"""Guards the folder of alignment pairs: another source's work that is taken, other bytes, a picture left out."""

import json

import pytest
from PIL import Image

from llava_pl.building import survey
from llava_pl.building.alignment_files import check_folder, open_folder, write_alignment
from llava_pl.building.captions import Caption
from llava_pl.building.survey import SurveySettings, make_parts, plan_parts
from llava_pl.types import InputError

SETTINGS = SurveySettings()


@pytest.fixture
def captions(tmp_path):
    for shade in range(3):
        Image.new("RGB", (40, 40), (shade, 0, 0)).save(tmp_path / f"{shade}.png")
    files = [tmp_path / name for name in ("0.png", "1.png", "2.png", "1.png", "none.png")]
    return [Caption(f"line {n}", f"s/{n}.png", f"picture {n}", file) for n, file in enumerate(files)]


def test_a_folder_is_of_one_source(tmp_path):
    folder, source = tmp_path / "out", tmp_path / "c.tsv"
    for _ in range(2):
        check_folder(folder, source)
        with open_folder(folder, source) as parts:
            assert parts == folder / "parts"
            (folder / "images" / "s").mkdir(parents=True, exist_ok=True)
            for left in (parts / ".1.parquet.7.part", folder / "images" / "s" / ".1.png.7.part"):
                left.write_text("left by a kill")
    with open_folder(folder, source):
        assert [*parts.iterdir(), *(folder / "images" / "s").iterdir()] == []
    with pytest.raises(InputError, match=rf"out: expected a new folder or one of .*, found one of {source}; choose"):
        check_folder(folder, tmp_path / "d.tsv")


@pytest.mark.parametrize("left", [[], [".survey.json.7.part"], [".lock"]])
def test_what_a_kill_leaves_is_no_other_folder(tmp_path, left):
    (tmp_path / "out").mkdir()
    for name in left:
        (tmp_path / "out" / name).touch()
    check_folder(tmp_path / "out", tmp_path / "c.tsv")
    (tmp_path / "out" / "mine.txt").touch()
    with pytest.raises(InputError, match="found other files in it; choose another name"):
        check_folder(tmp_path / "out", tmp_path / "c.tsv")


def make(captions, folder, source):
    with open_folder(folder, source) as parts:
        plan = plan_parts(captions, parts, SETTINGS)
        make_parts(captions, plan, SETTINGS)
    return list(plan)


def test_what_is_written(captions, tmp_path, monkeypatch):
    monkeypatch.setattr(survey, "CAPTIONS_PER_PART", 2)
    folder = tmp_path / "out"
    parts, advanced = make(captions, folder, tmp_path), []
    assert len(parts) == 3
    options = {"settings": {"seed": 0}, "extract": True}
    counts = write_alignment(folder, parts, ["What?"], None, 0, advance=lambda: advanced.append(1), **options)
    assert counts == {
        "captions": 5,
        "records": 3,
        "left out: picture_missing": 1,
        "left out: picture_repeated": 1,
    }
    assert json.loads((folder / "report.json").read_text()) == {"settings": {"seed": 0}, "counts": counts}
    assert len(advanced) == 3
    records = json.loads((folder / "records.json").read_text())
    assert [record["id"] for record in records] == ["s/0", "s/1", "s/2"]
    for number, record in enumerate(records):
        assert (folder / "images" / record["image"]).read_bytes() == (tmp_path / f"{number}.png").read_bytes()
    left_out = [json.loads(line) for line in (folder / "left_out.jsonl").read_text().splitlines()]
    assert left_out[0] == {
        "image": "s/3.png",
        "reason": "picture_repeated",
        "message": "the very bytes of s/1.png",
    }
    assert [row["reason"] for row in left_out[1:]] == ["picture_missing"]
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    write_alignment(folder, parts, ["What?"], None, 0, **options)
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before


def test_nothing_is_left(captions, tmp_path):
    parts = make(captions[4:], tmp_path / "out", tmp_path)
    assert write_alignment(tmp_path / "out", parts, ["What?"], None, 0, {}, extract=False)["records"] == 0
    assert json.loads((tmp_path / "out" / "records.json").read_text()) == []
