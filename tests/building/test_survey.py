"""Guards the survey of captions: work that is done twice after a kill, a part of other captions, a defect unseen."""

import subprocess
import sys
from dataclasses import replace

import psutil
import pyarrow.parquet as pq
import pytest
from PIL import Image

from llava_pl.building import survey
from llava_pl.building.captions import Caption
from llava_pl.building.survey import SurveySettings, look_at, make_parts


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


def test_parts(captions, tmp_path):
    done = []
    paths = make_parts(captions, 5, tmp_path, SurveySettings(), advance=done.append)
    assert [path.name for path in paths] == ["000000.parquet", "000001.parquet", "000002.parquet"]
    assert sum(done) == 5
    assert read(paths, "image") == ["0.png", "1.png", "2.png", "3.png", "4.png"]
    assert read(paths, "reason") == [""] * 5
    digests = read(paths, "digest")
    assert digests[4] == digests[0]
    assert len(set(digests)) == 4
    assert read(paths, "phrases") == [[]] * 5


def test_work_goes_on_where_it_was_stopped(captions, tmp_path):
    first = make_parts(captions, 5, tmp_path, SurveySettings())
    before = {path: path.stat().st_mtime_ns for path in first}
    first[1].unlink()
    done = []
    assert make_parts(captions, 5, tmp_path, SurveySettings(), advance=done.append) == first
    assert sum(done) == 5
    assert [path for path in first if path.stat().st_mtime_ns != before[path]] == [first[1]]


def test_a_source_whose_parts_are_all_there_is_not_read(captions, tmp_path):
    paths = make_parts(captions, 5, tmp_path, SurveySettings())
    done, unread = [], iter(captions)
    assert make_parts(unread, 5, tmp_path, SurveySettings(), advance=done.append) == paths
    assert (sum(done), len(list(unread))) == (5, 5)


@pytest.mark.app  # two processes are started
def test_processes_make_the_same_parts(captions, tmp_path, pipeline_folder):
    settings = SurveySettings(pipeline=str(pipeline_folder))
    contents = []
    for num_processes in (1, 2):
        (folder := tmp_path / str(num_processes)).mkdir()
        paths = make_parts(captions, 5, folder, settings, num_processes=num_processes)
        contents.append([path.read_bytes() for path in paths])
    assert contents[0] == contents[1]


KILLED = """
import os, signal, sys, time
from multiprocessing import active_children
from pathlib import Path
from llava_pl.building import survey
from llava_pl.building.captions import Caption

def captions():
    for number in range(4):
        yield Caption("x", "x", "", Path("x"))
    while len(list(Path(sys.argv[1]).glob("*.parquet"))) < 4:
        time.sleep(0.1)
    Path(sys.argv[1], "processes").write_text(" ".join(str(child.pid) for child in active_children()))
    os.kill(os.getpid(), signal.SIGKILL)

survey.CAPTIONS_PER_PART = 1
survey.make_parts(captions(), 9, Path(sys.argv[1]), survey.SurveySettings(), num_processes=2)
"""


@pytest.mark.app  # two processes are started
def test_processes_end_with_the_one_that_started_them(tmp_path):
    subprocess.run([sys.executable, "-c", KILLED, str(tmp_path)], check=False)
    names = [int(word) for word in (tmp_path / "processes").read_text().split()]
    _, alive = psutil.wait_procs([psutil.Process(name) for name in names if psutil.pid_exists(name)], timeout=60)
    for process in alive:
        process.kill()
    assert (len(names), alive) == (2, [])


@pytest.mark.parametrize(
    ("change", "reason", "message"),
    [
        ({"text": ""}, "caption_empty", "line 0: expected a caption, found none"),
        ({"file": "none.png"}, "picture_missing", "none.png: cannot be read (No such file or directory)"),
        ({"offset": 5}, "picture_broken", "line 0: cannot read picture 0.png: expected a complete picture"),
        ({"num_bytes": 60}, "picture_broken", "line 0: cannot read picture 0.png: expected a complete picture"),
    ],
)
def test_what_is_wrong(captions, change, reason, message, tmp_path):
    if "file" in change:
        change = {"file": tmp_path / change["file"]}
    found = look_at(replace(captions[0], **change), 32)
    assert found[0] == reason
    assert message in found[1]


@pytest.mark.parametrize(("min_pixels", "reason"), [(40, ""), (41, "picture_tiny")])
def test_tiny_pictures(captions, min_pixels, reason):
    found = look_at(captions[0], min_pixels)
    assert found[0] == reason
    assert ("expected at least 41 pixels a side, found 40 x 40" in found[1]) == bool(reason)
