"""Guards the folder of instructions: a rejected text among the records, a mixture that is not even."""

import json

import yaml

from llava_pl.building.descriptions import Description
from llava_pl.building.instruction_files import hash_inputs, write_instructions
from llava_pl.data.mixture import MOST_REPEATS, check_repeats

SETTINGS = {"model": "tiny", "limit": None}


def read(path):
    return json.loads(path.read_text())


def write(folder, written, accepted_reasons=()):
    return write_instructions(folder, written, accepted_reasons, None, 9, SETTINGS)


def test_inputs_are_known_by_what_they_say():
    inputs = [Description("a.png", ("A dog.",)), "caf\u00e9"]
    assert hash_inputs(inputs) == hash_inputs(iter(inputs)) != hash_inputs(inputs[:1])
    assert hash_inputs(inputs) != hash_inputs([Description("a.png", ("A cat.",)), "caf\u00e9"])


def test_records_by_kind_and_reasons(written, tmp_path):
    counts = write(tmp_path, written)
    assert counts == {
        "requests": 9, "replies": 6, "records": 3, "conversation": 2, "detailed": 0, "reasoning": 1,
        "rejected: form": 1, "rejected: length": 1, "rejected: object": 2,
    }  # fmt: skip
    assert read(tmp_path / "report.json") == {**counts, "settings": SETTINGS}
    assert [record["id"] for record in read(tmp_path / "conversation.json")] == ["0_conversation", "2_conversation"]
    assert read(tmp_path / "detailed.json") == []
    rejected = [json.loads(line) for line in (tmp_path / "rejected.jsonl").read_text().splitlines()]
    assert rejected[0] == {
        "image": "1.png", "kind": "detailed", "reasons": [["object", "a <cat>"], ["length", "a <cat>"]],
        "text": "text 1", "request": "hash 1",
    }  # fmt: skip
    assert [each["request"] for each in rejected] == ["hash 1", "hash 3", "hash 4"]


def test_accepted_reasons(written, tmp_path):
    write(tmp_path, written, ("object", "form"))
    assert [record["id"] for record in read(tmp_path / "detailed.json")] == ["3_detailed"]
    assert len(read(tmp_path / "conversation.json")) == 2


def test_kinds_are_drawn_equally_often(written, tmp_path):
    write(tmp_path, written, ("object",))
    sources = yaml.safe_load((tmp_path / "mixture.yaml").read_text())["data"]["records"]
    assert sources == [
        {"path": f"{tmp_path}/conversation.json", "repeats": 1.0},
        {"path": f"{tmp_path}/detailed.json", "repeats": 2.0},
        {"path": f"{tmp_path}/reasoning.json", "repeats": 2.0},
    ]


def test_a_rare_kind_is_not_drawn_more_often_than_training_takes(written, tmp_path):
    first, last = written[0], written[-1]
    write(tmp_path, [*[first] * (MOST_REPEATS + 1), last])
    text = (tmp_path / "mixture.yaml").read_text()
    sources = yaml.safe_load(text)["data"]["records"]
    assert [source["repeats"] for source in sources] == [1, MOST_REPEATS]
    assert "# But reasoning: more than 1000 repeats of a record are not drawn.\n" in text
    check_repeats(["a", "b"], [source["repeats"] for source in sources])


def test_a_folder_is_one_set(written, tmp_path):
    (tmp_path / "notes.json").touch()
    write(tmp_path, written)
    write(tmp_path, [each for each in written if each.request.kind == "conversation"])
    assert {path.name for path in tmp_path.glob("*.json")} == {"conversation.json", "report.json", "notes.json"}
    assert len(yaml.safe_load((tmp_path / "mixture.yaml").read_text())["data"]["records"]) == 1
    write(tmp_path, [each for each in written if each.faults])
    assert not (tmp_path / "mixture.yaml").exists()
