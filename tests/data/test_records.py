"""Guards against a malformed record that trains silently, and against a message that does not say which one it is.

One bad entry among 665,298 must be found from one line: file, index, id, field, what was expected and what was found.
"""

import json
import pickle
from pathlib import Path

import pytest

from llava_pl.data.records import (
    RecordFields,
    parse_fields,
    parse_record,
    parse_records,
    parse_turns,
    read_records,
)
from llava_pl.types import BadRecord, InputError, Record, RecordError, Turn

ASKED = Turn("human", "<image>\nWhat?")
ANSWERED = Turn("gpt", "A dog.")
CONVERSATIONS = [{"from": "human", "value": "<image>\nWhat?"}, {"from": "gpt", "value": "A dog."}]


def entry(**fields: object) -> dict[str, object]:
    """A valid entry with other fields; the value `...` removes one."""
    merged = {"id": "a", "image": "a.png", "conversations": CONVERSATIONS} | fields
    return {name: value for name, value in merged.items() if value is not Ellipsis}


def turns(*texts: str) -> list[dict[str, str]]:
    return [{"from": ("human", "gpt")[index % 2], "value": text} for index, text in enumerate(texts)]


def message(entry: object) -> str:
    with pytest.raises(InputError) as caught:
        parse_record(entry, where="x.json: record 3")
    return str(caught.value)


def file_message(path: Path) -> str:
    with pytest.raises(InputError) as caught:
        read_records(path)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        pytest.param({}, Record("a", (ASKED, ANSWERED), ("a.png",)), id="id_is_text"),
        pytest.param({"id": 7}, Record("7", (ASKED, ANSWERED), ("a.png",)), id="id_is_number"),
        pytest.param({"image": ["a.png"]}, Record("a", (ASKED, ANSWERED), ("a.png",)), id="image_is_list"),
        # Without a picture, <image> is literal text.
        pytest.param({"image": None}, Record("a", (ASKED, ANSWERED), ()), id="image_is_null"),
        pytest.param({"image": ...}, Record("a", (ASKED, ANSWERED), ()), id="image_is_absent"),
        pytest.param({"image": []}, Record("a", (ASKED, ANSWERED), ()), id="image_is_empty_list"),
        pytest.param({"model": "gpt-4"}, Record("a", (ASKED, ANSWERED), ("a.png",)), id="unknown_field"),
    ],
)
def test_valid_forms(fields, expected):
    assert parse_record(entry(**fields), where="x.json: record 0") == expected


def test_several_images_keep_the_order_of_the_file():
    fields = entry(image=["b.png", "a.png"], conversations=turns("<image>", "one", "<image>", "two"))
    assert parse_record(fields, where="x").images == ("b.png", "a.png")


def test_text_only_record_may_hold_the_mark_in_an_answer():
    fields = entry(image=..., conversations=turns("Which mark?", "It is <image><image>."))
    expected = (Turn("human", "Which mark?"), Turn("gpt", "It is <image><image>."))
    assert parse_record(fields, where="x") == Record("a", expected, ())


def test_file_is_read_in_order_with_text_beyond_ascii(tmp_path):
    path = tmp_path / "records.json"
    entries = [entry(id=2), entry(id="caf\u00e9", image=None, conversations=turns("\u4f60\u597d", "\U0001f600"))]
    path.write_text(json.dumps(entries, ensure_ascii=False), encoding="utf-8")
    assert (
        read_records(path)
        == read_records(str(path))
        == [
            Record("2", (ASKED, ANSWERED), ("a.png",)),
            Record("caf\u00e9", (Turn("human", "\u4f60\u597d"), Turn("gpt", "\U0001f600")), ()),
        ]
    )


def test_escaped_surrogate_pair_is_one_character(tmp_path):
    path = tmp_path / "records.json"
    path.write_text(json.dumps([entry(image=None, conversations=turns("a", "\U0001f600"))]))
    assert "\\ud83d\\ude00" in path.read_text()
    assert read_records(path)[0].turns[1].text == "\U0001f600"


@pytest.mark.parametrize(
    ("text", "found"),
    [('{"id": 1}', "dict {'id': 1}"), ("null", "nothing"), ('"a"', "str 'a'"), ("{}", "an empty dict")],
)
def test_file_is_not_a_list(tmp_path, text, found):
    path = tmp_path / "records.json"
    path.write_text(text)
    assert file_message(path) == f"{path}: expected a JSON list of records, found {found}"


def test_malformed_record_is_found_in_its_file(tmp_path):
    path = tmp_path / "records.json"
    path.write_text(json.dumps([entry(), entry(), entry(id="bad", conversations=...)]))
    assert file_message(path) == (
        f"{path}: record 2 (id 'bad'): field 'conversations': expected a non-empty list, found nothing"
    )


def test_empty_list_holds_no_records(tmp_path):
    path = tmp_path / "records.json"
    path.write_text("[]")
    assert read_records(path) == []


@pytest.mark.parametrize(
    ("value", "found"),
    [(None, "nothing"), (["id", 1], "list ['id', 1]"), ("a", "str 'a'"), (3, "int 3")],
)
def test_entry_is_not_an_object(value, found):
    assert message(value) == f"x.json: record 3: expected an object, found {found}"


@pytest.mark.parametrize(
    ("value", "found"), [(..., "nothing"), (None, "nothing"), (1.5, "float 1.5"), ([], "an empty list")]
)
def test_no_id(value, found):
    expected = f"x.json: record 3: field 'id': expected a string or an integer, found {found}"
    assert message(entry(id=value)) == expected


@pytest.mark.parametrize(
    ("value", "found"),
    [
        (5, "int 5"),
        ({"path": "a.png"}, "dict {'path': 'a.png'}"),
        (["a.png", None], "list ['a.png', None]"),
        ("", "str ''"),
        ([""], "list ['']"),
        (False, "bool False"),
    ],
)
def test_image_is_of_a_wrong_type(value, found):
    expected = f"x.json: record 3 (id 'a'): field 'image': expected a file name or a list of them, found {found}"
    assert message(entry(image=value)) == expected


@pytest.mark.parametrize(
    ("value", "found"),
    [
        (..., "nothing"),
        (None, "nothing"),
        ([], "an empty list"),
        ("Hello", "str 'Hello'"),
        ({"from": "human"}, "dict {'from': 'human'}"),
    ],
)
def test_conversations_are_missing_or_empty(value, found):
    expected = f"x.json: record 3 (id 'a'): field 'conversations': expected a non-empty list, found {found}"
    assert message(entry(conversations=value)) == expected


@pytest.mark.parametrize(
    ("turn", "reason"),
    [
        ({"from": "user", "value": "a"}, "field 'from': expected 'human' or 'gpt', found 'user'"),
        ({"value": "a"}, "field 'from': expected 'human' or 'gpt', found None"),
        ({"from": ["gpt"], "value": "a"}, "field 'from': expected 'human' or 'gpt', found ['gpt']"),
        ({"from": "gpt", "value": 5}, "field 'value': expected a string, found int 5"),
        ({"from": "gpt"}, "field 'value': expected a string, found nothing"),
        (
            {"from": "gpt", "value": "a\ud83d"},
            "field 'value': holds a lone surrogate, which no tokenizer can read; repair the text",
        ),
        (["gpt", "a"], "expected an object with 'from' and 'value', found list ['gpt', 'a']"),
    ],
    ids=["role", "no_role", "role_is_list", "value", "no_value", "surrogate", "list"],
)
def test_turn_is_malformed(turn, reason):
    assert message(entry(conversations=[CONVERSATIONS[0], turn])) == f"x.json: record 3 (id 'a'): turn 1: {reason}"
    with pytest.raises(InputError) as caught:
        parse_turns([Turn("human", "a"), turn])
    assert str(caught.value) == f"conversation: turn 1: {reason}"


@pytest.mark.parametrize(
    ("image", "texts", "counts"),
    [
        ("a.png", ("What?", "A dog."), "0 '<image>' marks for 1 images"),
        ("a.png", ("<image><image>", "A dog."), "2 '<image>' marks for 1 images"),
        (["a.png", "b.png"], ("<image>", "A dog."), "1 '<image>' marks for 2 images"),
        ("a.png", ("<image>", "An <image>."), "2 '<image>' marks for 1 images"),
        ("a.png", ("<IMAGE>", "A dog."), "0 '<image>' marks for 1 images"),
    ],
)
def test_slots_do_not_match_images(image, texts, counts):
    expected = f"x.json: record 3 (id 'a'): {counts}; expected one mark for each"
    assert message(entry(image=image, conversations=turns(*texts))) == expected


def test_slot_in_an_answer():
    found = message(entry(conversations=turns("Which mark?", "It is <image>.")))
    assert found == "x.json: record 3 (id 'a'): turn 1: an answer holds '<image>'; only questions may show pictures"


def test_long_values_are_cut_short_and_stay_on_one_line():
    found = message(entry(image={"bytes": "line\n" * 1000}))
    assert "\n" not in found
    assert found.endswith("found dict {'bytes': 'line\\nline\\nline\\nline\\nline\\...")
    assert len(found) < 200


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        ("text", "invalid"),
        (entry(id=1.5), "invalid"),
        (entry(id="\udc00"), "invalid"),
        (entry(image=5), "invalid"),
        (entry(image="\udc00.png"), "invalid"),
        (entry(conversations=[]), "invalid"),
        (entry(conversations=["Hello"]), "invalid"),
        (entry(conversations=[{"from": "user", "value": "a"}]), "roles"),
        (entry(conversations=[{"from": {}, "value": "a"}]), "roles"),
        (entry(conversations=[{"from": "gpt", "value": None}]), "invalid"),
        (entry(image=None, conversations=turns("a", "b\ud83d")), "invalid"),
        (entry(conversations=turns("a", "b")), "image_slots"),
        (entry(conversations=turns("a", "<image>")), "image_slots"),
    ],
)
def test_reason_is_one_word_that_survives_a_process_border(value, reason):
    with pytest.raises(RecordError) as caught:
        parse_record(value, where="x.json: record 3")
    found = pickle.loads(pickle.dumps(caught.value))
    assert (found.reason, str(found)) == (reason, str(caught.value))


def test_id_and_image_must_be_text_that_a_file_can_hold():
    found = message(entry(id="\ud83d"))
    assert found == "x.json: record 3 (id '\\ud83d'): field 'id': holds a lone surrogate; repair the text"
    found = message(entry(image="\udcff.png"))
    assert found == "x.json: record 3 (id 'a'): field 'image': holds a lone surrogate; rename the file"


def test_fields_are_the_columns_of_a_record():
    record = RecordFields("7", ("a.png",), ["human", "gpt"], ["<image>\nWhat?", "A dog."], 20)
    assert parse_fields(entry(id=7), where="x") == record


def test_a_wrong_turn_is_named_whatever_comes_before_it():
    """Turns are checked together first: an odd one must not hide which one is wrong."""
    odd = [Turn("human", "<image>"), {"from": "gpt", "value": "caf\u00e9"}, {"from": "gpt", "value": 1}]
    expected = "x.json: record 3 (id 'a'): turn 2: field 'value': expected a string, found int 1"
    assert message(entry(conversations=odd)) == expected
    assert parse_turns(odd[:2]) == (Turn("human", "<image>"), Turn("gpt", "caf\u00e9"))


def test_parsing_a_file_goes_on_after_a_bad_record(tmp_path):
    path = tmp_path / "records.json"
    path.write_text(json.dumps([entry(), 5, entry(id=7, image=["a.png", "b.png", 3]), entry(id="good")]))
    first, second, third, last = parse_records(path)
    assert (first.id, last.id) == ("a", "good")
    assert second == BadRecord(1, "", "invalid", f"{path}: record 1: expected an object, found int 5")
    assert (third.index, third.id, third.reason, third.images) == (2, "7", "invalid", ("a.png", "b.png"))
    with pytest.raises(RecordError) as caught:
        read_records(path)
    assert (str(caught.value), caught.value.reason) == (second.message, "invalid")


def test_conversation_that_no_memory_would_hold_is_refused():
    """Fifty million characters would take a tokenizer twenty gigabytes, whatever is cut off afterwards."""
    longest = {"id": "a", "conversations": [{"from": "gpt", "value": "x" * 999_998}, {"from": "human", "value": "y"}]}
    assert len(parse_record(longest, where="x.json: record 0").turns) == 2
    longest["conversations"][1]["value"] = "y" * 50_000_000
    with pytest.raises(RecordError) as caught:
        parse_record(longest, where="x.json: record 0")
    assert caught.value.reason == "too_long"
    assert str(caught.value) == (
        "x.json: record 0 (id 'a'): field 'conversations': expected at most 1,000,000 characters, found 50,999,999; "
        "shorten it, or drop the record"
    )
