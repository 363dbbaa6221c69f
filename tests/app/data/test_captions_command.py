"""Guards `llava-pl data captions`: records that training refuses, work lost by a kill, another source's work taken."""

import io
import json
import os
import signal
import subprocess
import sys
import tarfile
import time

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
    wrong = map(json.loads, (tmp_path / "out/left_out.jsonl").read_text().splitlines())
    assert [(each["image"], each["reason"]) for each in wrong] == [
        ("5.png", "picture_repeated"),
        ("6.png", "picture_missing"),
    ]
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


@pytest.mark.app  # a pipeline is trained
def test_a_balanced_choice(words, tmp_path, capsys, pipeline_folder):
    texts = ("a red dog", "a red dog on the grass", "the dog", "a red dog", "the cat", "dogs", "none")
    lines = [f"{text}\t{shade}.png\n" for shade, text in enumerate(texts)]
    (tmp_path / "c.tsv").write_text("".join(lines))
    balance = ["--balance", "--spacy", str(pipeline_folder), "--min_count", "2", "--max_captions", "2"]
    assert main([*words, *balance]) == 0
    report = json.loads((tmp_path / "out/report.json").read_text())
    assert report["settings"]["max_captions"] == 2
    assert report["settings"]["pipeline"].startswith("en_pipeline 0.0.0, spaCy ")
    # Of the five pictures three show a red dog, of which two are drawn; dog, grass and cat are rare.
    assert {name: number for name, number in report["counts"].items() if "phrase" not in name} == {
        "captions": 7,
        "records": 2,
        "left out: not_drawn": 1,
        "left out: picture_missing": 1,
        "left out: picture_repeated": 1,
    }
    assert report["counts"]["left out: phrases_rare"] == 2
    assert {record.turns[1].text for record in read_records("out/records.json")} <= {texts[0], texts[1], texts[3]}
    assert "<svg" in (tmp_path / "out/report.html").read_text()
    # Another seed looks at no picture again.
    parts = {path: path.stat().st_mtime_ns for path in (tmp_path / "out/parts").iterdir()}
    assert main([*words, *balance, "--seed", "1"]) == 0
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "out/parts").iterdir()} == parts


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (["none.tsv", "out"], "none.tsv: cannot be read (No such file or directory)"),
        (["p", "out"], "p: expected pictures, each beside a file NAME.txt, or shards NAME.tar; found neither"),
        (["empty.tsv", "out"], "empty.tsv: expected captions, found none"),
        (["c.tsv", "p"], "p: expected a new folder or one of c.tsv, found other files in it"),
        (["c.tsv", "c.tsv"], "c.tsv: expected a folder, found a file"),
        (["c.tsv", "out", "--wording", "none.txt"], "--wording: none.txt: cannot be read"),
        (["c.tsv", "out", "--min_pixels", "0"], "--min_pixels: expected at least 1, found 0"),
        (["c.tsv", "out", "--workers", "0"], "--workers: expected at least 1, found 0"),
        (["c.tsv", "out", "--max_captions", "0"], "--max_captions: expected at least 1, found 0"),
        (["c.tsv", "out", "--seed", "-1"], "--seed: expected at least 0, found -1"),
    ],
)
def test_wrong_input_is_one_line_and_leaves_all_as_it_was(words, change, message, tmp_path, capsys):
    (tmp_path / "empty.tsv").write_text("")
    before = contents(tmp_path)
    assert main([*words[:2], *change[:2], *words[4:], *change[2:]]) == 2
    assert capsys.readouterr().err.startswith(f"llava-pl: error: {message}")
    assert contents(tmp_path) == before


def test_a_folder_of_another_source(words, tmp_path, capsys):
    main(words)
    before = contents(tmp_path / "out")
    (tmp_path / "d.tsv").write_text("a picture\t0.png\n")
    assert main([*words[:2], "d.tsv", *words[3:]]) == 2
    assert f"found one of {tmp_path}/c.tsv; choose another name" in capsys.readouterr().err
    assert contents(tmp_path / "out") == before


def test_a_source_that_has_changed(words, tmp_path):
    main(words)
    (tmp_path / "p" / "6.png").write_bytes(png(6))
    assert main(words) == 0
    assert len(read_records("out/records.json")) == 6


def test_nothing_to_learn_from(words, tmp_path, capsys):
    assert main([*words, "--min_pixels", "41"]) == 2
    assert capsys.readouterr().err == (
        "llava-pl: error: c.tsv: expected captions to learn from, found none (1 left out: picture_missing, 6 left out: "
        "picture_tiny); see out/left_out.jsonl\n"
    )
    assert len((tmp_path / "out/left_out.jsonl").read_text().splitlines()) == 7


@pytest.mark.app  # a process is started and killed
def test_a_kill_costs_the_part_that_was_made(words, tmp_path):
    lines = [f"a picture of shade {n}\t{n % 5}.png\n" for n in range(20_000)]
    (tmp_path / "c.tsv").write_text("".join(lines))
    process = subprocess.Popen([sys.executable, "-m", "llava_pl", *words], cwd=tmp_path)
    while len(done := list((tmp_path / "out" / "parts").glob("*.parquet"))) < 2:
        time.sleep(0.01)
        assert process.poll() is None
    process.send_signal(signal.SIGKILL)
    process.wait()
    times = {path: path.stat().st_mtime_ns for path in done}
    assert main(words) == 0
    assert {path: path.stat().st_mtime_ns for path in done} == times
    assert main([*words[:3], "other", *words[4:]]) == 0
    once, killed = (contents(tmp_path / name) for name in ("other", "out"))
    assert once == killed
    assert len([path for path in once if path.parent.name == "parts"]) == 4


@pytest.mark.app  # three processes are started and interrupted
def test_an_interrupt_is_one_line(words, tmp_path):
    lines = [f"a picture of shade {n}\t{n % 5}.png\n" for n in range(40_000)]
    (tmp_path / "c.tsv").write_text("".join(lines))
    command = [sys.executable, "-m", "llava_pl", *words[:-1], "2"]
    process = subprocess.Popen(command, cwd=tmp_path, start_new_session=True, stderr=subprocess.PIPE, text=True)
    while not list((tmp_path / "out" / "parts").glob("*.parquet")):
        time.sleep(0.01)
        assert process.poll() is None
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does
    assert process.communicate(timeout=60)[1] == "llava-pl: interrupted\n"
    assert process.returncode == 130
    assert main(words) == 0
