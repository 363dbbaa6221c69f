"""Guards `llava-pl data stats`: two files under one name, control characters on the terminal."""

import json

from llava_pl.cli import main

RECORD = {
    "id": "1",
    "conversations": [{"from": "human", "value": "Why?"}, {"from": "gpt", "value": "A dog\x1b runs."}],
}


def test_files_side_by_side(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")
    for name, number in {"a/r.json": 3, "b/r.json": 1, "c.json": 0}.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(json.dumps([RECORD] * number))
    assert main(["data", "stats", "a/r.json", "b/r.json", "c.json", "--html", "s.html"]) == 0
    shown = capsys.readouterr().out
    assert [cell.strip() for cell in shown.splitlines()[3].split("\u2502")[1:-1]] == ["records", "3", "1", "0"]
    assert all(name in shown.splitlines()[1] for name in ("a/r.json", "b/r.json", "c.json"))
    assert "a/r.json: most talked about (records): dog 3, runs 3\n" in shown
    assert "\x1b" not in shown
    assert "wrote s.html" in shown
    assert "a/r.json" in (tmp_path / "s.html").read_text()


def test_quantiles_have_columns(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "100")
    (tmp_path / "r.json").write_text(json.dumps([RECORD]))
    assert main(["data", "stats", "r.json", "r.json", "./r.json"]) == 0
    rows = [[cell.strip() for cell in line.split("\u2502")[1:-1]] for line in capsys.readouterr().out.splitlines()]
    assert ["records", "1", "1", "1"] in rows
    assert ["words of an answer", "r.json (2)", "3", "3", "3", "3", "3"] in rows
    assert ["words of an answer", "r.json (3)", "3", "3", "3", "3", "3"] in rows


def test_other_forms(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    turns = [{"from": "user", "value": "<image>"}, {"from": "assistant", "value": "b", "weight": 0}]
    (tmp_path / "s.json").write_text(json.dumps([{"images": ["a.png"], "conversations": turns, "system": "Be brief."}]))
    assert main(["data", "stats", "s.json", "--from", "sharegpt"]) == 0
    rows = [[cell.strip() for cell in line.split("\u2502")[1:-1]] for line in capsys.readouterr().out.splitlines()]
    assert ["pictures", "1"] in rows
    assert main(["data", "stats", "s.json"]) == 2
    assert "s.json: record 0: field 'images': expected 'image'" in capsys.readouterr().err


def test_wrong_input(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "r.json").write_text("[7]")
    assert main(["data", "stats", "r.json"]) == 2
    assert capsys.readouterr().err == "llava-pl: error: r.json: record 0: expected an object, found int\n"
    assert main(["data", "stats", "r.json", "--html", "none/s.html"]) == 2
    assert "--html: none/s.html: expected a file in a folder that exists" in capsys.readouterr().err
