"""Guards `llava-pl data csv`: a file that is written over, half a file, a message without a line."""

import json

import pytest

from llava_pl.cli import main


@pytest.fixture
def words(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "pictures").mkdir()
    (tmp_path / "pictures" / "a.png").write_bytes(b"")
    (tmp_path / "p.csv").write_text(
        "image,question,answer\na.png,What?,red\na.png,Where?,h\u00e9re\n", encoding="utf-8"
    )
    return ["data", "csv", "p.csv", "--image-folder", "pictures", "--output", "records.json"]


def test_it_writes_records(words, tmp_path, capsys):
    assert main(words) == 0
    assert capsys.readouterr().out == "wrote records.json: 2 records, 1 pictures\n"
    records = json.loads((tmp_path / "records.json").read_text(encoding="utf-8"))
    assert [record["id"] for record in records] == ["p-1", "p-2"]
    assert {path.name for path in tmp_path.iterdir()} == {"p.csv", "pictures", "records.json"}


def test_turns_and_delimiter(words, tmp_path, capsys):
    table = tmp_path / "p.csv"
    table.write_text(table.read_text(encoding="utf-8").replace(",", "\t"), encoding="utf-8")
    assert main([*words, "--turns", "--delimiter", "tab"]) == 0
    assert capsys.readouterr().out == "wrote records.json: 1 records, 1 pictures\n"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"--output": "p.csv"}, "--output: p.csv: expected a new file, found one; choose another name"),
        ({"--output": "no/records.json"}, "--output: no/records.json: expected a file in a folder that exists"),
        ({"--output": "records.jsonl"}, "--output: records.jsonl: expected a name for a JSON list (.json)"),
        ({"--image-folder": "none"}, "--image-folder: none: expected a folder, found nothing"),
        ({"--image-folder": "p.csv"}, "--image-folder: p.csv: expected a folder, found a file"),
        ({"--image-folder": "."}, "p.csv: line 2: column 'image': expected a file in ., found no 'a.png'"),
    ],
)
def test_wrong_input_is_one_line_and_leaves_all_as_it_was(words, change, message, tmp_path, capsys):
    before = {path: path.read_bytes() for path in tmp_path.glob("*.*")}
    for option, value in change.items():
        words[words.index(option) + 1] = value
    assert main(words) == 2
    assert capsys.readouterr().err.startswith(f"llava-pl: error: {message}")
    assert {path: path.read_bytes() for path in tmp_path.glob("*.*")} == before


@pytest.mark.parametrize("rest", [["--delimiter", "ab"], ["--delimiter", '"'], ["--turn"]])
def test_wrong_options(words, rest, capsys):
    with pytest.raises(SystemExit, match="2"):
        main([*words, *rest])
    assert capsys.readouterr().err.startswith("llava-pl: error: ")
