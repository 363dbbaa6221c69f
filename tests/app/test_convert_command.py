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


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["s.json", "r.json"], "s.json: record 0: field 'images': expected 'image'"),
        (["s.json", "s.json"], "DST: s.json: expected a new file, found one; choose another name"),
        (["s.json", "r.txt"], "DST: r.txt: expected a name that ends in .json"),
        (["none.json", "r.json"], "none.json: cannot be read"),
    ],
)
def test_wrong_input_is_one_line_and_leaves_nothing(words, message, tmp_path, capsys):
    assert main(["data", "convert", *words]) == 2
    assert capsys.readouterr().err.startswith(f"llava-pl: error: {message}")
    assert [path.name for path in tmp_path.iterdir()] == ["s.json"]
