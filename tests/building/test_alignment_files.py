"""Guards the folder of alignment pairs: another source's work that is taken, other bytes, a picture left out."""

import json
from dataclasses import replace

import pytest
from PIL import Image

from llava_pl.building.alignment_files import claim_folder, digest_captions, write_alignment
from llava_pl.building.captions import Caption
from llava_pl.building.survey import SurveySettings, write_part
from llava_pl.types import InputError

SETTINGS = SurveySettings()


@pytest.fixture
def captions(tmp_path):
    for shade in range(3):
        Image.new("RGB", (40, 40), (shade, 0, 0)).save(tmp_path / f"{shade}.png")
    files = [tmp_path / name for name in ("0.png", "1.png", "2.png", "1.png", "none.png")]
    return [Caption(f"line {n}", f"s/{n}.png", f"picture {n}", file) for n, file in enumerate(files)]


@pytest.mark.parametrize("change", [{"image": "x.png"}, {"text": "x"}, {"offset": 1}, {"num_bytes": 1}])
def test_a_hash_is_of_all_that_decides_a_survey(captions, change):
    number, digest = digest_captions(captions)
    assert number == 5
    assert digest_captions(captions) == (5, digest)
    assert digest_captions([replace(captions[0], where="elsewhere"), *captions[1:]]) == (5, digest)
    assert digest_captions([replace(captions[0], **change), *captions[1:]]) != (5, digest)


def test_a_folder_is_of_one_source_and_its_settings(tmp_path):
    folder = tmp_path / "out"
    assert claim_folder(folder, "a", SETTINGS) == folder / "parts"
    assert claim_folder(folder, "a", SETTINGS) == folder / "parts"
    for digest, settings, what in (("b", SETTINGS, "captions"), ("a", SurveySettings(pipeline="x"), "pipeline")):
        with pytest.raises(InputError, match=f"found one of other {what}; choose another name"):
            claim_folder(folder, digest, settings)


def test_what_is_written(captions, tmp_path):
    folder = tmp_path / "out"
    parts = [claim_folder(folder, "a", SETTINGS) / f"{n}.parquet" for n in range(2)]
    write_part(captions[:2], parts[0], SETTINGS)
    write_part(captions[2:], parts[1], SETTINGS)
    advanced = []
    counts = write_alignment(folder, parts, ["What?"], None, 0, extract=True, advance=lambda: advanced.append(1))
    assert counts == {
        "captions": 5,
        "records": 3,
        "left out: picture_missing": 1,
        "left out: picture_repeated": 1,
    }
    assert len(advanced) == 3
    records = json.loads((folder / "records.json").read_text())
    assert [record["id"] for record in records] == ["s/0", "s/1", "s/2"]
    for number, record in enumerate(records):
        assert (folder / "images" / record["image"]).read_bytes() == (tmp_path / f"{number}.png").read_bytes()
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    write_alignment(folder, parts, ["What?"], None, 0, extract=True)
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before


def test_nothing_is_left(captions, tmp_path):
    parts = [claim_folder(tmp_path / "out", "a", SETTINGS) / "0.parquet"]
    write_part(captions[4:], parts[0], SETTINGS)
    assert write_alignment(tmp_path / "out", parts, ["What?"], None, 0, extract=False)["records"] == 0
    assert json.loads((tmp_path / "out" / "records.json").read_text()) == []
