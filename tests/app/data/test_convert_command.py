"""Guards `llava-pl data convert`: half a file after an error, a form that nobody asked for."""

import json

import pytest

from llava_pl.cli import main

TURNS = [{"from": "human", "value": "<image>\na"}, {"from": "gpt", "value": "b"}]


@pytest.fixture(autouse=True)
def source(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "s.json").write_text(json.dumps([{"images": ["a.png"], "conversations": TURNS}]))


def test_there_and_back(tmp_path, capsys):
    assert main(["data", "convert", "s.json", "r.json", "--from", "sharegpt"]) == 0
    assert capsys.readouterr().out == "wrote r.json: 1 records\n"
    assert json.loads((tmp_path / "r.json").read_text()) == [{"id": "s-0", "image": "a.png", "conversations": TURNS}]
    assert main(["data", "convert", "r.json", "m.jsonl", "--to", "messages"]) == 0
    assert main(["data", "convert", "m.jsonl", "again.json", "--from", "messages"]) == 0
    assert (tmp_path / "again.json").read_bytes() == (tmp_path / "r.json").read_bytes()


def test_any_name_of_a_form(table, tmp_path, capsys):
    assert main(["data", "convert", *table, "R.JSONL"]) == 0
    assert main(["data", "convert", "R.JSONL", "T.CSV"]) == 0
    assert main(["data", "convert", "T.CSV", "again.JSON", *table[1:]]) == 0
    lines = (tmp_path / "R.JSONL").read_text(encoding="utf-8").splitlines()
    assert json.loads((tmp_path / "again.JSON").read_text(encoding="utf-8")) == [json.loads(line) for line in lines]


@pytest.mark.parametrize("name", ["https://a/b.png", "data:image/png;base64,AA", "/tmp/a.png", "../a.png"])
@pytest.mark.parametrize("to", ["llava", "csv"])
def test_pictures_that_are_no_files(name, to, tmp_path, capsys):
    (tmp_path / "r.json").write_text(json.dumps([{"id": "7", "image": name, "conversations": TURNS}]))
    assert main(["data", "convert", "r.json", {"llava": "w.json", "csv": "w.csv"}[to]]) == 2
    error = capsys.readouterr().err
    assert error.startswith(
        f"llava-pl: error: r.json: record 0 (id '7'): picture '{name}': expected the name of a file"
    )
    assert error.count("\n") == 1
    assert {path.name for path in tmp_path.iterdir()} == {"r.json", "s.json"}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["s.json", "r.json"], "s.json: record 0: field 'images': expected 'image'"),
        (["s.json", "s.json"], "DST: s.json: expected a new file, found one; choose another name"),
        (["s.json", "r.txt"], "DST: r.txt: expected a name that ends in .json"),
        (["none.json", "r.json"], "none.json: cannot be read"),
        (["t.csv", "r.json"], "t.csv: expected --image_folder with it"),
        (["s.json", "r.json", "--turns"], "--turns: expected a table (--from csv or --to csv), found llava to llava"),
        (["s.json", "r.json", "--delimiter", ";"], "--delimiter: expected a table (--from csv or --to csv), found ll"),
    ],
)
def test_wrong_input_is_one_line_and_leaves_nothing(words, message, tmp_path, capsys):
    assert main(["data", "convert", *words]) == 2
    assert capsys.readouterr().err.startswith(f"llava-pl: error: {message}")
    assert [path.name for path in tmp_path.iterdir()] == ["s.json"]


@pytest.fixture
def table(tmp_path):
    """Write a table and its picture; return how it is read."""
    (tmp_path / "pictures").mkdir()
    (tmp_path / "pictures" / "a.png").write_bytes(b"")
    text = "image,question,answer\na.png,What?,red\na.png,Where?,h\u00e9re\n"
    (tmp_path / "p.csv").write_text(text, encoding="utf-8")
    return ["p.csv", "--image_folder", "pictures"]


def test_a_table_is_read(table, tmp_path, capsys):
    assert main(["data", "convert", *table, "records.json"]) == 0
    assert capsys.readouterr().out == "wrote records.json: 2 records, 1 pictures\n"
    records = json.loads((tmp_path / "records.json").read_text(encoding="utf-8"))
    assert [record["id"] for record in records] == ["p-1", "p-2"]
    assert {path.name for path in tmp_path.iterdir()} == {"p.csv", "pictures", "records.json", "s.json"}


def test_turns_and_delimiter(table, tmp_path, capsys):
    text = (tmp_path / "p.csv").read_text(encoding="utf-8")
    (tmp_path / "p.txt").write_text(text.replace(",", "\t"), encoding="utf-8")
    table[0] = "p.txt"
    assert main(["data", "convert", *table, "m.jsonl", "--from", "csv", "--to", "messages", "--delimiter", "tab"]) == 0
    assert main(["data", "convert", *table, "r.json", "--from", "csv", "--turns", "--delimiter", "tab"]) == 0
    assert capsys.readouterr().out == ("wrote m.jsonl: 2 records, 1 pictures\nwrote r.json: 1 records, 1 pictures\n")


@pytest.mark.parametrize("options", [[], ["--turns"], ["--delimiter", "tab"]])
def test_to_a_table_and_back(table, options, tmp_path, capsys):
    turns = [word for word in options if word == "--turns"]
    assert main(["data", "convert", *table, "r.json", *turns]) == 0
    assert main(["data", "convert", "r.json", "again.csv", *options]) == 0
    table[0] = "again.csv"
    assert main(["data", "convert", *table, "again.json", *options]) == 0
    assert (tmp_path / "again.json").read_bytes() == (tmp_path / "r.json").read_bytes()
    number = 1 if turns else 2
    assert f"wrote again.csv: {number} records\n" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["p.csv", "p.csv"], "DST: p.csv: expected a new file, found one; choose another name"),
        (["p.csv", "no/records.json"], "DST: no/records.json: expected a file in a folder that exists"),
        (["p.csv", "r.txt"], "DST: r.txt: expected a name that ends in .json (a list) or .jsonl (lines)"),
        (["p.csv", "r.json", "--to", "csv"], "DST: r.json: expected a name that ends in .csv"),
        (["p.csv", "r.json", "--image_folder", "none"], "--image_folder: none: expected a folder, found nothing"),
        (["p.csv", "r.json", "--image_folder", "p.csv"], "--image_folder: p.csv: expected a folder, found a file"),
        (
            ["p.csv", "r.json", "--image_folder", "."],
            "p.csv: line 2: column 'image': expected a file in ., found no 'a.png'",
        ),
        (["s.json", "r.csv", "--from", "sharegpt"], "--image_folder: expected a table to read (--from csv), found sh"),
    ],
)
def test_a_wrong_table_is_one_line_and_leaves_all_as_it_was(table, words, message, tmp_path, capsys):
    before = {path: path.read_bytes() for path in tmp_path.glob("*.*")}
    assert main(["data", "convert", *table[1:], *words]) == 2
    assert capsys.readouterr().err.startswith(f"llava-pl: error: {message}")
    assert {path: path.read_bytes() for path in tmp_path.glob("*.*")} == before


@pytest.mark.parametrize("rest", [["--delimiter", "ab"], ["--delimiter", '"'], ["--turn"]])
def test_wrong_options(table, rest, capsys):
    with pytest.raises(SystemExit, match="2"):
        main(["data", "convert", *table, "r.json", *rest])
    assert capsys.readouterr().err.startswith("llava-pl: error: ")
