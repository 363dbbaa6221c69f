"""Guards the survey of captions: work that is done twice after a kill, a part of other captions, a defect unseen."""

from dataclasses import replace
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from PIL import Image

from llava_pl.building import survey
from llava_pl.building.captions import Caption
from llava_pl.building.survey import SurveySettings, look_at, make_parts, plan_parts
from llava_pl.types import InputError

SETTINGS = SurveySettings()


@pytest.fixture
def captions(tmp_path):
    """Five sound captions, the last of the picture of the first."""
    for shade in range(4):
        Image.new("RGB", (40, 40), (shade, 0, 0)).save(tmp_path / f"{shade}.png")
    (tmp_path / "4.png").write_bytes((tmp_path / "0.png").read_bytes())
    return [Caption(f"line {n}", f"{n}.png", f"picture {n}", tmp_path / f"{n}.png") for n in range(5)]


def read(paths, column):
    return [value for path in paths for value in pq.read_table(path)[column].to_pylist()]


@pytest.fixture(autouse=True)
def small_parts(monkeypatch):
    monkeypatch.setattr(survey, "CAPTIONS_PER_PART", 2)


def make(captions, folder, settings=SETTINGS, **options):
    """Make all parts, and return them."""
    plan = plan_parts(captions, folder, settings)
    make_parts(captions, plan, settings, **options)
    return list(plan)


def test_parts(captions, tmp_path):
    done = []
    paths = make(captions, tmp_path, advance=done.append)
    assert [path.name.partition("-")[0] for path in paths] == ["000000", "000001", "000002"]
    assert sum(done) == 5
    assert read(paths, "image") == ["0.png", "1.png", "2.png", "3.png", "4.png"]
    assert read(paths, "reason") == [""] * 5
    digests = read(paths, "digest")
    assert digests[4] == digests[0]
    assert len(set(digests)) == 4
    assert read(paths, "phrases") == [[]] * 5


def test_work_goes_on_where_it_was_stopped(captions, tmp_path):
    first = make(captions, tmp_path)
    before = {path: path.stat().st_mtime_ns for path in first}
    first[1].unlink()
    done = []
    assert make(captions, tmp_path, advance=done.append) == first
    assert sum(done) == 5
    assert [path for path in first if path.stat().st_mtime_ns != before[path]] == [first[1]]


@pytest.mark.parametrize(
    "change", [{"image": "x.png"}, {"text": "x"}, {"offset": 1}, {"num_bytes": 1}, {"id": "x"}, {"where": "x"}]
)
def test_another_caption_makes_another_part(captions, tmp_path, change):
    before = list(plan_parts(captions, tmp_path, SETTINGS))
    after = list(plan_parts([replace(captions[0], **change), *captions[1:]], tmp_path, SETTINGS))
    assert [one == two for one, two in zip(before, after, strict=True)] == [False, True, True]


def test_other_pictures_and_settings_make_other_parts(captions, tmp_path):
    before = list(plan_parts(captions, tmp_path, SETTINGS))
    for settings in (SurveySettings(33), SurveySettings(pipeline="x"), SurveySettings(pipeline_version="2")):
        assert set(before).isdisjoint(plan_parts(captions, tmp_path, settings))
    (tmp_path / "2.png").unlink()
    without = list(plan_parts(captions, tmp_path, SETTINGS))
    assert [one == two for one, two in zip(before, without, strict=True)] == [True, False, True]
    Image.new("RGB", (41, 40)).save(tmp_path / "2.png")
    assert list(plan_parts(captions, tmp_path, SETTINGS))[1] not in (before[1], without[1])


def test_a_file_that_changes_between_two_plans(captions, tmp_path):
    of_one_file = [replace(caption, file=tmp_path / "0.png") for caption in captions[:2]]
    before = plan_parts(of_one_file, tmp_path, SETTINGS)
    (tmp_path / "0.png").write_bytes(b"another")
    assert set(plan_parts(of_one_file, tmp_path, SETTINGS)).isdisjoint(before)


def test_a_part_serves_other_working_folders(captions, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (path,) = make([replace(captions[0], file=Path("0.png"))], tmp_path)
    assert read([path], "file") == [str(tmp_path / "0.png")]


@pytest.mark.parametrize("change", [slice(0, 2), slice(1, 5)])
def test_a_source_that_changes_while_it_is_read(captions, tmp_path, change):
    plan = plan_parts(captions, tmp_path, SETTINGS)
    with pytest.raises(InputError, match="expected captions as they were when they were counted, found others"):
        make_parts(captions[change], plan, SETTINGS)


def test_a_source_whose_parts_are_all_there_is_not_read_again(captions, tmp_path):
    plan = plan_parts(captions, tmp_path, SETTINGS)
    make_parts(captions, plan, SETTINGS)
    unread = iter(captions)
    make_parts(unread, plan, SETTINGS)
    assert len(list(unread)) == 5


@pytest.mark.app  # two processes are started
def test_processes_make_the_same_parts(captions, tmp_path, pipeline_folder):
    settings = SurveySettings(pipeline=str(pipeline_folder))
    contents = []
    for num_processes in (1, 2):
        (folder := tmp_path / str(num_processes)).mkdir()
        paths = make(captions, folder, settings, num_processes=num_processes)
        contents.append([path.read_bytes() for path in paths])
    assert contents[0] == contents[1]


@pytest.mark.parametrize(
    ("change", "reason", "message"),
    [
        ({"text": ""}, "caption_empty", "expected a caption, found none"),
        ({"text": "x" * 10_001}, "caption_long", "expected at most 10,000 characters, found 10,001"),
        ({"text": "the <image> tag"}, "image_slots", "2 '<image>' marks for 1 images"),
        ({"text": "half \ud800"}, "invalid", "field 'value': holds a lone surrogate"),
        ({"image": "\udcff.png"}, "invalid", "field 'image': holds a lone surrogate"),
        ({"reason": "path_outside", "message": "line 0: x"}, "path_outside", "x"),
        ({"file": "none.png"}, "picture_missing", "none.png: cannot be read (No such file or directory)"),
        ({"file": "none\0.png"}, "picture_missing", "none\0.png: cannot be read (embedded null byte)"),
        ({"offset": 5}, "picture_broken", "cannot read picture 0.png: expected a complete picture"),
        ({"num_bytes": 60}, "picture_broken", "cannot read picture 0.png: expected a complete picture"),
        ({"num_bytes": 0}, "picture_broken", "found 0 bytes (UnidentifiedImageError: cannot identify image file it)"),
    ],
)
def test_what_is_wrong(captions, change, reason, message, tmp_path):
    if "file" in change:
        change = {"file": tmp_path / change["file"]}
    caption = replace(captions[0], **change)
    found = look_at(caption, 32)
    assert found[0] == reason
    assert found[1].startswith("line 0")
    assert found[1].count("line 0") == 1
    assert message in found[1]
    (path,) = make([caption], tmp_path)
    assert read([path], "reason") == [reason]


@pytest.mark.parametrize(("min_pixels", "reason"), [(40, ""), (41, "picture_tiny")])
def test_tiny_pictures(captions, min_pixels, reason):
    found = look_at(captions[0], min_pixels)
    assert found[0] == reason
    assert ("expected at least 41 pixels a side, found 40 x 40" in found[1]) == bool(reason)
