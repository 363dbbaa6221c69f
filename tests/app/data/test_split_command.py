"""Guards `llava-pl data split`: a record on both sides, or on none."""

import json

import pytest

from llava_pl.cli import main

RECORDS = [
    {
        "id": str(n),
        "image": f"{n // 2}.png",
        "conversations": [{"from": "human", "value": "<image>"}, {"from": "gpt", "value": "b"}],
    }
    for n in range(40)
]


@pytest.fixture
def words(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "r.json").write_text(json.dumps(RECORDS))
    return ["data", "split", "r.json", "--share", "0.4", "--train", "t.json", "--val", "v.jsonl"]


def test_each_record_is_on_one_side(words, tmp_path, capsys):
    assert main(words) == 0
    train = json.loads((tmp_path / "t.json").read_text())
    val = [json.loads(line) for line in (tmp_path / "v.jsonl").read_text().splitlines()]
    assert capsys.readouterr().out == f"wrote t.json: {len(train)} records\nwrote v.jsonl: {len(val)} records\n"
    assert sorted(train + val, key=lambda record: int(record["id"])) == RECORDS
    assert not {record["image"] for record in train} & {record["image"] for record in val}
    assert val


def test_records_are_written_as_they_were_read(words, tmp_path, capsys):
    records = [
        {
            "id": None,
            "license": "CC BY",
            "images": [f"{n}.png"],
            "system": "Be brief.",
            "messages": [{"role": "user", "content": "<image>\ud800", "weight": 0}, {"role": "tool", "x": [n, None]}],
        }
        for n in range(20)
    ]
    (tmp_path / "r.json").write_text(json.dumps(records))
    assert main([*words, "--from", "messages"]) == 0
    train = json.loads((tmp_path / "t.json").read_text())
    val = [json.loads(line) for line in (tmp_path / "v.jsonl").read_text().splitlines()]
    assert val
    assert [json.dumps(each) for each in records if each in train] == [json.dumps(each) for each in train]
    assert sorted(map(json.dumps, train + val)) == sorted(map(json.dumps, records))


def test_pictures_that_are_shown_together_stay_together(words, tmp_path, capsys):
    records = [
        {"id": f"{n}{m}", "image": [f"{n}-{m}.png", f"{n}-{m + 1}.png"], "conversations": []}
        for n in range(30)
        for m in range(3)
    ]
    (tmp_path / "r.json").write_text(json.dumps(records))
    assert main(words) == 0
    train = json.loads((tmp_path / "t.json").read_text())
    val = [json.loads(line) for line in (tmp_path / "v.jsonl").read_text().splitlines()]
    assert train
    assert val
    assert len(train + val) == 90
    shown = [{name for record in side for name in record["image"]} for side in (train, val)]
    assert not shown[0] & shown[1]


def test_a_kill_between_its_files_stops_nothing(words, tmp_path, capsys):
    assert main(words) == 0
    expected = {name: (tmp_path / name).read_bytes() for name in ("t.json", "v.jsonl")}
    for name in expected:
        (tmp_path / name).unlink()
        assert main(words) == 0
        assert {name: (tmp_path / name).read_bytes() for name in expected} == expected
    (tmp_path / "v.jsonl").unlink()
    (tmp_path / "t.json").write_text("[]\n")
    capsys.readouterr()
    assert main(words) == 2
    assert capsys.readouterr().err.startswith("llava-pl: error: t.json: expected a new file, found another one")
    assert {path.name for path in tmp_path.iterdir()} == {"r.json", "t.json"}


@pytest.mark.parametrize(
    ("records", "message"),
    [
        ([], "r.json: expected records, found none"),
        (RECORDS[:2], "of 1 pictures (those that are shown together, and each record without one, count once); choose"),
        ([{"conversations": [], "image": 7}], "r.json: record 0: expected names of pictures, found list [7]"),
        ([{"conversations": [], "images": ["a"]}], "r.json: record 0: field 'images': expected 'image', as LLaVA has"),
        (
            [{"messages": []}],
            "r.json: record 0: field 'conversations': expected a list, found nothing; it has 'messages'",
        ),
        ([7], "r.json: record 0: expected an object, found int"),
    ],
)
def test_what_cannot_be_split_leaves_nothing(words, records, message, tmp_path, capsys):
    (tmp_path / "r.json").write_text(json.dumps(records))
    assert main(words) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["r.json"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"--share": "0"}, "--share: expected more than 0 and less than 1, found 0.0"),
        ({"--share": "nan"}, "--share: expected more than 0 and less than 1, found nan"),
        ({"--val": "t.json"}, "--val: t.json: expected another file than --train, found the same"),
        ({"--val": "r.json"}, "--val: r.json: expected a new file, found one"),
    ],
)
def test_wrong_options(words, change, message, tmp_path, capsys):
    for option, value in change.items():
        words[words.index(option) + 1] = value
    assert main(words) == 2
    assert capsys.readouterr().err.startswith(f"llava-pl: error: {message}")
    assert [path.name for path in tmp_path.iterdir()] == ["r.json"]
