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
